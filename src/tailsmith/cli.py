"""The command line: parse, call one function of commands.py, and say in one line what the user can mend.

A command's options are its function's parameters: those before `*` are positional, a dataclass opens into dotted
options, `config` opens into options without a prefix, and the comment beside a parameter or field is its help.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import inspect
import logging
import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from jsonargparse import ActionConfigFile, ArgumentParser
from safetensors import SafetensorError

from tailsmith import __version__, commands
from tailsmith.config import from_dict

COMMANDS: dict[str, Callable[..., None]] = {
    "demo": commands.demo,
    "inspect": commands.inspect,
    "plan": commands.plan,
    "train": commands.train,
    "synthesize": commands.synthesize,
    "evaluate": commands.evaluate,
    "run": commands.run,
    "report": commands.report,
    "fit-generator": commands.fit_generator,
    "reproduce": commands.reproduce,
}
SPREAD = "config"  # the parameter whose fields are options without a prefix
INVOCATION = "command"  # the parameter that gets the command line itself, for the record
USER_ERROR, INTERRUPTED, BROKEN_PIPE = 2, 130, 141
TRACEBACK = "TAILSMITH_TRACEBACK"

_FULL = (errno.ENOSPC, errno.EDQUOT)
# What a user can mend without knowing our code, beside a full disk.
_MENDABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0, 2 for what the user can mend, 130 after Ctrl-C."""
    try:
        with _quiet_libraries():
            code = _run(list(sys.argv[1:] if argv is None else argv))
            sys.stdout.flush()
            return code
    except SystemExit as stop:  # --help and --print_config
        return int(stop.code or 0)
    except KeyboardInterrupt:
        again = "nothing already written is lost: run the same command again to go on"
        return _fail(f"tailsmith: interrupted; {again}", INTERRUPTED)
    except BrokenPipeError:  # whoever read our output has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - lest Python complains when it flushes at exit
        return BROKEN_PIPE
    except (ValueError, OSError, SafetensorError) as error:
        line = _explained(error)
        if line is None or os.environ.get(TRACEBACK):
            raise
        return _fail(f"tailsmith: error: {line}", USER_ERROR)


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if argv else USER_ERROR
    if argv[0] == "--version":
        print(f"tailsmith {__version__}")
        return 0
    if argv[0] not in COMMANDS:
        raise ValueError(f"unknown command {argv[0]!r}: expected one of {', '.join(COMMANDS)}")
    function = COMMANDS[argv[0]]
    arguments = _parsed(argv[0], argv[1:])
    if INVOCATION in inspect.signature(function).parameters:
        arguments[INVOCATION] = shlex.join(["tailsmith", *argv])
    function(**arguments)
    return 0


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {_first_line(function)}" for name, function in COMMANDS.items()]
    return "\n".join(
        [
            "usage: tailsmith COMMAND [options]",
            "",
            "Top up the rare classes and groups of an image dataset with the synthetic images your own classifier "
            "asks for.",
            "",
            *lines,
            "",
            "`tailsmith COMMAND --help` lists a command's options; --config FILE.yaml takes them from a file.",
            f"{TRACEBACK}=1 shows where an error came from.",
        ]
    )


# ----------------------------------------------------------------------------------------------------------
# From a function's signature to a parser, and from the command line to the function's arguments.


def build_parser(name: str) -> ArgumentParser:
    """The options of a command, from the signature of its function."""
    function = COMMANDS[name]
    hints = get_type_hints(function)
    positional, optional = _parameters(function)
    usage = " ".join(["tailsmith", name, *(each.name.upper() for each in positional), "[options]"])
    parser = ArgumentParser(
        prog=f"tailsmith {name}", usage=usage, description=inspect.getdoc(function), exit_on_error=False
    )
    parser.add_argument("--config", action=ActionConfigFile)
    for each in positional:
        parser.add_argument(each.name, type=hints[each.name])
    for each in optional:
        if each.name == SPREAD:
            parser.add_class_arguments(hints[SPREAD], None)
        elif each.default is inspect.Parameter.empty:
            parser.add_argument(f"--{each.name}", type=hints[each.name], required=True)
        else:
            parser.add_argument(f"--{each.name}", type=hints[each.name], default=each.default)
    _describe(parser, function)
    return parser


def _parameters(function: Callable[..., None]) -> tuple[list[inspect.Parameter], list[inspect.Parameter]]:
    """(positional, optional) parameters that the command line gives."""
    given = [each for each in inspect.signature(function).parameters.values() if each.name != INVOCATION]
    positional = [each for each in given if each.kind is not each.KEYWORD_ONLY and each.name != SPREAD]
    return positional, [each for each in given if each not in positional]


def _describe(parser: ArgumentParser, function: Callable[..., None]) -> None:
    """Comments of the source as help; sections named by the prefix of their options."""
    comments = {key.removeprefix(f"{SPREAD}."): text for key, text in _comments(function).items()}
    comments["config"] = "YAML file with any of these options; options after it win"
    for action in parser._actions:
        if action.dest in comments:
            action.help = comments[action.dest].replace("%", "%%")
    for group in parser._action_groups:
        if str(group.title).startswith("<class"):
            dotted = [each.dest.split(".")[0] for each in group._group_actions if "." in each.dest]
            group.title = f"--{dotted[0]}.*" if dotted else "options of the whole"


def _comments(source: Any) -> dict[str, str]:
    """Dotted name -> the comment on its line, of a function's parameters or a dataclass's fields."""
    try:
        text = inspect.getsource(source)
    except OSError:  # installed without source
        return {}
    found = dict(re.findall(r"^ +(\w+): .*?  # (.+)$", text, re.MULTILINE))
    for name, hint in get_type_hints(source).items():
        if is_dataclass(hint):
            found |= {f"{name}.{field}": comment for field, comment in _comments(hint).items()}
    return found


