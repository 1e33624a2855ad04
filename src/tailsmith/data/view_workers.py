"""Processes that make training views while the model computes. What comes out doesn't depend on how many there are."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
import torch.multiprocessing  # has tensors travel between processes in shared memory
from torch import Tensor

from tailsmith.data.dataset import Dataset
from tailsmith.data.views import MakeView, PerImage, draw_from
from tailsmith.errors import UserError

Numbers = npt.NDArray[np.int64]
Seeds = npt.NDArray[np.uint64]
_BATCHES = 2  # that are under way at once, or more: each is divided among this part of the workers
_WATCH = 5.0  # seconds


class ViewWorkers:
    """Start with the first batch, end with `close`."""

    def __init__(self, dataset: Dataset, views: PerImage, size: int, count: int | None = None) -> None:
        views.of_size(size)  # whatever is wrong with it is said here
        self.count = count or default_count()
        # A forked process has the dataset at no cost, as a DataLoader's on Linux; elsewhere it is sent
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        self._pool = ProcessPoolExecutor(self.count, context, _begin, (dataset, views, size, os.getpid()))

    def begin(self, rows: Numbers, seeds: Seeds) -> Callable[[], Tensor]:
        """Rows [n] and a seed for each; called, the answer waits for the views, uint8 [n, 3, size, size]."""
        parts = max(1, min(len(rows), -(-self.count // _BATCHES)))
        chunks = zip(np.array_split(rows, parts), np.array_split(seeds, parts), strict=True)
        with warnings.catch_warnings(), _naming_the_killed():
            # Python's warning of forks beside threads: these processes touch neither those nor their locks
            warnings.simplefilter("ignore", DeprecationWarning)
            pending = [self._pool.submit(_views_of, *chunk) for chunk in chunks]

        def taken() -> Tensor:
            with _naming_the_killed():
                made = [each.result() for each in pending]
            whole = made[0] if len(made) == 1 else torch.cat(made)  # without a copy where one worker made all
            return whole.permute(0, 3, 1, 2)  # channels last in memory

        return taken

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _naming_the_killed() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool as error:
        raise UserError(
            "a process that makes training views was killed, most likely for want of memory; set fewer workers"
        ) from error


def default_count() -> int:
    """The cores that this process may use, shared among torchrun's processes of this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


# ----------------------------------------------------------------------------------------------------------
# Inside a worker.

_mine: tuple[Dataset, MakeView, int] | None = None


def _begin(dataset: Dataset, views: PerImage, size: int, parent: int) -> None:
    global _mine
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # and not what the parent made of it
    torch.set_num_threads(1)  # a forked process can't use the parent's threads
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _mine = dataset, views.of_size(size), size


def _end_with(parent: int) -> None:
    """A parent that is killed leaves no workers behind."""
    while os.getppid() == parent:
        time.sleep(_WATCH)
    os._exit(1)


def _views_of(rows: Numbers, seeds: Seeds) -> Tensor:
    """uint8 [n, size, size, 3], as Pillow has them"""
    assert _mine is not None
    dataset, make, size = _mine
    made: Tensor = torch.empty(len(rows), size, size, 3, dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call] # it goes there anyway
    pixels = made.numpy()
    for place, (row, seed) in enumerate(zip(rows.tolist(), seeds.tolist(), strict=True)):
        image = dataset.image(row)
        draw_from(seed)  # this process draws for nothing else
        pixels[place] = np.asarray(make(image))
    return made
