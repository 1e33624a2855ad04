"""The criteria of a plan, and what hardness needs for it: the class Gaussians of a classifier on real images, fitted
once, and kept beside what needs them.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tailsmith.classification.classifier import Classifier
from tailsmith.data.counts import class_counts
from tailsmith.data.dataset import Dataset
from tailsmith.files import write_atomically
from tailsmith.guidance.class_gaussians import ClassGaussians, Features, fit_class_by_class
from tailsmith.synthesis.plan import Plan
from tailsmith.synthesis.prediction import predict

log = logging.getLogger(__name__)
FILE = "hardness.safetensors"


def planned_gaussians(plan: Plan, dataset: Dataset, classifier: Any, kept: Path) -> ClassGaussians | None:
    """`class_gaussians`, where hardness is among a plan's criteria and somebody is there to ask."""
    if classifier is None or not plan.has_hardness:
        return None
    return class_gaussians(dataset, classifier, kept)


def class_gaussians(dataset: Dataset, classifier: Any, kept: Path | None = None) -> ClassGaussians:
    """What hardness needs: Gaussians of the classifier's features of the real training images, one per class.

    `kept`: a file that they are read from if it is of this classifier and these images, and written to if not; where
    one of its name lies up to two folders above, as in a run, and is of both, that one is read.
    """
    training = dataset.split("train")
    if kept is None or not isinstance(classifier, Classifier):  # another module can't be told from the next one
        return _fitted(training, classifier)
    made_from = {"classifier_sha256": classifier.sha256(), "images_sha256": _images_sha256(training)}
    above = [folder / kept.name for folder in kept.absolute().parent.parents[:2]]
    gaussians = next((found for each in (kept, *above) if (found := read_gaussians(each, made_from))), None)
    if gaussians is None:
        gaussians = _fitted(training, classifier)
        write_gaussians(gaussians, kept, made_from)
    return gaussians


def write_gaussians(gaussians: ClassGaussians, path: Path, made_from: dict[str, str]) -> None:
    """As safetensors, with what they were made from beside them."""
    tensors = {name: value.contiguous() for name, value in vars(gaussians).items()}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, made_from))


def _fitted(training: Dataset, classifier: Any) -> ClassGaussians:
    """Class by class, so that the features of a large dataset never lie in memory beside what is made of them."""

    def features() -> Iterator[Features]:
        for label in range(len(training.class_names)):
            rows = np.flatnonzero(training.labels == label)
            yield predict(classifier, training, rows).features.numpy() if len(rows) else np.empty((0, 0))

    return fit_class_by_class(features(), class_counts(training))


def read_gaussians(path: Path, made_from: dict[str, str]) -> ClassGaussians | None:
    """The kept ones; None where there are none, or they were made from something else."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            if not made_from.items() <= file.metadata().items():
                return None
            return ClassGaussians(**{each.name: file.get_tensor(each.name) for each in fields(ClassGaussians)})
    except (SafetensorError, OSError) as error:
        log.warning("%s is damaged (%s) and is made again", path, error)
        return None


def _images_sha256(training: Dataset) -> str:
    """Of the images' contents and classes, in their order, wherever they lie."""
    with ThreadPoolExecutor() as pool:
        contents = pool.map(training.content_hash, range(len(training)))
        lines = [f"{label} {content}\n" for label, content in zip(training.labels.tolist(), contents, strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
