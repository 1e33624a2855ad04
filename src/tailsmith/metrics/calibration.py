"""Whether a classifier is right as often as it says."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tailsmith.errors import UserError

SUM_TOLERANCE = 1e-2  # of a row's sum to 1: what is left of it in bfloat16


def expected_calibration_error(probabilities: npt.ArrayLike, labels: npt.ArrayLike, bins: int = 15) -> float:
    """Mean |accuracy - confidence| over equal intervals of confidence, weighted by their images (Guo et al., 2017).

    `probabilities` [N, C] (after the softmax), `labels` int [N]; a share in 0..1, NaN for no images. Confidence is the
    largest probability, and a bin has its upper end: torchmetrics gives it the lower one, and 1 a bin of its own.
    """
    rows, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if rows.ndim != 2 or not rows.shape[1] or truth.shape != rows.shape[:1]:
        raise UserError(f"expected probabilities [N, C] and labels [N], got {list(rows.shape)} and {list(truth.shape)}")
    if bins < 1:
        raise UserError(f"bins should be at least 1, got {bins}")
    if not len(rows):
        return float("nan")
    if not np.issubdtype(truth.dtype, np.integer) or truth.min() < 0 or truth.max() >= rows.shape[1]:
        raise UserError(
            f"labels should be integers 0..{rows.shape[1] - 1}, got {truth.dtype} from {truth.min()} to {truth.max()}"
        )
    if not ((rows >= 0).all() and (abs(rows.sum(axis=1) - 1) <= SUM_TOLERANCE).all()):
        raise UserError(
            "probabilities should be at least 0 and sum to 1 in each row, got "
            f"{rows.min():.4g} to {rows.max():.4g} and sums of {rows.sum(1).min():.4g} to {rows.sum(1).max():.4g}; "
            "apply a softmax to logits"
        )
    confidence, right = rows.max(axis=1), rows.argmax(axis=1) == truth
    chosen = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence)  # (lower, upper]
    return float(abs(np.bincount(chosen, weights=right - confidence)).sum() / len(rows))
