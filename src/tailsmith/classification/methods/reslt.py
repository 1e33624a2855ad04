"""ResLT (Cui et al., 2022): residual branches for medium and few, and for few classes, beside one for all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tailsmith.classification.heads import Branches
from tailsmith.classification.methods.contract import Batch, Following, Method, Stage, Start, Task
from tailsmith.classification.methods.parts import with_head
from tailsmith.classification.methods.streams import passes
from tailsmith.errors import UserError
from tailsmith.settings import check_not_negative


@dataclass(frozen=True)
class ResLT(Method):
    """(1 - beta) * loss of the sum of all branches + beta * sum of each branch's loss on its own classes (Eq. 3 there).

    Which classes are medium and few is by share of the classes, the rarest last: 825 and 220 of 1,000 on ImageNet-LT.
    """

    beta: float = 0.99  # on CIFAR100-LT .995, .99 and .72 for imbalances of 100, 50 and 10
    exponent: float = 0.7  # gamma: a branch's class weights are divided by |w| ** gamma
    medium: float = 0.825  # share of classes that are not the most frequent
    few: float = 0.22  # and of those that are the rarest

    needs_last_layer = True

    def __post_init__(self) -> None:
        check_not_negative(self, ("exponent",), "reslt:")
        if not 0 <= self.beta <= 1 or not 0 < self.few <= self.medium <= 1:
            raise UserError(
                "reslt:beta should be in 0..1 and 0 < reslt:few <= reslt:medium <= 1, got "
                f"{self.beta}, {self.few} and {self.medium}"
            )

    def stages(self, task: Task) -> list[Stage]:
        config = task.settled(task.config)
        counts = np.bincount(task.labels, minlength=len(task.class_names))
        objective = BranchLosses(branch_classes(counts, self.medium, self.few), self, config.label_smoothing)
        return [Stage(config, (passes(task.pools, config),), objective, with_head("branches", config.seed))]


def branch_classes(counts: np.ndarray, medium: float, few: float) -> np.ndarray:
    """bool [3, C]: the classes of the branches for all, for all but the most frequent, and for the rarest."""
    rank = np.empty(len(counts), dtype=np.int64)
    rank[np.argsort(counts, kind="stable")] = np.arange(len(counts))  # 0 is the rarest
    return np.stack([rank < round(share * len(counts)) for share in (1.0, medium, few)])


class BranchLosses(Following):
    """The objective; each branch's logits are made of the features once more, beside their sum."""

    classes: Tensor

    def __init__(self, classes: np.ndarray, settings: ResLT, label_smoothing: float) -> None:
        super().__init__()
        self.register_buffer("classes", torch.from_numpy(classes), persistent=False)
        self._settings, self._smoothing = settings, label_smoothing

    def begin(self, start: Start) -> None:
        (head,) = [each for each in start.classifier.modules() if isinstance(each, Branches)]
        head.exponent.fill_(self._settings.exponent)
        self._head = [head]  # in a list: not a part of this module

    def forward(self, logits: Tensor, features: Tensor, batch: Batch, progress: float) -> Tensor:
        def losses(scores: Tensor) -> Tensor:
            return F.cross_entropy(scores, batch.labels, reduction="none", label_smoothing=self._smoothing)

        of_branches = torch.stack([losses(each) for each in self._head[0].apart(features)])  # [3, B]
        own = (of_branches * self.classes[:, batch.labels]).sum(0)
        return (1 - self._settings.beta) * losses(logits) + self._settings.beta * own
