"""What a table of the paper is made of: rows, each one way of training, and the paper's numbers beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from tailsmith.metrics.seeds import PairedDifference, paired_over_seeds
from tailsmith.runs.arms import Arm


@dataclass(frozen=True)
class Row:
    """One way of training. Real images only have no set; `method` None is the world's `mixed.method`."""

    label: str  # as the paper has it
    method: str | None = None
    set: str | None = None
    target: int | None = None  # images per class or group, where it isn't the world's
    training: Mapping[str, Any] = field(default_factory=dict)  # changes to the world's training settings
    stage_two: bool = False  # trained on as the world's `mixed.stage_two` says
    real_images: bool = False  # topped up with real images of the embedded world instead of synthetic ones
    paper: Mapping[str, float] = field(default_factory=dict)  # column -> the paper's number

    @property
    def arm(self) -> Arm:
        """Its name says all that it differs in: rows of several tables that are alike are one arm."""
        name = "+".join(each for each in (self.method, self.set) if each)
        if self.target is not None:
            name += f".{self.target}"
        name += "".join(f".{key}-{value}" for key, value in sorted(self.training.items()))
        name += ".stage_two" if self.stage_two else ""
        return Arm(f"real_images+{name}" if self.real_images else name, self.method, self.set)


class Measured(Protocol):
    """What a claim is about: a row of a table or figure at one seed."""

    @property
    def row(self) -> str: ...

    @property
    def seed(self) -> int: ...

    def value(self, column: str) -> float: ...


def paired(rows: Iterable[Measured], row: str, against: str, column: str, sign: int = 1) -> PairedDifference:
    """`row` less `against`, times `sign`, over the seeds that both have; NaN throughout with fewer than two."""
    of: dict[str, dict[int, float]] = {row: {}, against: {}}
    for each in rows:
        if each.row in of:
            of[each.row][each.seed] = sign * each.value(column)
    seeds = sorted(of[row].keys() & of[against].keys())
    return paired_over_seeds([of[against][seed] for seed in seeds], [of[row][seed] for seed in seeds])


@dataclass(frozen=True)
class Result:
    """What came of a row at one seed. Accuracies in % by cell ("few"); None where the test has no such images."""

    row: str  # its label
    arm: str
    seed: int
    test: Mapping[str, float | None]
    n: Mapping[str, int]  # test images of each cell
    validation: Mapping[str, float | None]
    images_seen: int
    synthetic_images: int
    config_sha256: str  # of all settings that the numbers follow from, but the data
    samples: Mapping[str, float | None] = field(default_factory=dict)  # what the synthetic images are like
    diverged: str = ""  # how its training did, which has no numbers then

    def value(self, column: str) -> float:
        """Of "few", "validation.few" or "samples.coverage"; NaN where there is none."""
        section, dot, name = column.rpartition(".")
        found = getattr(self, section if dot else "test").get(name)
        return float("nan") if found is None else float(found)


@dataclass(frozen=True)
class PaperTable:
    """A table or a curve of the paper."""

    title: str
    world: str  # of worlds.EMBEDDED
    rows: tuple[Row, ...]
    columns: tuple[str, ...]  # keys of a result's "test", or of "validation" or "samples" with that before a dot
    baseline: str  # the label of the row that the others are held against
    figure: str = "bars"  # bars | lines: rows are points along an axis
