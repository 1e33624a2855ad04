"""MiSLAS (Zhong et al., 2021): mixup, then a head with label-aware smoothing while batch norm shifts to balance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tailsmith.classification.batches import class_balanced
from tailsmith.classification.classifier import Classifier
from tailsmith.classification.methods.contract import Batch, Method, Objective, Stage, Task
from tailsmith.classification.methods.mixup import Mixing, mixed_stage
from tailsmith.classification.methods.parts import ScaledLinear, fold_scale, scaled_head
from tailsmith.classification.methods.second_stage import balanced_config
from tailsmith.classification.methods.streams import passes
from tailsmith.errors import UserError
from tailsmith.settings import check_above_zero, check_whole


@dataclass(frozen=True)
class MiSLAS(Method):
    """In the second stage batches are class-balanced; the head learns slowly, and a scale per class beside it.

    Defaults are those of ImageNet-LT; Places-LT has .4 and .1 for the smoothing.
    """

    alpha: float = 0.2  # of mixup
    head_steps: int = 500
    head_epochs: int | None = None  # instead of steps; 10 in the paper
    head_learning_rate: float = 0.1  # of the scales
    head_factor: float = 0.05  # of it, for the last layer
    smooth_head: float = 0.3  # epsilon of the most frequent class
    smooth_tail: float = 0.0  # and of the rarest

    needs_last_layer = True

    def __post_init__(self) -> None:
        check_above_zero(self, ("alpha", "head_learning_rate", "head_factor"), "mislas:")
        check_whole(self, ("head_steps", "head_epochs"), "mislas:")
        if not 0 <= self.smooth_tail <= self.smooth_head < 1:
            raise UserError(
                "mislas:smooth_tail and mislas:smooth_head should be 0 <= tail <= head < 1, got "
                f"{self.smooth_tail} and {self.smooth_head}"
            )

    def stages(self, task: Task) -> list[Stage]:
        config = balanced_config(task, self.head_steps, self.head_epochs, self.head_learning_rate)
        stream = passes(class_balanced(task.labels, task.groups, task.is_synthetic), config)
        counts = np.bincount(task.labels, minlength=len(task.class_names))
        objective = label_aware_smoothing(smoothing(counts, self.smooth_head, self.smooth_tail))
        second = Stage(config, (stream,), objective, shifting, finish=fold_scale, slower=self._slower)
        return [mixed_stage(task, "erm", Mixing(self.alpha, len(counts))), second]

    def _slower(self, classifier: Classifier) -> dict[nn.Parameter, float]:
        (scaled,) = [each for each in classifier.modules() if isinstance(each, ScaledLinear)]
        return dict.fromkeys(scaled.linear.parameters(), self.head_factor)


def shifting(classifier: Classifier) -> Classifier:
    """The last layer and a scale per class train; of the frozen rest, batch norm's statistics follow the images."""
    copied = scaled_head(classifier)
    for layer in copied.modules():
        if isinstance(layer, ScaledLinear):
            layer.linear.requires_grad_(True)
        layer.train(isinstance(layer, nn.modules.batchnorm._BatchNorm))
    return copied


def smoothing(counts: np.ndarray, head: float, tail: float) -> np.ndarray:
    """Epsilon of every class, [C]: from `tail` for the rarest to `head`, as a quarter of a sine (concave; Eq. 6)."""
    least, most = counts[counts > 0].min(), counts.max()
    rank = (np.maximum(counts, least) - least) / max(most - least, 1)
    epsilon: np.ndarray = tail + (head - tail) * np.sin(np.pi * rank / 2)
    return epsilon


def label_aware_smoothing(epsilons: np.ndarray) -> Objective:
    """(1 - eps_y) * -log p_y + eps_y * mean over classes of -log p."""
    of_class = torch.from_numpy(epsilons).float()

    def objective(logits: Tensor, features: Tensor, batch: Batch, progress: float) -> Tensor:
        log_p = logits.log_softmax(1)
        epsilon = of_class.to(logits.device)[batch.labels]
        own = log_p.gather(1, batch.labels[:, None])[:, 0]
        return -(1 - epsilon) * own - epsilon * log_p.mean(1)

    return objective
