"""Training in one stage or two, a generator of step records: the caller logs, draws and saves.

Runs in one process, or under torchrun with one per GPU (gloo on CPUs). Every process then takes its slice of
the same global batches: the result is that of one process up to floating-point noise, batch norm (each
process has its own statistics; evaluated and kept are those of process 0) and the draws of `augment`. A
process may train several times: who started it ends it, with `torch.distributed.destroy_process_group`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tailsmith.classification.backbones import check_backbone, create_backbone, last_layer
from tailsmith.classification.batches import RESAMPLING, Rows
from tailsmith.classification.checkpoint import CheckpointFile
from tailsmith.classification.classifier import Classifier
from tailsmith.classification.config import StageTwoConfig, TrainConfig
from tailsmith.classification.loop import StepRecord, run_stages
from tailsmith.classification.losses import LOSSES, PRIOR_KINDS
from tailsmith.classification.methods import method_of
from tailsmith.classification.methods.contract import HeldOut, Method, Task
from tailsmith.classification.precision import check_precision, warn_of_emulation
from tailsmith.classification.prediction import SELECT_BY, check_images
from tailsmith.classification.selection import Labelled, RowsOf, held_out_half
from tailsmith.classification.stage_run import Augment, Data, Diverged
from tailsmith.contracts import Indexable
from tailsmith.errors import UserError

__all__ = [
    "TrainConfig",
    "StageTwoConfig",
    "StepRecord",
    "Diverged",
    "Training",
    "train_classifier",
    "check_train_config",
    "untrained_classifier",
]


@dataclass(frozen=True, eq=False)
class Groups:
    """(class, attribute) of images as label * A + attribute, -1 where an image has none."""

    train: npt.ArrayLike  # [n] int
    validation: npt.ArrayLike | None = None  # [v] int
    num_attributes: int = 0  # A


@dataclass(frozen=True, eq=False)
class Training:
    """A training that may begin: iterate over its step records."""

    task: Task
    method: Method
    data: Data
    untrained: Classifier

    def __iter__(self) -> Iterator[StepRecord]:
        return self._run(None)

    def resumable(self, checkpoint: Path, identity: str) -> Iterator[StepRecord]:
        """The same records; a checkpoint of this very training, left at that path when it was interrupted, goes on.

        `identity` says what the settings and labels don't: which images, and how they are augmented. A checkpoint of
        another training is a ValueError. Whoever keeps the classifier calls `checkpoint.discard`.
        """
        task, validation = self.task, self.data.validation
        settings = {**asdict(task.config), "class_names": list(task.class_names)}
        every = settings.pop("checkpoint_every")
        settings.pop("workers")  # changes no result, either
        known = hashlib.sha256(identity.encode())
        for values in (task.labels, task.groups, task.is_synthetic, validation.labels if validation else np.empty(0)):
            known.update(f"\0{values.dtype} {len(values)}\0".encode() + values.tobytes())
        file = CheckpointFile(checkpoint, every, settings, known.hexdigest())
        return self._run(file)

    def _run(self, file: CheckpointFile | None) -> Iterator[StepRecord]:
        stages, final = self.method.stages(self.task), self.method.final(self.task)
        return run_stages(stages, self.untrained, self.data, file, final)


def train_classifier(
    config: TrainConfig,
    images: Indexable,  # [rows] -> uint8 [b, 3, S, S]
    labels: npt.ArrayLike,  # [n] int
    is_synthetic: npt.ArrayLike,  # [n] bool
    class_names: Sequence[str],
    *,
    validation: tuple[Indexable, npt.ArrayLike] | None = None,  # None: take the last classifier
    augment: Augment | None = None,  # a CPU generator, whatever device the images are on
    groups: Groups | None = None,  # for resampling "group_balanced" and methods that know groups
) -> Training:
    """Train on real and synthetic rows; select by `config.select_by` on validation (of equals the later).

    A method that fits validation images gets one half of them, drawn with `config.seed`; the other half selects. With
    `config.stage_two` the classifier selected so far gets its last layer trained on, and the selection goes on.
    Bad input is a ValueError here, before the first step; a loss that is no longer finite is one there.
    """
    check_train_config(config)
    train = _checked("training", images, labels, class_names)
    synthetic = _per_row("is_synthetic", is_synthetic, len(train.labels)).astype(bool)
    groups = groups or Groups(np.full(len(synthetic), -1))
    grouped = _per_row("groups", groups.train, len(synthetic)).astype(np.int64)
    selecting = None if validation is None else _checked("validation", *validation, class_names)
    if selecting is not None:
        _check_trained_classes(train.labels, selecting.labels, class_names)
    task = Task(
        config,
        train.labels,
        grouped,
        synthetic,
        tuple(class_names),
        num_attributes=groups.num_attributes,
        has_validation=selecting is not None,
    )
    data = Data(train, selecting, augment)
    method = method_of(config.method)
    if method.fits_validation:
        task, data = _halved(task, data, groups)
    method.stages(task)  # ValueError for what the data can't be
    warn_of_emulation(config.precision)
    return Training(task, method, data, untrained_classifier(config, class_names))


def check_train_config(config: TrainConfig) -> None:
    """ValueError for a backbone, method, prior or other choice that doesn't exist, naming those that do."""
    check_backbone(config.backbone)
    method_of(config.method)
    choices: dict[str, Collection[str]] = {
        "prior": PRIOR_KINDS,
        "resampling": RESAMPLING,
        "select_by": SELECT_BY,
    }
    check_precision(config.precision)
    chosen = {name: getattr(config, name) for name in choices}
    if config.stage_two is not None:
        choices["method with a stage_two"], chosen["method with a stage_two"] = LOSSES, config.method
        choices["stage_two.method"], chosen["stage_two.method"] = LOSSES, config.stage_two.method
    for name, known in choices.items():
        if chosen[name] not in known:
            raise UserError(f"unknown {name} {chosen[name]!r}: expected one of {', '.join(known)}")


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
        last_layer(backbone.module, "stage_two")
    if method_of(config.method).needs_last_layer:
        last_layer(backbone.module, f"method {config.method}")
    return Classifier(
        backbone.module,
        class_names=class_names,
        image_size=backbone.image_size,
        mean=backbone.mean,
        std=backbone.std,
        backbone_name=config.backbone,
    )


