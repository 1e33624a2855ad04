"""The command line: parse, call one function of a file of commands, and say in one line what to mend."""

from __future__ import annotations

import inspect
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from jsonargparse import ArgumentParser

from tailsmith import __version__
from tailsmith.cli import commands, compare_command, export_command, run_commands, synthesize_command
from tailsmith.cli.parsing import INVOCATION, parsed, parser_of
from tailsmith.cli.user_errors import explained
from tailsmith.errors import UserError, did_you_mean
from tailsmith.interruption import Terminated
from tailsmith.terminal import OneLineFormatter, print_any_name, shown

COMMANDS: dict[str, Callable[..., int | None]] = {
    "demo": run_commands.demo,
    "inspect": commands.inspect,
    "plan": commands.plan,
    "train": commands.train,
    "synthesize": synthesize_command.synthesize,
    "inspect-samples": commands.inspect_samples,
    "export": export_command.export,
    "evaluate": commands.evaluate,
    "run": run_commands.run,
    "report": run_commands.report,
    "compare": compare_command.compare,
    "fit-generator": commands.fit_generator,
    "grid": run_commands.grid,
    "reproduce": run_commands.reproduce,
}
TOGETHER = ("train",)  # the commands whose processes share the work under torchrun
USER_ERROR, INTERRUPTED, BROKEN_PIPE, TERMINATED = 2, 130, 141, 143
TRACEBACK = "TAILSMITH_TRACEBACK"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code.

    0; 2 for what the user can mend; 3 where requests were given up; 130 or 143 after Ctrl-C or SIGTERM.
    """
    try:
        print_any_name()
        with _quiet_libraries():
            code = _run(list(sys.argv[1:] if argv is None else argv))
            sys.stdout.flush()
            return code
    except SystemExit as stop:  # --help and --print_config
        return int(stop.code or 0)
    except KeyboardInterrupt as stop:
        again = "nothing already written is lost: run the same command again to go on"
        return _fail(f"tailsmith: interrupted; {again}", TERMINATED if isinstance(stop, Terminated) else INTERRUPTED)
    except BrokenPipeError:  # whoever read our output has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - lest Python complains when it flushes at exit
        return BROKEN_PIPE
    except Exception as error:
        line = explained(error)
        if line is None:
            attach = "please report it with the command you gave and the traceback that follows"
            _fail(f"tailsmith: that is a fault of tailsmith and not yours; {attach}", 1)
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
        meant = did_you_mean(argv[0], COMMANDS) or f": expected one of {', '.join(COMMANDS)}"
        raise UserError(f"unknown command {argv[0]!r}{meant}")
    function = COMMANDS[argv[0]]
    _check_processes(argv[0])
    arguments = parsed(argv[0], function, argv[1:])
    if INVOCATION in inspect.signature(function).parameters:
        arguments[INVOCATION] = shlex.join(["tailsmith", *argv])
    return function(**arguments) or 0


def _check_processes(name: str) -> None:
    """Under torchrun only training shares its work: of anything else every process would do the whole."""
    processes = os.environ.get("WORLD_SIZE", "1")
    if name not in TOGETHER and "LOCAL_RANK" in os.environ and processes != "1":
        raise UserError(
            f"tailsmith {name} works in one process, and torchrun started {processes}; start it without torchrun. To "
            "share work, run `tailsmith train` under torchrun, and `tailsmith synthesize --shards` once per process"
        )


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


def build_parser(name: str) -> ArgumentParser:
    """The options of a command, from the signature of its function."""
    return parser_of(name, COMMANDS[name])


def _fail(line: str, code: int) -> int:
    print(shown(line), file=sys.stderr)
    return code


def _first_line(function: Callable[..., int | None]) -> str:
    return (inspect.getdoc(function) or "").splitlines()[0]


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Libraries' warnings are not for the user of a command (python -W shows them); our own log is, a line each."""
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "passive"
    )  # before torch: spinning threads cost tenfold beside another job
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLineFormatter("tailsmith: %(message)s"))
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
