"""From a function's signature to a parser, and from the command line to the function's arguments.

A command's options are its function's parameters: those before `*` are positional, a dataclass opens into dotted
options, `config` and what is of options.py open into options without a prefix, and the comment beside a parameter or
field is its help.
"""

from __future__ import annotations

import argparse
import inspect
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, set_loader

from tailsmith.cli.options import Options
from tailsmith.cli.user_errors import parse_error
from tailsmith.errors import UserError
from tailsmith.settings import from_dict
from tailsmith.synthesis.config import MOVED, SynthesisConfig
from tailsmith.yaml_files import load_yaml, read_yaml

SPREAD = "config"  # the parameter whose fields are options without a prefix
INVOCATION = "command"  # the parameter that gets the command line itself, for the record
YAML = "tailsmith"  # jsonargparse's name for how we read YAML; its own keeps its meaning for others in this process
RECIPE = "recipe"  # the parameter that names other defaults for the options of its command
SHORT = {"--dtype": "--synthesis.dtype"}  # of a section, where the command has no option of that name
SHORT |= {f"--synthesis.{old}": f"--synthesis.feedback.{new}" for old, new in MOVED.items()}


def parser_of(name: str, function: Callable[..., int | None]) -> ArgumentParser:
    """The options of a command, from the signature of its function."""
    hints = get_type_hints(function)
    positional, optional = _parameters(function)
    places = [_place(each, hints[each.name]) for each in positional]
    usage = " ".join(["tailsmith", name, *places, "[options]"])
    set_loader(YAML, _value, (yaml.YAMLError,))
    parser = ArgumentParser(
        prog=f"tailsmith {name}",
        usage=usage,
        description=inspect.getdoc(function),
        exit_on_error=False,
        parser_mode=YAML,
    )
    parser.add_argument("--config", action=ActionConfigFile)
    for each in positional:
        if get_origin(hints[each.name]) is tuple:
            parser.add_argument(each.name, type=get_args(hints[each.name])[0], nargs="+")
        elif _has_default(each):
            parser.add_argument(each.name, type=hints[each.name], default=each.default, nargs="?")
        else:
            parser.add_argument(each.name, type=hints[each.name])
    for each in optional:
        if each.name == SPREAD:
            parser.add_class_arguments(hints[SPREAD], None)
        elif _is_spread(hints[each.name]):
            for name, hint in get_type_hints(hints[each.name]).items():
                parser.add_argument(f"--{name}", type=hint, default=getattr(each.default, name))
        elif _has_default(each):
            parser.add_argument(f"--{_option(each.name)}", type=hints[each.name], default=each.default)
        else:
            parser.add_argument(f"--{each.name}", type=hints[each.name], required=True)
    _describe(parser, function)
    return parser


def _place(parameter: inspect.Parameter, hint: Any) -> str:
    """How the usage line shows a positional: one of several as "RUN ..."."""
    name = parameter.name.upper()
    if get_origin(hint) is tuple:
        return f"{name.removesuffix('S')} ..."
    return f"[{name}]" if _has_default(parameter) else name


def _value(text: str) -> Any:
    """YAML of a file or of one option; what looks like a prompt, {label}, is text and no mapping to nothing."""
    value = load_yaml(text) if text.strip() else text
    if isinstance(value, dict) and isinstance(value.get("synthesis"), dict):
        value["synthesis"] = SynthesisConfig.renamed(value["synthesis"])
    empty = isinstance(value, dict) and value and all(each is None for each in value.values())
    return text if empty and text.strip().startswith("{") else value


def _check_config_files(argv: Sequence[str]) -> None:
    """In our words, before jsonargparse reads them."""
    for position, token in enumerate(argv):
        option, equals, path = token.partition("=")
        if option == "--config":
            path = os.path.expanduser(path if equals else "".join(argv[position + 1 : position + 2]))
            if os.path.isfile(path) and not isinstance(read_yaml(Path(path), "--config"), dict):
                raise UserError(f"--config {path} should hold options and their values, as in `target: 20`")


def _parameters(function: Callable[..., int | None]) -> tuple[list[inspect.Parameter], list[inspect.Parameter]]:
    """(positional, optional) parameters that the command line gives."""
    given = [each for each in inspect.signature(function).parameters.values() if each.name != INVOCATION]
    positional = [each for each in given if each.kind is not each.KEYWORD_ONLY and each.name != SPREAD]
    return positional, [each for each in given if each not in positional]


def _option(name: str) -> str:
    """A parameter's name on the command line: from_ is --from, a word that Python keeps for itself."""
    return name.removesuffix("_")


def _is_spread(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Options)


def _has_default(parameter: inspect.Parameter) -> bool:
    return parameter.default is not inspect.Parameter.empty


