"""Results files -> Markdown tables, mean ± standard deviation over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tailsmith.files import read_json


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


def _spread(values: Sequence[float | None], scale: float = 1.0) -> str:
    present = np.array([value for value in values if value is not None], dtype=float) * scale
    if not len(present):
        return "–"
    deviation = f" ± {present.std(ddof=1):.1f}" if len(present) > 1 else ""
    return f"{present.mean():.1f}{deviation}"
