"""95 % intervals of accuracies that also hold for few images, and at 0 and 100 %; tests/test_intervals.py has coverage.

A stratum is a class or a group: hits among so many images. Everything here is a share in 0..1.

- One stratum: Wilson (1927). Means over strata: Wilson with the effective number of images (Korn and Graubard, 1998),
  which is the number itself for one stratum. Variances within strata come from rates that are drawn a little to the
  mean of all, so that they don't vanish where every stratum is at 0 or 1.
- Differences of two classifiers on the same images: Tango's score interval (1998) of the images that only one of them
  gets right, with the effective number likewise.
- The worst group: the minimum over groups with few images lies below the lowest true accuracy, and a percentile
  bootstrap of it lies lower still. Here the bootstrap is reflected (basic; Davison and Hinkley, 1997, section 5.2):
  the error of a replicate's minimum is taken off. Its world is a draw of the groups' rates given their hits, under a
  beta distribution fitted to all groups by moments (Kleinman, 1973).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

Z = 1.959964  # of a two-sided 95 % interval
Z_ONE_SIDED = 1.644854
PSEUDO_IMAGES = 2.0  # that draw a stratum's rate to the mean when its variance is estimated
STRONGEST_PRIOR = 1000.0  # in images: groups that differ by chance alone


@dataclass(frozen=True)
class Interval:
    """Shares; `bias` is what the value itself is expected to be off by (0 but for a minimum)."""

    low: float
    high: float
    bias: float = 0.0


UNKNOWN = Interval(float("nan"), float("nan"), float("nan"))


def wilson(rate: Array, images: Array, z: float = Z) -> tuple[Array, Array]:
    """Ends of the score interval of shares `rate` of so many `images`, which need not be whole numbers."""
    centre = (rate + z**2 / (2 * images)) / (1 + z**2 / images)
    half = z / (1 + z**2 / images) * np.sqrt(rate * (1 - rate) / images + z**2 / (4 * images**2))
    return np.clip(centre - half, 0, rate), np.clip(centre + half, rate, 1)


def mean_interval(hits: Array, images: Array) -> tuple[Array, Array]:
    """Of the mean over strata of hits / images; both [..., K], each stratum with an image."""
    rate = np.mean(hits / images, axis=-1)
    return wilson(rate, _effective_images(images, (hits,), lambda shares: shares[0] * (1 - shares[0])))


def mean_difference_interval(gained: Array, lost: Array, images: Array) -> tuple[Array, Array]:
    """Of the mean over strata of (gained - lost) / images.

    `gained` and `lost` [..., K] count the images that only the second and only the first classifier gets right.
    """
    effective = _effective_images(
        images, (gained, lost), lambda shares: shares[0] + shares[1] - (shares[0] - shares[1]) ** 2
    )
    return tango(np.mean(gained / images, axis=-1), np.mean(lost / images, axis=-1), effective)


def tango(gained: Array, lost: Array, images: Array) -> tuple[Array, Array]:
    """Ends of Tango's score interval (1998) of gained - lost, given as shares of so many paired images."""
    gained, lost, images = np.broadcast_arrays(*(np.asarray(each, float) for each in (gained, lost, images)))
    difference = gained - lost

    def score(delta: Array) -> Array:
        """Falls with delta; its variance is that of the likeliest shares whose difference is delta."""
        b = -(gained + lost) + (2 - difference) * delta
        c = -lost * delta * (1 - delta)
        only_first = (np.sqrt(np.maximum(b**2 - 8 * c, 0)) - b) / 4
        variance = (2 * only_first + delta * (1 - delta)) / images
        root = np.sqrt(np.maximum(variance, 1e-300))
        scores: Array = (difference - delta) / root
        return scores

    def solve(low: Array, high: Array, wanted: float) -> Array:
        for _ in range(50):
            middle = (low + high) / 2
            above = score(middle) > wanted
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        return (low + high) / 2

    ones = np.ones_like(difference)
    return solve(-ones, difference, Z), solve(difference, ones, -Z)


