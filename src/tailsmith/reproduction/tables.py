"""Results files -> Markdown tables, mean ± standard deviation over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tailsmith.files import read_json

FACTS = {
    "judge_agreement": "judge agrees, %",
    "drawings": "drawings, %",
    "probe_accuracy": "probe, %",
    "entropy": "entropy, guide, x 100",
}  # of a synthetic half -> column title


def markdown_table(results: Path, columns: Sequence[str]) -> str:
    """One row per method in the order of the file; test accuracy in %."""
    rows: list[Mapping[str, Any]] = read_json(results)["rows"]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    seeds = len({row["seed"] for row in rows})
    lines = [
        f"| method ({seeds} seeds) | " + " | ".join(columns) + " | judge agreement |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for method in methods:
        chosen = [row for row in rows if row["method"] == method]
        cells = [_spread([row["test"].get(column) for row in chosen]) for column in columns]
        cells.append(_spread([row.get("samples", {}).get("judge_agreement") for row in chosen], scale=100))
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def halves_table(results: Path) -> str:
    """Of `reproduce gap` and `pool`: a row per half, with its difference to the one that all are held against.

    Means over seeds of the mean over repeated trainings, ± the standard deviation over seeds; the difference on Few
    with its 95 % t interval over seeds.
    """
    read = read_json(results)
    rows, found = read["rows"], read["differences"]
    facts = {key: title for key, title in FACTS.items() if any(key in row["samples"] for row in rows)}
    columns = ["the synthetic half", *facts.values(), "overall", "Few", "difference on Few (95 % over seeds)"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name in dict.fromkeys(row["method"] for row in rows):
        of_half = [row for row in rows if row["method"] == name]
        seeds = [[row for row in of_half if row["seed"] == seed] for seed in dict.fromkeys(r["seed"] for r in of_half)]
        cells = [_spread([each[0]["samples"].get(key) for each in seeds], scale=100) for key in facts]
        for cell in ("overall", "few"):
            cells.append(_spread([float(np.mean([row["test"][cell] for row in each])) for each in seeds]))
        cells.append(_difference(found.get(name, {}).get("few")))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _difference(cell: Mapping[str, Any] | None) -> str:
    """With its interval, where there are seeds enough for one."""
    if cell is None:
        return "–"
    low, high = cell["over_seeds"]
    return f"{cell['mean']:+.1f}" + (f" ({low:+.1f} to {high:+.1f})" if low is not None else "")


def _spread(values: Sequence[float | None], scale: float = 1.0) -> str:
    present = np.array([value for value in values if value is not None], dtype=float) * scale
    if not len(present):
        return "–"
    deviation = f" ± {present.std(ddof=1):.1f}" if len(present) > 1 else ""
    return f"{present.mean():.1f}{deviation}"
