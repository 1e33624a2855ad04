"""What went wrong, in one line that the user of a command can act on."""

from __future__ import annotations

import argparse
import difflib
import errno
import os
import re

_FULL = (errno.ENOSPC, errno.EDQUOT)
# What a user can mend without knowing our code, beside a full disk.
_MENDABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT)


def parse_error(message: str, parser: argparse.ArgumentParser) -> str:
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


def explained(error: Exception) -> str | None:
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
