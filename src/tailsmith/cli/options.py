"""Options that commands share: a command takes one of these whole, and its fields are options without a prefix."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tailsmith.synthesis.engines.config import Workers

if TYPE_CHECKING:
    from tailsmith.data.dataset import Dataset

Target = int | str | dict[str, int]


class Options:
    """What opens into options of the command itself."""


@dataclass(frozen=True)
class Reading(Options):
    """How the data are read."""

    skip_corrupt: bool = False  # leave unreadable images out, and list them
    max_megapixels: float | None = None  # images above it count as unreadable; None = 178.9
    data_seed: int = 0  # which images an embedded task draws; how data without splits is split: alike in all commands

    def load(self, data: str) -> Dataset:
        """The data of a name; ValueError for anything wrong with them."""
        from tailsmith.data.sources import named

        return named.load(data, skip_corrupt=self.skip_corrupt, seed=self.data_seed, max_megapixels=self.max_megapixels)


@dataclass(frozen=True)
class Goal(Options):
    """How many images there should be."""

    target: Target | None = None  # max, a number, or {name: number}: images per class or group afterwards; None = max
    per: str = "class"  # class | group


@dataclass(frozen=True)
class Sampling(Options):
    """Which generator, and what an image costs."""

    generator: str = "mini-unclip"  # a preset, a folder, or a hub id
    seconds_per_image: float | None = None  # your generator's, on your machine, for the estimate of the cost


@dataclass(frozen=True)
class PlanFile(Options):
    """Where a plan goes."""

    out: Path = Path("plan.parquet")  # the plan
    dry_run: bool = False  # print counts and cost, write nothing
    overwrite: bool = False  # replace --out, whatever it holds


@dataclass(frozen=True)
class Rendering(Options):
    """How images are made, without an effect on what they show but for `dtype`."""

    batch_size: int = 64  # images at a time
    workers: int = 1  # processes that render: one per accelerator, or sharing the CPU's cores
    engine: str = "local"  # who starts them: local | ray | slurm
    engine_options: dict[str, str] = field(default_factory=dict)  # of ray or slurm: docs/workers.md
    stalled_after: float = 1800.0  # seconds without a new image, after which a worker counts as hung and is replaced
    dtype: str | None = None  # fp32 | fp16 (accelerators only) | bf16, kept with the shards; None = the plan's
    device: str = "auto"  # cpu | cuda | cuda:1 | mps | xpu; auto = the accelerator, where there is one

    @property
    def crew(self) -> Workers:
        """ValueError for what can't be."""
        return Workers(self.workers, self.engine, self.engine_options, self.stalled_after)


@dataclass(frozen=True)
class OfPaper(Options):
    """For the paper's own tables and figures."""

    rows: tuple[str, ...] = ()  # of one of the tables, by their labels; [] = all
    scale: str = "embedded"  # tiny (minutes, means nothing) | embedded | full (with --data)
    data: str | None = None  # the folder of the benchmark, at full scale
