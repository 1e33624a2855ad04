"""A table of the paper, run: a JSON of every row and seed, a Markdown table beside the paper's numbers, a figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tailsmith.errors import UserError, did_you_mean
from tailsmith.files import read_json, write_json, write_text
from tailsmith.generation.generator import load_generator
from tailsmith.metrics.seeds import over_seeds
from tailsmith.report.svg import ARM_COLOURS, COLOURS, FONT_SIZE, new_figure, set_rows, standalone, to_svg
from tailsmith.reproduction.bench import Bench
from tailsmith.reproduction.row_settings import RowSettings
from tailsmith.reproduction.rows import PaperTable, Result, paired
from tailsmith.reproduction.worlds import Scale

PERCENT = ("samples.judge_agreement", "samples.probe_accuracy")  # fractions, shown as %


def reproduce_table(
    table: PaperTable,
    out: Path,
    results: Path,
    seeds: Sequence[int],
    scale: Scale,
    command: str = "",
    only: Sequence[str] = (),
) -> Path:
    """Train what `results` lacks of every row, or of `only` those labels, at every seed; it is written after each row.

    Rows and seeds that it has already stay in it, whether asked for or not.

    Raises
    ------
    ValueError
        For a label that the table lacks, and for results of another table or scale, or of other settings.
    """
    labels = [row.label for row in table.rows]
    if unknown := [each for each in only if each not in labels]:
        hint = did_you_mean(unknown[0], labels)
        raise UserError(f"{table.title} has the rows {', '.join(labels)}, got {unknown[0]!r}{hint}")
    found, commands = recorded(table, results, scale)
    commands = list(dict.fromkeys([*commands, command]))
    for seed in seeds:
        missing = [row for row in table.rows if (not only or row.label in only) and (row.label, seed) not in found]
        if missing:
            bench = Bench.open(table.world, scale, seed, out, load_generator, command)
        for row in missing:
            found[row.label, seed] = bench.result(row)
            rows = sorted(found.values(), key=lambda each: (each.seed, labels.index(each.row)))
            write_results(table, rows, results, scale, "; ".join(commands))
    return results


def recorded(table: PaperTable, results: Path, scale: Scale) -> tuple[dict[tuple[str, int], Result], list[str]]:
    """Rows by label and seed, and the commands that made them, of a results file; nothing where there is none."""
    if not results.exists():
        return {}, []
    content = read_json(results)
    if (content["table"], content["scale"]) != (table.title, scale.name):
        raise UserError(
            f"{results} holds {content['table']!r} at scale {content['scale']}, "
            f"expected {table.title!r} at scale {scale.name}; give another --results"
        )
    rows = {row.label: row for row in table.rows}
    found = {}
    for each in (Result(**row) for row in content["rows"]):
        row = rows.get(each.row)
        if row is None or each.config_sha256 != RowSettings.of(row, table.world, scale, each.seed).sha256():
            raise UserError(
                f"{results} holds {each.row!r}, seed {each.seed}, of other settings than those of this version; "
                "give another --results"
            )
        found[each.row, each.seed] = each
    return found, content["command"].split("; ")


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
    seeds = [len(_by_seed(rows, row.label)) for row in table.rows]
    counted = str(max(seeds)) if min(seeds) == max(seeds) else f"{min(seeds)} to {max(seeds)}"
    lines = [
        f"# {table.title}",
        "",
        f"Accuracy in %, {counted} seeds; in brackets the paper's own number, on its own data.",
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
