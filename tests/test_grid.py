"""Grids: what each cell asks for, what is said of it, where it is drawn; resume; and what can't be drawn."""

import io
import itertools
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rendering import encoded_images
from tailsmith.cli.main import main
from tailsmith.data.decoding import WHOLE_16, Decoding, decode
from tailsmith.data.packed import write_packed
from tailsmith.guidance.config import FeedbackConfig
from tailsmith.report.gallery import data_uri
from tailsmith.studies.grid import drawing, figures
from tailsmith.studies.grid.cells import Axes, Grid, Place, Seen
from tailsmith.studies.grid.config import GridConfig
from tailsmith.studies.grid.draw import Drawn, _picture, draw_grids
from tailsmith.studies.grid.drawing import ASKED, OTHER, PICTURE, VALUE, Cell, Panel, draw_cell, draw_panel
from tailsmith.studies.grid.page import render_grid_page
from tailsmith.studies.grid.plan import grid_axes, plan_grid
from tailsmith.synthesis.config import SynthesisConfig
from tailsmith.synthesis.requests import make_plan
from tailsmith.synthesis.shards import read_shards, shard_path
from tailsmith.synthesis.worker import Worker
from tiny import CLASSES, TinyClassifier, tiny_dataset

DATASET = tiny_dataset()
CONFIG = GridConfig(
    classes=("bag", "sandal"),
    guidance_scales=(2.0, 1.0),
    feedback_scales=(0.0, 0.03),
    dropouts=(0.0, 0.5),
    seeds=(3, 5),
    num_inference_steps=3,
    synthesis=SynthesisConfig(embedding_dropout=0.3, feedback=FeedbackConfig(every=2, scale=0.02)),
)
SMALL = replace(CONFIG, classes=("bag",), seeds=(3,), criteria=("loss",), guidance_scales=(2.0,))


