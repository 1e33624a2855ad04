"""A folder of shards whose plan is fulfilled, and what each of its images follows from."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pandas as pd

from tailsmith.data.packed import read_meta, read_packed, shard_of
from tailsmith.errors import UserError
from tailsmith.generation.generator import Generator
from tailsmith.synthesis.columns import columns_of, plain
from tailsmith.synthesis.plan import Plan
from tailsmith.synthesis.plan_identity import said
from tailsmith.synthesis.sets import PLAN
from tailsmith.synthesis.shards import read_shards
from tailsmith.synthesis.tries import given_up

AT_ONCE = 4096  # requests that are Python objects at a time
UNTOLD = ("shard", "label", "attribute")  # columns of a request that mean nothing outside their plan


@dataclass(frozen=True)
class Fulfilled:
    """A synthetic set as it is exported: all of its images but those that show nothing."""

    folder: Path

    @cached_property
    def plan(self) -> Plan:
        return Plan.read(self.folder / PLAN)

    @cached_property
    def results(self) -> pd.DataFrame:
        """All rows of the shards, in the plan's order; ValueError for half of a plan."""
        return read_shards(self.folder, self.plan)

    @cached_property
    def shown(self) -> pd.DataFrame:
        """The rows whose images show something."""
        return self.results[~self.results["black"].to_numpy(dtype=bool)].reset_index(drop=True)

    @cached_property
    def table(self) -> pd.DataFrame:
        """image_id and split of each image that is exported."""
        ids = [f"synthetic-{request}" for request in self.shown["request_id"]]  # as `synthetic_dataset` has them
        return pd.DataFrame({"image_id": ids, "split": "train"})

    @property
    def dataset_name(self) -> str:
        """Of the data that it was made for, as far as the plan says."""
        return str(self.plan.meta.get("dataset") or "")

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.plan.meta["class_names"])

    @property
    def attribute_names(self) -> tuple[str, ...]:
        return tuple(self.plan.meta["attribute_names"])

    @property
    def left_out(self) -> dict[str, int]:
        failed = len(given_up(self.results))
        counts = {"show nothing": len(self.results) - len(self.shown) - failed, "were given up": failed}
        return {why: count for why, count in counts.items() if count}

    def images(self) -> Iterator[tuple[str, int, int, bytes, str]]:
        """image_id, label, attribute, encoded as it was stored, and JSON of what it follows from."""
        names = [*columns_of(self.shown), "criterion_value"]
        for start in range(0, len(self.shown), AT_ONCE):
            part = self.shown.iloc[start : start + AT_ONCE]
            ids = self.table["image_id"].iloc[start : start + AT_ONCE]
            for image_id, where, row in zip(ids, part["path"], part[names].to_dict("records"), strict=True):
                about = json.dumps(self._provenance(str(where), row), sort_keys=True)
                yield image_id, int(row["label"]), int(row["attribute"]), read_packed(str(where)), about

    def _provenance(self, where: str, row: Mapping[Any, Any]) -> dict[str, Any]:
        """All that the image follows from: its request, and who rendered it."""
        shard = shard_of(where)
        assert shard is not None  # a location of read_shards
        own = {name: plain(value) for name, value in row.items() if name not in UNTOLD and not pd.isna(value)}
        own = {name: value for name, value in own.items() if not isinstance(value, float) or math.isfinite(value)}
        attribute = row["attribute"]
        named = {"attribute": self.attribute_names[attribute]} if attribute >= 0 else {}
        return {"synthetic": True, "class": self.class_names[row["label"]], **named, **own, **self._makers(shard)}

    def _makers(self, shard: Path) -> dict[str, str]:
        if shard not in self._known:
            meta = read_meta(shard)
            names = ("generator_sha256", "decoder_sha256", "classifier_sha256", "version")
            found = {name: meta[name] for name in names if meta.get(name, "None") != "None"}
            generator = meta.get("generator") or str(self.plan.meta["generator"])
            about = {"generator": public_name(generator), "generator_licence": _licence(generator)}
            settings = {"plan": self.plan.identity, "dtype": said(self.plan.meta["synthesis"], "dtype")}
            self._known[shard] = {**found, **about, **settings}
        return self._known[shard]

    @cached_property
    def _known(self) -> dict[Path, dict[str, str]]:
        return {}


def public_name(generator: str) -> str:
    """A generator's name without the folders above its own, which are nobody else's business."""
    prefix, equals, own = generator.rpartition("=")
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(own).is_absolute():
            own = kind(own).name
    return f"{prefix}{equals}{own}"


def _licence(generator: str) -> str:
    """ "unknown" also for a generator that is gone: its images are there nevertheless."""
    try:
        return Generator.find(generator).licence or "unknown"
    except UserError:
        return "unknown"
