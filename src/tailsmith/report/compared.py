"""What a comparison of runs says: a row per arm, over the runs that are its seeds, and how far each is from one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from tailsmith.metrics.accuracy import AccuracyTable
from tailsmith.metrics.paired import mean_paired_interval, paired_interval
from tailsmith.metrics.seeds import over_seeds, paired_over_seeds
from tailsmith.report.results import Arm, Cell, difference, verdict

OF_GROUPS = ("worst_group", "group_shots", "groups")
OTHER_SHOTS = "not compared: other classes or groups belong there"


@dataclass(frozen=True)
class Trained:
    """An arm as one run has it; None is what the run doesn't say."""

    run: str
    seed: str  # of data, classifiers and synthesis, in words
    tables: tuple[AccuracyTable, ...]  # one per training seed where the run has a search, else one
    backbone: str | None = None
    steps: int | None = None
    images_seen: int | None = None  # views of images that all steps of its training read
    synthetic: int | None = None  # images that it trained on, but for those that show nothing
    train_seconds: float | None = None
    synthesis_seconds: float | None = None  # of its set, which other arms may share


@dataclass(frozen=True)
class Row:
    """An arm of one run, or of the runs of one configuration over several seeds."""

    name: str  # RUN/ARM
    trained: tuple[Trained, ...]

    @property
    def tables(self) -> list[AccuracyTable]:
        return [table for each in self.trained for table in each.tables]

    @property
    def seeds(self) -> str:
        return ", ".join(each.seed for each in self.trained)

    def cell(self, *keys: str) -> Cell:
        """The cell at e.g. ("shots", "few"): of one run as it is, of several their mean ± standard deviation."""
        each = [Arm(self.name, trained.tables).cell(*keys) for trained in self.trained]
        known = [cell for cell in each if not cell.missing]
        if len(known) < 2:
            return known[0] if known else each[0]
        spread = over_seeds([cell.accuracy for cell in known])
        low, high = spread.mean - spread.sd, spread.mean + spread.sd
        return replace(known[0], accuracy=spread.mean, low=low, high=high, seeds=spread.n)

    def mean(self, fact: str) -> float:
        """Of a number that its runs know, "images_seen", over these; NaN where none does."""
        known = [value for each in self.trained if (value := getattr(each, fact)) is not None]
        return float(np.mean(known)) if known else math.nan


@dataclass(frozen=True)
class Gain:
    """A row minus the baseline in points, with a 95 % interval; `basis` says in words what it is over."""

    mean: float
    low: float
    high: float
    basis: str

    @property
    def verdict(self) -> str:
        return verdict(self.low, self.high)


@dataclass(frozen=True)
class Check:
    """Whether the runs were made alike in one respect; `said` has the value they share, or who differs and how."""

    what: str
    holds: bool
    said: str


@dataclass(frozen=True)
class RunFacts:
    """A run that is compared."""

    name: str
    path: str
    seed: str
    command: str
    created: str


@dataclass(frozen=True)
class Setting:
    """One that the configurations don't share: its value in each, in the order of `Comparison.configurations`."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Runs side by side, whose test images are the same within each seed."""

    rows: tuple[Row, ...]
    baseline: Row
    checks: tuple[Check, ...]
    runs: tuple[RunFacts, ...]
    configurations: tuple[str, ...]
    settings: tuple[Setting, ...] = ()

    @property
    def warnings(self) -> list[str]:
        return [f"{check.what}: {check.said}" for check in self.checks if not check.holds]


