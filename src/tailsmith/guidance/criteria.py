"""Feedback criteria C(x, y, f), section 3.1.1: (logits, features, labels) -> [N], higher = more useful."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from tailsmith.guidance.class_gaussians import ClassGaussians

Criterion = Callable[[Tensor, Tensor, Tensor], Tensor]  # logits [N, C], features [N, D], labels [N] -> [N]


def loss(logits: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Classifier loss L(f(x), y) = -log p(y | x) (Eq. 4)."""
    return functional.cross_entropy(logits.float(), labels, reduction="none")


def entropy(logits: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Prediction entropy H(f(x)) in nats (Eq. 6)."""
    log_probabilities = logits.float().log_softmax(dim=-1)
    return -(log_probabilities.exp() * log_probabilities).sum(dim=-1)


def hardness(gaussians: ClassGaussians) -> Criterion:
    """Hardness score HS(x, y, f) (Eq. 7, Sehwag et al. 2022): the negative log-density of the features under
    class y.
    """

    def criterion(logits: Tensor, features: Tensor, labels: Tensor) -> Tensor:
        values = torch.zeros(len(labels), device=features.device)
        for label in sorted(set(labels.tolist())):  # all classes' directions would fill the classifier's device
            rows = torch.nonzero(labels == label).flatten().to(features.device)
            squared = gaussians.mahalanobis(label, features[rows].float())
            constant = float(gaussians.log_determinants[label]) + features.shape[1] * math.log(2 * math.pi)
            values = values.index_put((rows,), 0.5 * (squared + constant))
        return values

    return criterion


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
