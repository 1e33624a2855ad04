"""What a classifier says of a dataset's images, in its own test view: the one that it was selected by."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from tailsmith.classification.prediction import predict_images
from tailsmith.data.checks import class_difference
from tailsmith.data.dataset import Dataset
from tailsmith.data.images import Images
from tailsmith.errors import UserError

USUAL_SIZE = 224  # of the images that a module of a user's takes, where it doesn't say


class Prediction(NamedTuple):
    """Float32 on the CPU."""

    logits: Tensor  # [n, C]
    features: Tensor  # [n, D]


def predict(classifier: Any, dataset: Dataset, rows: npt.NDArray[np.int64] | None = None) -> Prediction:
    """Of a dataset's images, or of some rows; NotFinite for logits that are no numbers."""
    images = Images(dataset, getattr(classifier, "image_size", USUAL_SIZE), cache_budget=0)  # each is looked at once
    return Prediction(*predict_images(classifier, images, rows=rows))


def check_classes(classifier: Any, dataset: Dataset, advice: str) -> None:
    names = tuple(getattr(classifier, "class_names", dataset.class_names))
    if names != dataset.class_names:
        raise UserError(
            f"the classifier's classes are not the dataset's: it {class_difference(names, dataset.class_names)}; "
            f"{advice}"
        )
