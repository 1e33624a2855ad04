"""Accuracies as the commands print them: what they are means of, what they leave out, seeds, the bias of a minimum."""

from typing import Any

import numpy as np
import pytest

from tailsmith.cli.text import accuracy_text, arms_text
from tailsmith.metrics.accuracy import Attributes, accuracy_table, summarise

NAMES = ("oak", "ash", "birch", "cedar")


def table(right: str, labels: str = "000011123", **options: Any) -> dict[str, Any]:
    truth, flags = np.array(list(map(int, labels))), np.array(list(map(int, right)))
    settings = {"class_names": NAMES, "train_counts": [150, 50, 5, 5], "bootstrap": 200} | options
    return accuracy_table(np.where(flags, truth, (truth + 1) % 4), truth, **settings)


def line_of(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(start))


def test_classes_without_test_images_are_said_where_the_number_stands() -> None:
    partly = table("11111111", labels="00001112")
    assert "few (< 20), 1 of 2 classes has test images  100.0" in line_of(accuracy_text(partly, "test"), "few")
    assert "overall, 3 of 4 classes have test images" in accuracy_text(partly, "test")
    printed = arms_text({"erm": partly, "text": partly}).splitlines()
    assert printed[3:] == ["overall: 3 of 4 classes have test images", "few: 1 of 2 classes has test images"]
    assert "have test images" not in accuracy_text(table("111111111"), "test")
    assert len(arms_text({"erm": table("111111111")}).splitlines()) == 2


def test_no_test_image_at_all_is_said_too() -> None:
    nothing = table("1111111", labels="0000111")
    words, numbers = line_of(accuracy_text(nothing, "test"), "few").split("images")
    assert words == "few (< 20), none of 2 classes have test "
    assert numbers.split() == ["-", "-", "..", "-", "0"]


def test_the_average_over_images_stands_beside_overall_where_they_differ() -> None:
    skewed, even = table("111100000"), table("1010", labels="0123")
    assert line_of(accuracy_text(skewed, "test"), "average over images").split()[3] == "44.4"
    assert line_of(accuracy_text(skewed, "test"), "overall").split()[1] == "25.0"
    assert "average over images" in arms_text({"erm": skewed, "text": even})
    assert "average" not in accuracy_text(even, "test") + arms_text({"erm": even})


def test_the_bias_of_the_worst_group_is_said_in_words() -> None:
    groups = {"attributes": Attributes([0, 1, 0, 1, 0, 1, 0, 1, 0], ("rock", "water"))}
    found = table("111011111", **groups)
    words = accuracy_text(found, "test").split("\n\n")[-1]
    assert words.startswith("The lowest of 6 groups' accuracies is biased downwards, as groups have few test images")
    assert f"here by about {-found['worst_group']['bias']:.1f} points; its interval allows for that." in words
    assert "worst group: oak in water, 6 of 8 groups have test images" in accuracy_text(found, "test")


def test_arms_with_seeds_show_mean_deviation_and_standard_error() -> None:
    seeds = [table("111100000"), table("111111100"), table("111111111")]
    printed = arms_text({"erm": seeds, "text": table("111111111")})
    cell = summarise(seeds)["overall"]
    expected = f"{cell['accuracy']:.1f} ± {cell['std']:.1f} ({cell['standard_error']:.1f})"
    assert expected in line_of(printed, "erm")
    assert "±" not in line_of(printed, "text")
    assert printed.splitlines()[-1] == "mean ± standard deviation over training seeds (standard error of the mean)"


def test_tables_of_earlier_versions_print_as_they_did() -> None:
    now = table("111100000")
    del now["average"], now["images"]
    for cell in (now["overall"], *now["shots"].values()):
        del cell["classes"], cell["of"]
    for key in ("groups", "of", "bias"):
        del now["worst_group"][key]
    assert line_of(arms_text({"erm": now}), "erm").split() == ["erm", "25.0", "100.0", "0.0", "0.0"]
    assert line_of(accuracy_text(now, "test"), "overall").split()[1] == "25.0"
    assert "±" not in arms_text({"erm": [now]})


@pytest.mark.parametrize("arms", [{"erm": [table("111100000")]}, {"erm": table("111100000")}], ids=["list", "table"])
def test_one_seed_is_a_table(arms: dict[str, Any]) -> None:
    assert line_of(arms_text(arms), "erm").split()[1] == "25.0"
