"""What classifiers are trained with, `(logits [N, C], labels [N], prior [C] or [N, C]) -> [N]`, and the prior."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor

from tailsmith.errors import UserError

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # logits, labels, prior -> [N]
Counts = npt.NDArray[np.integer]
Shares = npt.NDArray[np.float64]


def cross_entropy(logits: Tensor, labels: Tensor, prior: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """-log p_y; the prior is not looked at."""
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)


def balanced_softmax(logits: Tensor, labels: Tensor, prior: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of logits + log prior (Ren et al., 2020); at test time plain logits are used."""
    return cross_entropy(logits + prior.log(), labels, prior, label_smoothing=label_smoothing)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "erm": cross_entropy,
    "balanced_softmax": balanced_softmax,
}


def mixture(loss: Callable[..., Tensor], alpha: float, *, label_smoothing: float = 0.0) -> Loss:
    """alpha * loss + (1 - alpha) * cross-entropy, as in the paper's Appendix F, Fig. 15; both parts are smoothed."""

    def mixed(logits: Tensor, labels: Tensor, prior: Tensor) -> Tensor:
        own, plain = (each(logits, labels, prior, label_smoothing=label_smoothing) for each in (loss, cross_entropy))
        return alpha * own + (1 - alpha) * plain

    return mixed


# ----------------------------------------------------------------------------------------------------------
# The prior. The paper doesn't say which one it used with mini-batches half real, half synthetic.
# A rule: real counts [C], synthetic counts [C], expected shares of a mini-batch [C] -> weights [C].


def real_prior(real: Counts, synthetic: Counts, batch_shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The long tail itself, as if synthetic images were not there: lifts the tail most."""
    return real.astype(np.float64)


def combined_prior(real: Counts, synthetic: Counts, batch_shares: Shares) -> Shares:
    """All images, real and synthetic, however they are drawn."""
    return (real + synthetic).astype(np.float64)


def effective_prior(real: Counts, synthetic: Counts, batch_shares: Shares) -> Shares:
    """What batches hold: real / 2N_real + synthetic / 2N_synthetic if half and half, combined if uniform."""
    return batch_shares


PRIORS = {"real": real_prior, "combined": combined_prior, "effective": effective_prior}
PER_SOURCE = "per_source"  # real images by real counts, synthetic ones by synthetic counts
PRIOR_KINDS = (*PRIORS, PER_SOURCE)


def source_priors(real_counts: Counts, synthetic_counts: Counts, kind: str, batch_shares: Shares) -> Shares:
    """The prior of real images and that of synthetic images, [2, C].

    They differ for "per_source" alone. A classifier can tell the two sources apart; with one prior for both it learns
    that real-looking images are of the head classes, and test images are all real. Each with its own prior, it doesn't.
    """
    if kind != PER_SOURCE:
        return np.tile(class_prior(real_counts, synthetic_counts, kind, batch_shares), (2, 1))
    sources = [counts if counts.any() else real_counts + synthetic_counts for counts in (real_counts, synthetic_counts)]
    return np.stack([class_prior(counts, counts, "real", batch_shares) for counts in sources])


def class_prior(real_counts: Counts, synthetic_counts: Counts, kind: str, batch_shares: Shares) -> Shares:
    """Class shares [C] that sum to 1, from counts [C] and the expected class shares [C] of a mini-batch.

    A class that the prior doesn't know gets half the weight of the rarest one it knows: its logarithm is
    finite, and it is lifted above all others, but not without bound. ValueError for an unknown kind, or
    nothing counted.
    """
    if kind not in PRIORS:
        raise UserError(f"unknown prior {kind!r}: expected one of {', '.join(PRIORS)}")
    weights = PRIORS[kind](real_counts, synthetic_counts, batch_shares)
    if not weights.any():
        raise UserError(f"prior {kind!r} needs at least one image to count, got none")
    weights = np.where(weights > 0, weights, weights[weights > 0].min() / 2)
    shares: Shares = weights / weights.sum()
    return shares
