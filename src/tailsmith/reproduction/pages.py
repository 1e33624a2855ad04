"""docs/results.md and docs/methods.md, written from the results of `tailsmith reproduce` in a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tailsmith.files import read_json
from tailsmith.metrics.seeds import PairedDifference, over_seeds
from tailsmith.reproduction.claims import CLAIMS, Claim, Results
from tailsmith.reproduction.paper_tables import TABLES
from tailsmith.reproduction.rows import Measured, PaperTable, paired

LINES = ("figure-5", *TABLES)
RESULTS = """# What of the paper holds here

Written by `python tools/write_pages.py` from the results of `tailsmith reproduce` at embedded scale
([reproduction.md](reproduction.md), which has the rule too). Differences are in points (distances, densities and shares
in their own unit), with the 95 % interval over seeds; *could see* is the smallest difference that so many seeds find in
80 % of cases. The embedded world is small: what doesn't hold here may hold at the paper's scale."""
METHODS = """# Methods, measured

Written by `python tools/write_pages.py`. Real images only, 500 steps of 128, the same learning rate for all; mean ±
standard deviation over seeds, and in brackets the paired difference to ERM with its 95 % interval. Times per step over
ERM's are those of `benchmarks/methods.py`, and vary by 20 % on this machine."""


@dataclass(frozen=True)
class Stored:
    """A row of a results file: what `rows.Result` and a row of Figure 5 have in common."""

    row: str
    seed: int
    sections: Mapping[str, Any]

    def value(self, column: str) -> float:
        """As `rows.Result.value`."""
        section, dot, name = column.rpartition(".")
        found = self.sections.get(section if dot else "test", {}).get(name)
        return float("nan") if found is None else float(found)


def read_results(folder: Path) -> dict[str, list[Stored]]:
    """Table -> its rows, of those whose results at embedded scale lie in the folder."""
    found = {}
    for name in LINES:
        path = folder / f"{name}.json"
        if path.exists() and (content := read_json(path))["scale"] == "embedded":
            found[name] = [Stored(row["row"], row["seed"], row) for row in content["rows"]]
    return found


def results_page(results: Results, folder: str) -> str:
    """Each claim of the paper, what was measured, and the verdict by claims.py; `folder` as links name it."""
    lines = [
        *RESULTS.splitlines(),
        "",
        "| claim | verdict |",
        "|---|---|",
        *(f"| ({claim.letter}) {claim.text} | {_verdict(claim, results)} |" for claim in CLAIMS),
    ]
    for claim in CLAIMS:
        lines += [
            "",
            f"## ({claim.letter}) {claim.text}",
            "",
            f"**{_verdict(claim, results)}**",
            "",
            *_measured(claim, results),
        ]
    tables = [name for name in LINES if name in results]
    if tables:
        lines += ["", "## Tables and figures", ""]
        lines += [
            f"- `{name}`: [table]({folder}/{name}.md), [figure]({folder}/{name}.svg), [numbers]({folder}/{name}.json)"
            for name in tables
        ]
    return "\n".join(lines) + "\n"


def methods_page(results: Results, over_erm: Mapping[str, float]) -> str:
    """Every method on both embedded tasks: accuracy, the paired difference to ERM, time per step over ERM's."""
    lines = METHODS.splitlines()
    groups = ("average", *(f"groups_{each}" for each in ("majority", "minority", "unseen")), "worst_group")
    parts = (
        ("methods", ("overall", "many", "medium", "few"), "few"),
        ("group-methods", groups, "groups_minority"),
    )
    for name, columns, compared in parts:
        lines += [
            "",
            f"## {TABLES[name].title}",
            "",
            *_methods_table(TABLES[name], results.get(name, ()), columns, compared, over_erm),
        ]
    return "\n".join(lines) + "\n"


def _methods_table(
    table: PaperTable,
    rows: Sequence[Measured],
    columns: Sequence[str],
    compared: str,
    over_erm: Mapping[str, float],
) -> list[str]:
    if not rows:
        return ["Not run yet."]
    heads = [column.replace("groups_", "").replace("_", " ") for column in columns]
    lines = [f"| method | settings | {' | '.join(heads)} | time per step |", "|---" * (len(columns) + 3) + "|"]
    for row in table.rows:
        of_row = [each for each in rows if each.row == row.label]
        if not of_row:
            continue
        cells = [_spread([each.value(column) for each in of_row]) for column in columns]
        gain = paired(rows, row.label, table.baseline, compared)
        if row.label != table.baseline and gain.n:
            cells[columns.index(compared)] += f" ({_difference(gain)})"
        name = str(row.method).partition(":")[0]
        time = f"{over_erm[name]:.2f}" if name in over_erm else "–"
        lines.append(f"| {row.label} | `{row.method}` | {' | '.join(cells)} | {time} |")
    return lines


def _verdict(claim: Claim, results: Results) -> str:
    missing = sorted({each.table for each in claim.differences} - results.keys())
    return f"not run yet ({', '.join(missing)})" if missing else claim.verdict(results)


def _measured(claim: Claim, results: Results) -> list[str]:
    """A line per difference of which there are results."""
    lines = ["| | against | of | difference (95 %) | claimed | seeds | could see |", "|---" * 7 + "|"]
    for each in claim.differences:
        if each.table in results:
            found = each.over_seeds(results)
            claimed = f"above {each.more_than:g}"
            column = each.column.rpartition(".")[2].replace("_", " ") + (", less is better" if each.sign < 0 else "")
            cells = (each.row, each.against, column, _difference(found), claimed, found.n, _number(found.detectable))
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines if len(lines) > 2 else []


def _difference(found: PairedDifference) -> str:
    if np.isnan(found.low):
        return "–" if np.isnan(found.mean) else f"{found.mean:+.3g}"
    return f"{found.mean:+.3g}, {found.low:+.3g} to {found.high:+.3g}"


def _spread(values: Sequence[float]) -> str:
    spread = over_seeds(values)
    if np.isnan(spread.mean):
        return "–"
    return f"{spread.mean:.1f}" + (f" ± {spread.sd:.1f}" if np.isfinite(spread.sd) else "")


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.2g}"
