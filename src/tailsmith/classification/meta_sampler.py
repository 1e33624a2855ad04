"""BALMS' Meta Sampler (Ren et al., 2020): how often a class is drawn, learned with the last layer.

Every class has one score w_c, an instance the weight sigmoid(w_y). What a step of the head on a batch drawn so would do
to plain cross-entropy on a class-balanced batch is differentiated with respect to the scores, through the draw
(straight-through Gumbel-softmax) and through the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailsmith.classification.batches import EndlessPass, Rows

NOISE_BUDGET = 2**24  # Gumbel variables in memory at once: 64 MiB


def initial_scores(shares: npt.NDArray[np.float64], init_pow: float) -> Tensor:
    """r_c = share_c ** -init_pow, divided by (min r + max r), as logits: w float32 [C].

    A class without training images is never drawn: its score is 0, whatever the others have.
    """
    present = shares > 0
    r = np.where(present, shares, 1.0) ** -init_pow
    r /= r[present].min() + r[present].max()
    scores = np.where(present, np.log(r) - np.log1p(-r), 0.0)
    return torch.from_numpy(scores).float()


def straight_through(scores: Tensor, labels: Tensor, exponential: Tensor) -> tuple[Tensor, Tensor]:
    """Hard Gumbel-softmax draws over instances with logits log sigmoid(w_y): instances [B], weights [B].

    `labels` [n] are the instances'; `exponential` [B, n] is Exp(1) noise, of which -log is Gumbel's: the softmax is
    then a ratio, and the noise of a class is summed before its weight comes in. The weights are 1; their gradient is
    that of the softmax at the instance drawn.
    """
    gumbel = exponential.clamp_min(torch.finfo(exponential.dtype).tiny).reciprocal_()  # exp of Gumbel noise
    chosen = (gumbel * scores.detach().sigmoid()[labels]).argmax(1)  # [B]
    of_class = gumbel.new_zeros(len(gumbel), len(scores)).index_add_(1, labels, gumbel)  # [B, C]
    share = scores.sigmoid()
    soft = share[labels[chosen]] * gumbel.gather(1, chosen[:, None])[:, 0] / (of_class @ share)
    return chosen, 1 + (soft - soft.detach())


def meta_gradient(
    scores: Tensor,  # w [C]
    weights: Tensor,  # [B], of `straight_through`
    head: nn.Linear,
    features: Tensor,  # [B, D] of the instances drawn
    losses: Callable[[Tensor], Tensor],  # their logits [B, C] -> [B], balanced softmax
    meta_features: Tensor,  # [M, D] of the class-balanced batch
    meta_labels: Tensor,  # [M]
    learning_rate: float,  # the head's
) -> Tensor:
    """d(cross-entropy on the meta batch) / d(scores), through one SGD step of the head on the weighted losses: [C].

    The step is thought of alone, without momentum and weight decay: those don't depend on what is drawn now.
    """
    theta = [parameter.detach().clone().requires_grad_() for parameter in head.parameters()]
    loss = (weights * losses(F.linear(features, *theta))).mean()
    slopes = torch.autograd.grad(loss, theta, create_graph=True)
    stepped = [each - learning_rate * slope for each, slope in zip(theta, slopes, strict=True)]
    meta_loss = F.cross_entropy(F.linear(meta_features, *stepped), meta_labels)
    return torch.autograd.grad(meta_loss, scores)[0]


class MetaSampler:
    """Scores of the classes, their Adam, and draws from pools of training rows.

    Every P successive slots of a batch hold one row from each of P pools, as in `resampling.batches`: with real and
    synthetic images half and half, the scores decide within each half.
    """

    def __init__(
        self,
        pools: Sequence[Rows],
        labels: Rows,  # [n] of all training rows
        scores: Tensor,  # [C] of `initial_scores`
        learning_rate: float,
        generator: torch.Generator,  # on the CPU
        noise: torch.Generator,  # where the scores are: it draws for every instance of every slot
    ) -> None:
        self.scores = scores.clone().requires_grad_()
        self._adam = torch.optim.Adam([self.scores], learning_rate)
        self._pools = [pool[np.argsort(labels[pool], kind="stable")] for pool in pools]
        self._labels = [torch.from_numpy(labels[pool]).to(scores.device) for pool in self._pools]
        self._counts = [torch.bincount(each, minlength=len(scores)).cpu() for each in self._labels]
        self._slots = EndlessPass(len(pools), generator)
        self._generator, self._noise = generator, noise

    def draw(self, batch_size: int) -> Rows:
        """Rows [B] with p ~ sigmoid(w_y), as the largest of Gumbel-shifted logits would be: class first, then row."""
        rows = np.empty(batch_size, dtype=np.int64)
        for pool, counts, mine in self._shared_out(batch_size, self._counts):
            mass = counts * self.scores.detach().sigmoid().cpu()
            drawn = torch.multinomial(mass, len(mine), replacement=True, generator=self._generator)
            within = torch.rand(len(mine), generator=self._generator, dtype=torch.float64) * counts[drawn]
            first = counts.cumsum(0) - counts
            rows[mine] = pool[(first[drawn] + within.long()).numpy()]
        return rows

    def relaxed_draw(self, batch_size: int) -> tuple[Rows, Tensor]:
        """Rows [B] and their straight-through weights [B]."""
        rows, weights = np.empty(batch_size, dtype=np.int64), self.scores.new_ones(batch_size)
        for pool, labels, mine in self._shared_out(batch_size, self._labels):
            for part in np.array_split(mine, -(-len(mine) * len(pool) // NOISE_BUDGET)):
                noise = self.scores.new_empty(len(part), len(pool)).exponential_(generator=self._noise)
                chosen, weight = straight_through(self.scores, labels, noise)
                rows[part] = pool[chosen.cpu().numpy()]
                weights = weights.index_copy(0, torch.from_numpy(part).to(weights.device), weight)
        return rows, weights

    def update(self, gradient: Tensor) -> None:
        """One step of Adam on the scores."""
        self.scores.grad = gradient
        self._adam.step()

    def state_dict(self) -> dict[str, Tensor]:
        """Of the sampler: scores, Adam's moments of them, both generators, and the slots that wait."""
        moments = {name: value.clone() for name, value in self._adam.state.get(self.scores, {}).items()}
        return {
            "scores": self.scores.detach().clone(),
            **{f"adam.{name}": value for name, value in moments.items()},
            "generator": self._generator.get_state(),
            "noise": self._noise.get_state(),
            "slots": torch.from_numpy(self._slots.waiting),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        with torch.no_grad():
            self.scores.copy_(state["scores"])
        moments = {name.removeprefix("adam."): value for name, value in state.items() if name.startswith("adam.")}
        settings = self._adam.state_dict()["param_groups"]
        self._adam.load_state_dict({"state": {0: moments} if moments else {}, "param_groups": settings})
        self._generator.set_state(state["generator"])
        self._noise.set_state(state["noise"])
        self._slots.waiting = state["slots"].numpy()

    def _shared_out(self, batch_size: int, of_pools: list[Tensor]) -> list[tuple[Rows, Tensor, Rows]]:
        """(pool, what belongs to it, slots of the batch that it fills) for every pool that fills any."""
        pool_of_slot = self._slots.take(batch_size)
        slots = [np.flatnonzero(pool_of_slot == index) for index in range(len(self._pools))]
        return [each for each in zip(self._pools, of_pools, slots, strict=True) if len(each[2])]
