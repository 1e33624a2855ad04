"""GLMC (Du et al., 2023): one image mixed in two ways should have one representation, and a head that re-balances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailsmith.classification.backbones import last_layer
from tailsmith.classification.config import TrainConfig
from tailsmith.classification.methods.cmo import box
from tailsmith.classification.methods.contract import (
    Batch,
    Examples,
    Following,
    Method,
    Objective,
    Stage,
    Start,
    Task,
    drawing_layers,
)
from tailsmith.classification.methods.mixup import beta, check_loss
from tailsmith.classification.methods.objectives import softmax
from tailsmith.classification.methods.parts import everything
from tailsmith.classification.methods.reweighting import of_mean_one
from tailsmith.classification.methods.streams import passes, weighted
from tailsmith.settings import check_not_negative


@dataclass(frozen=True)
class GLMC(Method):
    """A batch as it comes and one drawn with n ** -draw_power are mixed by mixup and by CutMix: two views per step.

    The loss is a L_head + (1 - a) L_balanced + contrast * L_siamese, a = 1 - t ** 2 at share t of training. The first
    two are sums over both mixes. The balanced head is the classifier's; the other one, and SimSiam's projector and
    predictor, are dropped in the end. CutMix's labels follow the area that the box really has.
    """

    loss: str = "erm"  # of the balanced head: erm with weights of n ** -label_power | balanced_softmax (GLMC + BS)
    draw_power: float = 0.2
    label_power: float = 1.0
    contrast: float = 10.0

    needs_last_layer = True

    def __post_init__(self) -> None:
        check_loss(self.loss, "glmc:loss")
        check_not_negative(self, ("draw_power", "label_power", "contrast"), "glmc:")

    def stages(self, task: Task) -> list[Stage]:
        config = task.settled(task.config)
        counts = np.bincount(task.labels, minlength=len(task.class_names))
        rarity = np.where(counts > 0, counts, np.inf) ** -self.draw_power
        streams = (passes(task.pools, config), weighted(rarity[task.labels], config))
        balanced: Objective | Tensor = softmax(task, config, "balanced_softmax")
        if self.loss == "erm":
            balanced = torch.from_numpy(of_mean_one(np.maximum(counts, 1.0) ** -self.label_power, counts)).float()
        objective = TwoHeads(balanced, self.contrast, config)
        return [Stage(config, streams, objective, everything, transform=MixedTwice(len(task.class_names)))]


@dataclass(frozen=True)
class MixedTwice:
    """The transform: [2b] images, the first b by mixup and the others by CutMix of the same pairs."""

    num_classes: int

    def __call__(self, streams: tuple[Examples, ...], draws: torch.Generator, progress: float) -> Batch:
        one, other = (each.views[0] for each in streams)
        labels = [F.one_hot(each.labels, self.num_classes).float() for each in streams]
        kept = beta(1.0, draws)
        blended = kept * one + (1 - kept) * other
        height, width = one.shape[-2:]
        top, bottom, left, right = box(height, width, *torch.rand(3, generator=draws, dtype=torch.float64).tolist())
        pasted = one.clone()
        pasted[..., top:bottom, left:right] = other[..., top:bottom, left:right]
        area = (bottom - top) * (right - left) / (height * width)
        targets = [share * labels[0] + (1 - share) * labels[1] for share in (kept, 1 - area)]
        first = streams[0]
        return Batch(torch.cat([blended, pasted]), first.labels.repeat(2), np.tile(first.rows, 2), torch.cat(targets))


class TwoHeads(Following):
    """The objective, with the head that is dropped, the projector and the predictor."""

    def __init__(self, balanced: Objective | Tensor, contrast: float, config: TrainConfig) -> None:
        super().__init__()
        self._balanced, self._contrast, self._config = balanced, contrast, config

    def begin(self, start: Start) -> None:
        layer = last_layer(start.classifier.module)
        size = layer.in_features
        with drawing_layers(self._config.seed, 0, 0, 7):
            self.head = nn.Linear(size, layer.out_features)
            self.projector = nn.Sequential(
                *(nn.Linear(size, size, bias=False), nn.BatchNorm1d(size), nn.ReLU()),
                *(nn.Linear(size, size, bias=False), nn.BatchNorm1d(size, affine=False)),
            )
            hidden = max(size // 4, 1)
            self.predictor = nn.Sequential(
                nn.Linear(size, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, size)
            )

    def forward(self, logits: Tensor, features: Tensor, batch: Batch, progress: float) -> Tensor:
        """[2b], of which the mean is the loss: the sum over both mixes of a mean over b images is twice that of 2b."""
        assert batch.targets is not None
        share = 1 - progress**2
        plain = soft_cross_entropy(self.head(features), batch.targets)
        if isinstance(self._balanced, Tensor):
            balanced = soft_cross_entropy(logits, batch.targets * self._balanced.to(logits.device))
        else:
            balanced = self._balanced(logits, features, batch, progress)
        projected = self.projector(features)
        alike = siamese(self.predictor(projected), projected.detach())
        return 2 * (share * plain + (1 - share) * balanced) + self._contrast * alike


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-sum_c t_c log p_c, [B]; targets [B, C] need not sum to 1."""
    return -(targets * logits.log_softmax(1)).sum(1)


def siamese(predicted: Tensor, projected: Tensor) -> Tensor:
    """-cos of each view's prediction with the other view's projection: [2b, D], [2b, D] -> [2b] (SimSiam)."""
    one, other = projected.chunk(2)
    return -F.cosine_similarity(predicted, torch.cat([other, one]), dim=1)
