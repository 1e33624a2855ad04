"""What each worker does, as a small file of its own beside the shards: read by whoever waits for them.

workers/node7-4711.json     images, seconds, the last sign of life, and how it ended
"""

from __future__ import annotations

import faulthandler
import os
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from tailsmith.errors import UserError
from tailsmith.files import read_json, write_json

FOLDER = "workers"
EVERY_SECONDS = 5.0  # at most so often a worker writes
SLOW = 0.5  # of the median speed
ENOUGH = 3  # workers, and images of each, for a median


@dataclass
class Status:
    """One worker's, written by itself alone."""

    engine: str
    device: str
    host: str
    process: int
    begun: float  # seconds since the epoch, by its own clock
    seen: float
    images: int = 0
    rendering_seconds: float = 0.0  # from the start of its first shard to its last image
    ended: str = ""  # finished | stopped | what went wrong; "" while it works, and for one that was killed

    @property
    def images_per_second(self) -> float:
        """NaN where nothing was made yet."""
        return self.images / self.rendering_seconds if self.images and self.rendering_seconds > 0 else float("nan")


class Reporter:
    """Writes this process's status, and ends the process where `stalled_after` seconds pass without an image.

    A worker that hangs in native code can't end itself in Python: faulthandler's watchdog needs no lock of Python's.
    """

    def __init__(self, out: Path, engine: str, device: str, stalled_after: float) -> None:
        now = time.time()
        self.status = Status(engine, device, socket.gethostname(), os.getpid(), begun=now, seen=now)
        self._path = out / FOLDER / f"{self.status.host}-{self.status.process}.json"
        self._stalled_after = stalled_after
        self._written = self._started = 0.0
        self._write()
        self._rearm()

    def advance(self, images: int) -> None:
        """So many more images are there; 0 = alive."""
        now = time.monotonic()
        self._started = self._started or now
        self.status.images += images
        self.status.rendering_seconds = round(now - self._started, 3)
        self._rearm()
        if now - self._written > EVERY_SECONDS:
            self._write()

    def idle(self) -> None:
        """Nothing to do: no image is waited for."""
        faulthandler.cancel_dump_traceback_later()
        self._write()

    def end(self, how: str) -> None:
        faulthandler.cancel_dump_traceback_later()
        self.status.ended = " ".join(how.split())[:300]
        self._write()

    def _rearm(self) -> None:
        with suppress(OSError, ValueError, AttributeError):  # stderr may be no file
            faulthandler.dump_traceback_later(self._stalled_after, exit=True, file=sys.__stderr__ or sys.stderr)

    def _write(self) -> None:
        self._written = time.monotonic()
        self.status.seen = time.time()
        with suppress(OSError, UserError):  # a status is not worth a worker
            write_json(self._path, asdict(self.status))


def read_statuses(out: Path, since: float = 0.0) -> list[Status]:
    """Of all workers of a folder that were begun since then; a file that is no status is left out."""
    known, found = {each.name for each in fields(Status)}, []
    for path in sorted((out / FOLDER).glob("*.json")):
        with suppress(OSError, ValueError, TypeError, RecursionError):
            values = read_json(path)
            status = Status(**{name: value for name, value in values.items() if name in known})
            if status.begun >= since:
                found.append(status)
    return found


def slow(statuses: Sequence[Status]) -> list[Status]:
    """Those that work at less than half the median speed; none where too few have made anything."""
    speeds = np.array([each.images_per_second for each in statuses if each.images >= ENOUGH])
    if len(speeds) < ENOUGH:
        return []
    limit = SLOW * float(np.median(speeds))
    return [each for each in statuses if each.images >= ENOUGH and each.images_per_second < limit]