def minimum_interval(hits: Array, images: Array, replicates: int, seed: int) -> Interval:
    """Of the lowest true rate among groups [K], and the bias of the lowest hits / images."""
    rate = hits / images
    low, high = wilson(rate, images)
    if len(hits) == 1:
        return Interval(float(low[0]), float(high[0]))
    rng = np.random.default_rng(seed)
    true = _rates(rng, hits, images, replicates)
    errors = (rng.binomial(images, true) / images).min(1) - true.min(1)
    # Reflection alone is too short where groups are few: never shorter than one-sided limits of single groups
    low, high = wilson(rate, images, Z_ONE_SIDED)
    return _reflected(float(rate.min()), errors, float(low.min()), float(high.min()), 0.0)


def minimum_difference_interval(pairs: Array, replicates: int, seed: int) -> Interval:
    """Of the second classifier's lowest true rate minus the first's, over groups.

    `pairs` [K, 4] counts the images that both, only the second, only the first, and neither gets right.
    """
    images = pairs.sum(1)
    if len(pairs) == 1:
        low, high = mean_difference_interval(pairs[:, 1], pairs[:, 2], images)
        return Interval(float(low), float(high))
    rng = np.random.default_rng(seed)
    before, after = pairs[:, 0] + pairs[:, 2], pairs[:, 0] + pairs[:, 1]
    strength = (_beta(before, images)[1] + _beta(after, images)[1]) / 2
    pooled = (pairs.sum(0) + 1) / (images.sum() + 4)
    weights = rng.standard_gamma(pairs + strength * pooled, size=(replicates, *pairs.shape))
    true = weights / weights.sum(2, keepdims=True)  # [B, K, 4]: a draw of a Dirichlet distribution per group
    drawn = rng.multinomial(images, true) / images[:, None]

    def gap(shares: Array) -> Array:
        lowest = (shares[..., 0] + shares[..., 1]).min(-1) - (shares[..., 0] + shares[..., 2]).min(-1)
        return np.asarray(lowest)

    found = float((after / images).min() - (before / images).min())
    return _reflected(found, gap(drawn) - gap(true), found, found, -1.0)


def _reflected(found: float, errors: Array, low: float, high: float, least: float) -> Interval:
    """The value found without its error, in `least`..1 and at least from `low` to `high`."""
    down, up = np.percentile(errors, [97.5, 2.5])
    ends = max(min(found - float(down), low), least), min(max(found - float(up), high), 1.0)
    return Interval(*ends, bias=float(errors.mean()))


def _rates(rng: np.random.Generator, hits: Array, images: Array, replicates: int) -> Array:
    """[B, K] draws of the groups' true rates."""
    mean, strength = _beta(hits, images)
    return rng.beta(hits + strength * mean, images - hits + strength * (1 - mean), size=(replicates, len(hits)))


def _beta(hits: Array, images: Array) -> tuple[float, float]:
    """Mean and strength (in images) of the beta distribution of the groups' rates, by moments."""
    total = images.sum()
    mean = float((hits.sum() + 2) / (total + 4))
    scatter = float((images * (hits / images - mean) ** 2).sum() / (mean * (1 - mean)))
    correlation = (scatter - len(hits)) / max(total - len(hits), 1)  # of two images of a group
    return mean, float(1 / np.clip(correlation, 1 / (STRONGEST_PRIOR + 1), 0.5) - 1)


def _effective_images(images: Array, counts: tuple[Array, ...], variance: Any) -> Array:
    """So many images of one stratum have the variance of the mean over strata: [..., K] -> [...].

    `variance` maps the shares of each of `counts` to the variance of one image.
    """
    alike = images.shape[-1] ** 2 / np.sum(1 / images, axis=-1)  # if all strata had the rates of the mean
    drawn = []
    for count in counts:
        mean = (np.mean(count / images, axis=-1) * alike + 2 / len(counts)) / (alike + 4 / len(counts))
        drawn.append((count + PSEUDO_IMAGES * np.asarray(mean)[..., None]) / (images + PSEUDO_IMAGES))
    within = np.sum(variance(drawn) / images, axis=-1) / np.sum(1 / images, axis=-1)
    effective: Array = alike * variance([np.mean(each, axis=-1) for each in drawn]) / within
    return effective
