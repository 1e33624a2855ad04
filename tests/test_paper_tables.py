"""The paper's tables: that each declaration can be run, that one is run, goes on and shares what it made."""

import functools
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tailsmith import experiment
from tailsmith.classification.config import TrainConfig
from tailsmith.classification.methods import METHODS
from tailsmith.data.sources.embedded import load_embedded
from tailsmith.files import read_json
from tailsmith.guidance.config import FeedbackConfig
from tailsmith.metrics.seeds import paired_over_seeds
from tailsmith.reproduction.bench import Bench
from tailsmith.reproduction.cost_table import ROWS
from tailsmith.reproduction.named import PAPER, Reproduction, experiment_of
from tailsmith.reproduction.paper_figures import FIGURES
from tailsmith.reproduction.paper_results import figure, markdown, reproduce_table, write_results
from tailsmith.reproduction.paper_tables import TABLES
from tailsmith.reproduction.row_settings import RowSettings
from tailsmith.reproduction.rows import PaperTable, Result, Row
from tailsmith.reproduction.worlds import EMBEDDED, SETS, Scale
from tailsmith.runs.arms import SETS as USUAL
from tailsmith.runs.checks import check_run, task_of
from tailsmith.settings import own_settings
from tailsmith.studies.grid.plan import grid_axes
from tailsmith.synthesis import fulfilment
from tailsmith.synthesis.config import SynthesisConfig

ROOT = Path(__file__).parents[1]
TEXT = ROOT.parent / "shared" / "paper"


embedded = functools.cache(load_embedded)


@pytest.mark.parametrize("name", TABLES)
def test_every_row_of_a_declared_table_can_be_trained(name):
    table, scale = TABLES[name], Scale("tiny")
    world = scale.world(table.world)
    assert table.baseline in [row.label for row in table.rows]
    assert len({row.label for row in table.rows}) == len({row.arm.name for row in table.rows}) == len(table.rows)
    for row in table.rows:
        assert row.set is None or row.set in {**USUAL, **SETS}
        assert set(row.paper) <= {*table.columns}
        settings = RowSettings.of(row, table.world, scale, 0)
        arm = "+".join(each for each in (scale.method(row.method) if row.method else "", settings.set_name) if each)
        check_run(replace(settings.config, arms=("erm", arm)), embedded(world.data))