def _halved(task: Task, data: Data, groups: Groups) -> tuple[Task, Data]:
    """With half of the validation images for the method to fit, and the other half to select by."""
    if data.validation is None or len(data.validation.labels) < 2:
        return task, data  # which the method refuses
    labels, images = data.validation.labels, data.validation.images
    nowhere = np.full(len(labels), -1)
    grouped = _per_row("validation groups", nowhere if groups.validation is None else groups.validation, len(labels))
    fitted, selecting = held_out_half(labels, grouped, task.config.seed)
    task = replace(task, held_out=HeldOut(labels[fitted], grouped[fitted].astype(np.int64)))
    chosen = Labelled(RowsOf(images, selecting), labels[selecting])
    return task, replace(data, validation=chosen, held_out=RowsOf(images, fitted))


# ----------------------------------------------------------------------------------------------------------
# What is refused.


def _checked(what: str, images: Indexable, labels: npt.ArrayLike, class_names: Sequence[str]) -> Labelled:
    check_images(f"{what} images", images)
    array = _per_row(f"{what} labels", labels, len(images))
    if not np.issubdtype(array.dtype, np.integer):
        raise UserError(f"{what} labels should be integers, got {array.dtype}")
    if array.min() < 0 or array.max() >= len(class_names):
        outside = array[(array < 0) | (array >= len(class_names))][0]
        raise UserError(
            f"{what} labels should be in 0..{len(class_names) - 1}, one per class name, got {outside}; "
            "check class_names and the labels"
        )
    return Labelled(images, array.astype(np.int64))


def _per_row(name: str, values: npt.ArrayLike, n: int) -> npt.NDArray[Any]:
    array = np.asarray(values)
    if array.shape != (n,):
        raise UserError(f"{name} should have one entry per image, shape [{n}], got {list(array.shape)}")
    return array


def _check_trained_classes(train: Rows, validation: Rows, class_names: Sequence[str]) -> None:
    unseen = np.setdiff1d(validation, train)
    if len(unseen):
        names = ", ".join(str(class_names[label]) for label in unseen)
        raise UserError(
            f"validation has images of classes without a training image: {names}; add training images (real "
            "or synthetic) or leave these classes out"
        )
