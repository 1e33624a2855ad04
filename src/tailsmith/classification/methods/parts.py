"""What of a classifier a stage trains: functions that make a copy in which only that requires gradients."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from tailsmith.classification.backbones import last_layer
from tailsmith.classification.classifier import Classifier
from tailsmith.classification.heads import replace_layer
from tailsmith.classification.methods.contract import Prepare, Review, drawing_layers, generator


def everything(classifier: Classifier) -> Classifier:
    """All of it, batch norm and dropout as in training."""
    return copy.deepcopy(classifier).requires_grad_(True).train()


def frozen(classifier: Classifier) -> Classifier:
    """Nothing yet; batch norm and dropout as at test time."""
    return copy.deepcopy(classifier).requires_grad_(False).eval()


def head_alone(classifier: Classifier) -> Classifier:
    """The last linear layer as it is."""
    copied = frozen(classifier)
    last_layer(copied.module).requires_grad_(True)
    return copied


def fresh_head(seed: int) -> Prepare:
    """The last linear layer from random weights, distributed as torch's own."""

    def prepare(classifier: Classifier) -> Classifier:
        copied, draws = head_alone(classifier), generator(seed, 0, 0, 4)
        layer = last_layer(copied.module)
        bound = layer.in_features**-0.5
        with torch.no_grad():
            for parameter in layer.parameters():  # drawn on the CPU: the same on every machine
                parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=draws))
        return copied

    return prepare


def with_head(head: str, seed: int) -> Prepare:
    """All of it, behind it another last layer of heads.py with random weights."""

    def prepare(classifier: Classifier) -> Classifier:
        copied = everything(classifier)
        with drawing_layers(seed, 0, 0, 4):
            copied.put_head(head)
        return copied

    return prepare


class ScaledLinear(nn.Module):
    """s_c * (w_c f + b_c) with the scales alone to be learned, from 1 (LWS; Kang et al., 2020)."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.scale = nn.Parameter(torch.ones_like(linear.weight[:, 0]))

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.scale * self.linear(features)
        return logits

    @torch.no_grad()
    def folded(self) -> nn.Linear:
        """The linear layer with the same logits."""
        self.linear.weight.mul_(self.scale[:, None])
        if self.linear.bias is not None:
            self.linear.bias.mul_(self.scale)
        return self.linear


def scaled_head(classifier: Classifier) -> Classifier:
    """A scale per class, behind the last linear layer; `fold_scale` takes it out again."""
    copied = frozen(classifier)
    linear = last_layer(copied.module)
    replace_layer(copied.module, linear, ScaledLinear(linear))
    return copied


def fold_scale(classifier: Classifier, review: Review) -> Classifier:
    """A finish: the scales of `scaled_head` become part of the last linear layer's weights."""
    for layer in [each for each in classifier.modules() if isinstance(each, ScaledLinear)]:
        replace_layer(classifier.module, layer, layer.folded())
    return classifier
