"""Group DRO (Sagawa et al., 2020): the worse a group's loss, the more it weighs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailsmith.classification import processes
from tailsmith.classification.batches import Rows
from tailsmith.classification.methods.contract import Batch, Method, Stage, Task
from tailsmith.classification.methods.parts import everything
from tailsmith.classification.methods.reweighting import strata_of
from tailsmith.classification.methods.streams import passes
from tailsmith.settings import check_above_zero


@dataclass(frozen=True)
class GroupDRO(Method):
    """Groups are (class, attribute); each q_g grows with exp(eta * its loss), and the loss is sum_g q_g loss_g."""

    eta: float = 0.01

    def __post_init__(self) -> None:
        check_above_zero(self, ("eta",), "group_dro:")

    def stages(self, task: Task) -> list[Stage]:
        groups = strata_of(task, "group", "group_dro")
        config = task.settled(task.config)
        objective = WorstGroups(groups, self.eta, config.label_smoothing)
        return [Stage(config, (passes(task.pools, config),), objective, everything)]


class WorstGroups(nn.Module):
    """The objective; its state is q, over the groups that have training images."""

    q: Tensor

    def __init__(self, groups: Rows, eta: float, label_smoothing: float = 0.0) -> None:
        super().__init__()
        present, group_of_row = np.unique(groups, return_inverse=True)  # [G], [n] in 0..G-1
        self._group_of_row = torch.from_numpy(group_of_row)
        self._eta, self._smoothing = eta, label_smoothing
        self.register_buffer("q", torch.full((len(present),), 1 / len(present)))

    def forward(self, logits: Tensor, features: Tensor, batch: Batch, progress: float) -> Tensor:
        """[B] of which the mean over all processes' images is sum_g q_g * (mean loss of group g in the batch).

        A group that the batch lacks has a loss of 0: its q changes by the normalisation alone.
        """
        losses = F.cross_entropy(logits, batch.wanted, reduction="none", label_smoothing=self._smoothing)
        group = self._group_of_row[torch.from_numpy(batch.rows)].to(logits.device)  # [B]
        sums = self.q.new_zeros(2, len(self.q)).index_add_(
            1, group, torch.stack([losses.detach(), losses.new_ones(len(losses))])
        )
        loss_sum, count = processes.summed(sums)  # [G] each
        self.q.mul_((self._eta * loss_sum / count.clamp_min(1)).exp_())
        self.q.div_(self.q.sum())
        weighted: Tensor = losses * (self.q * count.sum() / count.clamp_min(1))[group]
        return weighted