@pytest.fixture(scope="module")
def drawn(pipe: Any, classifier: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grid")
    draw_grids(DATASET, classifier, folder, CONFIG, pipe=pipe, command="tailsmith grid <tiny>")
    return folder


@pytest.fixture(scope="module")
def results(drawn: Path, classifier: Any) -> pd.DataFrame:
    found = read_shards(drawn / "cells", plan_grid(DATASET, classifier, CONFIG, "mini-unclip"))
    return found.assign(image=encoded_images(found))


@pytest.fixture(scope="module")
def cells(drawn: Path) -> list[dict[str, Any]]:
    stored: list[dict[str, Any]] = json.loads((drawn / "grid.json").read_text())["cells"]
    return stored


def request_of(results: pd.DataFrame, cell: dict[str, Any]) -> pd.Series:
    """The row that a cell's image should come from, by the row's own columns."""
    prompt = "" if cell["conditioning"] == "image" else cell["name"]
    wanted = (
        (results["label"] == CLASSES.index(cell["name"]))
        & results["request_id"].str.contains(rf"\|{cell['seed']}\|")
        & (results["prompt"] == prompt)
        & (results["conditioning_id"].isna() == (cell["conditioning"] == "text"))
        & (results["embedding_dropout"] == cell["dropout"])
        & (results["guidance_scale"] == cell["guidance_scale"])
        & (results["feedback_scale"] == cell["feedback_scale"])
        & ((results["criterion"] == cell["criterion"]) | (cell["feedback_scale"] == 0))
    )
    (row,) = results[wanted].to_dict("records")
    return pd.Series(row)


# --- what is asked for


def test_only_the_steps_differ_between_the_cells_of_a_class_and_seed(results: pd.DataFrame) -> None:
    # 2 classes, 2 seeds; text, and 2 ways with an image at 2 dropouts; 2 gammas; plain, and guided by 3 criteria
    assert len(results) == 2 * 2 * (1 + 2 * 2) * 2 * (1 + 3)
    assert results["request_id"].is_unique
    seeds = results["request_id"].str.split("|").str[1]
    for column in ("noise_seed", "dropout_seed"):
        assert (results.groupby(["label", seeds])[column].nunique() == 1).all()
        assert results[column].nunique() == 4
    assert (results.groupby("label")["conditioning_id"].nunique() == 1).all()  # one real image whatever the seed
    assert results["conditioning_id"].nunique() == 2


def test_a_cell_is_the_first_request_of_a_plan_with_its_settings(classifier: Any) -> None:
    """So that what is seen in a grid is what `tailsmith synthesize` makes."""
    table, checked = plan_grid(DATASET, classifier, CONFIG, "mini-unclip").table, 0
    for row in table.to_dict("records"):
        _, seed, conditioning, *_ = row["request_id"].split("|")
        if seed != "3":
            continue
        config = SynthesisConfig(
            conditioning=conditioning,
            embedding_dropout=row["embedding_dropout"],
            guidance_scale=row["guidance_scale"],
            num_inference_steps=3,
            seed=3,
            feedback=FeedbackConfig(criterion=row["criterion"], scale=row["feedback_scale"], every=2),
        )
        wanted = np.eye(3, dtype=np.int64)[row["label"]]
        plan = make_plan(DATASET, wanted, config, meta={})
        (expected,) = plan.table.to_dict("records")
        for column in expected.keys() - {"request_id", "shard"}:
            assert row[column] == expected[column] or (pd.isna(row[column]) and pd.isna(expected[column]))
        checked += 1
    assert checked == len(table) // 2


def test_a_shard_holds_only_what_can_share_a_pipeline_call_and_the_first_every_conditioning(
    results: pd.DataFrame,
) -> None:
    guided = results["feedback_scale"] > 0
    alike = results.assign(guided=guided).groupby("shard")[["guidance_scale", "guided"]].nunique()
    assert (alike == 1).all(axis=None)
    assert results.groupby("shard").size().max() <= 32
    first = results[results["shard"] == 0]["request_id"].str.split("|").str[2]
    assert set(first) == {"text", "image", "image+text"}


def test_groups_are_cells_too(classifier: Any) -> None:
    config = replace(CONFIG, per="group", classes=("sandal in water", "bag in rock"))
    config = replace(config, synthesis=SynthesisConfig(prompt="{label} in {attribute}"))
    plan = plan_grid(DATASET, classifier, config, "mini-unclip")
    names = plan.table["request_id"].str.split("|").str[0]
    assert set(zip(names, plan.table["label"], plan.table["attribute"], strict=True)) == {
        ("sandal in water", 0, 1),
        ("bag in rock", 2, 0),
    }
    texts = plan.table[~plan.table["request_id"].str.contains(r"\|image\|")]
    assert (texts["prompt"] == texts["request_id"].str.split("|").str[0]).all()


def test_without_names_the_two_rarest_classes_are_drawn() -> None:
    dataset = tiny_dataset(((1, 0), (5, 4), (0, 2)))
    assert grid_axes(dataset, GridConfig()).names == ("sandal", "bag")


# --- what is said of a cell


def test_every_combination_is_a_cell_once(cells: list[dict[str, Any]]) -> None:
    places = [tuple(list(cell.values())[:7]) for cell in cells]
    ways = [("text", 0.0), ("image", 0.0), ("image", 0.5), ("image+text", 0.0), ("image+text", 0.5)]
    criteria = ("entropy", "loss", "hardness")
    assert len(places) == len(set(places))
    assert set(places) == {
        (name, seed, *way, criterion, gamma, omega)
        for name, seed, way, criterion, gamma, omega in itertools.product(
            ("bag", "sandal"), (3, 5), ways, criteria, (1.0, 2.0), (0.0, 0.03)
        )
    }


def test_values_and_top_3_are_those_of_the_cells_image(cells: list[dict[str, Any]], results: pd.DataFrame) -> None:
    """Recomputed in numpy from the stored image; hardness against what the worker measured."""
    network = TinyClassifier().eval()
    body, head = (weight.detach().numpy().astype(float) for weight in (network.body, network.head))
    for cell in cells:
        row = request_of(results, cell)
        pixels = np.asarray(Image.open(io.BytesIO(row["image"])), dtype=float).transpose(2, 0, 1) / 255 - 0.5
        pooled = pixels.reshape(3, 8, 2, 8, 2).mean(axis=(2, 4)).ravel()
        logits = np.tanh(pooled @ body) @ head
        p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        value = {"entropy": -(p * np.log(p)).sum(), "loss": -np.log(p[row["label"]])}.get(cell["criterion"])
        if value is None:
            value = row["criterion_value"] if row["criterion"] == "hardness" else cell["criterion_value"]
        assert cell["criterion_value"] == pytest.approx(value, rel=1e-3, abs=1e-4)
        order = np.argsort(-p)
        assert [each["label"] for each in cell["top"]] == [CLASSES[c] for c in order]
        np.testing.assert_allclose([each["probability"] for each in cell["top"]], p[order], atol=1e-4)


def test_guided_cells_are_other_images_than_plain_ones(results: pd.DataFrame) -> None:
    assert results["image"].nunique() > 0.9 * len(results)


def test_the_page_shows_the_image_of_every_combination(
    drawn: Path, cells: list[dict[str, Any]], results: pd.DataFrame
) -> None:
    data = page_data((drawn / "grid.html").read_text())
    by_place = {tuple(list(cell.values())[:7]): cell for cell in cells}
    assert data["order"] == list(cells[0])[:7]
    combinations = list(itertools.product(*(data["axes"][axis] for axis in data["order"])))
    assert len(combinations) == len(data["numbers"])
    for steps, number in zip(combinations, data["numbers"], strict=True):
        name, seed, conditioning, dropout, criterion, *scales = steps
        cell = by_place[(name, seed, conditioning, 0.0 if conditioning == "text" else dropout, criterion, *scales)]
        image = data["images"][number]
        assert image["src"] == data_uri(Image.open(io.BytesIO(request_of(results, cell)["image"])))
        value = image["values"][data["axes"]["criterion"].index(criterion)]
        assert value == pytest.approx(cell["criterion_value"], abs=1e-4)
    assert data["real"].keys() == {"bag", "sandal"}
    assert data["axes"]["guidance_scale"] == [1.0, 2.0]  # rising, whatever order they were given in


# --- resume


def test_the_same_call_goes_on_and_another_configuration_is_refused(
    pipe: Any, classifier: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = draw_grids(DATASET, classifier, tmp_path, SMALL, pipe=pipe)
    kept = shard_path(tmp_path / "cells", 0)
    before = (kept.stat().st_mtime_ns, first.cells.read_text())
    shard_path(tmp_path / "cells", 1).unlink()
    first.page.unlink()
    shards: list[int] = []
    render = Worker.render

    def counted(self: Any, requests: pd.DataFrame, settings: dict[str, Any]) -> Any:
        shards.extend(requests["shard"].unique())
        return render(self, requests, settings)

    monkeypatch.setattr(Worker, "render", counted)
    again = draw_grids(DATASET, classifier, tmp_path, SMALL, pipe=pipe)
    assert shards == [1]
    assert (kept.stat().st_mtime_ns, again.cells.read_text()) == before
    assert again == first
    assert again.page.is_file()
    with pytest.raises(ValueError, match="holds images of another plan; use another folder"):
        draw_grids(DATASET, classifier, tmp_path, replace(SMALL, feedback_scales=(0.0, 0.05)), pipe=pipe)
    with pytest.raises(ValueError, match="holds images of another plan"):
        draw_grids(
            DATASET, classifier, tmp_path, replace(SMALL, synthesis=SynthesisConfig(prompt="a {label}")), pipe=pipe
        )


def test_an_image_that_shows_nothing_stays_in_its_cell(pipe: Any, classifier: Any, tmp_path: Path) -> None:
    before = draw_grids(DATASET, classifier, tmp_path, SMALL, pipe=pipe).cells.read_text()
    path = shard_path(tmp_path / "cells", 0)
    shard = pq.read_table(path)
    meta = {name.decode(): value.decode() for name, value in shard.schema.metadata.items()}
    write_packed(shard.to_pandas().assign(black=[True] + [False] * (len(shard) - 1)), path, meta)
    assert draw_grids(DATASET, classifier, tmp_path, SMALL, pipe=pipe).cells.read_text() == before
    assert not list((tmp_path / "cells").glob("*damaged*"))


# --- what can't be drawn


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ("sandl",)}, r"classes names 'sandl', which is no class of the data; it has: sandal, ankle boot"),
        ({"classes": ("sandal",), "per": "group"}, r"which is no group of the data; it has: sandal in rock"),
        ({"classes": ()}, "classes should name at least one, got none"),
        ({"criteria": ()}, "criteria should name at least one, got none"),
        ({"criteria": ("entropy", "surprise")}, r"criterion should be one of \['entropy', .* got 'surprise'"),
        ({"conditionings": ("words",)}, r"conditioning should be one of .* got 'words'"),
        ({"guidance_scales": (1.0, -2.0)}, r"guidance_scales should be finite and not negative, got -2"),
        ({"guidance_scales": (float("nan"),)}, "guidance_scales should be finite"),
        ({"feedback_scales": (0.0, -0.1)}, r"feedback.scale should be finite and not negative, got -0.1"),
        ({"feedback_scales": (0.1, 0.1)}, r"feedback_scales should name each once, got \[0.1, 0.1\]"),
        ({"dropouts": (0.0, 1.5)}, r"embedding_dropout should be within 0..1, got 1.5"),
        ({"seeds": (-1,)}, "seed should not be negative, got -1"),
        ({"seeds": ()}, "seeds should name at least one"),
        ({"num_inference_steps": 0}, "num_inference_steps and shard_size should be at least 1, got 0"),
        ({"synthesis": SynthesisConfig(feedback=FeedbackConfig(every=0))}, "every should be at least 1"),
        ({"synthesis": SynthesisConfig(prompt="{klass}")}, r"prompt may hold \{label\}"),
    ],
)
def test_a_grid_that_cannot_be_drawn_is_refused_before_anything_is_written(
    changes: dict[str, Any], message: str, classifier: Any, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        draw_grids(DATASET, classifier, tmp_path / "grid", replace(CONFIG, **changes), pipe="never reached")
    assert not (tmp_path / "grid").exists()


def test_other_refusals(classifier: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="per should be 'class' or 'group', got 'style'"):
        GridConfig(per="style")
    with pytest.raises(ValueError, match="batch_size should be at least 1, got 0"):
        replace(CONFIG, batch_size=0)
    plain = replace(DATASET, table=DATASET.table.assign(attribute=-1), attribute_names=())
    with pytest.raises(ValueError, match="needs attributes, and this dataset has none; use per='class'"):
        draw_grids(plain, classifier, tmp_path, GridConfig(per="group"))
    two = replace(DATASET.select(DATASET.labels < 2), class_names=CLASSES[:2])
    with pytest.raises(ValueError, match="classifier's classes are not the dataset's: it has '"):
        draw_grids(two, classifier, tmp_path, replace(CONFIG, classes=None))


def test_a_generator_that_lacks_a_conditioning_says_so_before_it_makes_an_image(
    classifier: Any, tmp_path: Path
) -> None:
    from tiny_families import tiny_sd15

    text_only = tiny_sd15()
    with pytest.raises(ValueError, match=r"can't be conditioned on 'image', only on text"):
        draw_grids(DATASET, classifier, tmp_path / "all", SMALL, pipe=text_only)
    assert not list((tmp_path / "all" / "cells").glob("shard-*"))
    drawn = draw_grids(DATASET, classifier, tmp_path / "text", replace(SMALL, conditionings=("text",)), pipe=text_only)
    assert [path.stem for path in drawn.figures] == ["guidance-feedback-loss", "conditioning"]  # no dropout to draw
    data = page_data(drawn.page.read_text())
    assert data["real"] == {}
    assert len(data["images"]) == 2


# --- the pictures


def coloured(
    colour: tuple[int, int, int], top: tuple[tuple[str, float], ...] = (("bag", 0.5),), **values: float
) -> Seen:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(buffer, "PNG")
    return Seen(buffer.getvalue(), {"entropy": 1.0, "loss": 2.0, "hardness": 3.0, **values}, top)


def positions(picture: Image.Image, colour: tuple[int, int, int]) -> tuple[float, float]:
    """Mean (row, column) of the pixels of a colour."""
    rows, columns = np.nonzero((np.asarray(picture) == colour).all(axis=2))
    assert len(rows) >= 0.9 * PICTURE**2
    return float(rows.mean()), float(columns.mean())


def test_a_cell_is_its_image_above_bars_as_long_as_the_probabilities() -> None:
    cell = Cell(coloured((10, 200, 30), (("sandal", 0.75), ("bag", 0.25))), asked="bag", criterion="entropy")
    pixels = np.asarray(draw_cell(cell))
    assert (pixels[:PICTURE] == (10, 200, 30)).all()
    bars = pixels[PICTURE + VALUE :]
    for name, share in ((OTHER, 0.75), (ASKED, 0.25)):
        colour = tuple(int(name[i : i + 2], 16) for i in (1, 3, 5))
        found = (bars == colour).all(axis=2).any(axis=0)
        assert np.flatnonzero(found).max() == pytest.approx(share * PICTURE, abs=1)


def test_a_panel_has_its_cells_in_rows_and_columns() -> None:
    colours = [[(200, 10 * (row + 1), 10 * (column + 1)) for column in range(3)] for row in range(2)]
    panel = Panel(
        [[Cell(coloured(c), "bag", "loss") for c in row] for row in colours], ["a", "a longer name"], ["x"] * 3
    )
    picture = draw_panel(panel)
    centres = np.array([[positions(picture, colour) for colour in row] for row in colours])  # [2, 3, (row, column)]
    assert np.ptp(centres[:, :, 0], axis=1).max() == 0
    assert np.ptp(centres[:, :, 1], axis=0).max() == 0
    assert (np.diff(centres[:, :, 0], axis=0) > PICTURE).all()
    assert (np.diff(centres[:, :, 1], axis=1) > PICTURE).all()


def test_names_that_cannot_be_drawn_as_they_are_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    hostile, drawn = "cat\nblack\x1b", []
    original = drawing.ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        drawing.ImageDraw.ImageDraw,
        "text",
        lambda self, place, text, *rest, **more: (drawn.append(text), original(self, place, text, *rest, **more)),
    )
    cell = Cell(coloured((9, 9, 9), ((hostile, 0.01), ("bag", 0.9))), hostile, "loss")
    draw_panel(Panel([[cell]], [hostile], [hostile], title=hostile))
    assert drawn.count("cat\\nblack\\x1b") == 4  # title, row, column, bar


