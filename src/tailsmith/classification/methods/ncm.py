"""NCM, nearest class mean (Kang et al., 2020): plain training, then the class whose mean feature is most alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tailsmith.classification.classifier import Classifier
from tailsmith.classification.methods.contract import Finish, Method, Review, Stage, Task
from tailsmith.classification.methods.second_stage import first_stage
from tailsmith.settings import check_above_zero


@dataclass(frozen=True)
class NCM(Method):
    """scale * cos(f, mean of the class's training features); the scale changes no prediction."""

    scale: float = 30.0

    needs_last_layer = True

    def __post_init__(self) -> None:
        check_above_zero(self, ("scale",), "ncm:")

    def stages(self, task: Task) -> list[Stage]:
        return [first_stage(task, "erm")]

    def final(self, task: Task) -> Finish:
        def by_means(classifier: Classifier, review: Review) -> Classifier:
            means = class_means(review.features(classifier, np.arange(len(task.labels))), task)
            head = classifier.put_head("cosine")
            with torch.no_grad():
                head.weight.copy_(means)
                head.scale.fill_(self.scale)
            return classifier

        return by_means


def class_means(features: Tensor, task: Task) -> Tensor:
    """[n, D] of all training rows -> [C, D]; zeros, which are like nothing, for a class without any."""
    labels = torch.from_numpy(task.labels)
    sums = features.new_zeros(len(task.class_names), features.shape[1]).index_add_(0, labels, features)
    return sums / labels.bincount(minlength=len(sums)).clamp_min(1)[:, None]
