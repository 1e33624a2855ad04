"""PaCo, parametric contrastive learning (Cui et al., 2021): class centres among the keys of supervised contrast."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailsmith.classification.backbones import last_layer
from tailsmith.classification.batches import class_shares
from tailsmith.classification.config import TrainConfig
from tailsmith.classification.losses import source_priors
from tailsmith.classification.methods.contract import (
    Batch,
    Examples,
    Following,
    Method,
    Stage,
    Start,
    Task,
    drawing_layers,
)
from tailsmith.classification.methods.parts import everything
from tailsmith.classification.methods.streams import passes
from tailsmith.errors import UserError
from tailsmith.settings import check_above_zero, check_whole


@dataclass(frozen=True)
class PaCo(Method):
    """Every image in two views: one trains, the other makes keys, by an average of the classifier's weights.

    Logits are class centres with balanced softmax's prior; keys of a batch and of a queue stand beside them. Defaults
    are those of ImageNet-LT with ResNeXt-50; CIFAR has a weight of .01, a queue of 1024 and a temperature of .05.
    """

    weight: float = 0.05  # alpha, of a key of the same class; its centre has 1
    queue: int = 8192  # K
    momentum: float = 0.999
    dimension: int = 128
    temperature: float = 0.07

    needs_last_layer = True

    def __post_init__(self) -> None:
        check_above_zero(self, ("weight", "temperature"), "paco:")
        check_whole(self, ("queue", "dimension"), "paco:")
        if not 0 <= self.momentum < 1:
            raise UserError(f"paco:momentum should be at least 0 and below 1, got {self.momentum}")

    def stages(self, task: Task) -> list[Stage]:
        config = task.settled(task.config)
        shares = class_shares(task.pools, task.labels, len(task.class_names))
        priors = source_priors(task.counts(synthetic=False), task.counts(synthetic=True), config.prior, shares)
        objective = Contrast(self, torch.from_numpy(np.log(priors)).float(), task, config)
        return [Stage(config, (passes(task.pools, config),), objective, everything, views=2, transform=apart)]


def apart(streams: tuple[Examples, ...], draws: torch.Generator, progress: float) -> Batch:
    """The transform: the classifier sees the first view, the objective both."""
    (each,) = streams
    one, other = each.views
    return Batch(one, each.labels, each.rows, others=other)


class Contrast(Following):
    """The objective: projector, the averaged classifier and projector that make keys, and the queue of keys."""

    keys: Tensor
    labels: Tensor  # -1 where the queue has nothing yet
    place: Tensor

    def __init__(self, settings: PaCo, log_priors: Tensor, task: Task, config: TrainConfig) -> None:
        super().__init__()
        self._settings, self._seed = settings, config.seed
        self._log_priors, self._synthetic = log_priors, torch.from_numpy(task.is_synthetic.astype(np.int64))
        self.register_buffer("keys", torch.zeros(settings.queue, settings.dimension))
        self.register_buffer("labels", torch.full((settings.queue,), -1))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    def begin(self, start: Start) -> None:
        size = last_layer(start.classifier.module).in_features
        with drawing_layers(self._seed, 0, 0, 7):
            self.projector = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, self._settings.dimension))
        self._classifier = [start.classifier]  # in a list: not a part of this module
        self.key_classifier = copy.deepcopy(start.classifier).requires_grad_(False)
        self.key_projector = copy.deepcopy(self.projector).requires_grad_(False)

    def forward(self, logits: Tensor, features: Tensor, batch: Batch, progress: float) -> Tensor:
        assert batch.others is not None
        self._follow()
        with torch.no_grad():
            own = F.normalize(self.key_projector(self.key_classifier(batch.others)[1].float()))
        queries = F.normalize(self.projector(features))
        source = self._synthetic[torch.from_numpy(batch.rows)]
        centres = logits + self._log_priors[source].to(logits.device)
        keys, labels = torch.cat([own, self.keys]), torch.cat([batch.labels, self.labels])
        similar = (queries @ keys.T / self._settings.temperature).masked_fill(labels < 0, -torch.inf)
        losses = parametric_contrast(centres, similar, batch.labels, labels, self._settings.weight)
        self._enqueue(own, batch.labels)
        return losses

    @torch.no_grad()
    def _follow(self) -> None:
        """key <- momentum * key + (1 - momentum) * query, of parameters; batch norm's statistics are the keys' own."""
        pairs = (self._classifier[0], self.key_classifier), (self.projector, self.key_projector)
        for module, key in pairs:
            for value, mean in zip(module.parameters(), key.parameters(), strict=True):
                mean.lerp_(value, 1 - self._settings.momentum)

    @torch.no_grad()
    def _enqueue(self, keys: Tensor, labels: Tensor) -> None:
        size = len(self.keys)
        keys, labels = keys[-size:], labels[-size:]
        places = (self.place + torch.arange(len(keys), device=self.place.device)) % size
        self.keys[places], self.labels[places] = keys, labels
        self.place.copy_((self.place + len(keys)) % size)


def parametric_contrast(centres: Tensor, similar: Tensor, own: Tensor, labels: Tensor, weight: float) -> Tensor:
    """Eq. 5 there, [B]: centres [B, C] and similarities to keys [B, A] in one softmax; own [B] and keys' labels [A].

    Minus the mean of the log p of an image's centre, with weight 1, and of the keys of its class, with `weight` each.
    """
    log_p = torch.cat([centres, similar], 1).log_softmax(1)
    alike = own[:, None] == labels[None]
    of_keys = (weight * log_p[:, centres.shape[1] :].masked_fill(~alike, 0)).sum(1)
    of_centre = log_p.gather(1, own[:, None])[:, 0]
    return -(of_centre + of_keys) / (1 + weight * alike.sum(1))
