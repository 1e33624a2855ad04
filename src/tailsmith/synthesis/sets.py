"""A synthetic set: a named plan and its shards, in one folder; every arm that names it trains on the same images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tailsmith.data.dataset import Dataset
from tailsmith.synthesis.plan import Plan
from tailsmith.synthesis.shards import PLAN
from tailsmith.synthesis.worker import read_shards, synthetic_dataset


@dataclass(frozen=True)
class SyntheticSet:
    """`RUN/synthetic/<name>/`. It grows: a plan for a larger target keeps the shards there are, and adds others."""

    name: str
    folder: Path

    @property
    def plan(self) -> Plan:
        """The requests of all its images."""
        return Plan.read(self.folder / PLAN)

    def results(self) -> pd.DataFrame:
        """Requests and results of all its images, in the plan's order; ValueError for half of a plan."""
        return read_shards(self.folder, self.plan)

    def images(self, like: Dataset) -> Dataset:
        """Its images as training rows of the classes and attributes of `like`, but for those that show nothing."""
        return synthetic_dataset(self.results(), like)
