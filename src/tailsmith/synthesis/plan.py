"""The plan: one row per image to make, holding everything that determines that image."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tailsmith.data.packed import reading
from tailsmith.errors import UserError
from tailsmith.files import write_atomically
from tailsmith.guidance.config import FeedbackConfig
from tailsmith.synthesis.config import SynthesisConfig
from tailsmith.synthesis.plan_checks import check_plan, feedback_of
from tailsmith.synthesis.plan_identity import (
    OF_ROWS,
    Parts,
    hash_of_rows,
    identity,
    identity_parts,
)

Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class Plan:
    """`table`: one request per row; `meta`: what all requests share (class names, settings of a call, hashes)."""

    table: pd.DataFrame
    meta: dict[str, Any]

    def __len__(self) -> int:
        return len(self.table)

    @property
    def shards(self) -> list[int]:
        return list(self._by_shard[1])

    @property
    def has_hardness(self) -> bool:
        """Whether the class Gaussians of the classifier's features are needed."""
        return bool((self.table["criterion"] == "hardness").any())

    @property
    def has_feedback(self) -> bool:
        return bool((self.table["feedback_scale"] > 0).any())

    @property
    def feedback(self) -> FeedbackConfig:
        """The settings of its pipeline calls; criterion and scale are each request's own."""
        return feedback_of(self.meta["synthesis"])

    def shard(self, number: int) -> pd.DataFrame:
        table, rows = self._by_shard
        return table.iloc[rows[number]].reset_index(drop=True)

    def shard_size(self, number: int) -> int:
        rows = self._by_shard[1][number]
        return int(rows.stop - rows.start)

    @cached_property
    def _by_shard(self) -> tuple[pd.DataFrame, dict[int, slice]]:
        """The table in the order of its shards, and where each lies: a full plan has too many to search for each."""
        shards = self.table["shard"].to_numpy(dtype=np.int64)
        in_order = bool((np.diff(shards) >= 0).all())
        table = self.table if in_order else self.table.iloc[np.argsort(shards, kind="stable")]
        numbers, starts = np.unique(np.sort(shards), return_index=True)
        stops = np.append(starts[1:], len(shards))[: len(starts)]  # none in an empty plan
        return table, dict(zip(numbers.tolist(), map(slice, starts.tolist(), stops.tolist()), strict=True))

    def check(self) -> None:
        """Raise ValueError for rows or metadata that mean nothing."""
        check_plan(self.table, self.meta)

    @cached_property
    def parts(self) -> Parts:
        """The hash of each thing that its shards follow from."""
        return identity_parts(self._by_shard[0], self.meta)

    @property
    def identity(self) -> str:
        """Equal for plans whose shards are interchangeable, whoever made them, where and with which version."""
        return identity(self.parts)

    @cached_property
    def common(self) -> str:
        """Of all that single requests don't say: requests with the same one can lie in one folder."""
        return identity({name: part for name, part in self.parts.items() if name != OF_ROWS})

    def extended(self, earlier: "Plan") -> "Plan":
        """These requests, in their order, in the shards of an earlier and smaller plan; the others in new ones after.

        ValueError that names what differs, where some request of the earlier plan isn't one of these.
        """
        before = earlier._by_shard[0]
        rows = pd.Index(self.table["request_id"]).get_indexer(pd.Index(before["request_id"]))
        differing = [name for name, part in self.parts.items() if name != OF_ROWS and earlier.parts[name] != part]
        among_these = bool((rows >= 0).all()) and earlier.parts[OF_ROWS] == hash_of_rows(
            self.table.iloc[rows].assign(shard=before["shard"].to_numpy())
        )
        if differing or not among_these:
            raise UserError(f"{', '.join(differing if among_these else [OF_ROWS, *differing])}: not the same")
        numbers = np.full(len(self), -1)
        numbers[rows] = before["shard"]
        added = np.flatnonzero(numbers < 0)
        size = max(map(self.shard_size, self.shards), default=1)
        numbers[added] = numbers.max(initial=-1) + 1 + np.arange(len(added)) // size
        extends = [*earlier.meta.get("extends", []), *([earlier.identity] if len(added) else [])]
        return Plan(self.table.assign(shard=numbers), {**self.meta, "extends": extends})

    def begins_with(self, smaller: "Plan") -> bool:
        """Whether the smaller plan's shards are shards of this plan, too."""
        first = self.table["shard"].isin(smaller.shards)
        return Plan(self.table[first], self.meta).parts == smaller.parts

    def within(self, larger: "Plan") -> "Plan | None":
        """These requests in the shards of a larger plan, where they fill some of these; None where they don't."""
        rows = pd.Index(larger.table["request_id"]).get_indexer(pd.Index(self.table["request_id"]))
        if (rows < 0).any():
            return None
        numbers = larger.table["shard"].to_numpy()[rows]
        plan = Plan(self.table.assign(shard=numbers), {**self.meta, "extends": larger.meta.get("extends", [])})
        return plan if larger.begins_with(plan) else None

    def write(self, path: Path) -> None:
        table = pa.Table.from_pandas(self.table, preserve_index=False)
        table = table.replace_schema_metadata({"tailsmith": json.dumps(self.meta, sort_keys=True)})
        write_atomically(path, lambda temporary: pq.write_table(table, temporary, write_page_checksum=True))

    @staticmethod
    def read(path: Path) -> "Plan":
        if not path.is_file():
            raise UserError(f"no plan at {path}; make one with `tailsmith plan`")
        with reading(path, "bring back a sound copy, or make the plan again: the same settings give the same one"):
            table = pq.read_table(path, page_checksum_verification=True)
            rows = table.to_pandas()
        stored = (table.schema.metadata or {}).get(b"tailsmith")
        if stored is None:
            raise UserError(f"{path} is not a plan: it carries no tailsmith metadata")
        try:
            meta = json.loads(stored)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is not a plan: its metadata is no JSON ({error}); make the plan again") from error
        if isinstance(meta, dict) and isinstance(meta.get("synthesis"), dict):
            meta["synthesis"] = SynthesisConfig.renamed(meta["synthesis"])
        plan = Plan(rows, meta)
        try:
            plan.check()
        except ValueError as error:
            raise UserError(f"plan {path}: {error}") from error
        return plan


def check_shards(chosen: Sequence[int], known: Sequence[int]) -> None:
    """Raise ValueError for a shard that the plan doesn't have."""
    if unknown := sorted(set(chosen) - set(known)):
        raise UserError(f"the plan has the shards {min(known)}-{max(known)}, got {unknown[0]}")
