"""A comparison of runs as one HTML file that needs nothing else, and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tailsmith.errors import UserError
from tailsmith.files import write_json
from tailsmith.report import charts
from tailsmith.report.compared import Comparison, Gain, Row, gain
from tailsmith.report.headline import measures, signed
from tailsmith.report.page import render_page, write_page
from tailsmith.report.results import Arm, Cell

MARK = 'name="generator" content="tailsmith compare"'  # by which a page of ours is known
MOST_DRAWN = 8  # rows: so many have a colour each
GLYPHS = "●◆■▲▼⬟✖★"  # as the charts have them

Columns = Mapping[str, tuple[str, ...]]  # title -> keys into an accuracy table


def columns_of(comparison: Comparison) -> Columns:
    """The measures that some row has."""
    titles = measures([Arm(row.name, tuple(row.tables)) for row in comparison.rows])
    return {t: keys for t, keys in titles.items() if any(not row.cell(*keys).missing for row in comparison.rows)}


def check_page(path: Path) -> None:
    """ValueError for a file that is there already and no page of ours."""
    if path.suffix != ".html":
        raise UserError(f"--out should be the page, a file that ends in .html, got {path}; its JSON goes beside it")
    if path.is_file() and MARK not in path.read_text(encoding="utf-8", errors="replace")[:2000]:
        raise UserError(f"{path} exists and is no page that `tailsmith compare` wrote; use another --out")


def render_comparison(comparison: Comparison, command: str = "", created: str = "") -> str:
    """The page as HTML text."""
    columns = columns_of(comparison)
    rows = [_view(row, comparison.baseline, columns) for row in comparison.rows]
    view = {
        "comparison": comparison,
        "command": command,
        "created": created,
        "columns": list(columns),
        "rows": rows,
        "tested": [_tested(comparison, keys) for keys in columns.values()],
        "remarks": _remarks(comparison, columns),
        "charts": _charts(comparison, columns),
        "legend": _legend(comparison),
        "mark": Markup(MARK),
    }
    return render_page("comparison.html", view)


def write_comparison(comparison: Comparison, path: Path, command: str = "", created: str = "") -> Path:
    """The page, and all that it says in numbers beside it, as .json; returns the latter's path."""
    json_path = path.with_suffix(".json")
    write_json(json_path, {"command": command, "created": created, **_plain(comparison)})
    write_page(path, render_comparison(comparison, command, created))
    return json_path


def _view(row: Row, baseline: Row, columns: Columns) -> dict[str, Any]:
    """What the page shows of a row."""
    facts = ("steps", "images_seen", "synthetic", "train_seconds", "synthesis_seconds")
    gains = [gain(baseline, row, *keys) for keys in columns.values()]
    backbones = dict.fromkeys(each.backbone for each in row.trained if each.backbone)
    return {
        "name": row.name,
        "seeds": row.seeds,
        "is_baseline": row is baseline,
        "cells": [row.cell(*keys) for keys in columns.values()],
        "gains": [_gain_view(found) for found in gains],
        "bases": list(dict.fromkeys(found.basis for found in gains if not math.isnan(found.mean))),
        "backbone": ", ".join(backbones) or "–",
        **{fact: _count(row.mean(fact)) for fact in facts},
    }


def _gain_view(found: Gain) -> dict[str, str]:
    known = not math.isnan(found.low)
    return {
        "mean": signed(found.mean),
        "interval": f"{signed(found.low)} to {signed(found.high)}" if known else "",
        "verdict": found.verdict,
        "basis": found.basis,
    }


def _count(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:,.0f}"


def _tested(comparison: Comparison, keys: tuple[str, ...]) -> str:
    """Test images of a measure: a number, or from the fewest to the most of any row that has it."""
    counts = sorted({cell.n for row in comparison.rows if not (cell := row.cell(*keys)).missing})
    return "–".join(f"{n:,}" for n in dict.fromkeys((counts[0], counts[-1])))


def _remarks(comparison: Comparison, columns: Columns) -> list[str]:
    """Which classes or groups a mean leaves out."""
    found = {title: [row.cell(*keys).partly for row in comparison.rows] for title, keys in columns.items()}
    return [f"{title}: {words}." for title, several in found.items() for words in dict.fromkeys(filter(None, several))]


def _charts(comparison: Comparison, columns: Columns) -> list[Markup]:
    """One, or of many measures two side by side; none of more rows than there are colours."""
    if len(comparison.rows) > MOST_DRAWN or not columns:
        return []
    cells: dict[str, dict[str, Cell]] = {
        title: {row.name: row.cell(*keys) for row in comparison.rows} for title, keys in columns.items()
    }
    colours, span = {each["name"]: each["index"] for each in _legend(comparison)}, charts.percent_span(cells)
    middle = len(cells) if len(cells) < 6 else (len(cells) + 1) // 2
    halves = [dict(half) for half in (list(cells.items())[:middle], list(cells.items())[middle:]) if half]
    return [
        Markup(charts.intervals_chart(half, colours, "Accuracy of each arm: " + ", ".join(half), span))
        for half in halves
    ]


def _legend(comparison: Comparison) -> list[dict[str, Any]]:
    """Name, number, colour and marker of each row; the baseline has the first, which is grey."""
    others = iter(range(1, len(comparison.rows) + 1))
    numbers = {row.name: 0 if row is comparison.baseline else next(others) for row in comparison.rows}
    return [
        {"name": name, "index": index, "colour": index % 8, "glyph": GLYPHS[index % 8]}
        for name, index in numbers.items()
    ]


def _plain(comparison: Comparison) -> dict[str, Any]:
    columns, names = columns_of(comparison), comparison.configurations
    return {
        "baseline": comparison.baseline.name,
        "warnings": comparison.warnings,
        "checks": [asdict(check) for check in comparison.checks],
        "rows": [_plain_row(row, comparison.baseline, columns) for row in comparison.rows],
        "runs": [asdict(run) for run in comparison.runs],
        "settings": {each.name: dict(zip(names, each.values, strict=True)) for each in comparison.settings},
    }


def _plain_row(row: Row, baseline: Row, columns: Columns) -> dict[str, Any]:
    trained = [{name: value for name, value in vars(each).items() if name != "tables"} for each in row.trained]
    return {
        "name": row.name,
        "accuracy": {title: _plain_cell(row.cell(*keys)) for title, keys in columns.items()},
        "difference": {title: asdict(gain(baseline, row, *keys)) for title, keys in columns.items()},
        "trained": trained,
    }


def _plain_cell(cell: Cell) -> dict[str, float | int]:
    """With the interval of one seed, or the standard deviation over several."""
    if cell.seeds > 1:
        sd = (cell.high - cell.low) / 2
        return {"mean": cell.accuracy, "sd": sd, "seeds": cell.seeds, "test_images": cell.n}
    return {"mean": cell.accuracy, "low": cell.low, "high": cell.high, "seeds": 1, "test_images": cell.n}
