"""What of a run would only fail hours later, asked before its first step."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tailsmith.classification.config import TrainConfig
from tailsmith.classification.methods import method_of
from tailsmith.classification.methods.contract import HeldOut, Task
from tailsmith.classification.training import check_train_config, untrained_classifier
from tailsmith.data.dataset import Dataset
from tailsmith.data.transforms import augmentation as named_augmentation
from tailsmith.errors import UserError
from tailsmith.generation.generator import Generator
from tailsmith.runs.config import RunConfig, arms_of, sets_of, train_config
from tailsmith.runs.studied import study_settings
from tailsmith.synthesis.planning import checked_settings, missing

Labels = npt.NDArray[np.int64]


def check_run(config: RunConfig, dataset: Dataset) -> None:
    """ValueError for data and settings that can't go together, of any stage."""
    for training in (config.real, config.mixed):
        check_train_config(training)
        untrained_classifier(training, dataset.class_names)  # pretrained weights are there, and fit
    if config.search is not None and not len(dataset.split("val")):
        raise UserError(f"dataset {dataset.name!r} has no validation images, and search selects on them alone")
    named_augmentation(config.augmentation)
    Generator.find(config.generator).sha256()
    for settings in sets_of(config).values():
        checked_settings(dataset, settings, config.generator)
        missing(dataset, config.target, config.per)
    _check_methods(config, dataset)
    for settings in study_settings(config).values():
        checked_settings(dataset, settings, config.generator)
    if not len(dataset.split("test")):
        raise UserError(f"dataset {dataset.name!r} has no test images; a run reports on real test images")


def _check_methods(config: RunConfig, dataset: Dataset) -> None:
    """ValueError where an arm's method can't be trained on such rows."""
    nothing = np.zeros(0, dtype=np.int64)
    for arm in arms_of(config):
        training = train_config(config, arm)
        check_train_config(training)
        added = (nothing, nothing) if arm.set is None else _planned(config, dataset)
        method_of(training.method).stages(task_of(training, dataset, *added))


def task_of(training: TrainConfig, dataset: Dataset, labels: Labels, groups: Labels) -> Task:
    """What a method is told of real training images and of as many synthetic ones as there are labels and groups."""
    real, validation = dataset.split("train"), dataset.split("val")
    return Task(
        training,
        np.concatenate([real.labels, labels]),
        np.concatenate([real.groups, groups]),
        np.arange(len(real) + len(labels)) >= len(real),
        dataset.class_names,
        num_attributes=len(dataset.attribute_names),
        has_validation=len(validation) > 0,
        held_out=HeldOut(validation.labels, validation.groups) if len(validation) > 1 else None,
    )


def _planned(config: RunConfig, dataset: Dataset) -> tuple[Labels, Labels]:
    """Label and group of each image that a set will have, [n] each; group -1 where the plan is per class."""
    lacking = missing(dataset, config.target, config.per)
    which = np.repeat(np.arange(lacking.size), lacking.ravel())
    if lacking.ndim == 1:
        return which, np.full(len(which), -1)
    return which // lacking.shape[1], which
