"""Focal loss (Lin et al., 2017): images that are classified well count less."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from tailsmith.classification.methods.contract import Batch, Method, Stage, Task
from tailsmith.classification.methods.parts import everything
from tailsmith.classification.methods.streams import passes
from tailsmith.settings import check_not_negative


@dataclass(frozen=True)
class Focal(Method):
    """(1 - p_y) ** gamma * cross-entropy (Eq. 4 there, without alpha)."""

    gamma: float = 2.0

    def __post_init__(self) -> None:
        check_not_negative(self, ("gamma",), "focal:")

    def stages(self, task: Task) -> list[Stage]:
        config = task.settled(task.config)

        def objective(logits: Tensor, features: Tensor, batch: Batch, progress: float) -> Tensor:
            losses = F.cross_entropy(logits, batch.wanted, reduction="none", label_smoothing=config.label_smoothing)
            return (1 - F.softmax(logits, 1).gather(1, batch.labels[:, None])[:, 0]) ** self.gamma * losses

        return [Stage(config, (passes(task.pools, config),), objective, everything)]
