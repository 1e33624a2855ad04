"""Accuracy tables against sklearn, slow loops and an image-by-image bootstrap."""

import json
import math

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, recall_score

from tailsmith.metrics.accuracy import accuracy_table, group_shots, shots, summarise

CLASSES, CONTEXTS = ("sandal", "coat", "bag", "shirt"), ("rock", "water")


def example(n: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels, attributes = rng.integers(0, 4, n), rng.integers(0, 2, n)
    right = rng.random(n) < 0.3 + 0.15 * labels
    return np.where(right, labels, rng.integers(0, 4, n)), labels, attributes


def table_of(predictions, labels, attributes=None, **options):
    settings = {"class_names": CLASSES, "train_counts": [500, 100, 20, 5], "bootstrap": 50} | options
    names = CONTEXTS if attributes is not None else ()
    return accuracy_table(predictions, labels, attributes=attributes, attribute_names=names, **settings)


def test_overall_and_classes_equal_sklearn():
    predictions, labels, _ = example()
    table = table_of(predictions, labels)
    recalls = 100 * recall_score(labels, predictions, average=None)
    assert table["overall"]["accuracy"] == pytest.approx(100 * balanced_accuracy_score(labels, predictions))
    assert [table["classes"][name]["accuracy"] for name in CLASSES] == pytest.approx(recalls.tolist())
    assert [table["classes"][name]["n"] for name in CLASSES] == np.bincount(labels).tolist()
    assert table["confusion"] == confusion_matrix(labels, predictions).tolist()
    assert table["shots"]["many"]["accuracy"] == pytest.approx(recalls[0])
    assert table["shots"]["medium"]["accuracy"] == pytest.approx(recalls[1:3].mean())
    assert table["shots"]["few"]["accuracy"] == pytest.approx(recalls[3])


def test_overall_is_the_mean_over_images_on_a_balanced_test_set():
    labels = np.repeat(np.arange(4), 25)
    predictions = example(100)[0]
    assert table_of(predictions, labels)["overall"]["accuracy"] == pytest.approx(100 * np.mean(predictions == labels))


def test_groups_equal_a_slow_loop():
    predictions, labels, attributes = example()
    attributes[:20] = -1  # without attribute: in their class, in no group
    group_counts = [500, 30, 101, 19, 20, 0, 1, 100]
    table = table_of(predictions, labels, attributes, train_group_counts=group_counts)
    accuracies = {}
    for c, name in enumerate(CLASSES):
        for a, context in enumerate(CONTEXTS):
            rows = [i for i in range(400) if labels[i] == c and attributes[i] == a]
            accuracies[f"{name} in {context}"] = 100 * sum(predictions[i] == c for i in rows) / len(rows)
            assert table["groups"][f"{name} in {context}"]["n"] == len(rows)
    values = list(accuracies.values())
    assert {name: cell["accuracy"] for name, cell in table["groups"].items()} == pytest.approx(accuracies)
    assert table["worst_group"]["accuracy"] == pytest.approx(min(values))
    assert accuracies[table["worst_group"]["group"]] == min(values)
    expected = {
        "majority": (values[0] + values[2]) / 2,
        "medium": (values[1] + values[4] + values[7]) / 3,
        "minority": (values[3] + values[6]) / 2,
        "unseen": values[5],
    }
    assert {name: cell["accuracy"] for name, cell in table["group_shots"].items()} == pytest.approx(expected)
    assert table["classes"]["coat"]["accuracy"] == pytest.approx(
        table_of(predictions, labels)["classes"]["coat"]["accuracy"]
    )


def test_bootstrap_intervals_equal_resampling_image_by_image():
    predictions, labels, _ = example(200)
    table = table_of(predictions, labels, bootstrap=4000)
    rng = np.random.default_rng(1)
    replicates = np.empty((2000, 4))
    for b in range(2000):
        for c in range(4):
            rows = rng.choice(np.flatnonzero(labels == c), size=(labels == c).sum())
            replicates[b, c] = 100 * np.mean(predictions[rows] == c)
    for c, name in enumerate(CLASSES):
        low, high = np.percentile(replicates[:, c], [2.5, 97.5])
        assert table["classes"][name]["low"] == pytest.approx(low, abs=2.5)  # steps of one image are 2 %
        assert table["classes"][name]["high"] == pytest.approx(high, abs=2.5)
    low, high = np.percentile(replicates.mean(1), [2.5, 97.5])
    assert (table["overall"]["low"], table["overall"]["high"]) == pytest.approx((low, high), abs=0.8)


def test_the_interval_of_the_worst_group_is_that_of_the_minimum():
    labels, attributes = np.repeat(np.arange(4), 40), np.tile(np.arange(2), 80)
    predictions = np.where(np.arange(160) // 2 % 2 == 0, labels, (labels + 1) % 4)  # 50 % in all eight groups
    table = table_of(predictions, labels, attributes, bootstrap=2000)
    one = table["groups"]["sandal in rock"]
    assert table["worst_group"]["accuracy"] == one["accuracy"] == 50
    assert table["worst_group"]["high"] < one["high"]
    assert table["worst_group"]["low"] <= one["low"]


def test_seeds_decide_the_intervals_and_nothing_else():
    predictions, labels, attributes = example()
    first, same, other = (table_of(predictions, labels, attributes, seed=seed) for seed in (0, 0, 1))
    assert first == same
    assert first["overall"]["accuracy"] == other["overall"]["accuracy"]
    assert first["overall"]["low"] != other["overall"]["low"]


def test_absent_classes_groups_and_shots_are_nan_and_left_out_of_means():
    labels = np.array([0, 0, 1])
    table = table_of(np.array([0, 1, 1]), labels, np.array([0, 0, 1]))
    assert math.isnan(table["classes"]["bag"]["accuracy"])
    assert math.isnan(table["shots"]["few"]["accuracy"])
    assert math.isnan(table["groups"]["sandal in water"]["low"])
    assert table["groups"]["sandal in water"]["n"] == 0
    assert table["overall"]["accuracy"] == 75
    assert table["worst_group"]["group"] == "sandal in rock"
    assert table["classes"]["coat"] == {"accuracy": 100.0, "n": 1, "low": 100.0, "high": 100.0}


def test_without_images_or_attributes_everything_is_nan():
    empty = np.empty(0, dtype=int)
    table = table_of(empty, empty)
    assert math.isnan(table["overall"]["accuracy"])
    assert math.isnan(table["worst_group"]["accuracy"])
    assert table["worst_group"]["group"] is None
    assert table["groups"] == {}
    assert "group_shots" not in table


def test_tables_are_json_and_zero_replicates_mean_no_interval():
    predictions, labels, attributes = example()
    table = table_of(predictions, labels, attributes, train_group_counts=np.ones((4, 2)), bootstrap=0)
    assert math.isnan(table["overall"]["low"])
    assert json.loads(json.dumps(table))["overall"]["accuracy"] == table["overall"]["accuracy"]


def test_shot_boundaries():
    assert shots(np.array([101, 100, 20, 19, 0])).tolist() == ["many", "medium", "medium", "few", "few"]
    assert group_shots(np.array([101, 100, 20, 19, 1, 0])).tolist() == [
        *("majority", "medium", "medium"),
        *("minority", "minority", "unseen"),
    ]


def test_summarise_gives_mean_and_spread_over_seeds():
    tables = [table_of(*example(seed=seed)) for seed in range(3)]
    overall = [table["overall"]["accuracy"] for table in tables]
    cell = summarise(tables)["overall"]
    assert cell == {
        "accuracy": pytest.approx(np.mean(overall)),
        "std": pytest.approx(np.std(overall, ddof=1)),
        "seeds": 3,
    }
    assert summarise(tables)["classes"]["coat"]["seeds"] == 3


def test_summarise_leaves_out_nan_and_null():
    tables = [{"overall": {"accuracy": value}} for value in (50.0, None, math.nan)]
    cell = summarise(tables)["overall"]
    assert (cell["accuracy"], cell["seeds"]) == (50.0, 1)
    assert math.isnan(cell["std"])


def test_summarise_refuses_nothing_and_different_tasks():
    with pytest.raises(ValueError, match="no accuracy tables"):
        summarise([])
    with pytest.raises(ValueError, match="different tasks can't be summarised: only some have bag, cap"):
        summarise([{"classes": {"bag": {"accuracy": 1}}}, {"classes": {"cap": {"accuracy": 1}}}])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"predictions": np.zeros((3, 4))},
            r"class indices \[n\] each, got \[3, 4\] and \[3\]; take logits.argmax",
        ),
        ({"predictions": np.zeros(3)}, "predictions should be integer class indices, got float64"),
        ({"labels": np.array([0, 1, 4])}, r"labels should be in 0..3, got 0..4"),
        ({"predictions": np.array([0, -1, 2])}, r"predictions should be in 0..3, got -1..2"),
        ({"attributes": np.array([0, 1])}, r"attributes should be integers \[3\]"),
        ({"attributes": np.array([0, 1, 2])}, r"attributes should be in -1..1, got 0..2"),
        ({"train_counts": [1, 2]}, "train_counts should have 4 entries, got 2"),
        (
            {"attributes": np.array([0, 1, 1]), "train_group_counts": [1, 2]},
            "train_group_counts should have 8 entries, got 2",
        ),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"predictions": np.array([0, 1, 2]), "labels": np.array([0, 1, 2])} | change
    with pytest.raises(ValueError, match=message):
        table_of(**arguments)