def test_a_real_image_of_high_depth_is_pictured_as_the_models_see_it() -> None:
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 64  # of 12 bits
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format="PNG")
    deep = replace(DATASET.select([0]), decoding=Decoding(ranges={WHOLE_16: (0, 4095)}))
    deep = replace(deep, table=deep.table.assign(bytes=[buffer.getvalue()]))
    pictured = decode(_picture(deep, 0), "x")
    np.testing.assert_array_equal(pictured, deep.image(0))
    assert np.asarray(pictured).max() == 252
    synthetic = replace(DATASET, table=DATASET.table.assign(source="synthetic", split="train"))
    assert _picture(synthetic, 1) == synthetic.encoded(1)


def coloured_grid(**changes: Any) -> Grid:
    """Every image has a colour of its own: (position of gamma, of omega, of all else)."""
    axes = Axes(("bag",), (0,), ("text", "image+text"), (0.0, 0.3), ("entropy", "loss"), (1.0, 3.0, 5.0), (0.0, 0.02))
    seen = {}
    for number, place in enumerate(axes.rendered()):
        gamma, omega = (
            axes.guidance_scales.index(place.guidance_scale),
            axes.feedback_scales.index(place.feedback_scale),
        )
        seen[place] = coloured((40 * gamma + 20, 40 * omega + 20, number + 100))
    held = Place("bag", 0, "image+text", 0.3, "entropy", 5.0, 0.02)
    grid = Grid("tiny", "tiny", "", 3, axes, held, seen, {"bag": coloured((1, 2, 3))}, {"bag": "bag"})
    return replace(grid, **changes)


