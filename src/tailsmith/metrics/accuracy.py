"""Accuracy where the long tail hides: per class, shot, group, the worst group; each with n and an interval.

All comes from the hits and counts of strata (classes, or groups where there are attributes), for the test set
and for its bootstrap replicates alike: resampling the 0/1 outcomes of the n images of a stratum with
replacement and averaging them is one draw of Binomial(n, accuracy) / n.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Cell = dict[str, Any]  # accuracy 0..100 or NaN, n images, low and high of the 95 % interval

# By number of training images (Liu et al., 2019): more than 100, 20 to 100, fewer than 20
SHOTS = ("many", "medium", "few")
GROUP_SHOTS = ("majority", "medium", "minority", "unseen")


def accuracy_table(
    predictions: npt.ArrayLike,  # [n] class indices
    labels: npt.ArrayLike,  # [n]
    *,
    class_names: Sequence[str],
    train_counts: npt.ArrayLike,  # [C] training images per class; decides the shots
    attributes: npt.ArrayLike | None = None,  # [n], -1 = none
    attribute_names: Sequence[str] = (),
    train_group_counts: npt.ArrayLike | None = None,  # [C * A] or [C, A], group = label * A + attribute
    bootstrap: int = 1000,  # replicates; 0 = no intervals (NaN)
    seed: int = 0,
) -> dict[str, Any]:
    """A JSON-able dict of cells; accuracy in %, NaN where there are no test images.

    Overall and shots are means over classes of class accuracy, group shots means over groups. Test images are
    resampled within their class, or within their group where there are attributes. The worst group is the one
    of lowest accuracy among those with test images; its interval is that of the minimum, not of the group.
    """
    predicted, truth = _checked_predictions(predictions, labels, len(class_names))
    attribute, names = _checked_attributes(attributes, attribute_names, len(truth))
    hits, counts = _strata(predicted, truth, attribute, len(class_names), len(names))  # [C, A + 1]
    replicates = np.concatenate([hits[None], _bootstrap(hits, counts, bootstrap, seed)])  # [1 + B, C, A + 1]
    classes = _accuracy(replicates.sum(2), counts.sum(1))  # [1 + B, C]
    n = counts.sum(1)
    shot = shots(_checked_counts("train_counts", train_counts, len(class_names)))
    table: dict[str, Any] = {
        "overall": _mean_cell(classes, n),
        "shots": {name: _mean_cell(classes[:, shot == name], n[shot == name]) for name in SHOTS},
        "classes": {name: _mean_cell(classes[:, [c]], n[[c]]) for c, name in enumerate(class_names)},
    }
    groups, group_n = (
        _accuracy(replicates[..., 1:], counts[:, 1:]).reshape(len(replicates), -1),
        counts[:, 1:].ravel(),
    )
    group_names = [f"{label} in {name}" for label in class_names for name in names]
    table["groups"] = {name: _mean_cell(groups[:, [g]], group_n[[g]]) for g, name in enumerate(group_names)}
    table["worst_group"] = _worst_group(groups, group_n, group_names)
    if train_group_counts is not None and names:
        group_shot = group_shots(_checked_counts("train_group_counts", train_group_counts, len(group_names)))
        table["group_shots"] = {
            name: _mean_cell(groups[:, group_shot == name], group_n[group_shot == name]) for name in GROUP_SHOTS
        }
    table["confusion"] = _confusion(predicted, truth, len(class_names))
    return table


def shots(train_counts: Array) -> Array:
    """[C] training images -> "many" (> 100), "medium" (20..100) or "few" (< 20) per class."""
    return np.select([train_counts > 100, train_counts >= 20], SHOTS[:2], SHOTS[2])


def group_shots(train_counts: Array) -> Array:
    """[G] training images -> "majority" (> 100), "medium" (20..100), "minority" (1..19) or "unseen" (0)."""
    conditions = [train_counts > 100, train_counts >= 20, train_counts > 0]
    return np.select(conditions, GROUP_SHOTS[:3], GROUP_SHOTS[3])


def summarise(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Tables of several seeds -> the same nesting with cells {accuracy (mean), std, seeds}.

    `std` is the sample standard deviation over seeds (NaN for one), `seeds` how many had test images there.
    Missing values (NaN, or null from a JSON file) are left out; confusion matrices are not summarised.
    """
    if not tables:
        raise ValueError("no accuracy tables to summarise: expected at least one")
    first = tables[0]
    if any(table.keys() != first.keys() for table in tables):
        keys = sorted({key for table in tables for key in table.keys() ^ first.keys()})
        raise ValueError(f"accuracy tables of different tasks can't be summarised: only some have {', '.join(keys)}")
    if "accuracy" in first:
        return _spread([table["accuracy"] for table in tables])
    nested = [key for key, value in first.items() if isinstance(value, Mapping)]
    return {key: summarise([table[key] for table in tables]) for key in nested}


