"""Accuracy where the long tail hides: per class, shot, group, the worst group; each with n and a 95 % interval.

All cells come from the hits and counts of classes and groups (`metrics.intervals` has how sure they are), and the table
keeps which test image was right, so that two classifiers can be compared image by image (`metrics.paired`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tailsmith.errors import UserError
from tailsmith.metrics.intervals import UNKNOWN, Interval, mean_interval, minimum_interval
from tailsmith.strata import GROUP_SHOTS, SHOTS, group_shots, shots

Array = npt.NDArray[Any]
Cell = dict[str, Any]  # accuracy 0..100 or NaN, n images, low and high of the 95 % interval

NEWER = {"images", "average"}  # what tables of earlier versions lack


class AccuracyTable(dict[str, Any]):
    """What one classifier got right, as JSON holds it: cells by section ("overall", "shots", "classes", ...), and under
    "images" whether each test image was right, so that two tables of the same images can be compared in pairs.
    """

    def cell(self, *keys: str) -> Cell:
        """The cell at e.g. ("shots", "few"); empty where the table has none."""
        found: Any = self
        for key in keys:
            found = (found or {}).get(key)
        return dict(found or {})

    @property
    def correct(self) -> Array | None:
        """[n] bool, in the order of the test images; None for a table of an earlier version."""
        images = self.get("images")
        return np.frombuffer(images["correct"].encode(), dtype=np.uint8) == ord("1") if images else None


@dataclass(frozen=True)
class Attributes:
    """Which context each test image is in, and how often training had each class in each context."""

    values: npt.ArrayLike  # [n], -1 = none
    names: Sequence[str]
    train_group_counts: npt.ArrayLike | None = None  # [C * A] or [C, A], group = label * A + attribute


def accuracy_table(
    predictions: npt.ArrayLike,  # [n] class indices
    labels: npt.ArrayLike,  # [n]
    *,
    class_names: Sequence[str],
    train_counts: npt.ArrayLike,  # [C] training images per class; decides the shots
    attributes: Attributes | None = None,
    image_ids: Sequence[str] | None = None,  # [n], so that other tables can be told to be of the same images
    bootstrap: int = 1000,  # replicates for the worst group's interval; 0 = none (NaN)
    seed: int = 0,
) -> AccuracyTable:
    """A table of cells; accuracy in %, NaN where there are no test images.

    Overall and shots are means over classes of class accuracy, group shots means over groups; `average` is the mean
    over images. Means say of how many of their classes (or groups) there are test images. The worst group is the one
    of lowest accuracy among those with test images; its interval is that of the lowest true accuracy, and `bias` how
    far the lowest accuracy found is expected to lie from it, in points.
    """
    predicted, truth = _checked_predictions(predictions, labels, len(class_names))
    attribute, names = _checked_attributes(attributes, len(truth))
    hits, counts = _strata(predicted, truth, attribute, len(class_names), len(names))  # [C, A + 1]
    right, n = hits.sum(1), counts.sum(1)
    shot = shots(_checked_counts("train_counts", train_counts, len(class_names)))
    table = AccuracyTable(
        overall=_mean_cell(right, n, "classes"),
        average=_cell(right.sum(keepdims=True), n.sum(keepdims=True)),
        shots={name: _mean_cell(right[shot == name], n[shot == name], "classes") for name in SHOTS},
        classes={name: {**_cell(right[[c]], n[[c]]), "shot": str(shot[c])} for c, name in enumerate(class_names)},
    )
    in_group, group_n = hits[:, 1:].ravel(), counts[:, 1:].ravel()
    group_names = [f"{label} in {name}" for label in class_names for name in names]
    table["groups"] = {name: _cell(in_group[[g]], group_n[[g]]) for g, name in enumerate(group_names)}
    table["worst_group"] = _worst_group(in_group, group_n, group_names, bootstrap, seed)
    if attributes is not None and attributes.train_group_counts is not None:
        group_counts = _checked_counts("train_group_counts", attributes.train_group_counts, len(group_names))
        group_shot = group_shots(group_counts)
        for name, each in zip(group_names, group_shot, strict=True):
            table["groups"][name]["shot"] = str(each)
        table["group_shots"] = {
            name: _mean_cell(in_group[group_shot == name], group_n[group_shot == name], "groups")
            for name in GROUP_SHOTS
        }
    table["confusion"] = _confusion(predicted, truth, len(class_names))
    table["images"] = _record(predicted == truth, truth, attribute if names else None, len(names), image_ids)
    return table


def summarise(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Tables of several seeds -> the same nesting with cells {accuracy (mean), std, standard_error, seeds}.

    `std` is the sample standard deviation over seeds (NaN for one), `standard_error` the same over the root of
    `seeds`, which is how many had test images there. Missing values (NaN, or null from a JSON file) are left out;
    confusion matrices and images are not summarised.
    """
    if not tables:
        raise UserError("no accuracy tables to summarise: expected at least one")
    first = tables[0]
    keys = {key for table in tables for key in table.keys() ^ first.keys()} - NEWER
    if keys:
        listed = ", ".join(sorted(keys))
        raise UserError(f"accuracy tables of different tasks can't be summarised: only some have {listed}")
    if "accuracy" in first:
        return _spread([table["accuracy"] for table in tables])
    nested = [key for key, value in first.items() if isinstance(value, Mapping) and key != "images"]
    return {key: summarise([table[key] for table in tables]) for key in nested if all(key in each for each in tables)}


