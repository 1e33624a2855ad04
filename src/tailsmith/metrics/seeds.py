"""Values of repeated experiments: their spread over seeds, paired differences to a baseline, many tests at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from tailsmith.errors import UserError

Array = npt.NDArray[Any]

LEVEL = 0.05  # of two-sided tests, whose intervals hold 95 %
POWER = 0.8

NOTHING = float("nan")


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over seeds, in the values' unit."""

    mean: float
    sd: float  # NaN with one seed
    n: int


@dataclass(frozen=True)
class PairedDifference:
    """How much an arm gains on a baseline with the same seeds, in the values' unit; NaN is what one seed can't say."""

    mean: float
    low: float  # of the 95 % t interval
    high: float
    p: float  # two-sided, that the true difference is 0
    n: int
    detectable: float  # the smallest true difference that so many seeds find in 80 % of cases


def over_seeds(values: npt.ArrayLike) -> Spread:
    """One value per seed [n]; nothing is left out, so a NaN among them, or no value at all, is NaN."""
    each = _per_seed(values)
    return Spread(float(each.mean()) if len(each) else NOTHING, _sd(each), len(each))


def paired_over_seeds(baseline: npt.ArrayLike, other: npt.ArrayLike) -> PairedDifference:
    """Of `other` minus `baseline`, [n] each, by a paired t test; seeds in the same order on both sides.

    It says how sure the difference is for other seeds; `metrics.paired` says it for other test images.
    """
    before, after = _per_seed(baseline), _per_seed(other)
    if len(before) != len(after):
        raise UserError(
            f"expected one value per seed on both sides, got {len(before)} and {len(after)}; pair the same seeds"
        )
    gains = after - before
    found, n = over_seeds(gains), len(gains)
    if n < 2:
        return PairedDifference(found.mean, NOTHING, NOTHING, NOTHING, n, NOTHING)
    error = found.sd / np.sqrt(n)
    reach = float(stats.t.ppf(1 - LEVEL / 2, n - 1)) * error
    p = 2 * float(stats.t.sf(abs(found.mean) / error, n - 1)) if error else float(found.mean == 0)
    return PairedDifference(found.mean, found.mean - reach, found.mean + reach, p, n, detectable(found.sd, n))


def detectable(sd: float, n: int, level: float = LEVEL, power: float = POWER) -> float:
    """The smallest true difference that a paired t test, two-sided, of `n` seeds finds with this power.

    `sd` is that of the paired differences. From the noncentral t distribution; NaN with one seed, or for sd = NaN.
    """
    if sd < 0 or not 0 < level < power < 1:
        raise UserError(f"expected sd >= 0 and 0 < level < power < 1, got sd={sd}, level={level}, power={power}")
    if n < 2 or np.isnan(sd):
        return NOTHING
    threshold = stats.t.ppf(1 - level / 2, n - 1)

    def missing(shift: float) -> float:
        # Both tails by sf: scipy's cdf is NaN at some points far out
        tails = stats.nct.sf(threshold, n - 1, shift) + stats.nct.sf(threshold, n - 1, -shift)
        return float(power - tails)

    far = 1.0
    while missing(far) > 0:
        far *= 2
    return float(optimize.brentq(missing, 0, far) * sd / np.sqrt(n))


def holm(p_values: npt.ArrayLike) -> Array:
    """Adjusted p [m] in the order given: below .05, they keep the chance of any false finding below .05 (Holm, 1979).

    NaN stays NaN, and counts as a test that was made.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or ((p < 0) | (p > 1)).any():
        raise UserError(f"expected p values [m] in 0..1, got {p.tolist()}")
    order = np.argsort(p)  # NaN last
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return adjusted


def _sd(values: Array) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else NOTHING


def _per_seed(values: npt.ArrayLike) -> Array:
    each = np.asarray(values, dtype=np.float64)
    if each.ndim != 1:
        raise UserError(f"expected one value per seed [n], got an array {list(each.shape)}")
    return each
