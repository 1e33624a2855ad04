"""CMO, context-rich minority oversampling (Park et al., 2022): rare objects pasted on frequent backgrounds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tailsmith.classification.losses import LOSSES
from tailsmith.classification.methods.contract import Batch, Examples, Method, Stage, Task
from tailsmith.classification.methods.objectives import softmax
from tailsmith.classification.methods.parts import everything
from tailsmith.classification.methods.streams import passes, weighted
from tailsmith.errors import UserError


@dataclass(frozen=True)
class CMO(Method):
    """CutMix of two streams: what `resampling` hands out, and images drawn with weights of 1 / n_class."""

    loss: str = "erm"  # erm | balanced_softmax
    probability: float = 0.5  # that a batch is mixed
    start: float = 0.03  # shares of the training between which batches are mixed: all but 3 of 100 epochs at each end
    end: float = 0.97

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise UserError(f"unknown cmo:loss {self.loss!r}: expected one of {', '.join(LOSSES)}")
        if not 0 <= self.probability <= 1:
            raise UserError(f"cmo:probability should be in 0..1, got {self.probability}")
        if not 0 <= self.start <= self.end <= 1:
            raise UserError(f"cmo:start and cmo:end should be 0 <= start <= end <= 1, got {self.start} and {self.end}")

    def stages(self, task: Task) -> list[Stage]:
        config = task.settled(task.config)
        rare = 1 / np.bincount(task.labels)[task.labels]
        streams = (passes(task.pools, config), weighted(rare, config))
        objective = softmax(task, config, self.loss)
        pasting = Pasting(self.probability, self.start, self.end, len(task.class_names))
        return [Stage(config, streams, objective, everything, transform=pasting)]


@dataclass(frozen=True)
class Pasting:
    """The transform: one box for the whole batch, of the minority image, on the image in the same place."""

    probability: float
    start: float
    end: float
    num_classes: int

    def __call__(self, streams: tuple[Examples, ...], draws: torch.Generator, progress: float) -> Batch:
        background, minority = streams
        chance, kept, y, x = torch.rand(4, generator=draws, dtype=torch.float64).tolist()
        if not self.start <= progress < self.end or chance >= self.probability:
            return Batch(background.views[0], background.labels, background.rows)
        height, width = background.views[0].shape[-2:]
        top, bottom, left, right = box(height, width, kept, y, x)
        mixed = background.views[0].clone()
        mixed[..., top:bottom, left:right] = minority.views[0][..., top:bottom, left:right]
        pasted = (bottom - top) * (right - left) / (height * width)  # of the box as it is inside the image
        targets = (1 - pasted) * self._one_hot(background.labels) + pasted * self._one_hot(minority.labels)
        return Batch(mixed, background.labels, background.rows, targets)

    def _one_hot(self, labels: Tensor) -> Tensor:
        return F.one_hot(labels, self.num_classes).float()


def box(height: int, width: int, kept: float, y: float, x: float) -> tuple[int, int, int, int]:
    """CutMix's: (top, bottom, left, right) of a box with the share 1 - kept of the image, cut off at its borders.

    `kept` uniform in 0..1 is lambda ~ Beta(1, 1); `y` and `x` in 0..1 are the centre.
    """
    side = (1 - kept) ** 0.5
    rows, columns = int(height * side), int(width * side)
    top, left = int(height * y) - rows // 2, int(width * x) - columns // 2
    return max(top, 0), min(top + rows, height), max(left, 0), min(left + columns, width)
