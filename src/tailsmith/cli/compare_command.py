"""The command that puts runs side by side, and the tables that it prints."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tailsmith.cli.text import MISSING, aligned
from tailsmith.terminal import shown

if TYPE_CHECKING:
    from tailsmith.report.compared import Comparison, Gain
    from tailsmith.report.results import Cell

# What the second table says the differences of; the page has all.
TELLING = (("overall",), ("average",), ("shots", "few"), ("group_shots", "minority"), ("worst_group",))


def compare(
    runs: tuple[Path, ...],  # run directories; those that differ in their seeds alone become one row per arm
    *,
    out: Path = Path("compare.html"),  # the page; the same as JSON goes beside it
    baseline: str | None = None,  # ARM or RUN/ARM that all others are held against; None = erm of the first run
    command: str = "tailsmith compare",
) -> None:
    """Put runs side by side on one page: accuracy, differences to a baseline, and whether they were made alike."""
    from tailsmith.report.comparison_page import check_page, write_comparison
    from tailsmith.runs.compare import compare
    from tailsmith.runs.outputs import check_file, check_json_file

    check_page(out)
    check_file(out)
    check_json_file(out.with_suffix(".json"), ("baseline", "checks", "rows"), "--out")
    compared = compare(runs, baseline)
    json = write_comparison(compared, out, command, time.strftime("%Y-%m-%d %H:%M"))
    print(f"{comparison_text(compared)}\n\nPage: {out}\nJSON: {json}")


def comparison_text(compared: Comparison) -> str:
    """A row per arm, then what it gains on the baseline, then a line for each respect in which they aren't alike."""
    from tailsmith.report.compared import gain
    from tailsmith.report.comparison_page import columns_of

    columns = columns_of(compared)
    rows: list[Sequence[object]] = [["test accuracy in %", *map(_short, columns), "images seen", "synthetic"]]
    for row in compared.rows:
        cells = [_cell(row.cell(*keys)) for keys in columns.values()]
        rows.append([row.name, *cells, _count(row.mean("images_seen")), _count(row.mean("synthetic"))])
    parts = [aligned(rows)]
    if any(row.cell(*keys).seeds > 1 for row in compared.rows for keys in columns.values()):
        parts[0] += "\n± standard deviation over seeds"
    telling = {title: keys for title, keys in columns.items() if keys in TELLING}
    others = [row for row in compared.rows if row is not compared.baseline]
    if others:
        gains: list[Sequence[object]] = [
            [f"points above {compared.baseline.name}", *map(_short, telling), "95 % intervals"]
        ]
        for row in others:
            found = [gain(compared.baseline, row, *keys) for keys in telling.values()]
            basis = "; ".join(dict.fromkeys(each.basis for each in found if not math.isnan(each.mean)))
            gains.append([row.name, *map(_gain, found), basis])
        parts.append(aligned(gains))
    if compared.warnings:
        parts.append("\n".join(f"Not alike: {shown(words)}" for words in compared.warnings))
    return "\n\n".join(parts)


def _short(title: str) -> str:
    return title.partition(" (")[0].lower()


def _cell(cell: Cell) -> str:
    if cell.missing:
        return MISSING
    return f"{cell.accuracy:.1f}" + (f" ± {(cell.high - cell.low) / 2:.1f}" if cell.seeds > 1 else "")


def _gain(found: Gain) -> str:
    if math.isnan(found.mean):
        return MISSING
    interval = "" if math.isnan(found.low) else f" ({found.low:+.1f} .. {found.high:+.1f})"
    return f"{found.mean:+.1f}{interval}"


def _count(value: float) -> str:
    return MISSING if math.isnan(value) else f"{value:,.0f}"
