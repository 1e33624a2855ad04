"""Training in one stage or two, a generator of step records: the caller logs, draws and saves.

Runs in one process, or under torchrun with one per GPU (gloo on CPUs). Every process then takes its slice of
the same global batches: the result is that of one process up to floating-point noise, batch norm (each
process has its own statistics; evaluated and kept are those of process 0) and the draws of `augment`. A
process may train several times: who started it ends it, with `torch.distributed.destroy_process_group`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tailsmith.classification.backbones import check_backbone, create_backbone, last_layer
from tailsmith.classification.classifier import Classifier
from tailsmith.classification.losses import LOSSES, PRIOR_KINDS, mixture, source_priors
from tailsmith.classification.prediction import SELECT_BY, Indexable, check_images, predict, predict_with_features
from tailsmith.classification.resampling import RESAMPLING, Rows, class_shares, epoch_rows
from tailsmith.classification.train_config import StageTwoConfig, TrainConfig
from tailsmith.classification.training_loop import (
    Augment,
    BatchLoss,
    Diverged,
    Examples,
    LearnedDraws,
    Selection,
    Stage,
    StepRecord,
    head_alone,
    run_stage,
)

__all__ = [
    "TrainConfig",
    "StageTwoConfig",
    "StepRecord",
    "Diverged",
    "train_classifier",
    "check_train_config",
    "untrained_classifier",
    "predict",
    "predict_with_features",
]


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
    """Train on real and synthetic rows; select by `config.select_by` on validation (of equals the later).

    With `config.stage_two` the classifier selected so far gets its last layer trained on, and the selection goes on.
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

    def stage(own: TrainConfig, learned_draws: LearnedDraws | None = None) -> Stage:
        """A stage with the same images as all."""
        own = replace(own, steps=_steps(own, synthetic))
        loss = _loss(own, train.labels, synthetic, pools, len(class_names))
        return Stage(own, train, pools, loss, held_out, augment, learned_draws)

    stages = [stage(config)]
    if config.stage_two is not None:
        draws = LearnedDraws(config.stage_two, _judges(train.labels, synthetic))
        stages.append(stage(_second(config, config.stage_two), draws if config.stage_two.sampler == "meta" else None))
    return _run(stages, untrained_classifier(config, class_names))


def check_train_config(config: TrainConfig) -> None:
    """ValueError for a backbone, method, prior or other choice that doesn't exist, naming those that do."""
    check_backbone(config.backbone)
    choices: dict[str, Collection[str]] = {
        "method": LOSSES,
        "prior": PRIOR_KINDS,
        "resampling": RESAMPLING,
        "select_by": SELECT_BY,
        "precision": ("fp32", "bf16"),
    }
    chosen = {name: getattr(config, name) for name in choices}
    if config.stage_two is not None:
        choices["stage_two.method"], chosen["stage_two.method"] = LOSSES, config.stage_two.method
    for name, known in choices.items():
        if chosen[name] not in known:
            raise ValueError(f"unknown {name} {chosen[name]!r}: expected one of {', '.join(known)}")


def untrained_classifier(config: TrainConfig, class_names: Sequence[str]) -> Classifier:
    """Random or pretrained weights; the global generators stay as they were.

    ValueError for a backbone that can't be had so: weights out of reach, another image size, no last linear layer for a
    second stage.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)  # torch.manual_seed would reseed GPUs as well
        backbone = create_backbone(
            config.backbone, len(class_names), config.pretrained, config.image_size, config.pretrained_file
        )
    if config.stage_two is not None:
        last_layer(backbone.module)
    return Classifier(
        backbone.module,
        class_names=class_names,
        image_size=backbone.image_size,
        mean=backbone.mean,
        std=backbone.std,
        backbone_name=config.backbone,
    )


# ----------------------------------------------------------------------------------------------------------
# Stages.


def _run(stages: Sequence[Stage], classifier: Classifier) -> Iterator[StepRecord]:
    """All that follow the first train the last layer of the classifier selected before them."""
    selection, done, total = Selection(classifier), 0, sum(stage.config.steps for stage in stages)
    for number, stage in enumerate(stages):
        trained = head_alone(selection.classifier) if number else classifier
        yield from run_stage(stage, trained, selection, done, total)
        done += stage.config.steps


def _second(config: TrainConfig, second: StageTwoConfig) -> TrainConfig:
    """The first stage's configuration with what the second has of its own, and other draws."""
    return replace(
        config,
        steps=second.steps,
        epochs=second.epochs,
        batch_size=second.batch_size,
        learning_rate=second.learning_rate,
        warmup_fraction=0.0,
        weight_decay=second.weight_decay,
        method=second.method,
        ema_decay=0.0,
        seed=int(np.random.SeedSequence((config.seed, 2)).generate_state(1)[0]),
    )


def _steps(config: TrainConfig, is_synthetic: npt.NDArray[np.bool_]) -> int:
    """The last batch of an epoch may reach into the next, so that none is smaller."""
    if config.epochs is None:
        return config.steps
    return config.epochs * -(-epoch_rows(config.resampling, is_synthetic) // config.batch_size)


def _judges(labels: Rows, is_synthetic: npt.NDArray[np.bool_]) -> list[Rows]:
    """Per class its real training rows, or its synthetic ones where it has no real: the meta sampler's meta set.

    Ren et al. took the validation images of Places-LT. Validation selects the classifier here, and what the draws were
    fitted to could no longer do that.
    """
    judges = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        real = rows[~is_synthetic[rows]]
        judges.append(real if len(real) else rows)
    return judges


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
    loss = mixture(LOSSES[config.method], config.alpha, label_smoothing=config.label_smoothing)
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
