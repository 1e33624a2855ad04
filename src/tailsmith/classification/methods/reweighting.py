"""Cross-entropy in which rare classes or groups weigh more: by 1 / n, or by the effective number of images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from tailsmith.classification.batches import Rows
from tailsmith.classification.methods.contract import Batch, Method, Stage, Task
from tailsmith.classification.methods.parts import everything
from tailsmith.classification.methods.streams import passes
from tailsmith.errors import UserError
from tailsmith.settings import check_not_negative

Weights = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Reweight(Method):
    """Weights of n ** -power, of mean 1 over the classes or groups that have images (SubpopBench's ReWeight)."""

    by: str = "class"  # class | group
    power: float = 1.0

    def __post_init__(self) -> None:
        check_by(self.by, "reweight:by")
        check_not_negative(self, ("power",), "reweight:")

    def stages(self, task: Task) -> list[Stage]:
        strata = strata_of(task, self.by, "reweight")
        counts = np.bincount(strata)
        return weighted_stages(task, strata, np.maximum(counts, 1.0) ** -self.power)


@dataclass(frozen=True)
class CBLoss(Method):
    """Class-balanced loss (Cui et al., 2019): weights of (1 - beta) / (1 - beta ** n), of mean 1."""

    beta: float = 0.9999
    by: str = "class"  # class | group, as SubpopBench has it

    def __post_init__(self) -> None:
        check_by(self.by, "cb_loss:by")
        if not 0 <= self.beta < 1:
            raise UserError(f"cb_loss:beta should be at least 0 and below 1, got {self.beta}")

    def stages(self, task: Task) -> list[Stage]:
        strata = strata_of(task, self.by, "cb_loss")
        return weighted_stages(task, strata, effective_weights(np.bincount(strata), self.beta))


def effective_weights(counts: npt.NDArray[np.integer], beta: float) -> Weights:
    """(1 - beta) / (1 - beta ** n) of every class: 1 / its effective number of images (Eq. 2 there)."""
    weights: Weights = (1 - beta) / (1 - beta ** np.maximum(counts, 1))
    return weights


def of_mean_one(weights: Weights, counts: npt.NDArray[np.integer]) -> Weights:
    """Scaled so that those of the classes that have images average 1."""
    scaled: Weights = weights / weights[counts > 0].mean()
    return scaled


def weighted_stages(task: Task, strata: Rows, weights: Weights) -> list[Stage]:
    """Cross-entropy with a weight for each stratum: strata [n] of the training rows, weights [S]."""
    config = task.settled(task.config)
    scaled = of_mean_one(weights, np.bincount(strata, minlength=len(weights)))
    of_row = torch.from_numpy(scaled[strata]).float()  # [n]

    def objective(logits: Tensor, features: Tensor, batch: Batch, progress: float) -> Tensor:
        losses = F.cross_entropy(logits, batch.wanted, reduction="none", label_smoothing=config.label_smoothing)
        return losses * of_row[torch.from_numpy(batch.rows)].to(losses.device)

    return [Stage(config, (passes(task.pools, config),), objective, everything)]


def strata_of(task: Task, by: str, method: str) -> Rows:
    """[n]: class or group of every training row; ValueError for rows without a group where groups are asked for."""
    if by == "class":
        return task.labels
    if (task.groups < 0).any():
        raise UserError(
            f"method {method} needs a group for every training image, {(task.groups < 0).sum()} of "
            f"{len(task.groups)} have none; give the data attributes, plan synthetic images per group, or use another "
            "method"
        )
    return task.groups


def check_by(by: str, name: str) -> None:
    if by not in ("class", "group"):
        raise UserError(f"{name} should be class or group, got {by!r}")
