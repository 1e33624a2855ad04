"""Accuracy tables against sklearn, scipy, slow loops and resampling image by image; test_intervals.py has coverage."""

import json
import math
import time

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, recall_score

from tailsmith.files import to_json
from tailsmith.metrics.accuracy import Attributes, accuracy_table, summarise
from tailsmith.strata import group_shots, shots

CLASSES, CONTEXTS = ("sandal", "coat", "bag", "shirt"), ("rock", "water")


def example(n: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels, attributes = rng.integers(0, 4, n), rng.integers(0, 2, n)
    right = rng.random(n) < 0.3 + 0.15 * labels
    return np.where(right, labels, rng.integers(0, 4, n)), labels, attributes


def table_of(predictions, labels, attributes=None, train_group_counts=None, **options):
    settings = {"class_names": CLASSES, "train_counts": [500, 100, 20, 5], "bootstrap": 50} | options
    groups = None if attributes is None else Attributes(attributes, CONTEXTS, train_group_counts)
    return accuracy_table(predictions, labels, attributes=groups, **settings)


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


def test_cells_of_one_class_or_group_have_wilson_intervals():
    predictions, labels, attributes = example(200)
    table = table_of(predictions, labels, attributes)
    right = predictions == labels
    chosen = {("classes", name): labels == c for c, name in enumerate(CLASSES)}
    chosen |= {("groups", "coat in water"): (labels == 1) & (attributes == 1), ("average",): labels >= 0}
    for keys, rows in chosen.items():
        cell = table[keys[0]] if len(keys) == 1 else table[keys[0]][keys[1]]
        ends = stats.binomtest(int(right[rows].sum()), int(rows.sum())).proportion_ci(method="wilson")
        assert (cell["low"], cell["high"]) == pytest.approx((100 * ends.low, 100 * ends.high), abs=1e-4)


def test_the_interval_of_a_mean_over_classes_is_that_of_resampling_image_by_image_where_images_are_many():
    predictions, labels, _ = example(2000)
    rng = np.random.default_rng(1)
    replicates = np.empty((1000, 4))
    for c in range(4):
        right = predictions[labels == c] == c
        replicates[:, c] = 100 * rng.choice(right, size=(1000, len(right))).mean(1)
    overall = table_of(predictions, labels)["overall"]
    assert (overall["low"], overall["high"]) == pytest.approx(np.percentile(replicates.mean(1), [2.5, 97.5]), abs=0.25)


def test_no_interval_is_without_width_at_0_and_100_percent():
    labels, attributes = np.repeat(np.arange(4), 2), np.tile([0, 1], 4)
    for predictions in (labels, (labels + 1) % 4):
        table = table_of(predictions, labels, attributes, train_group_counts=np.full((4, 2), 5))
        cells = [table["overall"], table["average"], table["worst_group"], table["shots"]["few"]]
        cells += [table["group_shots"]["minority"], *table["classes"].values(), *table["groups"].values()]
        assert all(cell["accuracy"] in (0, 100) and cell["high"] - cell["low"] > 10 for cell in cells)


def test_the_worst_groups_interval_allows_for_the_bias_of_a_minimum():
    labels, attributes = np.repeat(np.arange(4), 40), np.tile(np.arange(2), 80)
    predictions = np.where(np.arange(160) // 2 % 2 == 0, labels, (labels + 1) % 4)  # 50 % in all eight groups
    worst = table_of(predictions, labels, attributes, bootstrap=1000)["worst_group"]
    assert (worst["accuracy"], worst["groups"], worst["of"]) == (50, 8, 8)
    assert worst["bias"] < -5
    assert worst["low"] < 50 < 50 - worst["bias"] < worst["high"]


def test_seeds_decide_the_worst_groups_interval_and_nothing_else():
    predictions, labels, attributes = example()
    first, same, other = (table_of(predictions, labels, attributes, seed=seed) for seed in (0, 0, 1))
    assert first == same
    assert first["worst_group"].pop("high") != other["worst_group"].pop("high")
    for each in (first, other):
        del each["worst_group"]["low"], each["worst_group"]["bias"]
    assert first == other


def test_the_average_is_over_images_and_overall_over_classes():
    labels = np.array([0] * 8 + [1] * 2)
    table = table_of(np.array([0] * 8 + [0, 1]), labels)
    assert (table["average"]["accuracy"], table["average"]["n"]) == (90, 10)
    assert table["overall"]["accuracy"] == 75


def test_means_say_of_how_many_classes_and_groups_there_are_test_images():
    counts = {"train_counts": [500, 10, 10, 5], "train_group_counts": [400, 100, 5, 5, 5, 5, 5, 0]}
    table = table_of(np.array([0, 1, 1]), np.array([0, 0, 1]), np.array([0, 1, 0]), **counts)
    few, minority, worst = table["shots"]["few"], table["group_shots"]["minority"], table["worst_group"]
    assert (few["classes"], few["of"]) == (1, 3)
    assert (table["overall"]["classes"], table["overall"]["of"]) == (2, 4)
    assert (minority["groups"], minority["of"]) == (1, 5)
    assert (worst["groups"], worst["of"]) == (3, 8)
    assert table["classes"]["coat"]["shot"] == "few"
    assert table["groups"]["sandal in rock"]["shot"] == "majority"


def test_the_record_of_images_is_small_and_fast():
    labels = np.repeat(np.arange(1000), 50)
    begin = time.monotonic()
    table = accuracy_table(labels, labels, class_names=[f"class {c}" for c in range(1000)], train_counts=[9] * 1000)
    assert time.monotonic() - begin < 5
    assert len(to_json(table["images"])) < 400_000
    assert table["images"]["correct"] == "1" * 50_000


def test_absent_classes_groups_and_shots_are_nan_and_left_out_of_means():
    labels = np.array([0, 0, 1])
    table = table_of(np.array([0, 1, 1]), labels, np.array([0, 0, 1]))
    assert math.isnan(table["classes"]["bag"]["accuracy"])
    assert math.isnan(table["shots"]["few"]["accuracy"])
    assert math.isnan(table["groups"]["sandal in water"]["low"])
    assert table["groups"]["sandal in water"]["n"] == 0
    assert table["overall"]["accuracy"] == 75
    assert table["worst_group"]["group"] == "sandal in rock"
    assert table["classes"]["coat"] == {
        "accuracy": 100.0, "n": 1, "low": pytest.approx(20.65, abs=0.01), "high": 100.0, "shot": "medium"
    }  # fmt: skip


def test_without_images_or_attributes_everything_is_nan():
    empty = np.empty(0, dtype=int)
    table = table_of(empty, empty)
    assert math.isnan(table["overall"]["accuracy"])
    assert math.isnan(table["worst_group"]["accuracy"])
    assert table["worst_group"]["group"] is None
    assert table["groups"] == {}
    assert "group_shots" not in table


def test_tables_are_json_and_zero_replicates_mean_no_interval_of_the_worst_group():
    predictions, labels, attributes = example()
    table = table_of(predictions, labels, attributes, train_group_counts=np.ones((4, 2)), bootstrap=0)
    assert math.isnan(table["worst_group"]["low"])
    assert not math.isnan(table["overall"]["low"])
    assert json.loads(json.dumps(table))["overall"] == table["overall"]
    assert json.loads(json.dumps(table))["images"] == table["images"]


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
        "standard_error": pytest.approx(stats.sem(overall)),
        "seeds": 3,
    }
    assert summarise(tables)["classes"]["coat"]["seeds"] == 3
    assert "images" not in summarise(tables) and "confusion" not in summarise(tables)
    earlier = {key: value for key, value in tables[0].items() if key not in ("images", "average")}
    assert summarise([earlier, *tables[1:]])["overall"] == cell  # tables of an earlier version have neither


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
        ({"image_ids": ["a", "b"]}, "image_ids should have 3 entries, one per label, got 2"),
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
