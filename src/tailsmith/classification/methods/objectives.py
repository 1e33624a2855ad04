"""Losses as objectives of a stage; a method with one of its own has it in its file."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tailsmith.classification.batches import class_shares
from tailsmith.classification.config import TrainConfig
from tailsmith.classification.losses import LOSSES, mixture, source_priors
from tailsmith.classification.methods.contract import Batch, Objective, Task


def softmax(task: Task, config: TrainConfig, loss: str, tau: float = 1.0) -> Objective:
    """A loss of LOSSES with the prior, alpha and label smoothing of `config`; labels or soft targets alike.

    The prior of a mixed image is that of its first; `tau` is its exponent.
    """
    shares = class_shares(task.pools, task.labels, len(task.class_names))
    priors = source_priors(task.counts(synthetic=False), task.counts(synthetic=True), config.prior, shares)
    of_source = torch.from_numpy(priors**tau).float()  # [2, C]: real, synthetic
    source = task.is_synthetic.astype(np.int64)
    mixed = mixture(LOSSES[loss], config.alpha, label_smoothing=config.label_smoothing)

    def objective(logits: Tensor, features: Tensor, batch: Batch, progress: float) -> Tensor:
        return mixed(logits, batch.wanted, of_source[source[batch.rows]].to(logits.device))

    return objective
