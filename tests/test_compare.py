"""Runs side by side: what the page and the terminal say, what isn't alike, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from folders import write_folder
from tailsmith.classification.config import TrainConfig
from tailsmith.cli.compare_command import comparison_text
from tailsmith.cli.main import main
from tailsmith.data.dataset import Dataset, make_table
from tailsmith.errors import UserError
from tailsmith.files import read_json, write_json
from tailsmith.metrics.accuracy import AccuracyTable, Attributes, accuracy_table
from tailsmith.metrics.paired import mean_paired_interval, paired_interval
from tailsmith.report.compared import Comparison, gain
from tailsmith.report.comparison_page import columns_of, render_comparison, write_comparison
from tailsmith.report.headline import measures
from tailsmith.report.results import Arm
from tailsmith.runs.compare import compare, short_names
from tailsmith.runs.config import RunConfig, SearchConfig
from tailsmith.runs.directory import RunDirectory

NAMES, COUNTS = ("bag", "coat", "sandal"), (150, 50, 5)
TESTED = 40  # images of each class
ATTRIBUTES = ("rock", "water")
SCRIPT = "<script>alert(1)</script>"


def dataset(
    counts: Sequence[int] = COUNTS,
    *,
    names: Sequence[str] = NAMES,
    grouped: bool = False,
    test: str = "test",
    contents: str = "",
) -> Dataset:
    """Without pictures: ids, labels, splits, and bytes that differ."""
    per_split = {"train": counts, "val": [6] * 3, "test": [TESTED] * 3}
    labels = [label for each in per_split.values() for label, n in enumerate(each) for _ in range(n)]
    splits = [split for split, each in per_split.items() for _ in range(sum(each))]
    ids = [f"{test if split == 'test' else split}/{n}" for split, each in per_split.items() for n in range(sum(each))]
    rows = np.arange(len(labels))
    table = make_table(
        labels,
        image_ids=ids,
        encoded=[(each + contents).encode() for each in ids],
        splits=splits,
        attributes=rows % 2 if grouped else None,
    )
    return Dataset(table, tuple(names), ATTRIBUTES if grouped else (), "tiny")


def table_of(data: Dataset, share: float, seed: int = 0) -> AccuracyTable:
    """A table of a classifier that is right on about such a share."""
    rows = data.split("test")
    right = np.random.default_rng(seed).random(len(rows)) < share
    counts = np.bincount(data.split("train").labels, minlength=3)
    attributes = None
    if data.attribute_names:
        groups = np.bincount(data.split("train").groups, minlength=6)
        attributes = Attributes(rows.attributes, data.attribute_names, groups)
    return accuracy_table(
        np.where(right, rows.labels, (rows.labels + 1) % 3),
        rows.labels,
        class_names=data.class_names,
        train_counts=counts,
        attributes=attributes,
        image_ids=rows.table["image_id"].tolist(),
        bootstrap=50,
    )


SHORT = RunConfig(data="tiny", arms=("erm", "balanced_softmax"), real=TrainConfig(steps=10, batch_size=8))


def seeded(config: RunConfig, seed: int) -> RunConfig:
    real, mixed = replace(config.real, seed=seed), replace(config.mixed, seed=seed)
    synthesis = replace(config.synthesis, seed=seed)
    return replace(config, data_seed=seed, real=real, mixed=mixed, synthesis=synthesis)


def write_run(
    path: Path, config: RunConfig = SHORT, data: Dataset | None = None, *, shares: Sequence[float] = (0.5, 0.8)
) -> Path:
    """A run whose arms were tested, as the package writes it, without training."""
    data = data or dataset()
    directory = RunDirectory.claim(path, config, f"tailsmith run --out {path}", data)
    for number, (arm, share) in enumerate(zip(config.arms, shares, strict=False)):
        table = table_of(data, share, seed=10 * config.data_seed + number)
        write_json(directory.arm(arm) / "evaluation.json", table)
    write_json(path / "timings.json", {"train erm": 12.5})
    return path


class Page(HTMLParser):
    """What a page says and would load; tags that are left open are an error."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text, self.scripts, self.loads = "", 0, []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.loads += [value for name, value in attributes if name in ("src", "href")]
        if tag not in {"meta", "link", "img", "input", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["script"], ["style"]):
            self.text += data


