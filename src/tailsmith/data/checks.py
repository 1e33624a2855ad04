"""Every complaint about user data, each one line: what was got, what is expected, what to do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tailsmith.data.counts import class_counts
from tailsmith.data.dataset import SPLITS, Dataset, content_hash, decode


def check_dataset(dataset: Dataset, *, skip_corrupt: bool = False) -> tuple[Dataset, list[str]]:
    """The dataset, fit for use, and a line for each corrupt image that `skip_corrupt` left out.

    Decodes and hashes every image once. ValueError for: no image, a single class, duplicate ids, synthetic
    images in val or test, corrupt images, classes that only val or test has, one image in two splits.
    """
    check_table(dataset)
    hashes, complaints = _examine(dataset)
    skipped = [complaint for complaint in complaints if complaint is not None]
    if skipped and not skip_corrupt:
        more = f" (and {len(skipped) - 1} more like it)" if len(skipped) > 1 else ""
        raise ValueError(f"{skipped[0]}{more}")
    if skipped:
        fit = [row for row, complaint in enumerate(complaints) if complaint is None]
        dataset, hashes = dataset.select(fit), [hashes[row] for row in fit]
        check_table(dataset)
    check_training_labels(dataset)
    check_overlap(dataset, hashes)
    return dataset, skipped


def check_table(dataset: Dataset) -> None:
    """What can be said without opening an image."""
    name = dataset.name or "the dataset"
    if len(dataset) == 0:
        raise ValueError(f"{name}: no images; expected a folder per class with images in it, or a table of images")
    if len(dataset.class_names) < 2:
        raise ValueError(
            f"{name}: one class only ({dataset.class_names[0]!r}); a classifier needs two or more: "
            "one folder per class, or a label column with two values"
        )
    _check_ids(dataset)
    _check_real_evaluation(dataset)


def check_training_labels(dataset: Dataset) -> None:
    """Val and test have no class that train lacks."""
    train = class_counts(dataset, "train")
    for split in ("val", "test"):
        lacking = np.flatnonzero((class_counts(dataset, split) > 0) & (train == 0))
        if len(lacking):
            raise ValueError(
                f"label {dataset.class_names[lacking[0]]!r} is in {split} but not in train "
                f"({len(lacking)} such labels); add training images of it or remove it from {split}"
            )


def check_conditionable(dataset: Dataset) -> None:
    """Every class has a real training image that synthesis can be conditioned on."""
    real = dataset.select(dataset.table["source"].to_numpy() == "real")
    empty = np.flatnonzero(class_counts(real) == 0)
    if len(empty):
        raise ValueError(
            f"class {dataset.class_names[empty[0]]!r} has no training image, and so nothing to condition on "
            f"({len(empty)} such classes); add at least one image, or remove the class"
        )


def class_difference(has: Sequence[str], expected: Sequence[str]) -> str:
    """What class names have instead of the expected ones, the first few of a thousand."""
    lacking, others = sorted(set(expected) - set(has)), sorted(set(has) - set(expected))
    if lacking or others:
        parts = [f"{what} {_first(names)}" for what, names in (("lacks", lacking), ("has", others)) if names]
        return " and ".join(parts)
    place = next(place for place, name in enumerate(has) if name != expected[place])
    return f"has the same classes in another order, first {has[place]!r} in place of {expected[place]!r}"


def _first(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def check_overlap(dataset: Dataset, hashes: Sequence[str]) -> None:
    """No image content [n] lies in two splits."""
    first: dict[str, int] = {}  # content -> the first row that has it
    splits = dataset.table["split"].to_numpy()
    order = [row for split in SPLITS for row in np.flatnonzero(splits == split).tolist()]
    pairs = [(other, row) for row in order if splits[other := first.setdefault(hashes[row], row)] != splits[row]]
    if pairs:
        earlier, later = pairs[0]
        raise ValueError(
            f"{splits[later]} overlaps {splits[earlier]}: {dataset.described(later)} has the content of "
            f"{dataset.described(earlier)} ({len(pairs)} such images); remove it from one of the two"
        )


def _check_ids(dataset: Dataset) -> None:
    ids = dataset.table["image_id"]
    repeated = ids[ids.duplicated()]
    if len(repeated):
        raise ValueError(
            f"duplicate image_id {repeated.iloc[0]!r} ({len(repeated)} rows repeat an id); "
            "every image should have an id, or path, of its own"
        )


def _check_real_evaluation(dataset: Dataset) -> None:
    table = dataset.table
    wrong = np.flatnonzero((table["source"] == "synthetic") & (table["split"] != "train"))
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"{dataset.described(row)} is synthetic and in {table['split'].iat[row]} ({len(wrong)} such "
            "images); validation and test should be real: move it to train"
        )


def _examine(dataset: Dataset) -> tuple[list[str], list[str | None]]:
    """Content hash and complaint (None = a sound image) of every row."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        examined = list(pool.map(lambda row: _examine_one(dataset, row), range(len(dataset))))
    return [content for content, _ in examined], [complaint for _, complaint in examined]


def _examine_one(dataset: Dataset, row: int) -> tuple[str, str | None]:
    try:
        encoded = dataset.encoded(row)
        decode(encoded, dataset.described(row))
    except (ValueError, OSError) as error:
        return "", str(error).splitlines()[0]
    return content_hash(encoded), None
