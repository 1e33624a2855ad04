"""Where a method's rows come from: endless passes over pools, or draws by weight."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tailsmith.classification.batches import EndlessPass, PooledPasses, Rows
from tailsmith.classification.config import TrainConfig
from tailsmith.classification.methods.contract import Moment, OpenStream, generator

Counts = npt.NDArray[np.float64]
Shares = Callable[[float, Counts], Counts]  # progress, images of each class [C] -> how often it is drawn [C]


def passes(pools: Sequence[Rows], config: TrainConfig) -> OpenStream:
    """Batches of `config.batch_size` as batches.py has them: pools count alike, no row of one is favoured."""
    return lambda _: Passes(pools, config)


def weighted(weights: npt.NDArray[np.float64], config: TrainConfig) -> OpenStream:
    """Training rows with p ~ weights [n], independent of each other; other draws than those of `passes`."""
    return lambda _: Weighted(weights, config)


def by_class(pools: Sequence[Rows], labels: Rows, shares: Shares, config: TrainConfig) -> OpenStream:
    """From each pool a class with a probability ~ shares(progress, counts [C]), and a row of it; pools count alike."""
    return lambda _: ByClass(pools, labels, shares, config)


class Passes:
    runs_ahead = True

    def __init__(self, pools: Sequence[Rows], config: TrainConfig) -> None:
        self._size, self._passes = config.batch_size, PooledPasses(pools, generator(config.seed))

    def next(self, moment: Moment) -> Rows:
        return self._passes.take(self._size)

    def state_dict(self) -> dict[str, Tensor]:
        return self._passes.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._passes.load_state_dict(state)


class ByClass:
    runs_ahead = True

    def __init__(self, pools: Sequence[Rows], labels: Rows, shares: Shares, config: TrainConfig) -> None:
        classes = int(labels.max()) + 1
        self._pools = [pool[np.argsort(labels[pool], kind="stable")] for pool in pools]
        self._counts = [np.bincount(labels[pool], minlength=classes).astype(np.float64) for pool in pools]
        self._shares, self._size, self._steps = shares, config.batch_size, config.steps
        self._generator = generator(config.seed, 0, 0, 3)
        self._slots = EndlessPass(len(pools), self._generator)

    def next(self, moment: Moment) -> Rows:
        pool_of_slot, rows = self._slots.take(self._size), np.empty(self._size, dtype=np.int64)
        for index, (pool, counts) in enumerate(zip(self._pools, self._counts, strict=True)):
            slots = np.flatnonzero(pool_of_slot == index)
            shares = torch.from_numpy(self._shares((moment.step - 1) / self._steps, counts))
            if not len(slots):
                continue
            drawn = torch.multinomial(shares, len(slots), replacement=True, generator=self._generator).numpy()
            within = torch.rand(len(slots), generator=self._generator, dtype=torch.float64).numpy() * counts[drawn]
            rows[slots] = pool[(np.cumsum(counts) - counts)[drawn].astype(np.int64) + within.astype(np.int64)]
        return rows

    def state_dict(self) -> dict[str, Tensor]:
        return {"generator": self._generator.get_state(), "slots": torch.from_numpy(self._slots.waiting)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._generator.set_state(state["generator"])
        self._slots.waiting = state["slots"].numpy()


class Weighted:
    runs_ahead = True

    def __init__(self, weights: npt.NDArray[np.float64], config: TrainConfig) -> None:
        self._upto = np.cumsum(weights) / weights.sum()
        self._last = int(np.flatnonzero(weights)[-1])  # rounding may leave the sum a little below 1
        self._size, self._generator = config.batch_size, generator(config.seed, 0, 0, 3)

    def next(self, moment: Moment) -> Rows:
        drawn = torch.rand(self._size, generator=self._generator, dtype=torch.float64).numpy()
        rows: Rows = np.searchsorted(self._upto, drawn, side="right").clip(max=self._last)
        return rows

    def state_dict(self) -> dict[str, Tensor]:
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._generator.set_state(state["generator"])
