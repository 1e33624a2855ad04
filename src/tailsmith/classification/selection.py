"""Which of the classifiers that a training goes through is kept: validation alone says."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tailsmith.classification import processes
from tailsmith.classification.batches import Rows
from tailsmith.classification.classifier import Classifier
from tailsmith.classification.prediction import SELECT_BY, class_hits, predict_images
from tailsmith.contracts import Indexable


@dataclass(frozen=True)
class Labelled:
    """Images and their labels, checked."""

    images: Indexable
    labels: Rows  # [n]


class RowsOf:
    """Some rows of images, as images."""

    def __init__(self, images: Indexable, rows: Rows) -> None:
        self._images, self._rows = images, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Rows) -> Any:
        return self._images[self._rows[rows]]


def held_out_half(labels: Rows, groups: Rows, seed: int) -> tuple[Rows, Rows]:
    """Two halves of the rows, sorted, each group (else class) split alike: every second one in a random order.

    Of a group with a single image either half may get it, of 2k images both get k.
    """
    order = np.random.default_rng([seed, len(labels)]).permutation(len(labels))
    order = order[np.lexsort((groups[order], labels[order]))]
    return np.sort(order[::2]), np.sort(order[1::2])


class Selection:
    """The classifier that validation likes best so far: of equals, and without validation, the later."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self.score: float | None = None  # None: the next one offered is better

    def begin(self, anew: bool) -> None:
        """A stage begins with what was selected before; `anew`, that is not among those that this one selects from."""
        if anew:
            self.score = None

    def offer(self, classifier: Classifier, score: float | None) -> None:
        if score is None or self.score is None or score >= self.score:
            self.classifier, self.score = copy.deepcopy(classifier), score

    def finished(self) -> Classifier:
        self.classifier.zero_grad()
        return self.classifier.requires_grad_(True).eval()


def score(classifier: Classifier, validation: Labelled | None, select_by: str, device: torch.device) -> float | None:
    """Accuracy in % as `select_by` has it, each process predicting its part; None without validation images."""
    return None if validation is None else _Judged(classifier, validation, select_by, device).by_itself()


def score_heads(
    classifier: Classifier,
    heads: Sequence[nn.Module],
    validation: Labelled | None,
    select_by: str,
    device: torch.device,
) -> list[float | None]:
    """`score` of each of these last layers upon the classifier's features, which are computed once."""
    if validation is None:
        return [None] * len(heads)
    judged = _Judged(classifier, validation, select_by, device)
    return [judged.with_head(each) for each in heads]


class _Judged:
    """This process's part of the validation images, as a classifier sees them."""

    def __init__(self, classifier: Classifier, validation: Labelled, select_by: str, device: torch.device) -> None:
        rows = processes.own(np.arange(len(validation.labels)))
        self._logits, self._features = predict_images(classifier, validation.images, rows=rows)
        self._labels, self._classes = validation.labels[rows], len(classifier.class_names)
        self._select_by, self._device = select_by, device

    def by_itself(self) -> float:
        return self._score(self._logits)

    @torch.no_grad()
    def with_head(self, head: nn.Module) -> float:
        weight = next(iter(head.parameters()), self._features)
        return self._score(head(self._features.to(weight.device)).cpu())

    def _score(self, logits: Tensor) -> float:
        hits = torch.from_numpy(class_hits(logits.argmax(1).numpy(), self._labels, self._classes))
        return SELECT_BY[self._select_by](processes.summed(hits.to(self._device)).cpu().numpy())
