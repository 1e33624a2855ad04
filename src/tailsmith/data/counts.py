"""How many images each class and group has, and what follows: shots, imbalance factor, empty groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tailsmith.data.dataset import SPLITS, Dataset, Ints
from tailsmith.strata import SHOTS, shots

RAREST = 4  # classes or groups that are looked at


def class_counts(dataset: Dataset, split: str = "train") -> Ints:
    """[C], real and synthetic alike."""
    return np.bincount(dataset.split(split).labels, minlength=len(dataset.class_names)).astype(np.int64)


def group_counts(dataset: Dataset, split: str = "train") -> Ints:
    """[C, A]; images without an attribute are in no group."""
    shape = (len(dataset.class_names), len(dataset.attribute_names))
    groups = dataset.split(split).groups
    return np.bincount(groups[groups >= 0], minlength=shape[0] * shape[1]).astype(np.int64).reshape(shape)


def imbalance_factor(counts: Ints | Sequence[int]) -> float:
    """Largest over smallest count; infinite with an empty class, NaN without any image."""
    values = np.asarray(counts)
    if values.size == 0 or values.max() == 0:
        return float("nan")
    return float(values.max() / values.min()) if values.min() > 0 else float("inf")


def describe(dataset: Dataset) -> dict[str, Any]:
    """What `tailsmith inspect` says of a dataset; plain Python values, ready for `write_json`."""
    train = class_counts(dataset)
    return {
        "name": dataset.name,
        "licence": dataset.licence,
        "images": len(dataset),
        "splits": {split: len(dataset.split(split)) for split in SPLITS},
        "imbalance_factor": imbalance_factor(train),
        "shots": {shot: int((shots(train) == shot).sum()) for shot in SHOTS},
        "classes": _describe_classes(dataset),
        "untested": _without(dataset, "test"),
        "unvalidated": _without(dataset, "val"),
        "attributes": list(dataset.attribute_names),
        "groups": _describe_groups(dataset),
        "empty_groups": _empty_groups(dataset),
        "untested_groups": _untested_groups(dataset),
    }


def _describe_classes(dataset: Dataset) -> dict[str, dict[str, Any]]:
    counts = [class_counts(dataset, split).tolist() for split in SPLITS]
    described = {}
    for name, shot, *numbers in zip(dataset.class_names, shots(counts[0]).tolist(), *counts, strict=True):
        described[name] = {**dict(zip(SPLITS, numbers, strict=True)), "shot": shot}
    return described


def _without(dataset: Dataset, split: str) -> list[str]:
    """Classes without a single image in a split; none where the whole split has none, as with published counts."""
    counts = class_counts(dataset, split)
    return [name for name, count in zip(dataset.class_names, counts, strict=True) if count == 0] if counts.any() else []


def _untested_groups(dataset: Dataset) -> list[str]:
    """Groups with training images and without a test image, where there are test images with groups at all."""
    train, test = group_counts(dataset).ravel(), group_counts(dataset, "test").ravel()
    names = zip(dataset.group_names, train, test, strict=True)
    return [name for name, trained, tested in names if trained and not tested] if test.any() else []


def _describe_groups(dataset: Dataset) -> dict[str, dict[str, int]]:
    counts = [group_counts(dataset, split).ravel().tolist() for split in SPLITS]
    of_group = zip(dataset.group_names, *counts, strict=True)
    return {name: dict(zip(SPLITS, numbers, strict=True)) for name, *numbers in of_group}


def _empty_groups(dataset: Dataset) -> list[str]:
    """Groups without a single training image."""
    counts = group_counts(dataset).ravel()
    return [name for name, count in zip(dataset.group_names, counts, strict=True) if count == 0]


def rarest(counts: Ints) -> Ints:
    """Flat indices of the rarest classes [C] or groups [C, A], rarest first."""
    return np.argsort(counts.ravel(), kind="stable")[:RAREST]
