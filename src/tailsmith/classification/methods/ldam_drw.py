"""LDAM-DRW (Cao et al., 2019): the rarer a class, the wider its margin; late in training rare classes weigh more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tailsmith.classification.heads import Cosine
from tailsmith.classification.methods.contract import Batch, Following, Method, Stage, Start, Task
from tailsmith.classification.methods.parts import with_head
from tailsmith.classification.methods.reweighting import effective_weights, of_mean_one
from tailsmith.classification.methods.streams import passes
from tailsmith.errors import UserError
from tailsmith.settings import check_above_zero


@dataclass(frozen=True)
class LDAMDRW(Method):
    """Upon a cosine head: cross-entropy of s * (cos - m_y at the label), m_c ~ n_c ** -1/4 (Eq. 13 there)."""

    margin: float = 0.5  # of the rarest class
    scale: float = 30.0  # s
    beta: float = 0.9999  # of the late weights, (1 - beta) / (1 - beta ** n)
    reweight_from: float = 0.8  # share of the training; 160 of 200 epochs there

    needs_last_layer = True

    def __post_init__(self) -> None:
        check_above_zero(self, ("margin", "scale"), "ldam_drw:")
        if not 0 <= self.beta < 1 or not 0 <= self.reweight_from <= 1:
            raise UserError(
                "ldam_drw:beta should be at least 0 and below 1 and ldam_drw:reweight_from in 0..1, got "
                f"{self.beta} and {self.reweight_from}"
            )

    def stages(self, task: Task) -> list[Stage]:
        config = task.settled(task.config)
        counts = np.bincount(task.labels, minlength=len(task.class_names))
        rarity = np.maximum(counts, 1) ** -0.25
        margins = self.margin * rarity / rarity[counts > 0].max()
        late = of_mean_one(effective_weights(counts, self.beta), counts)
        objective = Margins(margins, late, self, config.label_smoothing)
        return [Stage(config, (passes(task.pools, config),), objective, with_head("cosine", config.seed))]


class Margins(Following):
    """The objective; `logits` are s * cos already."""

    margins: Tensor
    weights: Tensor

    def __init__(self, margins: np.ndarray, weights: np.ndarray, settings: LDAMDRW, label_smoothing: float) -> None:
        super().__init__()
        self.register_buffer("margins", torch.from_numpy(settings.scale * margins).float(), persistent=False)
        self.register_buffer("weights", torch.from_numpy(weights).float(), persistent=False)
        self._settings, self._smoothing = settings, label_smoothing

    def begin(self, start: Start) -> None:
        for layer in start.classifier.modules():
            if isinstance(layer, Cosine):
                layer.scale.fill_(self._settings.scale)

    def forward(self, logits: Tensor, features: Tensor, batch: Batch, progress: float) -> Tensor:
        held_back = logits - F.one_hot(batch.labels, logits.shape[1]) * self.margins
        losses = F.cross_entropy(held_back, batch.labels, reduction="none", label_smoothing=self._smoothing)
        return losses * self.weights[batch.labels] if progress >= self._settings.reweight_from else losses