def gain(baseline: Row, other: Row, *keys: str) -> Gain:
    """How far `other` is above the baseline at e.g. ("shots", "few").

    Runs of the same seed are paired; of two or more a t interval says how sure the difference is for other seeds.
    Otherwise the test images are paired, and it says so for other test images. NaN where shots hold other classes.
    """
    pairs = [(b, o) for o in other.trained for b in baseline.trained if b.seed == o.seed]
    compared = pairs or product(baseline.trained, other.trained)
    if not all(_of_the_same(b.tables[0], o.tables[0], keys) for b, o in compared):
        return Gain(math.nan, math.nan, math.nan, OTHER_SHOTS)
    if len(pairs) > 1:
        before, after = ([_mean(pair[side].tables, keys) for pair in pairs] for side in (0, 1))
        found = paired_over_seeds(before, after)
        if found.high > found.low or math.isnan(found.mean):  # seeds that all differ by the same say nothing of others
            return Gain(found.mean, found.low, found.high, f"over {found.n} seeds, in pairs")
    one = [table for b, _ in pairs for table in b.tables] or baseline.tables
    two = [table for _, o in pairs for table in o.tables] or other.tables
    alone = max(len(baseline.trained), len(other.trained)) > len(pairs) == 1
    more = f", seed {pairs[0][0].seed} alone" if alone else "" if pairs else "; their seeds differ"
    return _over_images(one, two, keys, more)


def _over_images(one: Sequence[AccuracyTable], two: Sequence[AccuracyTable], keys: tuple[str, ...], more: str) -> Gain:
    """By the test images that only one side gets right; as independent where tables don't say which these are."""
    mean = _mean(two, keys) - _mean(one, keys)
    low, high = _paired([_bare(table, keys) for table in one], [_bare(table, keys) for table in two], keys)
    basis = "over the test images, in pairs"
    if math.isnan(low) and not math.isnan(mean):
        found = difference(Arm("", tuple(one)), Arm("", tuple(two)), *keys)
        low, high, basis = found.low, found.high, found.basis
    return Gain(mean, low, high, basis + more)


def _paired(one: Sequence[AccuracyTable], two: Sequence[AccuracyTable], keys: tuple[str, ...]) -> tuple[float, float]:
    if len(one) > 1 or len(two) > 1:
        if keys[0] != "worst_group":
            return mean_paired_interval(one, two, keys)
        if len(one) != len(two):  # which group is worst, each says for itself
            return math.nan, math.nan
    found = [paired_interval(before, after, keys) for before, after in zip(one, two, strict=True)]
    ends = [(each.low, each.high) for each in found if each is not None]
    if len(ends) < len(found):
        return math.nan, math.nan
    low, high = np.mean(ends, axis=0)
    return float(low), float(high)


def _mean(tables: Iterable[AccuracyTable], keys: tuple[str, ...]) -> float:
    values = [table.cell(*keys).get("accuracy") for table in tables]
    return float(np.mean([math.nan if value is None else value for value in values]))


def _of_the_same(one: AccuracyTable, other: AccuracyTable, keys: tuple[str, ...]) -> bool:
    """Whether the cell is of the same classes or groups in both."""
    if keys[0] in ("shots", "group_shots"):
        section = "classes" if keys[0] == "shots" else "groups"
        return shots_of(one, section) == shots_of(other, section)
    return keys[0] not in OF_GROUPS or shots_of(one, "groups").keys() == shots_of(other, "groups").keys()


def shots_of(table: AccuracyTable, section: str) -> dict[str, str | None]:
    """Class or group -> its shot; None in a table that doesn't say."""
    return {name: cell.get("shot") for name, cell in (table.get(section) or {}).items()}


def _bare(table: AccuracyTable, keys: tuple[str, ...]) -> AccuracyTable:
    """Without what two tables need not share for this cell: groups, and shots, which are by training images."""
    kept = {"shots": "classes", "group_shots": "groups"}.get(keys[0])
    sections = {name: table.get(name) or {} for name in ("classes", "groups")}
    bare: dict[str, Any] = {
        name: cells if name == kept else {key: {} for key in cells} for name, cells in sections.items()
    }
    images = table.get("images")
    if keys[0] not in OF_GROUPS:
        bare["groups"] = {}
        images = images and {**images, "attributes": None, "num_attributes": 0}
    return AccuracyTable({**table, **bare, "images": images})
