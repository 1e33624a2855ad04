"""Two classifiers on the same test images, compared image by image, from their accuracy tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tailsmith.metrics.accuracy import AccuracyTable
from tailsmith.metrics.intervals import Interval, Z, mean_difference_interval, minimum_difference_interval

Array = npt.NDArray[Any]

REPLICATES = 1000  # for the worst group


def paired_interval(before: AccuracyTable, after: AccuracyTable, keys: Sequence[str]) -> Interval | None:
    """Of the cell at e.g. ("shots", "few") of `after` minus that of `before`, in points.

    None where the tables don't hold the same test images in the same order, or have no test image there.
    """
    if not same_images(before, after):
        return None
    first, second = before.correct, after.correct
    assert first is not None and second is not None  # as same_images has seen
    stratum, chosen = _strata(before, keys)
    if stratum is None:
        return None
    pairs = np.stack([first & second, ~first & second, first & ~second, ~first & ~second])
    counts = np.stack([np.bincount(stratum[each & (stratum >= 0)], minlength=len(chosen)) for each in pairs], axis=1)
    counts = counts[chosen & (counts.sum(1) > 0)]  # [K, 4]
    if not len(counts):
        return None
    if keys[0] == "worst_group":
        found = minimum_difference_interval(counts, REPLICATES, seed=0)
        return Interval(100 * found.low, 100 * found.high, 100 * found.bias)
    low, high = mean_difference_interval(counts[:, 1], counts[:, 2], counts.sum(1))
    return Interval(100 * float(low), 100 * float(high))


def mean_paired_interval(
    before: Sequence[AccuracyTable], after: Sequence[AccuracyTable], keys: Sequence[str]
) -> tuple[float, float]:
    """Of the mean over several classifiers each, as of seeds, in points: normal ends, over test images within classes.

    Each image counts with the share of classifiers that are right on it. NaN where the tables' images differ, or a
    class of the cell has a single test image.
    """
    nothing = (float("nan"), float("nan"))
    if not before or not after or not all(same_images(before[0], table) for table in (*before, *after)):
        return nothing
    stratum, chosen = _strata(before[0], keys)
    if stratum is None:
        return nothing
    first, second = (np.mean(np.stack([t.correct for t in tables]), axis=0) for tables in (before, after))  # type: ignore[misc]
    gains = [(second - first)[stratum == each] for each in np.flatnonzero(chosen)]
    gains = [each for each in gains if len(each)]
    if not gains or min(map(len, gains)) < 2:
        return nothing
    mean = np.mean([each.mean() for each in gains])
    error = np.sqrt(sum(each.var(ddof=1) / len(each) for each in gains)) / len(gains)
    return float(100 * (mean - Z * error)), float(100 * (mean + Z * error))


def same_images(before: AccuracyTable, after: AccuracyTable) -> bool:
    """Both tables say which image was right, of the same images in the same order, with the same shots."""
    one, two = before.get("images"), after.get("images")
    if not one or not two:
        return False
    if any(one[key] != two[key] for key in ("labels", "attributes", "num_attributes", "ids_sha256")):
        return False
    return all(_shots(before, section) == _shots(after, section) for section in ("classes", "groups"))


def _strata(table: AccuracyTable, keys: Sequence[str]) -> tuple[Array | None, Array]:
    """The stratum [n] of each image (-1 = none) and whether it belongs to the cell [K]; None for an unknown cell."""
    images, nothing = table["images"], np.zeros(0, dtype=bool)
    labels = _numbers(images["labels"])
    if keys[0] == "average":
        return np.zeros_like(labels), np.ones(1, dtype=bool)
    if keys[0] in ("overall", "shots", "classes"):
        section, stratum = "classes", labels
    elif images["attributes"] is not None and keys[0] in ("worst_group", "group_shots", "groups"):
        attributes = _numbers(images["attributes"])
        section, stratum = "groups", np.where(attributes < 0, -1, labels * images["num_attributes"] + attributes)
    else:
        return None, nothing
    names = _shots(table, section)
    if len(stratum) and stratum.max() >= len(names):
        return None, nothing  # names that are not unique
    if keys[0] in ("overall", "worst_group"):
        return stratum, np.ones(len(names), dtype=bool)
    if keys[0] in ("classes", "groups"):
        return stratum, np.array([name == keys[1] for name in names])
    return stratum, np.array([shot == keys[1] for shot in names.values()])


def _shots(table: AccuracyTable, section: str) -> dict[str, str | None]:
    return {name: cell.get("shot") for name, cell in (table.get(section) or {}).items()}


def _numbers(text: str) -> Array:
    return np.array(text.split(), dtype=np.int64)
