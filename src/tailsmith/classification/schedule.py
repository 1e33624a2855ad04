"""Learning rate, optimizer and weight averaging of the training loop."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from tailsmith.classification.config import TrainConfig


def sgd(config: TrainConfig, module: nn.Module, slower: Mapping[nn.Parameter, float]) -> torch.optim.SGD:
    """`slower` parameters take a fraction of the learning rate: a group of them has it as its "pace"."""
    by_pace: dict[float, list[nn.Parameter]] = {}
    for parameter in module.parameters():
        by_pace.setdefault(slower.get(parameter, 1.0), []).append(parameter)
    return torch.optim.SGD(
        [{"params": parameters, "pace": pace} for pace, parameters in by_pace.items()],
        lr=config.learning_rate,
        momentum=config.momentum,
        nesterov=config.nesterov and config.momentum > 0,
        weight_decay=config.weight_decay,
    )


def learning_rate_at(step: int, config: TrainConfig) -> float:
    """Of step 1..steps: linear to the peak, then a half cosine that would reach 0 one step after the last."""
    warmup = round(config.warmup_fraction * config.steps)
    if step <= warmup:
        return config.learning_rate * step / warmup
    progress = (step - 1 - warmup) / (config.steps - warmup)
    return config.learning_rate * (1 + math.cos(math.pi * progress)) / 2


def average_decay(step: int, decay: float) -> float:
    """Young averages forget their random start faster: 1/10, 2/11, 3/12 ... up to `decay`."""
    return min(decay, step / (step + 9))


@torch.no_grad()
def update_average(average: nn.Module, module: nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * module, batch norm's included; counters are copied."""
    for mean, value in zip(average.state_dict().values(), module.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)
