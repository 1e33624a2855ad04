"""Tau-normalised classifier (Kang et al., 2020): class weights divided by a power of their length, after training."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from tailsmith.classification.backbones import last_layer
from tailsmith.classification.classifier import Classifier
from tailsmith.classification.methods.contract import Finish, Method, Review, Stage, Task
from tailsmith.classification.methods.second_stage import first_stage
from tailsmith.errors import UserError


@dataclass(frozen=True)
class TauNorm(Method):
    """w_c / |w_c| ** tau without bias; tau None is that of 0, 0.1 .. 2 which validation likes best (the smallest)."""

    tau: float | None = None

    needs_last_layer = True

    def __post_init__(self) -> None:
        if self.tau is not None and not 0 <= self.tau <= 10:
            raise UserError(f"tau_norm:tau should be in 0..10, got {self.tau}")

    def stages(self, task: Task) -> list[Stage]:
        if self.tau is None and not task.has_validation:
            raise UserError(
                "method tau_norm chooses tau on validation images, and there are none; give the data validation "
                "images, or tau_norm:tau=1"
            )
        return [first_stage(task, "erm")]

    def final(self, task: Task) -> Finish:
        taus = np.linspace(0, 2, 21).tolist() if self.tau is None else [self.tau]

        def normalise(classifier: Classifier, review: Review) -> Classifier:
            layer = last_layer(classifier.module)
            candidates = [normalised(layer, tau) for tau in taus]
            scores = review.heads(classifier, candidates) if len(taus) > 1 else [0.0]
            layer.load_state_dict(candidates[int(np.argmax(scores))].state_dict())  # type: ignore[arg-type]
            return classifier

        return normalise


@torch.no_grad()
def normalised(layer: nn.Linear, tau: float) -> nn.Linear:
    """A copy with each class's weights divided by their length ** tau, and no bias."""
    copied = copy.deepcopy(layer)
    copied.weight.div_(copied.weight.norm(dim=1, keepdim=True).clamp_min(1e-12) ** tau)
    if copied.bias is not None:
        copied.bias.zero_()
    return copied
