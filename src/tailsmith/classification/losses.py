"""What classifiers are trained with: `(logits [N, C], labels [N], prior [C]) -> [N]`, and the class prior they see."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
Counts = npt.NDArray[np.integer]


def cross_entropy(logits: Tensor, labels: Tensor, prior: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """-log p_y; the prior is not looked at."""
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)


def balanced_softmax(
    logits: Tensor, labels: Tensor, prior: Tensor, *, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy of logits + log prior (Ren et al., 2020, Eq. 4); at test time the logits alone are used."""
    return cross_entropy(logits + prior.log(), labels, prior, label_smoothing=label_smoothing)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "erm": cross_entropy,
    "balanced_softmax": balanced_softmax,
}


def mixture(loss: Loss, alpha: float) -> Loss:
    """alpha * loss + (1 - alpha) * cross-entropy, the weighted average of the paper's Appendix F (Fig. 15)."""

    def mixed(logits: Tensor, labels: Tensor, prior: Tensor) -> Tensor:
        plain = cross_entropy(logits, labels, prior)
        return alpha * loss(logits, labels, prior) + (1 - alpha) * plain

    return mixed


# ------------------------------------------------------------------------------------------------------------------
# The prior. The paper doesn't say which one it used with mini-batches that are half real and half synthetic.


def real_prior(
    real: Counts, synthetic: Counts, batch_shares: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The long tail itself, as if synthetic images were not there: lifts the tail most."""
    return real.astype(np.float64)


def combined_prior(
    real: Counts, synthetic: Counts, batch_shares: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """All images, real and synthetic, however they are drawn."""
    return (real + synthetic).astype(np.float64)


def effective_prior(
    real: Counts, synthetic: Counts, batch_shares: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """What mini-batches contain: real / 2N_real + synthetic / 2N_synthetic when half and half, combined when uniform."""
    return batch_shares


PRIORS = {"real": real_prior, "combined": combined_prior, "effective": effective_prior}


def class_prior(
    real_counts: Counts, synthetic_counts: Counts, kind: str, batch_shares: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Class shares [C] that sum to 1, from counts [C] and the expected share of each class in a mini-batch [C].

    A class of which the prior knows nothing gets the weight of half the rarest known class, so that its logarithm is
    finite and the class is lifted above all others, but not without bound. ValueError for an unknown kind, or no counts.
    """
    if kind not in PRIORS:
        raise ValueError(f"unknown prior {kind!r}: expected one of {', '.join(PRIORS)}")
    weights = PRIORS[kind](real_counts, synthetic_counts, batch_shares)
    if not weights.any():
        raise ValueError(f"prior {kind!r} needs at least one image to count, got none")
    weights = np.where(weights > 0, weights, weights[weights > 0].min() / 2)
    shares: npt.NDArray[np.float64] = weights / weights.sum()
    return shares
