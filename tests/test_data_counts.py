"""Counts, shots, profiles and subsets."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from tailsmith.data.counts import class_counts, describe, group_counts, imbalance_factor, shots
from tailsmith.data.dataset import Dataset, make_table
from tailsmith.data.long_tail import exponential_profile, subset_to_counts


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
    assert shots([101, 100, 20, 19, 0]) == ("many", "medium", "medium", "few", "few")


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


def test_the_profile_of_the_embedded_task() -> None:
    assert exponential_profile(500, 100, 10) == (500, 300, 180, 108, 65, 39, 23, 14, 8, 5)


def test_profiles_at_their_ends() -> None:
    assert exponential_profile(7, 10, 1) == (7,)
    assert exponential_profile(50, 1, 4) == (50, 50, 50, 50)
    assert min(exponential_profile(5, 100, 10)) == 1


@pytest.mark.parametrize(("arguments", "message"), [((0, 10, 3), "n_max=0"), ((5, 0.5, 3), "got 0.5")])
def test_profiles_that_cannot_be(arguments: tuple[int, float, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        exponential_profile(*arguments)


def test_subsets_have_the_counts_are_nested_and_leave_evaluation_alone() -> None:
    data = dataset()
    smaller = subset_to_counts(data, [20, 10, 0], seed=1)
    larger = subset_to_counts(data, [21, 30, 5], seed=1)
    assert class_counts(smaller).tolist() == [20, 10, 0]
    assert class_counts(larger).tolist() == [21, 30, 5]
    assert set(smaller.table["image_id"]) < set(larger.table["image_id"])
    assert smaller.table["image_id"].is_unique
    assert len(smaller.split("val")) == len(data.split("val"))
    assert smaller.table["image_id"].is_monotonic_increasing


def test_a_choice_depends_on_the_seed_and_on_no_other_class() -> None:
    data = dataset()
    one, other = (subset_to_counts(data, [20, n, 0], seed=1).split("train") for n in (0, 40))
    assert one.table["image_id"].tolist() == other.select(other.labels == 0).table["image_id"].tolist()
    different = subset_to_counts(data, [20, 0, 0], seed=2).split("train")
    assert different.table["image_id"].tolist() != one.table["image_id"].tolist()


def test_subsets_per_group() -> None:
    data = dataset()
    subset = subset_to_counts(data, [[9, 3], [2, 0], [1, 0]], seed=0)
    assert group_counts(subset).tolist() == [[9, 3], [2, 0], [1, 0]]
    assert class_counts(subset).tolist() == [12, 2, 1]  # images without an attribute are in no group


def test_subsets_that_cannot_be() -> None:
    data = dataset()
    with pytest.raises(ValueError, match=r"'eel' has \d+ training images, fewer than the 99"):
        subset_to_counts(data, [1, 1, 99], seed=0)
    with pytest.raises(ValueError, match=r"'eel in b' has 0 training images"):
        subset_to_counts(data, [[1, 1], [1, 1], [1, 1]], seed=0)
    with pytest.raises(ValueError, match=r"one entry per class \(3,\) or per group \(3, 2\), got shape \(2,\)"):
        subset_to_counts(data, [1, 1], seed=0)
    with pytest.raises(ValueError, match="got -1 for 'dog'"):
        subset_to_counts(data, [1, -1, 0], seed=0)
