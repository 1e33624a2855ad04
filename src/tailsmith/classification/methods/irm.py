"""IRM, invariant risk minimisation (Arjovsky et al., 2019): one last layer should be best in every environment."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tailsmith.classification.batches import Rows
from tailsmith.classification.methods.contract import Batch, Method, Objective, Stage, Task
from tailsmith.classification.methods.parts import everything
from tailsmith.classification.methods.reweighting import strata_of
from tailsmith.classification.methods.streams import passes
from tailsmith.settings import check_not_negative, check_whole


@dataclass(frozen=True)
class IRM(Method):
    """IRMv1, an attribute being an environment: mean loss + penalty * mean squared slope along a factor of the logits.

    As in SubpopBench the square is a product over two halves of an environment's images, and the penalty is 1 before
    `anneal_steps`; unlike there the optimiser keeps its momentum then, and the sum is divided by a penalty above 1, as
    Arjovsky et al. did: with SGD it diverges otherwise. Each process has the penalty of its own images.
    """

    penalty: float = 100.0
    anneal_steps: int = 500

    def __post_init__(self) -> None:
        check_not_negative(self, ("penalty",), "irm:")
        check_whole(self, ("anneal_steps",), "irm:")

    def stages(self, task: Task) -> list[Stage]:
        strata_of(task, "group", "irm")
        config = task.settled(task.config)
        objective = invariance(task.attributes, self.penalty, self.anneal_steps / config.steps)
        return [Stage(config, (passes(task.pools, config),), objective, everything)]


def invariance(environments: Rows, penalty: float, anneal: float) -> Objective:
    """The objective: environments [n] of the training rows; `penalty` holds from the share `anneal` of training on."""
    of_row = torch.from_numpy(environments)

    def objective(logits: Tensor, features: Tensor, batch: Batch, progress: float) -> Tensor:
        environment = of_row[torch.from_numpy(batch.rows)].to(logits.device)
        losses = F.cross_entropy(logits, batch.labels, reduction="none")
        slopes = scale_slopes(logits, batch.labels)
        present = torch.bincount(environment).nonzero()[:, 0]
        weights, squared = torch.zeros_like(losses), losses.new_zeros(())
        for each in present:
            mine = torch.nonzero(environment == each)[:, 0]
            weights[mine] = len(losses) / (len(present) * len(mine))
            if len(mine) > 1:
                squared = squared + slopes[mine[0::2]].mean() * slopes[mine[1::2]].mean() / len(present)
        strength = penalty if progress >= anneal else 1.0
        return (losses * weights + strength * squared) / max(strength, 1.0)

    return objective


def scale_slopes(logits: Tensor, labels: Tensor) -> Tensor:
    """d cross-entropy(s * logits) / ds at s = 1, [B]: what the prediction expects of the logits, less the label's."""
    return (logits.softmax(1) * logits).sum(1) - logits.gather(1, labels[:, None])[:, 0]
