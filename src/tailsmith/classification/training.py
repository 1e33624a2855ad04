"""The training loop, a generator of step records: the caller logs, draws and saves.

Runs in one process, or under torchrun with one per GPU (gloo on CPUs). Every process then takes its slice of
the same global batches: the result is that of one process up to floating-point noise, batch norm (each
process has its own statistics; evaluated and kept are those of process 0) and the draws of `augment`. A
process may train several times: who started it ends it, with `torch.distributed.destroy_process_group`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from torch import Tensor

from tailsmith.classification.backbones import check_backbone, create_backbone
from tailsmith.classification.classifier import Classifier
from tailsmith.classification.losses import LOSSES, PRIOR_KINDS, mixture, source_priors
from tailsmith.classification.optimization import average_decay, learning_rate_at, sgd, update_average
from tailsmith.classification.prediction import (
    Indexable,
    check_images,
    class_hits,
    mean_class_accuracy,
    predict,
    predict_with_features,
    to_unit_range,
)
from tailsmith.classification.resampling import RESAMPLING, Rows, batches, class_shares
from tailsmith.classification.train_config import TrainConfig

__all__ = [
    "TrainConfig",
    "StepRecord",
    "train_classifier",
    "check_train_config",
    "predict",
    "predict_with_features",
]

Augment = Callable[[Tensor, torch.Generator], Tensor]  # float [B, 3, H, W] in [0, 1] -> the same
BatchLoss = Callable[[Tensor, Tensor, Rows], Tensor]  # logits [B, C], labels [B], training rows [B] -> [B]


@dataclass(frozen=True)
class StepRecord:
    """One step; the last record carries the classifier."""

    step: int  # 1..steps
    steps: int
    loss: float  # mean over the global batch
    learning_rate: float
    validation: float | None  # mean class accuracy in %, where the step was evaluated
    classifier: Classifier | None  # on the last step: the one selected on validation, in evaluation mode


@dataclass(frozen=True)
class Examples:
    """Images and their labels, checked."""

    images: Indexable
    labels: Rows  # [n]


def train_classifier(
    config: TrainConfig,
    images: Indexable,  # [rows] -> uint8 [b, 3, S, S]
    labels: npt.ArrayLike,  # [n] int
    is_synthetic: npt.ArrayLike,  # [n] bool
    class_names: Sequence[str],
    *,
    validation: tuple[Indexable, npt.ArrayLike] | None = None,  # None: take the last classifier
    augment: Augment | None = None,  # a CPU generator, whatever device the images are on
    groups: npt.ArrayLike | None = None,  # [n] int, for resampling "group_balanced"
) -> Iterator[StepRecord]:
    """Train on real and synthetic rows; select by mean class accuracy on validation (of equals the later).

    Bad input is a ValueError here, before the first step; a loss that is no longer finite is one there.
    """
    check_train_config(config)
    train = _checked("training", images, labels, class_names)
    synthetic = _per_row("is_synthetic", is_synthetic, len(train.labels)).astype(bool)
    grouped = _per_row("groups", np.full(len(synthetic), -1) if groups is None else groups, len(synthetic))
    held_out = None if validation is None else _checked("validation", *validation, class_names)
    if held_out is not None:
        _check_trained_classes(train.labels, held_out.labels, class_names)
    pools = RESAMPLING[config.resampling](train.labels, grouped, synthetic)
    loss = _loss(config, train.labels, synthetic, pools, len(class_names))
    return _steps(config, _new_classifier(config, class_names), train, pools, loss, held_out, augment)


def check_train_config(config: TrainConfig) -> None:
    """ValueError for a backbone, method, prior, resampling or precision that doesn't exist, naming those that do."""
    check_backbone(config.backbone)
    choices: dict[str, Collection[str]] = {
        "method": LOSSES,
        "prior": PRIOR_KINDS,
        "resampling": RESAMPLING,
        "precision": ("fp32", "bf16"),
    }
    for name, known in choices.items():
        if getattr(config, name) not in known:
            raise ValueError(f"unknown {name} {getattr(config, name)!r}: expected one of {', '.join(known)}")


def _steps(
    config: TrainConfig,
    classifier: Classifier,
    train: Examples,
    pools: list[Rows],
    loss: BatchLoss,
    validation: Examples | None,
    augment: Augment | None,
) -> Iterator[StepRecord]:
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    model, optimizer = accelerator.prepare(classifier, sgd(config, classifier))
    average = copy.deepcopy(classifier) if config.ema_decay else classifier
    selected, best = classifier, -math.inf
    order = batches(pools, config.batch_size, config.steps, _generator(config.seed))
    for step, rows in enumerate(order, start=1):
        rate = optimizer.param_groups[0]["lr"] = learning_rate_at(step, config)
        draws = _generator(config.seed, step, accelerator.process_index)
        mine = _own(rows, accelerator)
        batch, labels = _batch(train, mine, augment, draws, accelerator.device)
        with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            logits, _ = model(batch)
        # Processes average their gradients, so each scales its sum: their slices may differ by one image
        value = loss(logits.float(), labels, mine).sum() * accelerator.num_processes / config.batch_size
        optimizer.zero_grad()
        accelerator.backward(value)
        optimizer.step()
        mean = _finite(float(accelerator.reduce(value.detach(), reduction="mean")), step, config)
        if config.ema_decay:
            update_average(average, classifier, average_decay(step, config.ema_decay))
        score, last = None, step == config.steps
        if last or step % config.evaluate_every == 0:
            score = _validate(average, validation, accelerator)
            if score is None or score >= best:
                selected, best = copy.deepcopy(average), -math.inf if score is None else score
        yield StepRecord(step, config.steps, mean, rate, score, _finished(selected) if last else None)


