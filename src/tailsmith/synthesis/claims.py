"""Who renders which shard, where several processes work on one plan: claims in its folder, and nothing else.

    .shard-00003.claim      written with O_EXCL before a shard is rendered, touched while it is, removed afterwards

A process that is gone leaves its claim; others take it over when its process is no longer there (on the same machine)
or when it hasn't been touched for ten minutes. Where that goes wrong, at worst a shard is rendered twice, with the same
images, and one of both whole files stays.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tailsmith.errors import UserError
from tailsmith.files import remove_leftovers, set_aside
from tailsmith.synthesis.plan import Plan
from tailsmith.synthesis.shards import fault_of, shard_path
from tailsmith.synthesis.tries import Tries

log = logging.getLogger(__name__)
STALE_SECONDS = 600.0  # also how far the clocks of machines may be apart
UNWRITTEN_SECONDS = 10.0  # a claim that still says nothing is of a process that was killed as it made it
TOUCH_SECONDS = 30.0
POLL_SECONDS, LONGEST_POLL_SECONDS = 1.0, 15.0
CLAIM = re.compile(r"\.shard-(\d+)\.claim")

_held: set[str] = set()  # tokens of this process's claims: a claim with its number and another token is a ghost's


def claim_path(folder: Path, number: int) -> Path:
    return folder / f".shard-{number:05d}.claim"


def in_turn(folder: Path, numbers: Sequence[int], others: Callable[[int], object]) -> Generator[int]:
    """Each of these shards that the caller should render, claimed while it does.

    Ends when all are there; shards that other processes claim are waited for, and `others(number)` is called
    for those that they made: with thousands of shards and hundreds of processes none can look into all of them. To be
    closed if the caller leaves early.
    """
    waiting, rendered, said, pause = list(numbers), Counter[int](), "", POLL_SECONDS
    while waiting:
        left, failed = [], False
        for number in waiting:
            path = shard_path(folder, number)
            if path.exists():
                others(number)
                continue
            with claimed(folder, number) as mine:
                if not mine:
                    left.append(number)
                elif path.exists():
                    others(number)
                else:
                    if rendered[number] == 2:
                        raise UserError(f"{path} was rendered twice and is gone again: something removes it")
                    yield number
                    if Tries.of(folder, number).path.exists() and not path.exists():
                        left.append(number)  # to be tried again, by whoever is next
                        failed = True
                    else:
                        rendered[number] += 1
        if left == waiting and not failed:
            if (waits := _waiting(folder, left)) != said:
                log.warning("%s", waits)
                said = waits
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_POLL_SECONDS)
        else:
            pause = POLL_SECONDS
        waiting = left or [number for number in numbers if not shard_path(folder, number).exists()]


def clear_damaged(folder: Path, plan: Plan, numbers: Sequence[int]) -> None:
    """Move what is not the plan's out of the place of these shards, but for those that others render."""
    for number in numbers:
        path = shard_path(folder, number)
        if path.exists():
            with claimed(folder, number) as mine:
                if mine and (fault := fault_of(path, plan, number)) is not None:
                    log.warning("%s; set aside as %s, and rendered again", fault, set_aside(path).name)


@contextmanager
def claimed(folder: Path, number: int) -> Iterator[bool]:
    """Inside, the shard is this process's to render if True; False where another one renders it."""
    path, token = claim_path(folder, number), uuid.uuid4().hex
    tries = Tries.of(folder, number)
    if not (_create(path, token) or (_take_over(path, tries) and _create(path, token))):
        yield False
        return
    finished = threading.Event()
    toucher = threading.Thread(target=_keep_touching, args=(path, finished), daemon=True)
    toucher.start()
    try:
        for left in folder.glob(f".{shard_path(folder, number).name}.*.tmp"):  # of a writer that is gone
            left.unlink(missing_ok=True)
        yield True
    finally:
        finished.set()
        toucher.join()
        if _holder(path).get("token") == token:  # else it was taken over while this process slept
            path.unlink(missing_ok=True)
        _held.discard(token)


def sweep(folder: Path) -> None:
    """Remove what killed processes left in a folder of shards: temporary files, claims of finished shards."""
    remove_leftovers(folder)
    for path in folder.glob(".*.claim"):
        with suppress(FileNotFoundError):
            found = CLAIM.fullmatch(path.name)
            if found and shard_path(folder, int(found[1])).exists() and _is_stale(path):
                path.unlink()
    for path in [*folder.glob(".begun-*.parquet"), *folder.glob(".tries-*.jsonl")]:
        number = path.stem.rpartition("-")[2]
        if number.isdecimal() and shard_path(folder, int(number)).exists():
            path.unlink(missing_ok=True)


def _create(path: Path, token: str) -> bool:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    _held.add(token)
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time(), "token": token}
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(json.dumps(holder))
    return True


def _take_over(path: Path, tries: Tries) -> bool:
    """Move a stale claim out of the way; True where there is none any more. Its process has failed to finish the shard.

    Of two processes that see the same stale claim, the slower one could move the faster one's new claim: it looks at
    what it has moved, and puts that back.
    """
    holder = _holder(path)
    seen = holder.get("token")
    if not _is_stale(path):
        return False
    moved = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        path.rename(moved)
    except FileNotFoundError:
        return True
    if _holder(moved).get("token") != seen:
        with suppress(FileExistsError):
            os.link(moved, path)
        moved.unlink()
        return False
    moved.unlink()
    tries.crashed(f"process {holder.get('pid')} on {holder.get('host')}")
    return True


def _is_stale(path: Path) -> bool:
    try:
        touched = path.stat().st_mtime
    except FileNotFoundError:
        return False
    holder = _holder(path)
    pid = holder.get("pid")
    if holder.get("host") == socket.gethostname() and isinstance(pid, int):
        if pid == os.getpid():
            return holder.get("token") not in _held
        if not _is_running(pid):
            return True
    return time.time() - touched > (STALE_SECONDS if holder else UNWRITTEN_SECONDS)


def _is_running(pid: int) -> bool:
    if os.name == "nt":  # there, signal 0 is Ctrl-C
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # another user's
    return True


def _holder(path: Path) -> dict[str, Any]:
    """Who holds a claim; empty where it is being written, or gone."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _keep_touching(path: Path, finished: threading.Event) -> None:
    while not finished.wait(TOUCH_SECONDS):
        with suppress(OSError):
            os.utime(path)


def _waiting(folder: Path, numbers: Sequence[int]) -> str:
    holder = _holder(claim_path(folder, numbers[0]))
    return (
        f"waiting for {len(numbers)} of the shards, which others render: {shard_path(folder, numbers[0]).name} by "
        f"process {holder.get('pid')} on {holder.get('host')}"
    )