def figure_colours(
    monkeypatch: pytest.MonkeyPatch, draw: Any, *arguments: Any
) -> tuple[Panel, list[list[tuple[int, ...]]]]:
    """The one panel that a figure draws, and the colours of its cells."""
    panels: list[Panel] = []

    def keep(title: str, note: str, given: list[Panel]) -> None:
        panels.extend(given)

    monkeypatch.setattr(figures, "draw_figure", keep)
    draw(*arguments)
    (panel,) = panels
    return panel, [[Image.open(io.BytesIO(cell.seen.image)).getpixel((0, 0)) for cell in row] for row in panel.cells]  # type: ignore[misc]


def colour_at(grid: Grid, **steps: Any) -> Any:
    place = grid.held._replace(**steps)
    if place.feedback_scale == 0:
        place = place._replace(criterion="entropy")
    return Image.open(io.BytesIO(grid.seen[place].image)).getpixel((0, 0))


def test_guidance_rises_to_the_right_and_feedback_downwards(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = coloured_grid()
    panel, colours = figure_colours(monkeypatch, figures.guidance_by_feedback, grid, "loss")
    assert [list(panel.columns), list(panel.rows)] == [["γ 1", "γ 3", "γ 5"], ["ω 0", "ω 0.02"]]
    assert colours == [
        [colour_at(grid, criterion="loss", guidance_scale=g, feedback_scale=w) for g in (1.0, 3.0, 5.0)]
        for w in (0.0, 0.02)
    ]
    assert {cell.criterion for row in panel.cells for cell in row} == {"loss"}


def test_dropout_rises_from_the_real_image_to_text_only(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = coloured_grid()
    panel, colours = figure_colours(monkeypatch, figures.dropout_levels, grid)
    assert list(panel.columns) == ["real image", "dropout 0", "dropout 0.3", "text only"]
    assert colours == [
        [
            (1, 2, 3),
            colour_at(grid, feedback_scale=0.0, dropout=0.0),
            colour_at(grid, feedback_scale=0.0, dropout=0.3),
            colour_at(grid, feedback_scale=0.0, conditioning="text", dropout=0.0),
        ]
    ]


def test_conditionings_then_dropout_then_feedback(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = coloured_grid()
    panel, colours = figure_colours(monkeypatch, figures.conditioning_modes, grid)
    assert list(panel.columns) == ["real image", "text", "image + text", "+ dropout", "+ entropy", "+ loss"]
    assert colours == [
        [
            (1, 2, 3),
            colour_at(grid, feedback_scale=0.0, conditioning="text", dropout=0.0),
            colour_at(grid, feedback_scale=0.0, dropout=0.0),
            colour_at(grid, feedback_scale=0.0),
            colour_at(grid),
            colour_at(grid, criterion="loss"),
        ]
    ]
    assert [cell.criterion for cell in panel.cells[0][-2:]] == ["entropy", "loss"]


def test_figures_are_whole_pictures(drawn: Path) -> None:
    names = {
        "guidance-feedback-entropy",
        "guidance-feedback-loss",
        "guidance-feedback-hardness",
        "dropout",
        "conditioning",
    }
    assert {path.stem for path in drawn.glob("*.png")} == names
    for name in names:
        with Image.open(drawn / f"{name}.png") as picture:
            picture.load()
            assert min(picture.size) > 500


def test_long_names_are_cut_and_missing_values_are_dashes() -> None:
    seen = coloured((9, 9, 9), (("a name far too long for the width of any cell", 1.0),), entropy=float("nan"))
    assert draw_cell(Cell(seen, "bag", "entropy")).width == PICTURE
    assert drawing.number(float("nan")) == "–"
    assert drawing.number(-1.005) == "−1.00"


# --- the page


def page_data(page: str) -> dict[str, Any]:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert match is not None

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    data: dict[str, Any] = json.loads(match[1], parse_constant=refuse)
    return data


def test_the_page_loads_nothing(drawn: Path) -> None:
    page = (drawn / "grid.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)[^"]+"', page)
    assert set(re.findall(r"https?://[^\s\"'<]+", page)) <= {"http://www.w3.org/2000/svg"}
    assert "url(" not in page and "@import" not in page and "fetch(" not in page
    assert "<code>tailsmith grid &lt;tiny&gt;</code>" in page


def test_names_and_odd_numbers_are_safe_on_the_page() -> None:
    name = "</script><b>&'\""
    grid = coloured_grid()
    places = {place._replace(name=name): coloured((1, 1, 1), ((name, 1.0),), loss=float("nan")) for place in grid.seen}
    grid = replace(
        grid,
        dataset=name,
        axes=replace(grid.axes, names=(name,)),
        held=grid.held._replace(name=name),
        seen=places,
        real={name: coloured((1, 2, 3), entropy=float("inf"))},
        asked={name: name},
    )
    page = render_grid_page(grid)
    data = page_data(page)
    assert data["axes"]["name"] == [name]
    assert data["asked"] == {name: name}
    assert data["images"][0]["values"] == [1.0, None]
    assert data["real"][name]["values"] == [None, 2.0]
    assert page.count("</script>") == 2


def test_the_page_starts_near_the_settings_of_synthesis(drawn: Path) -> None:
    data = page_data((drawn / "grid.html").read_text())
    start = {axis: data["axes"][axis][position] for axis, position in data["start"].items()}
    assert start == {
        "name": "bag", "seed": 3, "conditioning": "image+text", "dropout": 0.5, "criterion": "entropy",
        "guidance_scale": 2.0, "feedback_scale": 0.03,
    }  # fmt: skip


# --- the command


def test_the_command_needs_a_classifier_and_trains_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["grid", "fashion-lt", "--out", str(tmp_path / "grid")]) == 2
    assert "run `tailsmith train fashion-lt --out DIR`, then add --classifier DIR" in capsys.readouterr().err
    assert main(["grid", "fashion-lt", "--out", str(tmp_path / "grid"), "--classifier", str(tmp_path / "no")]) == 2
    assert "train one with `tailsmith train`" in capsys.readouterr().err
    assert not (tmp_path / "grid").exists()


def test_options_become_the_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def draw(*given: Any, **options: Any) -> Drawn:
        seen.update(options, given=given)
        return Drawn(tmp_path / "grid.html", (tmp_path / "a.png",), tmp_path / "grid.json")

    monkeypatch.setattr("tailsmith.studies.grid.draw.draw_grids", draw)
    monkeypatch.setattr("tailsmith.classification.classifier.load_classifier", lambda folder: "loaded")
    monkeypatch.setattr("tailsmith.classification.classifier.on_accelerator", {"loaded": "judge"}.__getitem__)
    monkeypatch.setattr("tailsmith.data.sources.named.load", lambda data, **options: "dataset")
    argv = ["grid", "fashion-lt", "--classes", "ankle boot,bag", "--guidance-scales", "1,3", "--feedback-scales=0,0.5"]
    argv += ["--seeds", "1,2", "--criteria", "loss", "--conditionings", "image+text", "--dropouts", "0"]
    argv += ["--num-inference-steps", "7", "--synthesis.feedback-every", "2"]
    assert main([*argv, "--classifier", "folder", "--out", str(tmp_path)]) == 0
    assert seen["given"][:2] == ("dataset", "judge")
    assert seen["given"][3] == GridConfig(
        classes=("ankle boot", "bag"),
        guidance_scales=(1.0, 3.0),
        feedback_scales=(0.0, 0.5),
        seeds=(1, 2),
        criteria=("loss",),
        conditionings=("image+text",),
        dropouts=(0.0,),
        num_inference_steps=7,
        synthesis=SynthesisConfig(feedback=FeedbackConfig(every=2)),
    )
    assert seen["given"][3].base == SynthesisConfig(num_inference_steps=7, feedback=FeedbackConfig(every=2))
    assert seen["command"].startswith("tailsmith grid fashion-lt --classes 'ankle boot,bag'")