def _spread(accuracies: Sequence[float | None]) -> Cell:
    values = np.array([np.nan if value is None else value for value in accuracies], dtype=float)
    values = values[~np.isnan(values)]
    mean = float(values.mean()) if len(values) else float("nan")
    std = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    error = std / len(values) ** 0.5 if len(values) else float("nan")
    return {"accuracy": mean, "std": std, "standard_error": error, "seeds": len(values)}


def _strata(
    predicted: Array, truth: Array, attribute: Array, num_classes: int, num_attributes: int
) -> tuple[Array, Array]:
    """Hits and counts int [C, A + 1]; column 0 holds the images without attribute."""
    width = num_attributes + 1
    stratum = truth * width + attribute + 1
    counts = np.bincount(stratum, minlength=num_classes * width)
    hits = np.bincount(stratum[predicted == truth], minlength=num_classes * width)
    return hits.reshape(num_classes, width), counts.reshape(num_classes, width)


def _mean_cell(hits: Array, n: Array, kind: str) -> Cell:
    """[K] hits and images of strata -> the cell of the mean over those that have images; `kind` counts them."""
    return {**_cell(hits, n), kind: int((n > 0).sum()), "of": len(n)}


def _cell(hits: Array, n: Array) -> Cell:
    tested = n > 0
    if not tested.any():
        return _numbers(float("nan"), 0, UNKNOWN)
    low, high = mean_interval(hits[tested], n[tested])
    return _numbers(float(np.mean(hits[tested] / n[tested])), int(n.sum()), Interval(float(low), float(high)))


def _numbers(share: float, n: int, interval: Interval) -> Cell:
    return {"accuracy": 100 * share, "n": n, "low": 100 * interval.low, "high": 100 * interval.high}


def _worst_group(hits: Array, n: Array, names: Sequence[str], replicates: int, seed: int) -> Cell:
    tested = np.flatnonzero(n > 0)
    share, images, interval, group = float("nan"), 0, UNKNOWN, None
    if len(tested):
        worst = tested[np.argmin(hits[tested] / n[tested])]
        share, images, group = float(hits[worst] / n[worst]), int(n[worst]), names[worst]
        if replicates:
            interval = minimum_interval(hits[tested], n[tested], replicates, seed)
    cell = {**_numbers(share, images, interval), "group": group, "bias": 100 * interval.bias}
    return {**cell, "groups": len(tested), "of": len(names)}


def _record(
    correct: Array, labels: Array, attributes: Array | None, num_attributes: int, image_ids: Sequence[str] | None
) -> dict[str, Any]:
    """Which image was right: a character each, and labels between spaces, as JSON has a line for every list entry."""
    if image_ids is not None and len(image_ids) != len(labels):
        raise UserError(f"image_ids should have {len(labels)} entries, one per label, got {len(image_ids)}")
    return {
        "correct": "".join(np.where(correct, "1", "0")),
        "labels": " ".join(map(str, labels.tolist())),
        "attributes": None if attributes is None else " ".join(map(str, attributes.tolist())),
        "num_attributes": num_attributes,
        "ids_sha256": None if image_ids is None else hashlib.sha256("\0".join(image_ids).encode()).hexdigest(),
    }


def _confusion(predicted: Array, truth: Array, num_classes: int) -> list[list[int]]:
    """Rows are true classes, columns predicted ones."""
    pairs = np.bincount(truth * num_classes + predicted, minlength=num_classes**2)
    matrix: list[list[int]] = pairs.reshape(num_classes, num_classes).tolist()
    return matrix


def _checked_predictions(predictions: npt.ArrayLike, labels: npt.ArrayLike, num_classes: int) -> tuple[Array, Array]:
    predicted, truth = np.asarray(predictions), np.asarray(labels)
    if predicted.ndim != 1 or predicted.shape != truth.shape:
        raise UserError(
            f"predictions and labels should be class indices [n] each, got {list(predicted.shape)} and "
            f"{list(truth.shape)}; take logits.argmax(1) first"
        )
    for name, values in (("predictions", predicted), ("labels", truth)):
        if not np.issubdtype(values.dtype, np.integer):
            raise UserError(f"{name} should be integer class indices, got {values.dtype}")
        if len(values) and (values.min() < 0 or values.max() >= num_classes):
            raise UserError(f"{name} should be in 0..{num_classes - 1}, got {values.min()}..{values.max()}")
    return predicted.astype(np.int64), truth.astype(np.int64)


def _checked_attributes(attributes: Attributes | None, n: int) -> tuple[Array, Sequence[str]]:
    if attributes is None:
        return np.full(n, -1), ()
    values, names = np.asarray(attributes.values), attributes.names
    if values.shape != (n,) or not np.issubdtype(values.dtype, np.integer):
        raise UserError(f"attributes should be integers [{n}], one per label, got {values.dtype} {list(values.shape)}")
    if n and (values.min() < -1 or values.max() >= len(names)):
        raise UserError(f"attributes should be in -1..{len(names) - 1}, got {values.min()}..{values.max()}")
    return values.astype(np.int64), names


def _checked_counts(name: str, counts: npt.ArrayLike, size: int) -> Array:
    values = np.asarray(counts).ravel()
    if len(values) != size:
        raise UserError(f"{name} should have {size} entries, got {len(values)}")
    return values
