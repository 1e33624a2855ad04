"""Validation and test images for datasets that came without."""

from __future__ import annotations

import numpy as np
import pytest

from tailsmith.data.counts import class_counts
from tailsmith.data.dataset import Dataset, make_table
from tailsmith.data.splits import fill_splits


def unsplit(counts: list[int], start: int = 0) -> Dataset:
    labels = np.repeat(np.arange(len(counts)), counts)
    ids = [f"{i:04d}" for i in range(len(labels))]
    contents = [f"content {start + i}".encode() for i in range(len(labels))]
    return Dataset(make_table(labels, image_ids=ids, encoded=contents), tuple("abcdef"[: len(counts)]))


def test_missing_splits_are_taken_from_every_class_in_proportion() -> None:
    dataset = fill_splits(unsplit([100, 20, 4, 2, 1]))
    assert class_counts(dataset, "val").tolist() == [15, 3, 1, 0, 0]
    assert class_counts(dataset, "test").tolist() == [15, 3, 1, 0, 0]
    assert class_counts(dataset, "train").tolist() == [70, 14, 2, 2, 1]


def test_every_class_keeps_a_training_image() -> None:
    dataset = fill_splits(unsplit([2, 1, 3]), val_fraction=0.49, test_fraction=0.5)
    assert class_counts(dataset, "train").tolist() == [1, 1, 1]


def test_the_place_of_an_image_follows_its_content_alone() -> None:
    dataset = unsplit([30, 30])
    shuffled = dataset.select(np.random.default_rng(0).permutation(60))
    renamed = shuffled.table.assign(image_id=[f"new {i}" for i in range(60)])
    other = fill_splits(Dataset(renamed, dataset.class_names))
    first = fill_splits(dataset)
    place = {first.content_hash(row): first.table["split"].iat[row] for row in range(60)}
    assert [place[other.content_hash(row)] for row in range(60)] == other.table["split"].tolist()
    assert fill_splits(dataset, seed=1).table["split"].tolist() != first.table["split"].tolist()


def test_copies_of_an_image_stay_together() -> None:
    single = unsplit([40, 40])
    ids = [f"copy {i}" for i in range(80)]
    copies = Dataset(single.table.assign(image_id=ids, label=1 - single.labels), single.class_names)
    doubled = fill_splits(Dataset.concatenate([single, copies]))
    splits = doubled.table["split"].tolist()
    assert splits[:80] == splits[80:]
    assert {"train", "val", "test"} == set(splits)


def test_splits_that_exist_stay_and_synthetic_images_stay_in_train() -> None:
    dataset = unsplit([20, 20])
    table = dataset.table.assign(split=["test"] * 5 + ["train"] * 35, source=["real"] * 30 + ["synthetic"] * 10)
    filled = fill_splits(Dataset(table, dataset.class_names), val_fraction=0.2)
    assert (filled.table["split"] == "test").tolist() == [True] * 5 + [False] * 35
    assert set(filled.table["split"].iloc[30:]) == {"train"}
    assert class_counts(filled, "val").tolist() == [3, 2]


def test_fractions_of_zero_take_nothing_and_impossible_ones_are_refused() -> None:
    dataset = unsplit([20, 20])
    assert set(fill_splits(dataset, val_fraction=0, test_fraction=0).table["split"]) == {"train"}
    assert set(fill_splits(dataset, val_fraction=0).table["split"]) == {"train", "test"}
    with pytest.raises(ValueError, match=r"leave something for training, got 0\.5 and 0\.5"):
        fill_splits(dataset, val_fraction=0.5, test_fraction=0.5)
    with pytest.raises(ValueError, match=r"got -0\.1"):
        fill_splits(dataset, val_fraction=-0.1)