@pytest.mark.parametrize("benchmark", EMBEDDED)
def test_the_full_scale_is_the_recipe_of_the_benchmark(benchmark):
    world = Scale("full", data="images").world(benchmark)
    assert world.generator == "sd2.1-unclip" and world.data == "images"
    assert world.per == ("group" if benchmark == "nico++" else "class")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("big", None, "scale should be one of tiny, embedded, full, got 'big'"),
        ("full", None, "scale full needs the benchmark's images: name their folder with --data"),
        ("tiny", "images", "--data is for --scale full; scale tiny has its own images"),
    ],
)
def test_a_scale_that_can_not_be_is_refused(name, data, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Scale(name, data)


def test_tiny_stages_are_short_and_keep_the_other_settings():
    scale = Scale("tiny")
    assert scale.method("crt:head_learning_rate=0.3,head_steps=250") == "crt:head_learning_rate=0.3,head_steps=4"
    assert scale.method("lws") == "lws:scale_steps=4" and scale.method("erm") == "erm"
    assert Scale().method("crt:head_steps=250") == "crt:head_steps=250"


# ----------------------------------------------------------------------------------------------------------
# Run.

TWO = PaperTable(
    "Two ways",
    "imagenet-lt",
    (
        Row("real", "erm", paper={"few": 8.15}),
        Row("text", set="text"),
        Row("more text, cross-entropy", set="text", target=8, training={"alpha": 0.0}),
    ),
    ("overall", "few", "validation.few", "samples.coverage"),
    baseline="real",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    results = reproduce_table(TWO, folder / "out", folder / "two.json", (3,), Scale("tiny"), "the command")
    return folder, results


def test_a_table_is_run_to_json_markdown_and_figure(made):
    _, results = made
    content = read_json(results)
    assert content["command"] == "the command" and content["scale"] == "tiny"
    assert [row["row"] for row in content["rows"]] == [row.label for row in TWO.rows]
    real, text, more = content["rows"]
    assert text["synthetic_images"] == more["synthetic_images"] == 2  # tiny has one target
    assert real["synthetic_images"] == 0 and real["images_seen"] == text["images_seen"] == 8 * 16
    assert len({row["config_sha256"] for row in content["rows"]}) >= 3
    assert all(
        0 <= row["test"]["overall"] <= 100 and 0 <= row["validation"]["overall"] <= 100 for row in content["rows"]
    )
    assert text["test"] != more["test"] and "judge_agreement" in text["samples"]
    assert real["n"]["overall"] == 4800 and real["n"]["few"] < 4800
    lines = results.with_suffix(".md").read_text().splitlines()
    assert (
        lines[0] == "# Two ways"
        and "(8.15)" in lines[6]
        and lines[4].endswith("| overall | few | val. few | coverage |")
    )
    assert results.with_suffix(".svg").read_text().startswith("<svg")
    assert set(content["differences"]) == {"text", "more text, cross-entropy"}


def test_seeds_and_rows_are_added_to_results_and_those_there_are_not_made_again(made, monkeypatch):
    folder, results = made
    added = folder / "added.json"
    added.write_bytes(results.read_bytes())
    reproduce_table(TWO, folder / "elsewhere", added, (4,), Scale("tiny"), "another", only=("real",))
    before, after = read_json(results), read_json(added)
    assert after["rows"][:3] == before["rows"] and after["command"] == "the command; another"
    assert [(row["row"], row["seed"]) for row in after["rows"][3:]] == [("real", 4)]
    assert "1 to 2 seeds" in added.with_suffix(".md").read_text()
    monkeypatch.setattr(Bench, "open", pytest.fail)
    reproduce_table(TWO, folder / "nowhere", added, (3,), Scale("tiny"), "the command")
    assert read_json(added) == after


@pytest.mark.parametrize(
    ("table", "scale", "only", "message"),
    [
        (TWO, Scale("tiny"), ["reel"], "Two ways has the rows real, text, more text, cross-entropy, got 'reel'"),
        (TWO, Scale(), [], "holds 'Two ways' at scale tiny, expected 'Two ways' at scale embedded; give another"),
        (
            replace(TWO, rows=(Row("real", "erm", training={"alpha": 0.5}), *TWO.rows[1:])),
            Scale("tiny"),
            [],
            "holds 'real', seed 3, of other settings than those of this version; give another --results",
        ),
        (replace(TWO, rows=TWO.rows[1:]), Scale("tiny"), [], "holds 'real', seed 3, of other settings"),
    ],
)
def test_results_of_something_else_are_refused(made, table, scale, only, message):
    folder, results = made
    before = results.read_bytes()
    with pytest.raises(ValueError, match=re.escape(message)):
        reproduce_table(table, folder / "nowhere", results, (3,), scale, "", only)
    assert results.read_bytes() == before and not (folder / "nowhere").exists()


def test_it_goes_on_and_trains_nothing_twice(made, monkeypatch):
    folder, results = made
    before = read_json(results)
    monkeypatch.setattr(experiment, "train", pytest.fail)
    monkeypatch.setattr(fulfilment, "render", pytest.fail)
    other = replace(TWO, rows=TWO.rows[:2], title="Another table of the same arms")
    again = reproduce_table(other, folder / "out", folder / "again.json", (3,), Scale("tiny"), "")
    assert read_json(again)["rows"] == before["rows"][:2]


def test_a_set_of_another_target_lies_apart(made):
    folder, _ = made
    bench = Bench.open("imagenet-lt", Scale("tiny"), 3, folder / "out", pytest.fail, "")
    assert {each.name for each in (bench.world.directory.path / "synthetic").iterdir()} == {"text", "text.8"}


@pytest.mark.parametrize("name", ["table-4", "figure-11"])
def test_costs_and_pictures_are_made_on_the_bench_of_the_tables(name, made):
    folder, _ = made
    asked = Reproduction(folder / "out", folder / f"{name}.json", (3,), Scale("tiny"), "the command")
    said = PAPER[name](asked)
    content = read_json(asked.results)
    assert content["command"] == "the command" and content["scale"] == "tiny"
    if name == "table-4":
        assert [row["row"] for row in content["rows"]] == list(ROWS) and "| LDM-FG (Entropy) |" in said
        assert all(len(row["seconds"]) == 9 and min(row["seconds"]) > 0 for row in content["rows"])
    else:
        assert asked.results.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
        # The two rarest classes, four guidance scales, four feedback scales
        assert len(content["rows"]) == 2 * 4 * 4 and {row["criterion"] for row in content["rows"]} == {"entropy"}


@pytest.mark.parametrize("name", FIGURES)
def test_a_declared_figure_is_one_that_a_grid_draws(name):
    figure = FIGURES[name]
    assert figure.world in EMBEDDED
    drawn = {"conditioning", "dropout", *(f"guidance-feedback-{each}" for each in figure.grid.criteria)}
    assert figure.picture in drawn
    grid_axes(embedded(EMBEDDED[figure.world].data), figure.grid)


def test_an_unknown_experiment_lists_those_there_are_and_ours_have_one_scale():
    with pytest.raises(
        ValueError, match=r"experiment should be one of table-1, table-2, .*figure-13.*, pool, got 'tabl"
    ):
        experiment_of("tabl-1", Scale())
    with pytest.raises(ValueError, match="gap has no other scale than embedded; leave out --scale and --data"):
        experiment_of("gap", Scale("tiny"))
    assert experiment_of("table-1", Scale("tiny"), ["ERM"]) is PAPER["table-1"]
    with pytest.raises(ValueError, match="table-4 is made as a whole; leave out --rows, which is for table-1"):
        experiment_of("table-4", Scale(), ["ERM"])


# ----------------------------------------------------------------------------------------------------------
# What is written.


def rows(label: str, few: list[float | None]) -> list[Result]:
    return [
        Result(
            label,
            arm=label,
            seed=seed,
            test={"overall": 50.0 + seed, "few": each},
            n={"overall": 4800},
            validation={"few": 1.0},
            images_seen=64_000,
            synthetic_images=788,
            config_sha256="",
            samples={"coverage": 0.25, "judge_agreement": 0.5},
        )
        for seed, each in enumerate(few)
    ]


def test_differences_are_paired_over_the_seeds_that_both_have(tmp_path):
    table = replace(TWO, rows=TWO.rows[:2], columns=("few",))
    found = [*rows("real", [10, 20, 33]), *rows("text", [15, 21, 40, 90])]
    write_results(table, found, tmp_path / "x.json", Scale(), "")
    expected = paired_over_seeds([10, 20, 33], [15, 21, 40])
    kept = read_json(tmp_path / "x.json")["differences"]["text"]["few"]
    assert kept["mean"] == pytest.approx(expected.mean, abs=1e-4) and kept["low"] == pytest.approx(
        expected.low, abs=1e-4
    )
    assert kept["n"] == 3


def test_what_is_missing_is_a_dash_and_a_nan_and_fractions_are_shown_as_percent():
    table = replace(TWO, columns=("few", "worst_group", "samples.coverage", "samples.judge_agreement"))
    text = markdown(table, [*rows("real", [10, 20]), *rows("text", [None, 20])])
    assert "| real | 788 | 64,000 | 15.0 ± 7.1 (8.15) | – | 0.25 ± 0.00 | 50.0 ± 0.0 |" in text
    assert "| text | 788 | 64,000 | – | – |" in text and "more text" not in text
    assert math.isnan(rows("text", [None])[0].value("few")) and rows("text", [3])[0].value("samples.coverage") == 0.25


@pytest.mark.parametrize("kind", ["bars", "lines"])
def test_a_figure_is_drawn_of_one_seed_and_of_several(kind):
    table = replace(TWO, figure=kind, columns=("overall", "few"))
    for few in ([10], [10, 20]):
        drawn = figure(table, [*rows("real", few), *rows("text", few)])
        assert drawn.startswith("<svg") and "nan" not in drawn.lower()


def test_methods_of_two_streams_or_views_see_twice_the_images():
    dataset = embedded("fashion-groups")
    config = TrainConfig(steps=10, batch_size=8)
    nothing = np.zeros(0, dtype=np.int64)
    seen = {}
    for name, method in METHODS.items():
        stages = method().stages(task_of(replace(config, method=name), dataset, nothing, nothing))
        seen[name] = sum(stage.images_seen for stage in stages)
    assert {name for name, each in seen.items() if each == 160} == {"cmo", "glmc", "paco", "lisa"}
    assert seen["crt"] == 80 + 500 * 8 and seen["jtt"] == seen["fill_up"] == seen["erm"] == 80


@pytest.mark.skipif(not TEXT.is_dir(), reason="the paper's text isn't here")
def test_the_papers_numbers_are_in_the_paper():
    text = "".join(each.read_text() for each in TEXT.glob("*.txt"))
    numbers = set(re.findall(r"\d+\.\d+|\d+", text))
    own = {"DPE"}  # of another paper
    for table in TABLES.values():
        for row in table.rows:
            for number in row.paper.values():
                if row.label not in own and not np.isnan(number):
                    assert any(float(each) == number for each in numbers), (table.title, row.label, number)


def test_a_row_whose_training_diverges_has_no_numbers_and_the_table_goes_on(made, tmp_path):
    folder, _ = made
    diverging = replace(TWO, rows=(Row("real", "erm", training={"learning_rate": 1e30}), TWO.rows[0]), title="Wild")
    wild = replace(diverging, rows=(diverging.rows[0], replace(TWO.rows[0], label="tame")))
    results = reproduce_table(wild, folder / "out", tmp_path / "wild.json", (3,), Scale("tiny"), "")
    gone, tame = read_json(results)["rows"]
    assert gone["diverged"].startswith("training diverged") and gone["test"] == {} and tame["test"]["overall"] > 0
    assert "| real | 0 | 0 | – | – | – | – |" in results.with_suffix(".md").read_text()
    assert "nan" not in results.with_suffix(".svg").read_text().lower()


def test_a_setting_that_is_added_later_changes_no_hash():
    config = replace(TrainConfig(), steps=7)
    assert own_settings(config) == {"steps": 7} and own_settings(TrainConfig()) == {}
    synthesis = SynthesisConfig(feedback=FeedbackConfig(scale=0.5), seed=3)
    assert own_settings(synthesis) == {"feedback": {"scale": 0.5}, "seed": 3}