def _describe(parser: ArgumentParser, function: Callable[..., int | None]) -> None:
    """Comments of the source as help; sections named by the prefix of their options."""
    spread = [SPREAD, *(name for name, hint in get_type_hints(function).items() if _is_spread(hint))]
    comments = {re.sub(rf"^(?:{'|'.join(spread)})\.", "", key): text for key, text in _comments(function).items()}
    comments["config"] = "YAML file with any of these options; options after it win"
    for action in parser._actions:
        if action.dest in comments:
            action.help = comments[action.dest].replace("%", "%%")
    for group in parser._action_groups:
        if str(group.title).startswith("<class"):
            own = [each.dest.removesuffix(".help") for each in group._group_actions]  # --search.help is of the whole
            dotted = [dest.rpartition(".")[0] for dest in own if "." in dest]
            group.title = f"--{dotted[0]}.*" if dotted else "options of the whole"


def _comments(source: Any) -> dict[str, str]:
    """Dotted name -> the comment on its line, of a function's parameters or a dataclass's fields."""
    try:
        text = inspect.getsource(source)
    except OSError:  # installed without source
        return {}
    found = {_option(name): said for name, said in re.findall(r"^ +(\w+): .*?  # (.+)$", text, re.MULTILINE)}
    for name, hint in get_type_hints(source).items():
        if is_dataclass(hint):
            found |= {f"{name}.{field}": comment for field, comment in _comments(hint).items()}
    return found


def parsed(name: str, function: Callable[..., int | None], argv: list[str]) -> dict[str, Any]:
    """The arguments for the command's function; ValueError in one line for what can't be parsed."""
    parser = parser_of(name, function)
    argv = _normalized(argv, parser)
    _check_config_files(argv)
    try:
        if RECIPE in inspect.signature(function).parameters:
            _take_recipe(parser, argv)
        given = parser.parse_args(argv).as_dict()
    except argparse.ArgumentError as error:
        raise UserError(f"{parse_error(str(error), _types(parser))}; `tailsmith {name} --help` lists all") from error
    hints = get_type_hints(function)
    arguments: dict[str, Any] = {}
    for parameter in [each for kind in _parameters(function) for each in kind]:
        hint = hints[parameter.name]
        if parameter.name == SPREAD or _is_spread(hint):
            own = {each.name: _expanded(given[each.name]) for each in fields(hint)}
            arguments[parameter.name] = from_dict(hint, own)
        elif is_dataclass(hint):
            arguments[parameter.name] = from_dict(hint, given[parameter.name], parameter.name)  # type: ignore[arg-type]
        elif get_origin(hint) is tuple and parameter.kind is not parameter.KEYWORD_ONLY:
            arguments[parameter.name] = tuple(map(_expanded, given[parameter.name]))
        else:
            arguments[parameter.name] = _expanded(given[_option(parameter.name)])
    return arguments


def _take_recipe(parser: ArgumentParser, argv: list[str]) -> None:
    """A recipe's settings become the parser's defaults, so that a --config file and options win over them."""
    given = parser.parse_args([token for token in argv if token.partition("=")[0] != "--print_config"])
    if given[RECIPE] is not None:
        from tailsmith.runs.recipe import defaults

        parser.set_defaults(defaults(given[RECIPE], {action.dest for action in parser._actions}))


def _normalized(argv: list[str], parser: ArgumentParser) -> list[str]:
    """Dashes for underscores, `--flag` for `--flag=true`, `a,b` for `[a,b]`, as jsonargparse wants them.

    An argument that has its place may be given by its name as well: `--data ROOT`.
    """
    types = _types(parser)
    placed = {f"--{action.dest}" for action in parser._actions if not action.option_strings}
    lists = {option for option, hint in types.items() if _takes_list(hint)}
    result: list[str] = []
    for position, token in enumerate(argv):
        option, equals, value = token.partition("=")
        known = "--" + option[2:].replace("-", "_")
        known = SHORT.get(known, known) if known not in types else known
        if known in placed and option.startswith("--"):
            result += [value] if equals else []
        elif option.startswith("--") and known in types:
            value = _bracketed(value) if known in lists and equals else value
            if types[known] is bool and not equals:
                following = argv[position + 1] if position + 1 < len(argv) else ""
                equals, value = ("", "") if following in ("true", "false") else ("=", "true")
            result.append(f"{known}{equals}{value}")
        else:
            result.append(_bracketed(token) if result and result[-1] in lists else token)
    return result


def _types(parser: ArgumentParser) -> dict[str, Any]:
    """Option -> its type, or None; those in sections that may be absent (`search`) as well, which are no actions."""
    types: dict[str, Any] = {}
    for action in parser._actions:
        hint = getattr(action, "_typehint", None)
        for option in action.option_strings:
            if option.endswith(".help"):  # of such a section; typed as it is
                continue
            types[option] = hint
            for section in filter(is_dataclass, get_args(hint)):
                types |= {f"{option}.{name}": each for name, each in get_type_hints(section).items()}
    return types


def _takes_list(hint: Any) -> bool:
    return tuple in (get_origin(hint), *(get_origin(each) for each in get_args(hint)))


def _bracketed(value: str) -> str:
    return value if value.startswith("[") or value == "null" else f"[{value}]"


def _expanded(value: Any) -> Any:
    """`~` is the home folder, in text as in paths."""
    if isinstance(value, Path):
        return value.expanduser()
    return os.path.expanduser(value) if isinstance(value, str) else value
