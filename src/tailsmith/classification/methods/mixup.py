"""Mixup (Zhang et al., 2018), and Remix (Chou et al., 2020), in which the rarer class keeps the label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from tailsmith.classification.losses import LOSSES
from tailsmith.classification.methods.contract import Batch, Examples, Method, Stage, Task
from tailsmith.classification.methods.objectives import softmax
from tailsmith.classification.methods.parts import everything
from tailsmith.classification.methods.streams import passes
from tailsmith.errors import UserError
from tailsmith.settings import check_above_zero


@dataclass(frozen=True)
class Mixup(Method):
    """Each batch mixed with itself in another order, by one lambda ~ Beta(alpha, alpha)."""

    loss: str = "erm"  # erm | balanced_softmax
    alpha: float = 0.2

    def __post_init__(self) -> None:
        check_loss(self.loss, "mixup:loss")
        check_above_zero(self, ("alpha",), "mixup:")

    def stages(self, task: Task) -> list[Stage]:
        return [mixed_stage(task, self.loss, Mixing(self.alpha, len(task.class_names)))]


@dataclass(frozen=True)
class Remix(Method):
    """Images as in mixup. Of a pair whose counts differ by kappa or more the rarer class is the label (Eq. 8 there).

    That is so while it has at least 1 - tau of the image.
    """

    loss: str = "erm"  # erm | balanced_softmax
    alpha: float = 1.0
    kappa: float = 3.0
    tau: float = 0.5

    def __post_init__(self) -> None:
        check_loss(self.loss, "remix:loss")
        check_above_zero(self, ("alpha", "kappa"), "remix:")
        if not 0 <= self.tau <= 1:
            raise UserError(f"remix:tau should be in 0..1, got {self.tau}")

    def stages(self, task: Task) -> list[Stage]:
        counts = torch.from_numpy(np.bincount(task.labels, minlength=len(task.class_names)))
        return [mixed_stage(task, self.loss, Mixing(self.alpha, len(counts), Rarer(counts, self.kappa, self.tau)))]


@dataclass(frozen=True)
class Rarer:
    """The share of its label that the first of two mixed images keeps, by Remix."""

    counts: Tensor  # [C]
    kappa: float
    tau: float

    def __call__(self, first: Tensor, second: Tensor, kept: float) -> Tensor:
        """Labels [B] of both, lambda of the first's pixels -> lambda of its label, [B]."""
        counts = self.counts.to(first.device)
        ratio = counts[first] / counts[second]
        share = torch.full(ratio.shape, kept, device=first.device)
        share[(ratio >= self.kappa) & (kept < self.tau)] = 0
        share[(ratio <= 1 / self.kappa) & (1 - kept < self.tau)] = 1
        return share


@dataclass(frozen=True)
class Mixing:
    """The transform of one stream."""

    alpha: float
    num_classes: int
    shares: Rarer | None = None  # None: labels are mixed as the pixels are

    def __call__(self, streams: tuple[Examples, ...], draws: torch.Generator, progress: float) -> Batch:
        (each,) = streams
        order = torch.randperm(len(each.rows), generator=draws).to(each.labels.device)
        kept = beta(self.alpha, draws)
        images = kept * each.views[0] + (1 - kept) * each.views[0][order]
        share = torch.full(each.labels.shape, kept, device=each.labels.device)
        if self.shares is not None:
            share = self.shares(each.labels, each.labels[order], kept)
        own = F.one_hot(each.labels, self.num_classes).float()
        targets = share[:, None] * own + (1 - share[:, None]) * own[order]
        return Batch(images, each.labels, each.rows, targets)


def mixed_stage(task: Task, loss: str, mixing: Mixing) -> Stage:
    """All of the classifier, trained on mixed batches with a loss of LOSSES."""
    config = task.settled(task.config)
    objective = softmax(task, config, loss)
    return Stage(config, (passes(task.pools, config),), objective, everything, transform=mixing)


def beta(alpha: float, draws: torch.Generator) -> float:
    """One draw of Beta(alpha, alpha)."""
    return float(betas(alpha, 1, draws)[0])


def betas(alpha: float, count: int, draws: torch.Generator) -> npt.NDArray[np.float64]:
    """[count] of them."""
    seed = int(torch.randint(2**63 - 1, (1,), generator=draws))
    return np.random.default_rng(seed).beta(alpha, alpha, count)


def check_loss(loss: str, name: str) -> None:
    if loss not in LOSSES:
        raise UserError(f"unknown {name} {loss!r}: expected one of {', '.join(LOSSES)}")
