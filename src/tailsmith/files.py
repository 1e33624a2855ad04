"""Files that are whole or absent: atomic writes, JSON, hashes, and what a full disk says."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

_FULL = (errno.ENOSPC, errno.EDQUOT)
# Left as they are by `json`, and a terminal acts on them or UTF-8 can't hold them: controls, halves of surrogate pairs.
_ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """`write(temporary)` beside `path`, flush to disk, then rename: `path` is whole whenever it exists.

    A full disk is a ValueError; whatever goes wrong, the temporary file is removed and an older `path` stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        write(temporary)
        _flush(temporary)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        temporary.unlink(missing_ok=True)  # before the free space is read: it is what the user will see
        raise ValueError(_disk_full(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
    _flush(path.parent)


def write_json(path: Path, value: Any) -> None:
    """What `to_json` makes of a value, atomically."""
    text = to_json(value) + "\n"
    write_atomically(path, lambda temporary: _write_text(temporary, text))


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
        raise ValueError(f"no folder {folder} to hash")
    digest = hashlib.sha256()
    below = [each.relative_to(folder) for each in folder.rglob("*") if each.is_file()]
    for relative in sorted(each.as_posix() for each in below if not _is_hidden(each)):
        digest.update(f"{relative}\0{sha256_file(folder / relative)}\n".encode())
    return digest.hexdigest()


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


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
