"""DPE, diverse prototypical ensembles (To et al., 2025): a last layer of many nearest-prototype classifiers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tailsmith.classification.classifier import Classifier
from tailsmith.classification.methods.contract import Finish, Method, Review, Stage, Task, generator
from tailsmith.classification.methods.dfr import balanced_rows, held_out_of
from tailsmith.classification.methods.second_stage import first_stage
from tailsmith.settings import check_above_zero, check_not_negative, check_whole


@dataclass(frozen=True)
class DPE(Method):
    """Plain training; then members, one after the other, each on a class-balanced draw of half the validation images.

    A member's loss is cross-entropy of -scale * distance, and the similarity of its prototypes to those of the members
    before (Eq. 4 there). The paper names neither optimiser nor the norm of prototypes: ours is Adam, and a length of 1.
    """

    members: int = 15
    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 1e-3
    diversity: float = 1e5  # divided by the number of members before times the size of the features

    needs_last_layer = True
    fits_validation = True

    def __post_init__(self) -> None:
        check_whole(self, ("members", "epochs", "batch_size"), "dpe:")
        check_above_zero(self, ("learning_rate",), "dpe:")
        check_not_negative(self, ("diversity",), "dpe:")

    def stages(self, task: Task) -> list[Stage]:
        held_out_of(task, "dpe")
        return [first_stage(task, "erm")]

    def final(self, task: Task) -> Finish:
        def ensemble(classifier: Classifier, review: Review) -> Classifier:
            held_out = held_out_of(task, "dpe")
            features = F.normalize(review.held_out(classifier))
            labels = torch.from_numpy(held_out.labels)
            prototypes = features.new_empty(0, len(task.class_names), features.shape[1])
            scales: list[Tensor] = []
            for number in range(self.members):
                rows = torch.from_numpy(balanced_rows(held_out.labels, task.config.seed, number))
                draws = generator(task.config.seed, number, 0, 8)
                weight, scale = self._member(features[rows], labels[rows], prototypes, draws)
                prototypes, scales = torch.cat([prototypes, weight[None]]), [*scales, scale]
            head = classifier.put_head(f"prototypes:{self.members}")
            with torch.no_grad():
                head.weight.copy_(prototypes)
                head.scale.copy_(torch.stack(scales))
            return classifier

        return ensemble

    def _member(
        self, features: Tensor, labels: Tensor, before: Tensor, draws: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Features [h, D] of length 1, prototypes [m, C, D] of the members before -> prototypes [C, D], scale."""
        weight = torch.randn(before.shape[1:], generator=draws).requires_grad_()
        scale = torch.tensor(10.0).requires_grad_()
        optimizer = torch.optim.Adam([weight, scale], self.learning_rate)
        for _ in range(self.epochs):
            for rows in torch.split(torch.randperm(len(features), generator=draws), self.batch_size):
                own = F.normalize(weight, dim=1)
                loss = F.cross_entropy(-scale * torch.cdist(features[rows], own), labels[rows])
                loss = loss + self.diversity * similarity(own, before)
                weight.grad, scale.grad = torch.autograd.grad(loss, [weight, scale])
                optimizer.step()
        return F.normalize(weight.detach(), dim=1), scale.detach()


def similarity(own: Tensor, before: Tensor) -> Tensor:
    """sum over classes and members of |<p, q>| / (members * D): own [C, D], before [m, C, D]; 0 for m = 0."""
    if not len(before):
        return own.new_zeros(())
    return (own[None] * before).sum(2).abs().sum() / (len(before) * own.shape[1])
