"""Validation and test images for a dataset that came without."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from tailsmith.data.dataset import Dataset
from tailsmith.errors import UserError

VAL_FRACTION = 0.15
TEST_FRACTION = 0.15


def fill_splits(
    dataset: Dataset,
    *,
    val_fraction: float = VAL_FRACTION,
    test_fraction: float = TEST_FRACTION,
    seed: int = 0,
) -> Dataset:
    """Whichever of val and test has no image is taken from train, class by class; existing ones stay.

    An image's place follows from its content and `seed`, not from file names or order, and images of equal
    content go together. Every class keeps at least one training image. Only real images move. A fraction of 0
    takes none.
    """
    if min(val_fraction, test_fraction) < 0 or val_fraction + test_fraction >= 1:
        raise UserError(
            "val_fraction and test_fraction should be 0 or more and leave something for training, "
            f"got {val_fraction} and {test_fraction}"
        )
    wanted = {"test": test_fraction, "val": val_fraction}
    present = set(dataset.table["split"])
    missing = {split: share for split, share in wanted.items() if split not in present and share > 0}
    if not missing:
        return dataset
    return _move(dataset, missing, seed)


def _move(dataset: Dataset, missing: dict[str, float], seed: int) -> Dataset:
    table = dataset.table
    movable = np.flatnonzero((table["split"] == "train") & (table["source"] == "real"))
    with ThreadPoolExecutor() as pool:
        ranks = np.array(list(pool.map(lambda row: _rank(dataset, int(row), seed), movable)), dtype=object)
    splits = table["split"].to_numpy(dtype=object).copy()
    place: dict[str, str] = {}  # rank -> split, across classes, so that no content lies in two splits
    for label in range(len(dataset.class_names)):
        of_class = dataset.labels[movable] == label
        _place_class(sorted(rank for rank in set(ranks[of_class]) if rank not in place), missing, place)
    splits[movable] = [place[rank] for rank in ranks]
    return replace(dataset, table=table.assign(split=splits))


def _place_class(ranks: list[str], missing: dict[str, float], place: dict[str, str]) -> None:
    """The first round(share * n) to each missing split, the rest to train; the last one in any case."""
    place.update(dict.fromkeys(ranks, "train"))
    start = 0
    for split, share in missing.items():
        stop = min(start + round(share * len(ranks)), len(ranks) - 1)
        place.update(dict.fromkeys(ranks[start:stop], split))
        start = max(start, stop)


def _rank(dataset: Dataset, row: int, seed: int) -> str:
    try:
        content = dataset.content_hash(row)
    except (ValueError, OSError):  # a file that is gone or locked: `check_dataset` says so, or drops it
        content = str(dataset.table["image_id"].iat[row])
    return hashlib.sha256(f"{seed}:{content}".encode()).hexdigest()
