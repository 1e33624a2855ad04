"""Which of the classifiers that a training goes through is kept: validation alone says."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch

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
    if validation is None:
        return None
    rows = processes.own(np.arange(len(validation.labels)))
    predicted = predict_images(classifier, validation.images, rows=rows)[0].argmax(1).numpy()
    hits = torch.from_numpy(class_hits(predicted, validation.labels[rows], len(classifier.class_names)))
    return SELECT_BY[select_by](processes.summed(hits.to(device)).cpu().numpy())
