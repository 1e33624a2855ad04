"""What is exported: the images of a synthetic set, each with its provenance, and real ones beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from tailsmith.data.checks import class_difference
from tailsmith.data.dataset import Dataset
from tailsmith.data.packed import read_meta, read_packed, shard_of
from tailsmith.errors import UserError
from tailsmith.exporting.marks import marked
from tailsmith.synthesis.columns import columns_of
from tailsmith.synthesis.plan import Plan
from tailsmith.synthesis.sets import PLAN
from tailsmith.synthesis.shards import read_shards
from tailsmith.synthesis.tries import given_up


@dataclass(frozen=True)
class Example:
    """One image and what is known of it; `provenance` is JSON, "" for a real one."""

    image_id: str
    split: str
    label: int
    attribute: int  # -1 = none
    source: str
    encoded: bytes
    provenance: str = ""


@dataclass(frozen=True)
class Export:
    """A folder of shards whose plan is fulfilled, and real images of the same classes or None."""

    samples: Path
    real: Dataset | None = None

    def __post_init__(self) -> None:
        if self.real is not None and self.real.class_names != self.class_names:
            raise UserError(
                f"the classes of the images in {self.samples} are not the data's: the data "
                f"{class_difference(self.real.class_names, self.class_names)}; give the data they were made for"
            )

    @cached_property
    def plan(self) -> Plan:
        return Plan.read(self.samples / PLAN)

    @cached_property
    def results(self) -> pd.DataFrame:
        """All rows of the shards, in the plan's order; ValueError for half of a plan."""
        return read_shards(self.samples, self.plan)

    @cached_property
    def shown(self) -> pd.DataFrame:
        """The rows whose images show something."""
        return self.results[~self.results["black"].to_numpy(dtype=bool)]

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.plan.meta["class_names"])

    @property
    def attribute_names(self) -> tuple[str, ...]:
        return tuple(self.plan.meta["attribute_names"])

    @property
    def left_out(self) -> dict[str, int]:
        failed = len(given_up(self.results))
        return {"show nothing": len(self.results) - len(self.shown) - failed, "were given up": failed}

    @cached_property
    def counts(self) -> pd.Series:
        """Images by (split, source, label)."""
        rows = [pd.DataFrame({"split": "train", "source": "synthetic", "label": self.shown["label"]})]
        if self.real is not None:
            rows.append(self.real.table[["split", "source", "label"]])
        return pd.concat(rows).value_counts()

    def __len__(self) -> int:
        return int(self.counts.sum())

    def count(self, *, split: str | None = None, source: str | None = None, label: int | None = None) -> int:
        """Images of a split, a source and a class; None = of all."""
        levels = {"split": split, "source": source, "label": label}
        counts = self.counts
        for level, value in levels.items():
            if value is not None:
                counts = counts[counts.index.get_level_values(level) == value]
        return int(counts.sum())

    def examples(self, split: str) -> Iterator[Example]:
        """Real ones first; one image at a time is in memory."""
        if self.real is not None:
            for row, known in enumerate(self.real.table.itertuples()):
                if known.split == split:
                    described = (str(known.image_id), split, int(str(known.label)), int(str(known.attribute)))
                    yield Example(*described, str(known.source), self.real.encoded(row))
        if split == "train":
            names = list(columns_of(self.shown))
            for where, request in zip(self.shown["path"], self.shown[names].to_dict("records"), strict=True):
                said = json.dumps(self._provenance(str(where), request), sort_keys=True)
                described = (f"synthetic-{request['request_id']}", split, request["label"], request["attribute"])
                yield Example(*described, "synthetic", marked(read_packed(where), said), said)

    def _provenance(self, where: str, request: Mapping[Any, Any]) -> dict[str, Any]:
        """All that the image follows from: its request, and who rendered it."""
        shard = shard_of(where)
        assert shard is not None  # a location of read_shards
        by = self._makers(shard)
        own = {name: value for name, value in request.items() if name != "shard" and not pd.isna(value)}
        return {"synthetic": True, "class": self.class_names[request["label"]], **own, **by}

    def _makers(self, shard: Path) -> dict[str, str]:
        if shard not in self._known:
            meta = read_meta(shard)
            names = ("generator", "generator_sha256", "decoder_sha256", "classifier_sha256", "version")
            self._known[shard] = {name: meta[name] for name in names if meta.get(name, "None") != "None"}
        return self._known[shard]

    @cached_property
    def _known(self) -> dict[Path, dict[str, str]]:
        return {}
