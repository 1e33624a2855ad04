"""What the arms of a run reached, read from accuracy tables, and how far two of them differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from tailsmith.errors import UserError
from tailsmith.metrics.accuracy import AccuracyTable
from tailsmith.metrics.paired import paired_interval
from tailsmith.report.words import tested_words
from tailsmith.strata import GROUP_SHOTS, SHOT_RANGES

# Titles of columns
SHOT_TITLES = {shot: f"{shot.capitalize()} ({span.replace('..', '–')})" for shot, span in SHOT_RANGES.items()}
GROUP_SHOT_TITLES = {shot: f"{shot.capitalize()} groups" for shot in GROUP_SHOTS}
INDEPENDENT = "from the intervals of both arms, taken as independent"


@dataclass(frozen=True)
class Cell:
    """An accuracy in percent on `n` test images.

    [low, high] is a 95 % interval of one seed, or mean ± standard deviation over several. A mean is over `tested` of
    the `of` classes or groups (`kind`) that it is about: the others have no test image. `bias` is what a minimum is
    expected to be off by.
    """

    accuracy: float = math.nan
    n: int = 0
    low: float = math.nan
    high: float = math.nan
    seeds: int = 1
    kind: str = ""
    tested: int = 0
    of: int = 0
    bias: float = 0.0

    @property
    def missing(self) -> bool:
        return math.isnan(self.accuracy)

    @property
    def standard_error(self) -> float:
        """Of the mean over seeds; NaN for one."""
        return (self.high - self.low) / 2 / math.sqrt(self.seeds) if self.seeds > 1 else math.nan

    @property
    def partly(self) -> str:
        """Which classes or groups the number leaves out, in words: "3 of 5 classes have test images"."""
        return tested_words(self.tested, self.of, self.kind)


@dataclass(frozen=True)
class Arm:
    """One way of training, with the accuracy table of each of its seeds."""

    name: str
    tables: tuple[AccuracyTable, ...]

    def cells(self, *keys: str) -> list[Cell]:
        """The cell at e.g. ("shots", "few") of every seed; a table without it gives a missing cell."""
        return [_read_cell(table, keys) for table in self.tables]

    def cell(self, *keys: str) -> Cell:
        return _merge(self.cells(*keys))

    def names(self, section: str) -> list[str]:
        """What the section ("classes", "groups") lists, in the order of the first table that has it."""
        return list(dict.fromkeys(name for table in self.tables for name in table.get(section) or {}))

    def confusion(self) -> np.ndarray | None:
        """[C, C] counts, rows = true classes, summed over seeds; None where no table has one."""
        matrices = [np.asarray(table["confusion"], float) for table in self.tables if table.get("confusion")]
        return np.sum(matrices, axis=0) if matrices else None


@dataclass(frozen=True)
class Difference:
    """`after` minus `before` in points, with a 95 % interval; `basis` says in words where that comes from."""

    before: Cell
    after: Cell
    gain: float
    low: float
    high: float
    basis: str

    @property
    def verdict(self) -> str:
        return verdict(self.low, self.high)


def verdict(low: float, high: float) -> str:
    """ "gain" or "loss" where the interval excludes zero, else "unclear"."""
    if low > 0:
        return "gain"
    return "loss" if high < 0 else "unclear"


def read_arm(name: str, tables: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Arm:
    """An arm given as one accuracy table, or as one table per seed."""
    several = [AccuracyTable(each) for each in ([tables] if isinstance(tables, Mapping) else tables)]
    if not several or any("overall" not in table for table in several):
        raise UserError(f"arm {name!r}: expected an accuracy table with 'overall', or a list of them, one per seed")
    return Arm(name, tuple(several))


def difference(before: Arm, after: Arm, *keys: str) -> Difference:
    """How far `after` is above `before` at e.g. ("shots", "few").

    Equally many seeds (two or more) are paired: a t interval over their differences. Of one seed each, or where all
    seeds differ by the same, the test images are paired (`metrics.paired`) where they are the same. Otherwise the two
    intervals (means over seeds) are combined as if independent (Newcombe 1998, method 10).
    """
    one, two = before.cells(*keys), after.cells(*keys)
    paired = [b.accuracy - a.accuracy for a, b in zip(one, two, strict=False) if not (a.missing or b.missing)]
    start, end, basis = _merge(one), _merge(two), INDEPENDENT
    gain = end.accuracy - start.accuracy
    if len(one) == len(two) == len(paired) > 0:
        half = _t_half_width(paired) if len(paired) > 1 else 0.0
        if half > 1e-9:
            return Difference(start, end, gain, gain - half, gain + half, f"over {len(paired)} paired seeds")
        both = list(zip(before.tables, after.tables, strict=True))
        found = [each for a, b in both if (each := paired_interval(a, b, keys)) is not None]
        if len(found) == len(paired):
            low, high = (float(np.mean(ends)) for ends in zip(*((each.low, each.high) for each in found), strict=True))
            return Difference(start, end, gain, low, high, "in pairs, over the same test images")
        if all(table.get("images") for pair in both for table in pair):
            basis += ", as their test images differ"
    (a_down, a_up), (b_down, b_up) = _reach(one), _reach(two)
    down, up = math.hypot(b_down, a_up), math.hypot(b_up, a_down)
    return Difference(start, end, gain, gain - down, gain + up, basis)


def _reach(cells: Sequence[Cell]) -> tuple[float, float]:
    """How far the 95 % interval reaches below and above the accuracy, in the mean over seeds."""
    known = [(cell.accuracy - cell.low, cell.high - cell.accuracy) for cell in cells if not cell.missing]
    down, up = np.mean(known, axis=0) if known else (math.nan, math.nan)
    return float(down), float(up)


def _t_half_width(values: Sequence[float]) -> float:
    spread = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return float(stats.t.ppf(0.975, len(values) - 1)) * spread


def _read_cell(table: AccuracyTable, keys: Sequence[str]) -> Cell:
    raw = table.cell(*keys)
    if not raw:
        return Cell()
    accuracy, low, high = (_number(raw.get(key)) for key in ("accuracy", "low", "high"))
    kind = next((kind for kind in ("classes", "groups") if kind in raw), "")
    tested, of = int(raw.get(kind) or 0), int(raw.get("of") or 0)
    bias = 0.0 if "bias" not in raw else _number(raw["bias"])
    return Cell(accuracy, int(raw.get("n") or 0), low, high, kind=kind, tested=tested, of=of, bias=bias)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)  # JSON writers turn NaN into null


def _merge(cells: Sequence[Cell]) -> Cell:
    """One cell for several seeds: their mean, and mean ± standard deviation; missing cells drop out."""
    known = [cell for cell in cells if not cell.missing]
    if len(known) <= 1:
        return known[0] if known else next(iter(cells), Cell())
    values = [cell.accuracy for cell in known]
    mean, std = float(np.mean(values)), float(np.std(values, ddof=1))
    largest = max(known, key=lambda cell: cell.n)
    bias = float(np.mean([cell.bias for cell in known]))
    return replace(largest, accuracy=mean, low=mean - std, high=mean + std, seeds=len(known), bias=bias)
