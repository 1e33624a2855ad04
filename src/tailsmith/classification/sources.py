"""The images of a training's steps; of streams that need no classifier, those of the next steps come already."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tailsmith.classification import processes
from tailsmith.classification.batches import Rows
from tailsmith.classification.methods.contract import Moment, Stream
from tailsmith.classification.prediction import ahead, makes_views
from tailsmith.contracts import Indexable

AHEAD = 2  # steps


@dataclass(frozen=True)
class Drawn:
    """A stream's share of a step."""

    everyones: int  # rows of all processes together
    rows: Rows  # [b], of this process
    views: tuple[Callable[[], Tensor], ...]  # each waits for uint8 [b, 3, S, S]; one, the test view, of plain images


class Source:
    """A stream with its images. Its state is that after the step taken last, however far ahead it has gone."""

    def __init__(self, stream: Stream, images: Indexable, number: int, seed: int, steps: int, views: int) -> None:
        self._stream, self._images = stream, images
        self._number, self._seed, self._steps, self._views = number, seed, steps, views
        self._runs_ahead: bool = getattr(stream, "runs_ahead", False)
        self._queue: deque[tuple[Drawn, dict[str, Tensor]]] = deque()
        self._drawn = 0  # the step drawn last
        self._state: dict[str, Tensor] | None = None  # None: the stream's own

    def take(self, moment: Moment) -> Drawn:
        """Of a step; steps are taken one after the other."""
        if not self._runs_ahead:
            return self._begin(moment)
        if not self._queue:
            self._drawn = moment.step - 1
        while self._drawn < min(moment.step + AHEAD, self._steps):
            self._drawn += 1
            drawn = self._begin(replace(moment, step=self._drawn))
            self._queue.append((drawn, self._stream.state_dict()))
        drawn, self._state = self._queue.popleft()
        return drawn

    def state_dict(self) -> dict[str, Tensor]:
        return self._stream.state_dict() if self._state is None else self._state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._queue.clear()
        self._state = None
        self._stream.load_state_dict(dict(state))

    def _begin(self, moment: Moment) -> Drawn:
        rows = self._stream.next(moment)
        own = processes.own(rows)
        if not makes_views(self._images):
            return Drawn(len(rows), own, (ahead(self._images, own),))
        # A seed for each place of the whole batch: the same views whatever the number of processes
        all_seeds = [view_seeds(len(rows), self._seed, moment.step, self._number, each) for each in range(self._views)]
        return Drawn(len(rows), own, tuple(ahead(self._images, own, processes.own(each)) for each in all_seeds))


def view_seeds(count: int, seed: int, step: int, stream: int, view: int) -> npt.NDArray[np.uint64]:
    """uint64 [count], other ones for each step, stream and view."""
    state = np.random.SeedSequence((seed, step, stream, view, 5)).generate_state(count, np.uint64)
    return state.astype(np.uint64, copy=False)


def drawn_seeds(count: int, draws: torch.Generator) -> npt.NDArray[np.uint64]:
    return torch.randint(2**63 - 1, (count,), generator=draws).numpy().astype(np.uint64)
