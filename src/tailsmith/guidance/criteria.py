"""Feedback criteria C(x, y, f), section 3.1.1: (images, labels) -> [N], higher = more useful.

A criterion is closed over the classifiers that it asks. Those of the paper ask one, once, and score its answer:
(logits, features, labels) -> [N], which is also how a user writes one of their own.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tailsmith.contracts import Classifier, Criterion, Score
from tailsmith.errors import UserError
from tailsmith.guidance.class_gaussians import ClassGaussians
from tailsmith.guidance.config import CRITERION_NAMES

# ---- scores of a classifier's answer ----


def loss(logits: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Classifier loss L(f(x), y) = -log p(y | x) (Eq. 4)."""
    return functional.cross_entropy(logits.float(), labels, reduction="none")


def entropy(logits: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Prediction entropy H(f(x)) in nats (Eq. 6)."""
    log_probabilities = logits.float().log_softmax(dim=-1)
    return -(log_probabilities.exp() * log_probabilities).sum(dim=-1)


def hardness(gaussians: ClassGaussians) -> Score:
    """Hardness score HS(x, y, f) (Eq. 7, Sehwag et al. 2022): the negative log-density of the features under
    class y.
    """

    def score(logits: Tensor, features: Tensor, labels: Tensor) -> Tensor:
        values = torch.zeros(len(labels), device=features.device)
        for label in sorted(set(labels.tolist())):  # all classes' directions would fill the classifier's device
            rows = torch.nonzero(labels == label).flatten().to(features.device)
            squared = gaussians.mahalanobis(label, features[rows].float())
            constant = float(gaussians.log_determinants[label]) + features.shape[1] * math.log(2 * math.pi)
            values = values.index_put((rows,), 0.5 * (squared + constant))
        return values

    return score


def score_of(name: str, gaussians: ClassGaussians | None = None) -> Score:
    """The score of a name, of answers that are there already; hardness is by the class Gaussians of that classifier."""
    if name == "hardness":
        if gaussians is None:
            raise UserError(
                "criterion 'hardness' needs gaussians=fit_class_gaussians(features, labels, num_classes) of real "
                "images; give criterion=criterion_of('hardness', classifier, gaussians)"
            )
        return hardness(gaussians)
    scores = {"loss": loss, "entropy": entropy}
    if name not in scores:
        raise UserError(
            f"criterion should be one of {list(CRITERION_NAMES)} or a function "
            f"(logits, features, labels) -> [N], got {name!r}"
        )
    return scores[name]


# ---- criteria ----


@dataclass(frozen=True, eq=False)
class Scored:
    """The criterion that asks one classifier, once, and scores its answer."""

    classifier: Classifier
    score: Score

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        logits, features = self.classifier(images)
        return per_image(self.score(logits, features, labels.to(logits.device)), labels)


def criterion_of(
    criterion: str | Score | Criterion, classifier: Classifier, gaussians: ClassGaussians | None = None
) -> Criterion:
    """A criterion by name or by a user's score, closed over `classifier`; what is a criterion stays as it is.

    A function of two arguments is taken for a criterion, one of three for a score.
    """
    if not callable(criterion):
        return Scored(classifier, score_of(criterion, gaussians))
    if isinstance(criterion, Scored) or _takes_images(criterion):
        return criterion  # type: ignore[return-value]
    return Scored(classifier, criterion)  # type: ignore[arg-type]


def mixture(criteria: Sequence[Criterion]) -> Criterion:
    """Each image its own criterion, in the order of the batch (Table 5's FG-Combined draws one of three per image).

    Where all are scores of one classifier, it is asked about the whole batch at once.
    """
    different = list(dict.fromkeys(criteria))
    which = torch.tensor([different.index(each) for each in criteria])
    scored = [each for each in different if isinstance(each, Scored)]
    if len(scored) == len(different) and len({id(each.classifier) for each in scored}) == 1:
        return Scored(scored[0].classifier, _each_its_own(which, [each.score for each in scored]))
    return _each_its_own(which, different)


def _each_its_own(which: Tensor, functions: Sequence[Callable[..., Tensor]]) -> Callable[..., Tensor]:
    """Of functions (..., labels) -> [N], `which` for each image: each sees its own images only."""

    def function(*batch: Tensor) -> Tensor:
        labels, device = batch[-1], batch[0].device
        if len(labels) != len(which):
            raise UserError(f"a mixture of {len(which)} criteria was given {len(labels)} images; name one per image")
        values = torch.zeros(len(labels), device=device)
        for number, each in enumerate(functions):  # no NaN from the others
            rows = torch.nonzero(which == number).flatten().to(device)
            own = [rows_of[rows] for rows_of in batch]
            values = values.index_put((rows,), per_image(each(*own), own[-1]))
        return values

    return function


def per_image(values: Tensor, labels: Tensor) -> Tensor:
    """A criterion's values [N] in fp32; ValueError where a user's returned another shape."""
    if values.shape != labels.shape:
        raise UserError(
            f"a criterion should return one value per image, shape {tuple(labels.shape)}; got {tuple(values.shape)}"
        )
    return values.float()


def _takes_images(function: Callable[..., Tensor]) -> bool:
    """Whether it has two required arguments, (images, labels)."""
    try:
        called = function.forward if isinstance(function, torch.nn.Module) else function
        parameters = inspect.signature(called).parameters.values()
    except ValueError:  # written in C
        return False
    placed = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    any_number = any(each.kind is each.VAR_POSITIONAL for each in parameters)
    return not any_number and sum(each.default is each.empty for each in placed) == 2
