"""Where a method's rows come from: endless passes over pools, or draws by weight."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tailsmith.classification.batches import PooledPasses, Rows
from tailsmith.classification.config import TrainConfig
from tailsmith.classification.methods.contract import Moment, OpenStream, generator


def passes(pools: Sequence[Rows], config: TrainConfig) -> OpenStream:
    """Batches of `config.batch_size` as batches.py has them: pools count alike, no row of one is favoured."""
    return lambda _: Passes(pools, config)


def weighted(weights: npt.NDArray[np.float64], config: TrainConfig) -> OpenStream:
    """Training rows with p ~ weights [n], independent of each other; other draws than those of `passes`."""
    return lambda _: Weighted(weights, config)


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
