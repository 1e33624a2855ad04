"""LISA (Yao et al., 2022): images mixed within a class across attributes, or within an attribute across classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tailsmith.classification import processes
from tailsmith.classification.batches import PooledPasses, Rows
from tailsmith.classification.config import TrainConfig
from tailsmith.classification.methods.contract import Batch, Examples, Method, Moment, Stage, Task, generator
from tailsmith.classification.methods.mixup import betas
from tailsmith.classification.methods.objectives import softmax
from tailsmith.classification.methods.parts import everything
from tailsmith.classification.methods.reweighting import strata_of
from tailsmith.errors import UserError
from tailsmith.settings import check_above_zero


@dataclass(frozen=True)
class LISA(Method):
    """Mixup of pairs, lambda ~ Beta(alpha, alpha) for each pair. A step reads twice its batch size of images.

    All pairs of a batch are of one label and two attributes with the probability `same_label`, else of one attribute
    and two labels; an image that has no such partner gets any other of its label or attribute.
    """

    alpha: float = 2.0
    same_label: float = 0.5  # p_sel

    def __post_init__(self) -> None:
        check_above_zero(self, ("alpha",), "lisa:")
        if not 0 <= self.same_label <= 1:
            raise UserError(f"lisa:same_label should be in 0..1, got {self.same_label}")

    def stages(self, task: Task) -> list[Stage]:
        strata_of(task, "group", "lisa")
        config = task.settled(task.config)
        mixing = PairMixing(self.alpha, len(task.class_names))
        objective = softmax(task, config, "erm")
        stream = lambda _: Pairs(task, config, self.same_label)  # noqa: E731
        return [Stage(config, (stream,), objective, everything, transform=mixing, rows_per_image=2)]


class Pairs:
    """The stream: each row of `passes`, and its partner behind it."""

    runs_ahead = True

    def __init__(self, task: Task, config: TrainConfig, same_label: float) -> None:
        if config.batch_size % processes.count():
            raise UserError(
                f"method lisa needs a batch_size that {processes.count()} processes can share evenly, got "
                f"{config.batch_size}: a pair must not be split"
            )
        self._labels, self._attributes = task.labels, task.attributes
        self._size, self._same_label = config.batch_size, same_label
        self._passes = PooledPasses(task.pools, generator(config.seed))
        self._generator = generator(config.seed, 0, 0, 6)

    def next(self, moment: Moment) -> Rows:
        rows = self._passes.take(self._size)
        draws = torch.rand(1 + self._size, generator=self._generator, dtype=torch.float64).numpy()
        same, other = self._labels, self._attributes
        if draws[0] >= self._same_label:
            same, other = other, same
        partners = [self._partner(row, same, other, draw) for row, draw in zip(rows, draws[1:], strict=True)]
        return np.stack([rows, np.array(partners)], axis=1).reshape(-1)

    def _partner(self, row: int, same: Rows, other: Rows, draw: float) -> int:
        alike = np.flatnonzero(same == same[row])
        wanted = alike[other[alike] != other[row]]
        chosen = wanted if len(wanted) else alike
        return int(chosen[int(draw * len(chosen))])

    def state_dict(self) -> dict[str, Tensor]:
        return {"partners": self._generator.get_state()} | self._passes.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._generator.set_state(state["partners"])
        self._passes.load_state_dict(state)


@dataclass(frozen=True)
class PairMixing:
    """The transform: rows 2k and 2k + 1 become one image."""

    alpha: float
    num_classes: int

    def __call__(self, streams: tuple[Examples, ...], draws: torch.Generator, progress: float) -> Batch:
        (each,) = streams
        images, labels = each.views[0], each.labels
        kept = (
            torch.from_numpy(betas(self.alpha, len(images) // 2, draws)).float().to(images.device)[:, None, None, None]
        )
        own = F.one_hot(labels, self.num_classes).float()
        targets = kept[:, 0, 0] * own[0::2] + (1 - kept[:, 0, 0]) * own[1::2]
        return Batch(kept * images[0::2] + (1 - kept) * images[1::2], labels[0::2], each.rows[0::2], targets)
