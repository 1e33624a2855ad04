"""Which training rows make a mini-batch.

A resampling rule splits the rows into pools. The slots of a batch go round the pools in a reshuffled order,
and each pool hands out its rows in an endless pass, reshuffled whenever it is through: no row is favoured,
and a pool smaller than its share of a batch repeats its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tailsmith.errors import UserError

Rows = npt.NDArray[np.int64]


class EndlessPass:
    """0..n-1 in a random order, then in another, and so on; `take` goes on where the last one stopped."""

    def __init__(self, n: int, generator: torch.Generator) -> None:
        self._n, self._generator = n, generator
        self.waiting: Rows = np.empty(0, dtype=np.int64)  # with the generator's, all the state there is

    def take(self, count: int) -> Rows:
        parts = [self.waiting]
        while sum(map(len, parts)) < count:
            parts.append(torch.randperm(self._n, generator=self._generator).numpy())
        joined = np.concatenate(parts)
        self.waiting = joined[count:]
        return joined[:count]


class PooledPasses:
    """Batches of rows: of P pools, every P successive slots hold one row each."""

    def __init__(self, pools: Sequence[Rows], generator: torch.Generator) -> None:
        self._pools, self._generator = pools, generator
        self._slots = EndlessPass(len(pools), generator)
        self._passes = [EndlessPass(len(pool), generator) for pool in pools]

    def take(self, batch_size: int) -> Rows:
        """[batch_size]"""
        pool_of_slot = self._slots.take(batch_size)
        rows = np.empty(batch_size, dtype=np.int64)
        for index in np.unique(pool_of_slot):
            mine = pool_of_slot == index
            rows[mine] = self._pools[index][self._passes[index].take(int(mine.sum()))]
        return rows

    def state_dict(self) -> dict[str, Tensor]:
        waiting = {f"waiting.{number}": torch.from_numpy(each.waiting) for number, each in enumerate(self._all())}
        return {"generator": self._generator.get_state(), **waiting}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._generator.set_state(state["generator"])
        for number, each in enumerate(self._all()):
            each.waiting = state[f"waiting.{number}"].numpy()

    def _all(self) -> list[EndlessPass]:
        return [self._slots, *self._passes]


def uniform(labels: Rows, groups: Rows, is_synthetic: npt.NDArray[np.bool_]) -> list[Rows]:
    """Every image equally often."""
    return [np.arange(len(labels))]


def half_and_half(labels: Rows, groups: Rows, is_synthetic: npt.NDArray[np.bool_]) -> list[Rows]:
    """Half real, half synthetic, each instance-uniform, as in the paper: exact in batches of even size."""
    for kind, absent in (("real", is_synthetic.all()), ("synthetic", not is_synthetic.any())):
        if absent:
            raise UserError(
                f"resampling 'half_and_half' needs real and synthetic images, got no {kind} ones among "
                f"{len(labels)}; use resampling 'uniform'"
            )
    return [np.flatnonzero(~is_synthetic), np.flatnonzero(is_synthetic)]


def class_balanced(labels: Rows, groups: Rows, is_synthetic: npt.NDArray[np.bool_]) -> list[Rows]:
    """Every class that has images equally often (Kang et al., 2020)."""
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]


def group_balanced(labels: Rows, groups: Rows, is_synthetic: npt.NDArray[np.bool_]) -> list[Rows]:
    """Every group that has images equally often (SubpopBench's ReSample)."""
    if (groups < 0).any():
        raise UserError(
            "resampling 'group_balanced' needs a group for every training image, "
            f"{(groups < 0).sum()} have none; use resampling 'class_balanced'"
        )
    return [np.flatnonzero(groups == group) for group in np.unique(groups)]


Resampling = Callable[[Rows, Rows, npt.NDArray[np.bool_]], list[Rows]]
RESAMPLING: dict[str, Resampling] = {
    "uniform": uniform,
    "half_and_half": half_and_half,
    "class_balanced": class_balanced,
    "group_balanced": group_balanced,
}


def epoch_rows(resampling: str, is_synthetic: npt.NDArray[np.bool_]) -> int:
    """Rows that an epoch draws: as many as there are; half and half as many as show each real image once.

    The real half decides there, because the other half is as long as whoever synthesizes likes: an epoch of a real-only
    training and one with any number of synthetic images show the real images equally often.
    """
    return int(2 * (~is_synthetic).sum() if resampling == "half_and_half" else len(is_synthetic))


def class_shares(pools: Sequence[Rows], labels: Rows, num_classes: int) -> npt.NDArray[np.float64]:
    """The expected share [C] of each class in a mini-batch: pools count alike, and rows within a pool."""
    within = [np.bincount(labels[pool], minlength=num_classes) / len(pool) for pool in pools]
    shares: npt.NDArray[np.float64] = np.mean(within, axis=0)
    return shares
