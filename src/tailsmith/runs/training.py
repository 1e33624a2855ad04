"""Classifiers trained and tested on a dataset."""

from __future__ import annotations

import logging
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tailsmith.classification.classifier import Classifier
from tailsmith.classification.config import TrainConfig
from tailsmith.classification.training import Groups, train_classifier
from tailsmith.data.counts import class_counts, group_counts
from tailsmith.data.dataset import Dataset
from tailsmith.data.fingerprint import content_keys
from tailsmith.data.images import Images
from tailsmith.data.transforms import Augmentation
from tailsmith.data.transforms import augmentation as named_augmentation
from tailsmith.data.views import PerImage
from tailsmith.errors import UserError
from tailsmith.metrics.accuracy import AccuracyTable, Attributes, accuracy_table
from tailsmith.runs.progress import followed, identity
from tailsmith.synthesis.prediction import check_classes, predict

log = logging.getLogger(__name__)


def train(
    dataset: Dataset,
    synthetic: Dataset | None = None,
    config: TrainConfig | None = None,
    *,
    augmentation: str = "crop-flip-colour",
    description: str = "train",
    checkpoint: Path | None = None,
) -> Classifier:
    """Train on the training split, and `synthetic` images if given; selected on the validation split only.

    The classifier carries `history`: a dict per evaluated step. With a `checkpoint` file the same call after an
    interruption goes on; once the classifier is kept, `classification.checkpoint.discard` removes that file.
    """
    config = config or TrainConfig()
    rows = dataset.split("train")
    if synthetic is not None:
        rows = Dataset.concatenate([rows, synthetic])
    size = config.image_size or _default_size(config)
    validation = dataset.split("val")
    made_by = named_augmentation(augmentation)
    each = made_by if isinstance(made_by, PerImage) else None
    with closing(Images(rows, size, each, workers=config.workers)) as images:
        training = train_classifier(
            config,
            images,
            rows.labels,
            (rows.table["source"] == "synthetic").to_numpy(),
            dataset.class_names,
            validation=(Images(validation, size), validation.labels) if len(validation) else None,
            augment=made_by if isinstance(made_by, Augmentation) else None,
            groups=Groups(rows.groups, validation.groups, len(dataset.attribute_names)),
        )
        records = iter(training)
        if checkpoint is not None:
            records = training.resumable(checkpoint, identity(rows, validation, size, augmentation))
        classifier = followed(records, description)
    real = rows.select((rows.table["source"] == "real").to_numpy())
    classifier.seen = np.unique(np.concatenate([content_keys(real), content_keys(validation)]))
    return classifier


def evaluate(classifier: Any, dataset: Dataset, split: str = "test", *, bootstrap: int = 1000) -> AccuracyTable:
    """Accuracy on real images of a split: overall, per class, shot and group, worst group, each with n and interval.

    Shots and group shots are by the dataset's own training counts.
    """
    rows = dataset.split(split)
    if not len(rows):
        raise UserError(f"dataset {dataset.name!r} has no {split} images to evaluate on")
    check_classes(classifier, dataset, "evaluate on the data it was trained for")
    attributes = Attributes(rows.attributes, dataset.attribute_names, group_counts(dataset))
    return accuracy_table(
        predict(classifier, rows).logits.argmax(1).numpy(),
        rows.labels,
        class_names=dataset.class_names,
        train_counts=class_counts(dataset),
        attributes=attributes if dataset.attribute_names else None,
        image_ids=rows.table["image_id"].tolist(),
        bootstrap=bootstrap,
    )


def check_unseen(classifier: Classifier, dataset: Dataset) -> None:
    """ValueError for test images that a classifier was trained or selected on: its accuracy on them says nothing.

    As where the training folder alone is given, and is split anew.
    """
    check_classes(classifier, dataset, "evaluate on the data it was trained for")
    rows = dataset.split("test")
    if classifier.seen is None:
        log.warning("the classifier's folder doesn't say what it was trained on; make sure that it wasn't these images")
        return
    known = np.flatnonzero(np.isin(content_keys(rows), classifier.seen))
    if len(known):
        raise UserError(
            f"{len(known):,} of {len(rows):,} test images are among those that this classifier was trained or selected "
            f"on (first: {rows.described(int(known[0]))}); give the data as a whole, as it was trained on, with its "
            "test images, or --split train"
        )


def _default_size(config: TrainConfig) -> int:
    from tailsmith.classification.backbones import create_backbone

    with torch.random.fork_rng(devices=[]):
        return create_backbone(config.backbone, 2, False, None).image_size
