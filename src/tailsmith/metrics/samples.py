"""What generated images are like: pure functions on arrays of logits [N, C] or features [N, D]."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tailsmith.errors import UserError

Array = npt.NDArray[Any]


def agreement(logits: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """The share of images that a judge assigns to the label they were made for; NaN for no images."""
    scores, wanted = np.asarray(logits), np.asarray(labels)
    if scores.ndim != 2 or wanted.shape != scores.shape[:1]:
        raise UserError(f"expected logits [N, C] and labels [N], got {list(scores.shape)} and {list(wanted.shape)}")
    return float(np.mean(scores.argmax(axis=1) == wanted)) if len(wanted) else float("nan")


def frechet_distance(features_a: npt.ArrayLike, features_b: npt.ArrayLike) -> float:
    """||mu_a - mu_b||^2 + tr(S_a + S_b - 2 (S_a S_b)^1/2) of Gaussians fitted to both (Heusel et al., 2017).

    Biased upwards for small samples: compare only sets of equal size.
    """
    a, b = _feature_pair(features_a, features_b, at_least=2)
    root_a, root_b = _covariance_root(a), _covariance_root(b)
    # The eigenvalues of S_a S_b are the squared singular values of R_a R_b': no root of a noisy zero is taken
    mixed = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    shift = a.mean(0) - b.mean(0)
    return float(shift @ shift + np.sum(root_a**2) + np.sum(root_b**2) - 2 * mixed)


def kernel_distance(features_a: npt.ArrayLike, features_b: npt.ArrayLike) -> float:
    """KID: unbiased squared maximum mean discrepancy, kernel (x.y / D + 1)^3 (Binkowski et al., 2018).

    Its expectation is 0 for equal distributions, so small values may be negative.
    """
    a, b = _feature_pair(features_a, features_b, at_least=2)
    within_a, within_b = _mean_off_diagonal(_cubic_kernel(a, a)), _mean_off_diagonal(_cubic_kernel(b, b))
    return float(within_a + within_b - 2 * _cubic_kernel(a, b).mean())


def density_coverage(real: npt.ArrayLike, fake: npt.ArrayLike, k: int = 5) -> tuple[float, float]:
    """Density and coverage of Naeem et al. (2020).

    Balls around real images reach to their k-th nearest real neighbour. Density is the mean number of balls
    that a fake is in, over k (and may exceed 1); coverage is the share of balls with a fake in them.
    """
    real_features, fake_features = _feature_pair(real, fake, at_least=1)
    radii = _neighbour_distances(real_features, k)
    inside = _distances(real_features, fake_features) < radii[:, None]  # [R, F]
    return float(inside.sum() / (k * len(fake_features))), float(inside.any(axis=1).mean())


def compare(real: npt.ArrayLike, fake: npt.ArrayLike, k: int = 5) -> dict[str, float]:
    """All distances of two sets of features by name; NaN for what needs more images than there are."""
    real_features, fake_features = _feature_pair(real, fake, at_least=0)
    found = dict.fromkeys(("frechet_distance", "kernel_distance", "density", "coverage"), float("nan"))
    if min(len(real_features), len(fake_features)) >= 2:
        found["frechet_distance"] = frechet_distance(real_features, fake_features)
        found["kernel_distance"] = kernel_distance(real_features, fake_features)
    if len(real_features) > k and len(fake_features):
        found["density"], found["coverage"] = density_coverage(real_features, fake_features, k)
    return found


def _covariance_root(features: Array) -> Array:
    """[N, D] -> R [min(N, D), D] with R'R the sample covariance."""
    root: Array = np.linalg.qr(features - features.mean(0), mode="r") / np.sqrt(len(features) - 1)
    return root


def _neighbour_distances(features: Array, k: int) -> Array:
    """[N, D] -> [N]: the distance to the k-th nearest other row."""
    if not 1 <= k < len(features):
        raise UserError(f"k should be in 1..{len(features) - 1} for {len(features)} images, got {k}")
    kth: Array = np.partition(_distances(features, features), k, axis=1)[:, k]  # column 0 is the row itself
    return kth


def _distances(a: Array, b: Array) -> Array:
    """Euclidean, [N, D] and [M, D] -> [N, M]."""
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2 * a @ b.T
    distances: Array = np.sqrt(squared.clip(0))
    return distances


def _cubic_kernel(a: Array, b: Array) -> Array:
    kernel: Array = (a @ b.T / a.shape[1] + 1) ** 3
    return kernel


def _mean_off_diagonal(square: Array) -> float:
    n = len(square)
    return float((square.sum() - np.trace(square)) / (n * (n - 1)))


def _feature_pair(a: npt.ArrayLike, b: npt.ArrayLike, at_least: int) -> tuple[Array, Array]:
    pair = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    shapes = [list(each.shape) for each in pair]
    if any(each.ndim != 2 for each in pair) or pair[0].shape[1] != pair[1].shape[1]:
        raise UserError(f"expected two sets of features [N, D] of equal D, got {shapes[0]} and {shapes[1]}")
    if min(len(each) for each in pair) < at_least:
        raise UserError(f"expected at least {at_least} images on each side, got {len(pair[0])} and {len(pair[1])}")
    return pair
