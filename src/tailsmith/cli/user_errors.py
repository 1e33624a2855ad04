"""What went wrong, in one line that the user of a command can act on."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from tailsmith.errors import UserError, did_you_mean

_FULL = (errno.ENOSPC, errno.EDQUOT)
# What a user can mend without knowing our code, beside a full disk.
_MENDABLE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTEMPTY),
)

_FAILING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EREMOTEIO)  # a disk, or a network's

# What jsonargparse says of a value in a section that may be absent (`search`), around what it says of that value.
_SECTION = r"Parser key \"([\w.]+)\":.*? Problem with given class_path '[\w.]+': (.*) - Expected a <class 'NoneType'>"


def parse_error(message: str, types: Mapping[str, Any]) -> str:
    """jsonargparse's complaint in our words: what was got, what is expected. `types`: every option and its type."""
    message, section = " ".join(message.split()), ""
    if within := re.search(_SECTION, message):
        section, message = f"{within[1]}.", within[2]
    if unknown := re.search(r"unrecognized arguments: (--[\w.-]+)", message):
        return f"unknown option {unknown[1]}{did_you_mean(unknown[1].lstrip('-').replace('-', '_'), _names(types))}"
    if (strays := re.search(r"unrecognized arguments: (.+)$", message)) and "--data" in types:
        return f"{strays[0]}, did you mean --data {strays[1]}?"
    if unknown := re.search(r"(?:Group '([\w.]+)' does not accept option|Option) '([\w.-]+)'", message):
        key = f"{unknown[1]}.{unknown[2]}" if unknown[1] else unknown[2]
        return f"unknown key {section + key!r}{did_you_mean(section + key, _names(types))}"
    if wrong := re.search(r'Parser key "([\w.]+)":.*(?:Got|Given) value: (.*)$', message):
        key = section + wrong[1]
        inside = [option for option in types if option.startswith(f"--{key}.")]
        expected = f"a section of {', '.join(inside)}" if inside else _described(types.get(f"--{key}"))
        return f"{key} should be {expected}, got {wrong[2]!r}"
    if lacking := re.search(r"arguments are required: (.*)$", message):
        options = [f"--{each}" if f"--{each}" in types else each.upper() for each in lacking[1].split(", ")]
        return f"missing: {', '.join(options)}"
    return re.sub(r'Parser key "([\w.]+)":', r"--\1:", message)


def _described(hint: Any) -> str:
    """A type as a user reads it: "int", "float | None", "a list of float"."""
    if get_origin(hint) in (Union, UnionType):
        return " | ".join(map(_described, get_args(hint)))
    if get_origin(hint) is tuple:
        return f"a list of {_described(get_args(hint)[0])}"
    if hint is None or hint is NoneType:
        return "given" if hint is None else "None"
    return str(hint) if get_args(hint) else str(getattr(hint, "__name__", hint))


def _names(types: Mapping[str, Any]) -> list[str]:
    return [option.lstrip("-") for option in types]


def explained(error: Exception) -> str | None:
    """One line for the user, None for what is no user's doing."""
    if isinstance(error, UserError):
        return " ".join(str(error).split())
    number, path = (error.errno, error.filename2 or error.filename) if isinstance(error, OSError) else (None, None)
    if number in _FULL or "(os error 28)" in str(error):  # the latter from safetensors, which is written in Rust
        where = f" while writing {path}" if path else ""
        return f"disk full{where}; free space and run the same command again, nothing already written is lost"
    if number in _MENDABLE and path:
        return f"{_cut(str(path))}: {os.strerror(number)}; check the path and its permissions"
    if number in _FAILING:
        where = f" with {_cut(str(path))}" if path else ""
        return (
            f"the file system fails{where}: {os.strerror(number)}; check the disk or network, and run the same command "
            "again, nothing already written is lost"
        )
    if isinstance(error, MemoryError) or _out_of_memory(error):
        return "out of memory; give smaller images, fewer at a time, or a smaller target, or use a larger machine"
    return None


def _out_of_memory(error: Exception) -> bool:
    """What torch raises, by its name and words: it isn't imported for a line of text."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


def _cut(text: str, most: int = 120) -> str:
    text = " ".join(text.splitlines())
    return text if len(text) <= most else f"{text[:most]}..."