def _parsed(name: str, argv: list[str]) -> dict[str, Any]:
    """The arguments for the command's function; ValueError in one line for what can't be parsed."""
    parser = build_parser(name)
    try:
        given = parser.parse_args(_normalized(argv, parser)).as_dict()
    except argparse.ArgumentError as error:
        raise ValueError(f"{_parse_error(str(error), parser)}; `tailsmith {name} --help` lists all") from error
    hints = get_type_hints(COMMANDS[name])
    arguments: dict[str, Any] = {}
    for parameter in [each for kind in _parameters(COMMANDS[name]) for each in kind]:
        hint = hints[parameter.name]
        if parameter.name == SPREAD:
            own = {each.name: _expanded(given[each.name]) for each in fields(hint)}
            arguments[SPREAD] = from_dict(hint, own)
        elif is_dataclass(hint):
            arguments[parameter.name] = from_dict(hint, given[parameter.name], parameter.name)  # type: ignore[arg-type]
        else:
            arguments[parameter.name] = _expanded(given[parameter.name])
    return arguments


def _normalized(argv: list[str], parser: ArgumentParser) -> list[str]:
    """Dashes for underscores, `--flag` for `--flag=true`, and `a,b` for `[a,b]`, as jsonargparse wants them."""
    actions = {option: action for action in parser._actions for option in action.option_strings}
    lists = {option for option, action in actions.items() if _takes_list(action)}
    result: list[str] = []
    for position, token in enumerate(argv):
        option, equals, value = token.partition("=")
        known = "--" + option[2:].replace("-", "_")
        if option.startswith("--") and known in actions:
            value = _bracketed(value) if known in lists and equals else value
            if getattr(actions[known], "_typehint", None) is bool and not equals:
                following = argv[position + 1] if position + 1 < len(argv) else ""
                equals, value = ("", "") if following in ("true", "false") else ("=", "true")
            result.append(f"{known}{equals}{value}")
        else:
            result.append(_bracketed(token) if result and result[-1] in lists else token)
    return result


def _takes_list(action: argparse.Action) -> bool:
    hint = getattr(action, "_typehint", None)
    return tuple in (get_origin(hint), *(get_origin(each) for each in get_args(hint)))


def _bracketed(value: str) -> str:
    return value if value.startswith("[") or value == "null" else f"[{value}]"


def _expanded(value: Any) -> Any:
    """`~` is the home folder, in text as in paths."""
    if isinstance(value, Path):
        return value.expanduser()
    return os.path.expanduser(value) if isinstance(value, str) else value


# ----------------------------------------------------------------------------------------------------------
# What went wrong, in one line.


def _parse_error(message: str, parser: ArgumentParser) -> str:
    """jsonargparse's complaint in our words: what was got, what is expected."""
    message = " ".join(message.split())
    actions = {option: action for action in parser._actions for option in action.option_strings}
    if unknown := re.search(r"unrecognized arguments: (--[\w.-]+)", message):
        return f"unknown option {unknown[1]}{_close(unknown[1].replace('-', '_'), actions)}"
    if unknown := re.search(r"(?:Group '([\w.]+)' does not accept option|Option) '([\w.-]+)'", message):
        key = f"{unknown[1]}.{unknown[2]}" if unknown[1] else unknown[2]
        return f"unknown key {key!r}{_close(f'--{key}', actions)}"
    if wrong := re.search(r'Parser key "([\w.]+)":.*(?:Got|Given) value: (.*)$', message):
        hint = getattr(actions.get(f"--{wrong[1]}"), "_typehint", None)
        return f"{wrong[1]} should be {getattr(hint, '__name__', hint) if hint else 'given'}, got {wrong[2]!r}"
    if lacking := re.search(r"arguments are required: (.*)$", message):
        options = [f"--{each}" if f"--{each}" in actions else each.upper() for each in lacking[1].split(", ")]
        return f"missing: {', '.join(options)}"
    return re.sub(r'Parser key "([\w.]+)":', r"--\1:", message)


def _close(option: str, actions: dict[str, argparse.Action]) -> str:
    close = difflib.get_close_matches(option, actions, n=3)
    return f", did you mean {' or '.join(each.lstrip('-') for each in close)}?" if close else ""


def _explained(error: Exception) -> str | None:
    """One line for the user, None for what is no user's doing."""
    if isinstance(error, ValueError):
        return " ".join(str(error).split())
    number, path = (error.errno, error.filename) if isinstance(error, OSError) else (None, None)
    if number in _FULL or "(os error 28)" in str(error):  # the latter from safetensors, which is written in Rust
        where = f" while writing {path}" if path else ""
        return f"disk full{where}; free space and run the same command again, nothing already written is lost"
    if number in _MENDABLE and path:
        return f"{path}: {os.strerror(number)}; check the path and its permissions"
    return None


def _fail(line: str, code: int) -> int:
    print(line, file=sys.stderr)
    return code


def _first_line(function: Callable[..., None]) -> str:
    return (inspect.getdoc(function) or "").splitlines()[0]


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Libraries' warnings are not for the user of a command (python -W shows them); our own log is, a line each."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("tailsmith: %(message)s"))
    log = logging.getLogger("tailsmith")
    log.addHandler(handler)
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore")
            yield
    finally:
        log.removeHandler(handler)


if __name__ == "__main__":
    sys.exit(main())
