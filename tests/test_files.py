"""Atomic writes, JSON and hashes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tailsmith.files import (
    is_temporary,
    read_json,
    remove_leftovers,
    sha256_file,
    sha256_folder,
    write_atomically,
    write_json,
    write_text,
)


def test_write_replaces_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "result.txt"
    write_atomically(path, lambda temporary: _write(temporary, "old"))
    write_atomically(path, lambda temporary: _write(temporary, "new"))
    assert path.read_text() == "new"
    assert [each.name for each in path.parent.iterdir()] == ["result.txt"]


def test_the_path_does_not_exist_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "shard-00000.parquet"
    seen = []

    def write(temporary: Path) -> None:
        _write(temporary, "half")
        seen.append((path.exists(), temporary.parent == path.parent, list(tmp_path.glob("shard-*"))))

    write_atomically(path, write)
    assert seen == [(False, True, [])]


def test_a_failed_write_keeps_the_old_file_and_removes_the_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "result.txt"
    path.write_text("old")

    def write(temporary: Path) -> None:
        _write(temporary, "half")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["result.txt"]


def test_a_full_disk_says_so(tmp_path: Path) -> None:
    path = tmp_path / "shard.parquet"

    def write(temporary: Path) -> None:
        _write(temporary, "half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ValueError, match=r"disk full while writing .*shard\.parquet: \d+ bytes free; free space"):
        write_atomically(path, write)
    assert list(tmp_path.iterdir()) == []


def test_files_have_the_mode_that_the_umask_gives_whatever_wrote_them(tmp_path: Path) -> None:
    """safetensors writes 0600, which a colleague of the group can't read."""

    def write(temporary: Path) -> None:
        temporary.unlink(missing_ok=True)  # as a library may
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT, 0o600)
        os.close(descriptor)

    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "weights", write)
    finally:
        os.umask(before)
    assert (tmp_path / "weights").stat().st_mode & 0o777 == 0o640


KILLED = """
import os, sys
from pathlib import Path
from tailsmith.files import write_atomically
write_atomically(Path(sys.argv[1]), lambda temporary: os.kill(os.getpid(), 9))
"""


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "arms"
    subprocess.run([sys.executable, "-c", KILLED, str(folder / "x.json")], check=False)
    (left,) = folder.iterdir()
    assert is_temporary(left)
    ancient, recent, foreign = (
        folder / f".x.json.{name}.tmp" for name in ("0123456789ab", "elsewhere+1+01234567", "x")
    )
    for path in (ancient, recent, foreign):
        path.touch()
    os.utime(ancient, times=(time.time() - 90_000,) * 2)
    seen: list[bool] = []

    def write(temporary: Path) -> None:
        _write(temporary, "half")
        remove_leftovers(tmp_path)
        seen.append(temporary.exists())

    write_atomically(folder / "y.json", write)
    assert seen == [True]
    assert {each.name for each in folder.iterdir()} == {"y.json", recent.name, foreign.name}


def test_a_name_as_long_as_the_disk_allows(tmp_path: Path) -> None:
    write_text(tmp_path / ("é" * 127), "x")
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_really_full_device_says_so(tmp_path: Path) -> None:
    def write(temporary: Path) -> None:
        temporary.write_text("half")
        Path("/dev/full").write_text("x" * 100)

    with pytest.raises(ValueError, match="disk full while writing"):
        write_atomically(tmp_path / "shard.parquet", write)


def test_other_system_errors_stay_what_they_are(tmp_path: Path) -> None:
    def write(temporary: Path) -> None:
        raise PermissionError(errno.EACCES, "no")

    with pytest.raises(PermissionError):
        write_atomically(tmp_path / "x", write)


def test_json_is_standard_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    value = {
        "nan": float("nan"),
        "inf": np.float32("inf"),
        "n": np.int64(3),
        "a": np.array([1.5, np.nan]),
        "t": (1, "é"),
    }
    write_json(path, value | {"path": Path("a") / "b", 3: None, "yes": np.bool_(True)})
    json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert read_json(path) == {
        "nan": None,
        "inf": None,
        "n": 3,
        "a": [1.5, None],
        "t": [1, "é"],
        "path": str(Path("a/b")),
        "3": None,
        "yes": True,
    }


def test_bytes_of_a_file_name_that_are_no_utf8_come_back_from_json(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"path": "caf\udce9"})
    assert read_json(tmp_path / "x.json") == {"path": "caf\udce9"}


def test_file_hash(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc" * 100_000)
    assert sha256_file(path) == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_folder_hash_is_of_names_and_contents_in_any_order(tmp_path: Path) -> None:
    files = {"b.txt": "2", "a.txt": "1", "sub/c.txt": "3"}
    first, second = tmp_path / "first", tmp_path / "second"
    for name, text in files.items():
        _write(first / name, text)
    for name, text in reversed(files.items()):
        _write(second / name, text)
    expected = sha256_folder(first)
    assert sha256_folder(second) == expected
    _write(second / ".cache" / "x", "hidden")
    assert sha256_folder(second) == expected
    _write(second / "a.txt", "other")
    assert sha256_folder(second) != expected
    _write(second / "a.txt", "1")
    (second / "b.txt").rename(second / "z.txt")
    assert sha256_folder(second) != expected


def test_folder_hash_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no folder"):
        sha256_folder(tmp_path / "missing")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
