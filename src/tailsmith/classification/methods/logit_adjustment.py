"""Logit adjustment (Menon et al., 2021): cross-entropy of logits + tau * log prior."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tailsmith.classification.methods.contract import Batch, Method, Objective, Stage, Task
from tailsmith.classification.methods.objectives import softmax
from tailsmith.classification.methods.parts import everything
from tailsmith.classification.methods.reweighting import check_by, strata_of
from tailsmith.classification.methods.streams import passes
from tailsmith.settings import check_not_negative


@dataclass(frozen=True)
class LogitAdjustment(Method):
    """Their Eq. 10. By class the prior is that of `train.prior`, and with tau = 1 it is balanced softmax.

    By group it is that of the classes among the training images of an image's attribute: balanced softmax by group.
    """

    tau: float = 1.0
    by: str = "class"  # class | group

    def __post_init__(self) -> None:
        check_not_negative(self, ("tau",), "logit_adjustment:")
        check_by(self.by, "logit_adjustment:by")

    def stages(self, task: Task) -> list[Stage]:
        config = task.settled(task.config)
        objective = softmax(task, config, "balanced_softmax", tau=self.tau)
        if self.by == "group":
            strata_of(task, "group", "logit_adjustment")
            objective = by_attribute(task, self.tau, config.label_smoothing)
        return [Stage(config, (passes(task.pools, config),), objective, everything)]


def by_attribute(task: Task, tau: float, label_smoothing: float) -> Objective:
    """Cross-entropy of logits + tau * log(images of each class with the attribute); none counts as half an image."""
    counts = np.full((max(task.num_attributes, 1), len(task.class_names)), 0.0)
    np.add.at(counts, (task.attributes, task.labels), 1)
    shift = torch.from_numpy(tau * np.log(np.maximum(counts, 0.5))).float()  # [A, C]
    attributes = torch.from_numpy(task.attributes)

    def objective(logits: Tensor, features: Tensor, batch: Batch, progress: float) -> Tensor:
        own = shift[attributes[torch.from_numpy(batch.rows)]].to(logits.device)
        return F.cross_entropy(logits + own, batch.wanted, reduction="none", label_smoothing=label_smoothing)

    return objective