def _batch(
    train: Examples, rows: Rows, augment: Augment | None, draws: torch.Generator, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Images float [b, 3, S, S] in [0, 1] and labels [b], on `device`."""
    images = to_unit_range(train.images[rows], device)
    labels = torch.from_numpy(train.labels[rows]).to(device)
    return (augment(images, draws) if augment else images), labels


def _validate(classifier: Classifier, validation: Examples | None, accelerator: Accelerator) -> float | None:
    """Mean class accuracy in %, each process predicting its part; None without validation images."""
    if accelerator.num_processes > 1:
        for buffer in classifier.buffers():
            torch.distributed.broadcast(buffer, src=0)
    if validation is None:
        return None
    rows = _own(np.arange(len(validation.labels)), accelerator)
    logits = predict(classifier, validation.images, rows=rows)
    predicted = logits.argmax(1).numpy()
    hits = torch.from_numpy(class_hits(predicted, validation.labels[rows], len(classifier.class_names)))
    return mean_class_accuracy(accelerator.reduce(hits.to(accelerator.device), reduction="sum").cpu().numpy())


def _own(rows: Rows, accelerator: Accelerator) -> Rows:
    """This process' contiguous slice."""
    mine: Rows = np.array_split(rows, accelerator.num_processes)[accelerator.process_index]
    return mine


def _finished(classifier: Classifier) -> Classifier:
    classifier.zero_grad()
    return classifier.eval()


def _finite(loss: float, step: int, config: TrainConfig) -> float:
    if not math.isfinite(loss):
        raise ValueError(
            f"training diverged: loss {loss} at step {step}; lower learning_rate, now {config.learning_rate}"
        )
    return loss


def _generator(*seeds: int) -> torch.Generator:
    """A stream of its own for each tuple of seeds."""
    state = np.random.SeedSequence(seeds).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def _new_classifier(config: TrainConfig, class_names: Sequence[str]) -> Classifier:
    """Random weights from the seed; the global generators stay as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)  # torch.manual_seed would reseed GPUs as well
        backbone = create_backbone(config.backbone, len(class_names), config.pretrained, config.image_size)
    return Classifier(
        backbone.module,
        class_names=class_names,
        image_size=backbone.image_size,
        mean=backbone.mean,
        std=backbone.std,
        backbone_name=config.backbone,
    )


def _loss(
    config: TrainConfig,
    labels: Rows,
    is_synthetic: npt.NDArray[np.bool_],
    pools: list[Rows],
    num_classes: int,
) -> BatchLoss:
    """The configured method with its prior bound."""
    real = np.bincount(labels[~is_synthetic], minlength=num_classes)
    synthetic = np.bincount(labels[is_synthetic], minlength=num_classes)
    priors = source_priors(real, synthetic, config.prior, class_shares(pools, labels, num_classes))
    of_source = torch.from_numpy(priors).float()  # [2, C]: real, synthetic
    smooth = partial(LOSSES[config.method], label_smoothing=config.label_smoothing)
    loss = mixture(smooth, config.alpha)
    return lambda logits, labels, rows: loss(
        logits, labels, of_source[is_synthetic[rows].astype(np.int64)].to(logits.device)
    )


# ----------------------------------------------------------------------------------------------------------
# What is refused.


def _checked(what: str, images: Indexable, labels: npt.ArrayLike, class_names: Sequence[str]) -> Examples:
    check_images(f"{what} images", images)
    array = _per_row(f"{what} labels", labels, len(images))
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{what} labels should be integers, got {array.dtype}")
    if array.min() < 0 or array.max() >= len(class_names):
        outside = array[(array < 0) | (array >= len(class_names))][0]
        raise ValueError(
            f"{what} labels should be in 0..{len(class_names) - 1}, one per class name, got {outside}; "
            "check class_names and the labels"
        )
    return Examples(images, array.astype(np.int64))


def _per_row(name: str, values: npt.ArrayLike, n: int) -> npt.NDArray[Any]:
    array = np.asarray(values)
    if array.shape != (n,):
        raise ValueError(f"{name} should have one entry per image, shape [{n}], got {list(array.shape)}")
    return array


def _check_trained_classes(train: Rows, validation: Rows, class_names: Sequence[str]) -> None:
    unseen = np.setdiff1d(validation, train)
    if len(unseen):
        names = ", ".join(str(class_names[label]) for label in unseen)
        raise ValueError(
            f"validation has images of classes without a training image: {names}; add training images (real "
            "or synthetic) or leave these classes out"
        )
