"""Counts, shots, profiles and subsets."""

from __future__ import annotations

import json
import math

import numpy as np

from tailsmith.cli.text import dataset_text
from tailsmith.data.counts import class_counts, describe, group_counts, imbalance_factor
from tailsmith.data.dataset import Dataset, make_table
from tailsmith.strata import shots


def dataset(n: int = 300, seed: int = 0) -> Dataset:
    """Three classes (none of the last in group "b"), two attributes and some images without."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, n, p=[0.6, 0.3, 0.1])
    attributes = np.where(labels == 2, 0, rng.choice([-1, 0, 1], n))
    table = make_table(
        labels,
        image_ids=[f"{i:03d}" for i in range(n)],
        encoded=[f"{i}".encode() for i in range(n)],
        attributes=attributes,
        splits=rng.choice(["train", "val", "test"], n, p=[0.8, 0.1, 0.1]).tolist(),
    )
    return Dataset(table, ("cat", "dog", "eel"), ("a", "b"), name="zoo")


def test_counts_equal_a_slow_loop() -> None:
    data = dataset()
    rows = list(data.table.itertuples())
    for split in ("train", "val", "test"):
        for label in range(3):
            in_class = [row for row in rows if row.split == split and row.label == label]
            assert class_counts(data, split)[label] == len(in_class)
            for attribute in range(2):
                expected = sum(row.attribute == attribute for row in in_class)
                assert group_counts(data, split)[label, attribute] == expected
    assert group_counts(data).dtype == class_counts(data).dtype == np.int64


def test_counts_without_attributes_and_without_images() -> None:
    empty = Dataset(make_table([], image_ids=[]), ("x", "y"))
    assert class_counts(empty).tolist() == [0, 0]
    assert group_counts(empty).shape == (2, 0)


def test_shots_at_their_borders() -> None:
    assert shots([101, 100, 20, 19, 0]).tolist() == ["many", "medium", "medium", "few", "few"]


def test_imbalance_factor() -> None:
    assert imbalance_factor([500, 20, 5]) == 100
    assert imbalance_factor([5, 0]) == math.inf
    assert math.isnan(imbalance_factor([0, 0]))
    assert math.isnan(imbalance_factor([]))


def test_description_agrees_with_the_counts_and_is_json() -> None:
    data = dataset()
    described = describe(data)
    json.dumps(described)
    assert described["images"] == 300
    assert sum(described["splits"].values()) == 300
    assert {name: each["train"] for name, each in described["classes"].items()} == dict(
        zip(data.class_names, class_counts(data).tolist(), strict=True)
    )
    assert described["shots"] == {"many": 1, "medium": 2, "few": 0}
    assert described["classes"]["cat"]["shot"] == "many"
    assert described["empty_groups"] == ["eel in b"]
    assert described["groups"]["dog in a"]["test"] == group_counts(data, "test")[1, 0]


def test_classes_and_groups_that_no_test_image_speaks_for_are_said() -> None:
    splits = ["train", "train", "train", "train", "val", "test"]
    table = make_table([0, 0, 1, 2, 0, 0], image_ids=list("abcdef"), attributes=[0, 1, 0, 1, 0, 0], splits=splits)
    described = describe(Dataset(table, ("cat", "dog", "eel"), ("x", "y")))
    assert described["untested"] == described["unvalidated"] == ["dog", "eel"]
    assert described["untested_groups"] == ["cat in y", "dog in x", "eel in y"]
    text = dataset_text(described)
    assert "Classes without a test image (2 of 3): dog, eel. Their accuracy can't be measured" in text
    assert "Add real test images of them" in text
    assert "Classes without a validation image (2 of 3): dog, eel." in text
    assert "Groups with training images and without a test image (3): cat in y, dog in x, eel in y;" in text


def test_a_thousand_classes_without_a_test_image_are_named_a_few_at_a_time() -> None:
    table = make_table([*range(30), 0], image_ids=[str(i) for i in range(31)], splits=["train"] * 30 + ["test"])
    text = dataset_text(describe(Dataset(table, tuple(f"c{i:02}" for i in range(30)))))
    assert "(29 of 30): c01, c02, c03, c04, c05, c06, c07, c08, c09, c10 and 19 more." in text


def test_a_whole_split_without_images_names_no_class() -> None:
    described = describe(Dataset(make_table([0, 1], image_ids=["a", "b"]), ("cat", "dog")))
    assert described["untested"] == described["unvalidated"] == described["untested_groups"] == []
    assert "without a test image" not in dataset_text(described)