def _spread(accuracies: Sequence[float | None]) -> Cell:
    values = np.array([np.nan if value is None else value for value in accuracies], dtype=float)
    values = values[~np.isnan(values)]
    mean = float(values.mean()) if len(values) else float("nan")
    std = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    return {"accuracy": mean, "std": std, "seeds": len(values)}


def _strata(
    predicted: Array, truth: Array, attribute: Array, num_classes: int, num_attributes: int
) -> tuple[Array, Array]:
    """Hits and counts int [C, A + 1]; column 0 holds the images without attribute."""
    width = num_attributes + 1
    stratum = truth * width + attribute + 1
    counts = np.bincount(stratum, minlength=num_classes * width)
    hits = np.bincount(stratum[predicted == truth], minlength=num_classes * width)
    return hits.reshape(num_classes, width), counts.reshape(num_classes, width)


def _bootstrap(hits: Array, counts: Array, replicates: int, seed: int) -> Array:
    """[B, C, A + 1] hits of resampled test sets."""
    share = hits / np.maximum(counts, 1)
    return np.random.default_rng(seed).binomial(counts, share, size=(replicates, *counts.shape))


def _accuracy(hits: Array, counts: Array) -> Array:
    """In %, NaN where nothing was counted."""
    return np.where(counts > 0, 100 * hits / np.maximum(counts, 1), np.nan)


def _mean_cell(accuracies: Array, n: Array) -> Cell:
    """[1 + B, K] accuracies, the real ones first, images [K] -> the cell of the mean of the non-empty."""
    return _cell(accuracies[:, n > 0].mean(axis=1) if n.any() else np.full(len(accuracies), np.nan), int(n.sum()))


def _cell(accuracies: Array, n: int) -> Cell:
    """[1 + B], the real one first"""
    low, high = np.percentile(accuracies[1:], [2.5, 97.5]) if len(accuracies) > 1 else (np.nan, np.nan)
    return {"accuracy": float(accuracies[0]), "n": n, "low": float(low), "high": float(high)}


def _worst_group(groups: Array, n: Array, names: Sequence[str]) -> Cell:
    tested = np.flatnonzero(n > 0)
    if not len(tested):
        return {**_cell(np.full(len(groups), np.nan), 0), "group": None}
    worst = tested[np.argmin(groups[0, tested])]
    return {**_cell(groups[:, tested].min(axis=1), int(n[worst])), "group": names[worst]}


def _confusion(predicted: Array, truth: Array, num_classes: int) -> list[list[int]]:
    """Rows are true classes, columns predicted ones."""
    pairs = np.bincount(truth * num_classes + predicted, minlength=num_classes**2)
    matrix: list[list[int]] = pairs.reshape(num_classes, num_classes).tolist()
    return matrix


def _checked_predictions(predictions: npt.ArrayLike, labels: npt.ArrayLike, num_classes: int) -> tuple[Array, Array]:
    predicted, truth = np.asarray(predictions), np.asarray(labels)
    if predicted.ndim != 1 or predicted.shape != truth.shape:
        raise ValueError(
            f"predictions and labels should be class indices [n] each, got {list(predicted.shape)} and "
            f"{list(truth.shape)}; take logits.argmax(1) first"
        )
    for name, values in (("predictions", predicted), ("labels", truth)):
        if not np.issubdtype(values.dtype, np.integer):
            raise ValueError(f"{name} should be integer class indices, got {values.dtype}")
        if len(values) and (values.min() < 0 or values.max() >= num_classes):
            raise ValueError(f"{name} should be in 0..{num_classes - 1}, got {values.min()}..{values.max()}")
    return predicted.astype(np.int64), truth.astype(np.int64)


def _checked_attributes(attributes: npt.ArrayLike | None, names: Sequence[str], n: int) -> tuple[Array, Sequence[str]]:
    if attributes is None:
        return np.full(n, -1), ()
    values = np.asarray(attributes)
    if values.shape != (n,) or not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"attributes should be integers [{n}], one per label, got {values.dtype} {list(values.shape)}")
    if n and (values.min() < -1 or values.max() >= len(names)):
        raise ValueError(f"attributes should be in -1..{len(names) - 1}, got {values.min()}..{values.max()}")
    return values.astype(np.int64), names


def _checked_counts(name: str, counts: npt.ArrayLike, size: int) -> Array:
    values = np.asarray(counts).ravel()
    if len(values) != size:
        raise ValueError(f"{name} should have {size} entries, got {len(values)}")
    return values
