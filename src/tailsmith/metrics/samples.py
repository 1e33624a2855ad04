"""What generated images are like: pure functions on arrays of logits [N, C] or features [N, D]."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from tailsmith.errors import UserError

Array = npt.NDArray[Any]

BLOCK = 2**22  # entries of a matrix over pairs of images that are in memory at once: 32 MiB


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
    between = sum(_cubic_kernel(a[rows], b).sum() for rows in _row_blocks(a, b)) / (len(a) * len(b))
    return float(_mean_kernel_within(a) + _mean_kernel_within(b) - 2 * between)


def density_coverage(real: npt.ArrayLike, fake: npt.ArrayLike, k: int = 5) -> tuple[float, float]:
    """Density and coverage of Naeem et al. (2020).

    Balls around real images reach to their k-th nearest real neighbour. Density is the mean number of balls
    that a fake is in, over k (and may exceed 1); coverage is the share of balls with a fake in them.
    """
    real_features, fake_features = _feature_pair(real, fake, at_least=1)
    radii = _neighbour_distances(real_features, k)
    pairs, covered = 0, 0
    for rows in _row_blocks(real_features, fake_features):
        inside = _distances(real_features[rows], fake_features) < radii[rows, None]
        pairs += int(inside.sum())
        covered += int(inside.any(axis=1).sum())
    return pairs / (k * len(fake_features)), covered / len(real_features)


def precision_recall(real: npt.ArrayLike, fake: npt.ArrayLike, k: int = 5) -> tuple[float, float]:
    """Improved precision and recall of Kynkäänniemi et al. (2019).

    Balls reach to the k-th nearest neighbour of the same kind. Precision is the share of fakes in any ball around a
    real image; recall is the share of real images in any ball around a fake.
    """
    real_features, fake_features = _feature_pair(real, fake, at_least=1)
    real_radii, fake_radii = _neighbour_distances(real_features, k), _neighbour_distances(fake_features, k)
    precise, recalled = np.zeros(len(fake_features), dtype=bool), 0
    for rows in _row_blocks(real_features, fake_features):
        distances = _distances(real_features[rows], fake_features)
        precise |= (distances < real_radii[rows, None]).any(axis=0)
        recalled += int((distances < fake_radii).any(axis=1).sum())
    return float(precise.mean()), recalled / len(real_features)


def compare(real: npt.ArrayLike, fake: npt.ArrayLike, k: int = 5) -> dict[str, float]:
    """All distances of two sets of features by name; NaN for what needs more images than there are."""
    real_features, fake_features = _feature_pair(real, fake, at_least=0)
    names = ("frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage")
    found = dict.fromkeys(names, float("nan"))
    if min(len(real_features), len(fake_features)) >= 2:
        found["frechet_distance"] = frechet_distance(real_features, fake_features)
        found["kernel_distance"] = kernel_distance(real_features, fake_features)
    if len(real_features) > k and len(fake_features):
        found["density"], found["coverage"] = density_coverage(real_features, fake_features, k)
    if min(len(real_features), len(fake_features)) > k:
        found["precision"], found["recall"] = precision_recall(real_features, fake_features, k)
    return found


def _covariance_root(features: Array) -> Array:
    """[N, D] -> R [min(N, D), D] with R'R the sample covariance."""
    root: Array = np.linalg.qr(features - features.mean(0), mode="r") / np.sqrt(len(features) - 1)
    return root


def _neighbour_distances(features: Array, k: int) -> Array:
    """[N, D] -> [N]: the distance to the k-th nearest other row."""
    if k < 1:
        raise UserError(f"k should be at least 1, got {k}")
    if len(features) <= k:
        raise UserError(
            f"k={k} neighbours need at least {k + 1} images on a side, got {len(features)}; give more, or a smaller k"
        )
    kth = np.empty(len(features))
    for rows in _row_blocks(features, features):
        kth[rows] = np.partition(_distances(features[rows], features), k, axis=1)[:, k]  # column 0 is the row itself
    return kth


def _row_blocks(a: Array, b: Array) -> Iterator[slice]:
    """Rows of `a` whose pairs with all of `b` fit into a block."""
    step = max(1, BLOCK // max(1, len(b)))
    return (slice(start, min(start + step, len(a))) for start in range(0, len(a), step))


def _distances(a: Array, b: Array) -> Array:
    """Euclidean, [N, D] and [M, D] -> [N, M]."""
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2 * a @ b.T
    distances: Array = np.sqrt(squared.clip(0))
    return distances


def _cubic_kernel(a: Array, b: Array) -> Array:
    base: Array = a @ b.T / a.shape[1] + 1
    return base * base * base  # eight times as fast as ** 3


def _mean_kernel_within(features: Array) -> float:
    """Of all pairs of two rows."""
    n, total = len(features), 0.0
    for rows in _row_blocks(features, features):
        kernel = _cubic_kernel(features[rows], features)
        total += float(kernel.sum() - np.trace(kernel, offset=rows.start))
    return total / (n * (n - 1))


def _feature_pair(a: npt.ArrayLike, b: npt.ArrayLike, at_least: int) -> tuple[Array, Array]:
    pair = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    shapes = [list(each.shape) for each in pair]
    if any(each.ndim != 2 for each in pair) or pair[0].shape[1] != pair[1].shape[1]:
        raise UserError(f"expected two sets of features [N, D] of equal D, got {shapes[0]} and {shapes[1]}")
    if min(len(each) for each in pair) < at_least:
        raise UserError(f"expected at least {at_least} images on each side, got {len(pair[0])} and {len(pair[1])}")
    return pair