def read(comparison: Comparison) -> Page:
    page = Page(render_comparison(comparison, "tailsmith compare"))
    assert page.loads == ["data:,"] and page.scripts == 1
    return page


def check(comparison: Comparison, what: str) -> tuple[bool, str]:
    (found,) = [each for each in comparison.checks if each.what == what]
    return found.holds, found.said


# --- what is compared


def test_one_run_is_its_arms_against_erm(tmp_path: Path) -> None:
    found = compare([write_run(tmp_path / "one")])
    assert [row.name for row in found.rows] == ["one/erm", "one/balanced_softmax"]
    assert found.baseline is found.rows[0]
    assert found.warnings == [] and found.settings == ()
    text = read(found).text
    assert "2 arms against one/erm" in text and "alike in all that was checked" in text
    assert f"{3 * TESTED} images" in text and "12" in text
    assert "Not alike" not in comparison_text(found)


def test_two_runs_of_the_same_test_images_are_paired(tmp_path: Path) -> None:
    paths = [
        write_run(tmp_path / "a"),
        write_run(tmp_path / "b", replace(SHORT, augmentation="none"), shares=(0.6, 0.9)),
    ]
    found = compare(paths)
    one, other = (read_table(path, "erm") for path in paths)
    for keys in (("overall",), ("average",), ("shots", "few")):
        expected = paired_interval(one, other, keys)
        seen = gain(found.baseline, found.rows[2], *keys)
        assert expected is not None
        assert (seen.low, seen.high) == pytest.approx((expected.low, expected.high))
        assert seen.mean == pytest.approx(other.cell(*keys)["accuracy"] - one.cell(*keys)["accuracy"])
        assert seen.basis == "over the test images, in pairs"
    assert found.warnings == []
    assert [(each.name, each.values) for each in found.settings] == [("augmentation", (SHORT.augmentation, "none"))]
    assert "b/balanced_softmax" in read(found).text


def read_table(path: Path, arm: str) -> AccuracyTable:
    return AccuracyTable(read_json(path / "arms" / arm / "evaluation.json"))


def test_images_seen_and_synthetic_images_are_those_of_the_training(tmp_path: Path) -> None:
    config = replace(SHORT, arms=("erm", "crt:head_steps=5"))
    erm, crt = compare([write_run(tmp_path / "a", config)]).rows
    assert (erm.mean("steps"), erm.mean("images_seen"), erm.mean("synthetic")) == (10, 80, 0)
    assert (crt.mean("steps"), crt.mean("images_seen")) == (15, 120)
    assert crt.name == "a/crt:head_steps=5"
    assert erm.mean("train_seconds") == 12.5 and math.isnan(crt.mean("train_seconds"))


def test_epochs_are_counted_in_steps(tmp_path: Path) -> None:
    config = replace(SHORT, real=TrainConfig(epochs=2, batch_size=10))
    (erm, _) = compare([write_run(tmp_path / "a", config)]).rows
    assert erm.mean("steps") == 2 * math.ceil(sum(COUNTS) / 10)


# --- seeds


def test_seeds_of_one_configuration_are_one_row_with_a_paired_t_interval(tmp_path: Path) -> None:
    paths = []
    for seed in range(3):  # each seed has test images of its own
        data = dataset(test=f"test{seed}", contents=str(seed))
        paths.append(write_run(tmp_path / f"seed-{seed}", seeded(SHORT, seed), data))
    found = compare(paths)
    assert [row.name for row in found.rows] == ["seed-*/erm", "seed-*/balanced_softmax"]
    base, other = ([read_table(path, arm)["overall"]["accuracy"] for path in paths] for arm in SHORT.arms)
    cell = found.rows[1].cell("overall")
    assert (cell.accuracy, (cell.high - cell.low) / 2) == pytest.approx((np.mean(other), np.std(other, ddof=1)))
    expected = stats.ttest_rel(other, base).confidence_interval(0.95)
    seen = gain(*found.rows, "overall")
    assert (seen.low, seen.high) == pytest.approx((expected.low, expected.high))
    assert seen.basis == "over 3 seeds, in pairs"
    assert found.warnings == []
    assert "others with each seed of the data" in check(found, "test images")[1]
    printed = comparison_text(found)
    assert f"{cell.accuracy:.1f} ± {np.std(other, ddof=1):.1f}" in printed and "3 seeds" in printed


