"""Feedback criteria C(x, y, f), section 3.1.1: (logits, features, labels) -> [N], higher = more useful."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Criterion = Callable[[Tensor, Tensor, Tensor], Tensor]  # logits [N, C], features [N, D], labels [N] -> [N]


def loss(logits: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Classifier loss L(f(x), y) = -log p(y | x) (Eq. 4)."""
    return functional.cross_entropy(logits.float(), labels, reduction="none")


def entropy(logits: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Prediction entropy H(f(x)) in nats (Eq. 6)."""
    log_probabilities = logits.float().log_softmax(dim=-1)
    return -(log_probabilities.exp() * log_probabilities).sum(dim=-1)


@dataclass(frozen=True)
class ClassGaussians:
    """One Gaussian of the classifier's features per class: what Eq. 7 needs beside the image."""

    means: Tensor  # [C, D]
    precisions: Tensor  # [C, D, D], the inverse covariances
    log_determinants: Tensor  # [C], of the covariances


def hardness(gaussians: ClassGaussians) -> Criterion:
    """Hardness score HS(x, y, f) (Eq. 7, Sehwag et al. 2022): the negative log-density of the features under
    class y.
    """

    def criterion(logits: Tensor, features: Tensor, labels: Tensor) -> Tensor:
        rows = labels.to(gaussians.means.device)  # a thousand classes' precisions would fill the classifier's device
        offset = features.float() - gaussians.means[rows].to(features.device)  # [N, D]
        precision = gaussians.precisions[rows].to(features.device)  # [N, D, D]
        mahalanobis = torch.einsum("nd,nde,ne->n", offset, precision, offset)
        log_determinant = gaussians.log_determinants[rows].to(features.device)
        return 0.5 * (mahalanobis + log_determinant + features.shape[1] * math.log(2 * math.pi))

    return criterion


def fit_class_gaussians(features: NDArray[np.float32], labels: NDArray[np.int64], num_classes: int) -> ClassGaussians:
    """Class means and Ledoit-Wolf covariances of real features [n, D].

    A class with one or two images has a mean but no covariance of its own, a class with none has neither:
    they take the covariance pooled within classes, and the mean of all images. Raises ValueError for fewer
    than two images.
    """
    from sklearn.covariance import LedoitWolf

    if len(features) < 2:
        raise ValueError(f"hardness needs features of at least 2 real images, got {len(features)}")
    wide = features.astype(np.float64)
    counts = np.bincount(labels, minlength=num_classes)
    overall = wide.mean(axis=0)
    means = np.stack([wide[labels == c].mean(axis=0) if counts[c] else overall for c in range(num_classes)])
    pooled = LedoitWolf(assume_centered=True).fit(wide - means[labels]).covariance_
    covariances = np.stack([_covariance(wide[labels == c], pooled) for c in range(num_classes)])
    floor = 1e-4 * np.trace(pooled) / len(pooled) + 1e-12  # two equal images, or features that never fire
    covariances += floor * np.eye(wide.shape[1])
    return ClassGaussians(
        torch.from_numpy(means).float(),
        torch.from_numpy(np.linalg.inv(covariances)).float(),
        torch.from_numpy(np.linalg.slogdet(covariances)[1]).float(),
    )


def _covariance(features: NDArray[np.float64], otherwise: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ledoit-Wolf covariance of one class's features [n, D] -> [D, D].

    `otherwise` where n < 3: two centred images are each other's negative, so their scatter never varies and
    Ledoit-Wolf would not shrink it at all: a rank-one covariance.
    """
    from sklearn.covariance import LedoitWolf

    return np.asarray(LedoitWolf().fit(features).covariance_) if len(features) > 2 else otherwise


CRITERIA: dict[str, Criterion] = {"loss": loss, "entropy": entropy}  # "hardness" needs class Gaussians
CRITERION_NAMES = ("entropy", "loss", "hardness")


def get_criterion(criterion: str | Criterion, gaussians: ClassGaussians | None = None) -> Criterion:
    """A criterion by name, or the user's own function as it is."""
    if callable(criterion):
        return criterion
    if criterion == "hardness":
        if gaussians is None:
            raise ValueError(
                "criterion 'hardness' needs gaussians=fit_class_gaussians(features, labels, num_classes) "
                "of real images; got none"
            )
        return hardness(gaussians)
    if criterion not in CRITERIA:
        raise ValueError(
            f"criterion should be one of {list(CRITERION_NAMES)} or a function "
            f"(logits, features, labels) -> [N], got {criterion!r}"
        )
    return CRITERIA[criterion]


def mixture(criteria: Sequence[str | Criterion], gaussians: ClassGaussians | None = None) -> Criterion:
    """Each image its own criterion, in the order of the batch (Table 5's FG-Combined draws one of three per
    image).
    """
    different = list(dict.fromkeys(criteria))
    functions = [get_criterion(each, gaussians) for each in different]
    which = torch.tensor([different.index(each) for each in criteria])

    def criterion(logits: Tensor, features: Tensor, labels: Tensor) -> Tensor:
        if len(labels) != len(which):
            raise ValueError(f"a mixture of {len(which)} criteria was given {len(labels)} images; name one per image")
        values = torch.zeros(len(labels), device=logits.device)
        for number, function in enumerate(functions):  # each sees its own images only: no NaN from the others
            rows = torch.nonzero(which == number).flatten().to(logits.device)
            own = per_image(function, logits[rows], features[rows], labels[rows])
            values = values.index_put((rows,), own)
        return values

    return criterion


def per_image(criterion: Criterion, logits: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """The criterion's values [N] in fp32; ValueError where a user's criterion returns another shape."""
    values = criterion(logits, features, labels)
    if values.shape != labels.shape:
        raise ValueError(
            f"a criterion should return one value per image, shape {tuple(labels.shape)}; got {tuple(values.shape)}"
        )
    return values.float()
