"""A table of the paper, run: a JSON of every row and seed, a Markdown table beside the paper's numbers, a figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tailsmith.files import write_json, write_text
from tailsmith.generation.generator import load_generator
from tailsmith.metrics.seeds import over_seeds
from tailsmith.report.svg import ARM_COLOURS, COLOURS, FONT_SIZE, new_figure, set_rows, standalone, to_svg
from tailsmith.reproduction.bench import Bench
from tailsmith.reproduction.rows import PaperTable, Result, paired
from tailsmith.reproduction.worlds import Scale

PERCENT = ("samples.judge_agreement", "samples.probe_accuracy")  # fractions, shown as %


def reproduce_table(
    table: PaperTable, out: Path, results: Path, seeds: Sequence[int], scale: Scale, command: str = ""
) -> Path:
    """Train what is missing of every row and seed; `results` and the files beside it are written after each row."""
    rows: list[Result] = []
    for seed in seeds:
        bench = Bench.open(table.world, scale, seed, out, load_generator, command)
        for row in table.rows:
            rows.append(bench.result(row))
            write_results(table, rows, results, scale, command)
    return results


def write_results(table: PaperTable, rows: Sequence[Result], results: Path, scale: Scale, command: str) -> None:
    """The JSON, and NAME.md and NAME.svg beside it."""
    content = {"table": table.title, "scale": scale.name, "command": command, "rows": [vars(row) for row in rows]}
    write_json(results, {**content, "differences": differences(table, rows)})
    write_text(results.with_suffix(".md"), markdown(table, rows))
    write_text(results.with_suffix(".svg"), figure(table, rows))


def differences(table: PaperTable, rows: Sequence[Result]) -> dict[str, dict[str, dict[str, float]]]:
    """Row -> column -> its difference to the baseline over the seeds that both have: a paired t test."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in table.rows:
        if row.label == table.baseline:
            continue
        of_columns = {column: paired(rows, row.label, table.baseline, column) for column in table.columns}
        if any(each.n for each in of_columns.values()):
            found[row.label] = {
                column: {name: round(value, 4) for name, value in vars(each).items()}
                for column, each in of_columns.items()
            }
    return found


def markdown(table: PaperTable, rows: Sequence[Result]) -> str:
    """A line per row: ours, mean ± standard deviation over seeds, and the paper's number in brackets."""
    heads = [
        column.replace("validation.", "val. ").replace("samples.", "").replace("_", " ") for column in table.columns
    ]
    seeds = len({row.seed for row in rows})
    lines = [
        f"# {table.title}",
        "",
        f"Accuracy in %, {seeds} seeds; in brackets the paper's own number, on its own data.",
        "",
        f"| row | synthetic | images seen | {' | '.join(heads)} |",
        "|---" * (len(heads) + 3) + "|",
    ]
    for row in table.rows:
        of_row = list(_by_seed(rows, row.label).values())
        if not of_row:
            continue
        cells = [
            _shown(column, [each.value(column) for each in of_row], row.paper.get(column)) for column in table.columns
        ]
        counts = f"{of_row[0].synthetic_images:,} | {of_row[0].images_seen:,}"
        lines.append(f"| {row.label} | {counts} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def figure(table: PaperTable, rows: Sequence[Result]) -> str:
    """The rows as dots with their spread over seeds; as points along an axis for a curve."""
    shown = [row for row in table.rows if _by_seed(rows, row.label)]
    percent = [column for column in table.columns if not column.startswith("samples.")]
    spreads = {
        column: [over_seeds([each.value(column) for each in _by_seed(rows, row.label).values()]) for row in shown]
        for column in percent
    }
    draw: Callable[..., str] = _lines if table.figure == "lines" else _bars
    return draw(table.title, [row.label for row in shown], spreads)


def _bars(title: str, labels: list[str], spreads: Mapping[str, Sequence[Any]]) -> str:
    drawing, axes = new_figure(560, 60 + 26 * len(labels))
    for number, (column, of_rows) in enumerate(spreads.items()):
        offset = (number - (len(spreads) - 1) / 2) * 0.16
        means, sds = [each.mean for each in of_rows], [np.nan_to_num(each.sd) for each in of_rows]
        place = np.arange(len(labels)) + offset
        axes.errorbar(means, place, xerr=sds, fmt="o", ms=4, lw=1, color=ARM_COLOURS[number], label=column)
    set_rows(axes, labels)
    return _finished(drawing, axes, title)


def _lines(title: str, labels: list[str], spreads: Mapping[str, Sequence[Any]]) -> str:
    drawing, axes = new_figure(560, 320)
    for number, (column, of_rows) in enumerate(spreads.items()):
        means, sds = [each.mean for each in of_rows], [np.nan_to_num(each.sd) for each in of_rows]
        axes.errorbar(
            range(len(labels)), means, yerr=sds, fmt="-o", ms=4, lw=1, color=ARM_COLOURS[number], label=column
        )
    axes.set_xticks(range(len(labels)), labels)
    return _finished(drawing, axes, title)


def _finished(drawing: Any, axes: Any, title: str) -> str:
    axes.grid(color=COLOURS["line"], lw=0.6)
    axes.legend(fontsize=FONT_SIZE - 2, frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return standalone(to_svg(drawing, title))


def _by_seed(rows: Sequence[Result], label: str) -> dict[int, Result]:
    return {row.seed: row for row in rows if row.row == label}


def _shown(column: str, values: Sequence[float], paper: float | None) -> str:
    spread = over_seeds([each * (100 if column in PERCENT else 1) for each in values])
    digits = 2 if column.startswith("samples.") and column not in PERCENT else 1
    text = "–" if np.isnan(spread.mean) else f"{spread.mean:.{digits}f}"
    text += f" ± {spread.sd:.{digits}f}" if np.isfinite(spread.sd) else ""
    return text if paper is None or np.isnan(paper) else f"{text} ({paper:g})"