def test_two_configurations_are_paired_within_the_seeds_that_both_have(tmp_path: Path) -> None:
    other = replace(SHORT, augmentation="none")
    paths = [write_run(tmp_path / "a" / f"seed-{seed}", seeded(SHORT, seed)) for seed in (0, 1, 10)]
    paths += [write_run(tmp_path / "b" / f"seed-{seed}", seeded(other, seed), shares=(0.6, 0.9)) for seed in (1, 10)]
    found = compare([*paths[:2], *paths[3:], paths[2]])
    assert [row.name for row in found.rows][::2] == ["a/seed-*/erm", "b/seed-*/erm"]
    values = [[read_table(path, "erm")["overall"]["accuracy"] for path in each] for each in (paths[1:3], paths[3:])]
    assert gain(found.rows[0], found.rows[2], "overall").mean == pytest.approx(np.mean(values[1]) - np.mean(values[0]))
    holds, said = check(found, "seeds")
    assert not holds and said.endswith("differences are within the seeds that both sides have, if any")


def test_one_seed_in_common_says_so(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / f"seed-{seed}", seeded(SHORT, seed)) for seed in (0, 1)]
    paths.append(write_run(tmp_path / "b", replace(SHORT, augmentation="none"), shares=(0.6,)))
    found = compare(paths)
    assert gain(found.baseline, found.rows[2], "overall").basis == "over the test images, in pairs, seed 0 alone"


def test_groups_that_have_other_shots_with_another_seed_are_compared_within_it(tmp_path: Path) -> None:
    """As in the embedded tasks, where each seed draws training images of its own."""
    drawn = {seed: dataset(counts, grouped=True) for seed, counts in enumerate([(150, 50, 5), (150, 90, 9)])}
    paths = [write_run(tmp_path / f"seed-{seed}", seeded(SHORT, seed), data) for seed, data in drawn.items()]
    paths.append(write_run(tmp_path / "b", seeded(replace(SHORT, augmentation="none"), 1), drawn[1], shares=(0.7,)))
    drawn_anew = dataset((40, 12, 5), grouped=True)
    paths.append(write_run(tmp_path / "c", seeded(replace(SHORT, target=9), 2), drawn_anew, shares=(0.7,)))
    found = compare(paths)
    rows = {row.name: gain(found.baseline, row, "group_shots", "minority") for row in found.rows}
    assert not math.isnan(rows["b/erm"].low) and rows["b/erm"].basis.endswith("seed 1 alone")
    assert not math.isnan(rows["seed-*/balanced_softmax"].low)
    assert math.isnan(rows["c/erm"].mean)


def test_repeats_with_the_same_seed_stay_apart_and_a_run_given_twice_is_one(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / each / f"seed-{seed}", seeded(SHORT, seed)) for seed in (0, 1) for each in "ab"]
    found = compare([*paths, paths[0], paths[0] / ".." / paths[0].name])
    assert [row.name for row in found.rows][::2] == ["a/seed-*/erm", "b/seed-*/erm"]
    assert len(found.runs) == 4


def test_training_seeds_of_a_search_are_paired_over_the_test_images(tmp_path: Path) -> None:
    data = dataset(grouped=True)
    path = write_run(tmp_path / "a", replace(SHORT, search=SearchConfig(trials=1, seeds=2)), data)
    for number, arm in enumerate(SHORT.arms):
        write_json(path / "arms" / arm / "search.json", {"chosen": 0})
        for seed in (1, 2):
            table = table_of(data, 0.5 + 0.2 * number, seed)
            write_json(path / "arms" / arm / "search" / f"seed-{seed}.json", table)
    found = compare([path])
    one, two = (row.tables for row in found.rows)
    assert len(one) == 2 and found.rows[0].cell("overall").seeds == 2
    seen = gain(*found.rows, "overall")
    assert (seen.low, seen.high) == pytest.approx(mean_paired_interval(one, two, ("overall",)))
    assert gain(*found.rows, "worst_group").low < gain(*found.rows, "worst_group").high
    assert found.rows[0].mean("images_seen") != 80  # the batch size that the search chose


