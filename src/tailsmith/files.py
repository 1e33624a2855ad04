"""Files that are whole or absent: atomic writes, JSON, hashes, and what a full disk says."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tailsmith.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT)
# Left as they are by `json`, and a terminal acts on them or UTF-8 can't hold them: controls, halves of surrogate pairs.
_ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_TEMPORARY = re.compile(r"\..+\.((?P<host>[\w-]*)\+(?P<process>\d+)\+)?[0-9a-f]{8,12}\.tmp")
_FORGOTTEN = 24 * 3600  # seconds: a temporary file of a machine that can't be asked, and this old, has no writer


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """`write(temporary)` beside `path`, flush to disk, then rename: `path` is whole whenever it exists.

    A full disk is a ValueError; whatever goes wrong, the temporary file is removed and an older `path` stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        temporary.touch()  # asks the umask, and the folder, for the mode that others' files have here
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)  # some libraries write for their user's eyes only
        _flush(temporary)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        temporary.unlink(missing_ok=True)  # before the free space is read: it is what the user will see
        raise UserError(_disk_full(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
    _flush(path.parent)


def check_writable(path: Path) -> None:
    """ValueError unless a file or folder of this name can be made, or filled; leaves nothing behind."""
    path = Path(path).absolute()
    folder = next(each for each in (path, *path.parents) if each.exists())
    if not folder.is_dir():
        if folder != path:
            raise UserError(f"{path} can't be written: {folder} is a file and no folder; choose another place")
        folder = folder.parent
    probe = _temporary(folder / "probe")
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise UserError(
            f"{path} can't be written: {reason} in {folder}; choose another place, or change the permissions"
        ) from error


def check_readable(path: Path) -> None:
    """OSError with its reason, "Permission denied", for a file that libraries would say doesn't exist."""
    with open(path, "rb"):
        pass


def is_temporary(path: Path) -> bool:
    """Whether `write_atomically` made the file, here or elsewhere: one that stayed is of a process that was killed."""
    return _TEMPORARY.fullmatch(path.name) is not None


def set_aside(path: Path) -> Path:
    """Rename a file that is not what it should be to `NAME.damaged-1`, or the next free number; nothing is lost."""
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.damaged-{number}")):
        number += 1
    path.rename(aside)
    return aside


def remove_leftovers(folder: Path, pattern: str = "**/.*.tmp") -> None:
    """Remove the temporary files and folders below whose writer is dead; those of living processes stay."""
    for each in list(Path(folder).glob(pattern)):
        if is_temporary(each) and not _has_writer(each):
            if each.is_dir():
                shutil.rmtree(each, ignore_errors=True)
            else:
                each.unlink(missing_ok=True)


@contextmanager
def temporary_folder(folder: Path, name: str) -> Iterator[Path]:
    """A folder in `folder` for as long as it is needed; of a process that was killed, `remove_leftovers` removes it."""
    path = _temporary(folder / name)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """As UTF-8, atomically; bytes of a file name that are no UTF-8 become escapes, which JSON and YAML read back."""
    write_atomically(path, lambda temporary: _write_text(temporary, text))


def write_json(path: Path, value: Any) -> None:
    """What `to_json` makes of a value, atomically."""
    write_text(path, to_json(value) + "\n")


def to_json(value: Any) -> str:
    """Indented, standard JSON: NaN and infinities become null; numpy values and paths are welcome."""
    text = json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def read_json(path: Path) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def sha256_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_folder(folder: Path) -> str:
    """Of the sorted relative names and the contents of all files below but hidden ones; copies agree."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no folder {folder} to hash")
    digest = hashlib.sha256()
    below = [each.relative_to(folder) for each in folder.rglob("*") if each.is_file()]
    for relative in sorted(each.as_posix() for each in below if not _is_hidden(each)):
        digest.update(f"{relative}\0{sha256_file(folder / relative)}\n".encode())
    return digest.hexdigest()


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def _temporary(path: Path) -> Path:
    """A name beside `path` that says who writes it."""
    return path.with_name(f".{path.name[:40]}.{_host()}+{os.getpid()}+{uuid.uuid4().hex[:8]}.tmp")


def _host() -> str:
    return re.sub(r"[^\w-]", "-", platform.node())[:64]


def _has_writer(temporary: Path) -> bool:
    """True where it can't be told: another machine's file of the last day."""
    found = _TEMPORARY.fullmatch(temporary.name)
    assert found is not None
    if found["process"] is not None and found["host"] == _host():
        return _is_alive(int(found["process"]))
    try:
        return time.time() - temporary.stat().st_mtime < _FORGOTTEN
    except OSError:  # it is gone
        return True


def _is_alive(process: int) -> bool:
    if os.name == "nt":  # there, signal 0 would be Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _is_hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def _flush(path: Path) -> None:
    """fsync a file, or a folder so that a rename in it survives a power cut (Windows can't do the latter)."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _disk_full(path: Path) -> str:
    free = shutil.disk_usage(path.parent).free
    return (
        f"disk full while writing {path}: {free} bytes free; free space and run the same command again, "
        "nothing already written is lost"
    )


def _plain(value: Any) -> Any:
    """The nearest thing that standard JSON can hold."""
    if hasattr(value, "tolist"):  # numpy and torch arrays and scalars, without importing either
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