# --- the baseline


def test_a_baseline_is_an_arm_or_run_and_arm(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", replace(SHORT, augmentation="none"))
    for asked in ("b/balanced_softmax", f"{b}/balanced_softmax"):
        assert compare([a, b], asked).baseline.name == "b/balanced_softmax"
    assert compare([a, b], "balanced_softmax").baseline.name == "a/balanced_softmax"
    with pytest.raises(UserError, match=r"got 'b/balanced', did you mean b/balanced_softmax"):
        compare([a, b], "b/balanced")


def test_the_first_arm_is_the_baseline_of_runs_without_erm(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a")
    (path / "arms" / "erm" / "evaluation.json").unlink()
    found = compare([path])
    assert found.baseline.name == "a/balanced_softmax"
    assert found.warnings == ["all arms tested: a has no result of erm"]


# --- what isn't alike


def test_what_is_not_alike_is_said_on_the_page_and_in_print(tmp_path: Path) -> None:
    real = TrainConfig(steps=20, batch_size=8, backbone="resnet18", select_by="image_mean")
    a = write_run(tmp_path / "a")
    b = write_run(tmp_path / "b", replace(SHORT, real=real), dataset((150, 50, 15), contents=""))
    found = compare([a, b])
    page, printed = read(found).text, comparison_text(found)
    expected = {
        "backbone": "resnet-small (a); resnet18 (b)",
        "training budget": "10 steps, 80 images seen (a); 20 steps, 160 images seen (b)",
        "validation accuracy that selects": "class_mean (a); image_mean (b)",
    }
    for what, said in expected.items():
        assert check(found, what) == (False, said)
        assert f"Not alike: {what}: {said}" in printed
        assert f"Not alike: {what}. {said}" in page
    holds, said = check(found, "training images")
    assert not holds and said.startswith("b against a: ") and "train" in said
    assert check(found, "validation images, which select")[0]


def test_arms_of_one_run_are_held_to_each_other(tmp_path: Path) -> None:
    config = replace(SHORT, arms=("erm", "crt:head_steps=5"))
    found = compare([write_run(tmp_path / "a", config)])
    said = "10 steps, 80 images seen (a/erm); 15 steps, 120 images seen (a/crt:head_steps=5)"
    assert check(found, "training budget") == (False, said)


def test_shots_that_hold_other_classes_are_not_compared(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", SHORT, dataset((150, 150, 5)))
    found = compare([a, b])
    assert "1 class of b (first: coat, many, but medium in a)" in check(found, "shots of classes and groups")[1]
    seen = gain(found.baseline, found.rows[2], "shots", "few")
    assert math.isnan(seen.mean) and seen.basis.startswith("not compared")
    assert not math.isnan(gain(found.baseline, found.rows[2], "overall").low)


def test_runs_with_and_without_groups_stand_side_by_side(tmp_path: Path) -> None:
    plain, grouped = write_run(tmp_path / "plain"), write_run(tmp_path / "grouped", SHORT, dataset(grouped=True))
    found = compare([plain, grouped])
    assert check(found, "groups") == (False, "none (plain); 6 (grouped)")
    assert check(found, "training images")[0]
    assert found.rows[0].cell("worst_group").missing and not found.rows[2].cell("worst_group").missing
    assert gain(found.baseline, found.rows[2], "overall").basis == "over the test images, in pairs"
    assert math.isnan(gain(found.baseline, found.rows[2], "worst_group").mean)
    assert "Worst group" in read(found).text and "Unseen" not in read(found).text
    assert "worst group" in comparison_text(found)


def test_columns_are_those_of_the_report_that_have_test_images(tmp_path: Path) -> None:
    found = compare([write_run(tmp_path / "a", SHORT, dataset(grouped=True))])
    titles = measures([Arm(row.name, tuple(row.tables)) for row in found.rows])
    assert list(columns_of(found)) == [t for t in titles if t not in ("Majority groups", "Unseen groups")]
    assert {"Medium groups", "Minority groups", "Worst group"} <= titles.keys()


def test_an_arm_that_the_configuration_does_not_know_is_shown_last(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a")
    write_json(path / "arms" / "real_images" / "evaluation.json", table_of(dataset(), 0.95))
    found = compare([path])
    assert found.rows[-1].name == "a/real_images"
    assert "not known (a/real_images)" in check(found, "training budget")[1]


def test_a_run_of_an_earlier_version_without_a_fingerprint(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    (b / "data.parquet").unlink()
    found = compare([a, b])
    assert check(found, "training images") == (False, "not known of b, which an earlier version made")
    assert math.isnan(found.rows[2].mean("images_seen"))
    for arm in SHORT.arms:
        table = read_table(b, arm)
        del table["images"]
        write_json(b / "arms" / arm / "evaluation.json", table)
    with pytest.raises(UserError, match="didn't note which images"):
        compare([a, b])


# --- what is refused


def test_different_test_images_are_refused(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", SHORT, dataset(test="other"))
    with pytest.raises(UserError, match=r"b was tested on other images than .*a: 120 images were added to test"):
        compare([a, b])


def test_images_of_the_same_names_and_other_contents_are_refused(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", SHORT, dataset(contents="!"))
    with pytest.raises(UserError, match=r"120 images have other contents"):
        compare([a, b])


def test_other_classes_are_refused(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", SHORT, dataset(names=("bag", "coat", "boot")))
    with pytest.raises(UserError, match="was tested on other images than"):
        compare([a, b])


def test_other_test_images_of_another_seed_need_a_seed_in_common(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", seeded(SHORT, 0))
    other = seeded(replace(SHORT, augmentation="none"), 1)
    b = write_run(tmp_path / "b", other, dataset(test="other"))
    with pytest.raises(UserError, match=r"b/erm \(seed 1\) has no seed in common with the baseline a/erm \(seed 0\)"):
        compare([a, b])
    same = write_run(tmp_path / "c", other)
    found = compare([a, same])
    assert gain(found.baseline, found.rows[2], "overall").basis == "over the test images, in pairs; their seeds differ"
    assert not check(found, "seeds")[0]


def test_folders_that_are_no_finished_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is no run directory: it has no config\.yaml"):
        compare([tmp_path / "nothing"])
    RunDirectory.claim(tmp_path / "begun", SHORT, "", dataset())
    with pytest.raises(UserError, match="is not finished: none of its arms"):
        compare([tmp_path / "begun"])
    with pytest.raises(UserError, match=r"is no run directory, but holds some \(begun\)"):
        compare([tmp_path])
    with pytest.raises(UserError, match="no run to compare"):
        compare([])
    damaged = write_run(tmp_path / "damaged")
    (damaged / "arms" / "erm" / "evaluation.json").write_text('{"overall": ')
    with pytest.raises(UserError, match="has a damaged JSON file"):
        compare([damaged])


# --- names, files, the command


def test_short_names_tell_paths_apart() -> None:
    assert short_names([Path("/r/a/seed-0"), Path("/r/b/seed-0")]) == ["a/seed-0", "b/seed-0"]
    assert short_names([Path("/r/a"), Path("/r/b")]) == ["a", "b"]
    assert short_names([Path("/r/a")]) == ["a"]


def test_names_are_text_on_the_page(tmp_path: Path) -> None:
    data = dataset(names=("bag", "coat", SCRIPT), grouped=True)
    folder = tmp_path / SCRIPT.replace("/", "")
    paths = [write_run(folder, SHORT, data), write_run(tmp_path / "b", replace(SHORT, data=SCRIPT), data)]
    command = f"tailsmith compare '{SCRIPT}'"
    found = compare(paths)
    page = render_comparison(found, command)
    assert Page(page).scripts == 1 and "<script>alert" not in page
    assert folder.name in Page(page).text and command in Page(page).text


def test_json_says_what_the_page_says(tmp_path: Path) -> None:
    found = compare([write_run(tmp_path / "a"), write_run(tmp_path / "b", replace(SHORT, augmentation="none"))])
    path = write_comparison(found, tmp_path / "compare.html", "tailsmith compare a b")
    stored = json.loads(path.read_text())
    assert path.name == "compare.json" and stored["baseline"] == "a/erm"
    row = stored["rows"][2]
    assert row["name"] == "b/erm" and row["trained"][0]["images_seen"] == 80
    assert row["accuracy"]["Overall"]["mean"] == pytest.approx(found.rows[2].cell("overall").accuracy)
    assert row["difference"]["Overall"]["low"] == pytest.approx(gain(found.baseline, found.rows[2], "overall").low)
    assert stored["settings"] == {"augmentation": {"a": SHORT.augmentation, "b": "none"}}


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", replace(SHORT, augmentation="none"))
    out = tmp_path / "pages" / "both.html"
    argv = ["compare", str(a), str(b), "--out", str(out), "--baseline", "b/erm"]
    assert main(argv) == main(argv) == 0  # its own page may be replaced
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].startswith("test accuracy in %") and "points above b/erm" in printed
    assert f"tailsmith compare {a} {b}" in Page(out.read_text()).text
    assert read_json(out.with_suffix(".json"))["baseline"] == "b/erm"


def test_the_command_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b", SHORT, dataset(test="other"))
    mine = tmp_path / "mine.html"
    mine.write_text("<p>mine")
    write_json(tmp_path / "both.json", {"mine": 1})
    for argv, words in (
        ([str(a), str(b)], "was tested on other images"),
        ([str(a), str(tmp_path)], "is no run directory"),
        ([str(a), "--baseline", "ermine"], "did you mean"),
        ([str(a), "--out", str(mine)], "is no page that `tailsmith compare` wrote"),
        ([str(a), "--out", str(tmp_path / "both.html")], "is nothing that this command wrote"),
        ([str(a), "--out", str(tmp_path / "page.json")], "a file that ends in .html"),
        ([], "missing: RUNS"),
    ):
        default = ["--out", str(tmp_path / "compare.html")] if "--out" not in argv else []
        assert main(["compare", *argv, *default]) == 2, argv
        said = capsys.readouterr()
        assert words in said.err and len(said.err.splitlines()) == 1 and said.out == ""
    assert mine.read_text() == "<p>mine" and not (tmp_path / "compare.html").exists()


@pytest.mark.slow
def test_real_runs_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two arms with synthetic images of a tiny generator, as `tailsmith run` makes them."""
    from tiny import tiny_pipeline

    data, generator = write_folder(tmp_path / "pets"), tmp_path / "generator"
    tiny_pipeline().save_pretrained(generator)
    quick = [f"--{part}.{name}" for part in ("real", "mixed") for name in ("steps=4", "batch-size=8", "image-size=16")]
    common = ["--generator", str(generator), "--target", "8", "--synthesis.num-inference-steps=2", *quick]
    for name, arms in (("a", "erm,text"), ("b", "erm,text,balanced_softmax")):
        argv = [
            "run",
            "--data",
            str(data),
            "--out",
            str(tmp_path / name),
            "--arms",
            arms,
            "--study-scales",
            "[]",
            *common,
        ]
        assert main(argv) == 0
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "compare.html")]) == 0
    stored = read_json(tmp_path / "compare.json")
    assert [row["name"] for row in stored["rows"]] == ["a/erm", "a/text", "b/erm", "b/text", "b/balanced_softmax"]
    assert [row["trained"][0]["synthetic"] for row in stored["rows"]] == [0, 7, 0, 7, 0]
    assert {row["trained"][0]["images_seen"] for row in stored["rows"]} == {32}
    assert stored["warnings"] == []
    assert stored["rows"][2]["difference"]["Overall"]["mean"] == 0
