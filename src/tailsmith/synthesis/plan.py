"""The plan: one row per image to make, holding everything that determines that image."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tailsmith.data.dataset import Dataset
from tailsmith.data.packed import reading
from tailsmith.errors import UserError
from tailsmith.files import write_atomically
from tailsmith.guidance.config import FeedbackConfig
from tailsmith.synthesis.config import SynthesisConfig
from tailsmith.synthesis.plan_checks import REQUESTS, check_config, check_plan, feedback_of
from tailsmith.synthesis.plan_identity import (
    OF_ROWS,
    RENDERING,
    Parts,
    hash_of_rows,
    identity,
    identity_parts,
    per_call,
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


def make_plan(
    dataset: Dataset,
    missing: Ints,
    config: SynthesisConfig,
    *,
    meta: dict[str, Any],
) -> Plan:
    """Requests for `missing` images, [C] per class or [C, A] per group.

    The conditioning image of a request is a random training image of its group; of its class where the group is
    empty, the plan is per class, or the configuration says so. Its content hash is None where the dataset is a
    benchmark's published counts without images. The k-th request of a class or group is the same for any larger plan.
    """
    check_config(config, dataset)
    if (wanted := sum(missing.ravel().tolist())) > REQUESTS:  # Python's numbers don't overflow
        raise UserError(f"a plan has at most {REQUESTS:,} requests, and this one would have {wanted:,}; lower target")
    labels, attributes, ordinals = _expand(missing)
    seeds = [_hash64(config.seed, labels, attributes + 1, ordinals, stream) for stream in range(4)]
    sources, hashes = _conditioning_images(dataset, labels, attributes, seeds[0], config)
    table = pd.DataFrame(
        {
            "request_id": [f"{c}-{a}-{k}" for c, a, k in zip(labels, attributes, ordinals, strict=True)],
            "shard": np.arange(len(labels)) // config.shard_size,
            "label": labels,
            "attribute": attributes,
            "prompt": _prompts(dataset, labels, attributes, config),
            "conditioning_id": sources,
            "conditioning_sha256": hashes,
            "embedding_dropout": 0.0 if config.conditioning == "text" else config.embedding_dropout,
            "dropout_seed": (seeds[1] >> np.uint64(1)).astype(np.int64),
            "noise_seed": (seeds[2] >> np.uint64(1)).astype(np.int64),
            "guidance_scale": config.guidance_scale,
            "num_inference_steps": config.num_inference_steps,
            "feedback_scale": config.feedback.scale,
            "criterion": _criteria(config.feedback.criterion, seeds[3]),
        }
    )
    shared = {"class_names": list(dataset.class_names), "attribute_names": list(dataset.attribute_names)}
    everything = {**shared, "synthesis": per_call(config), "rendering": RENDERING, **meta}
    return Plan(table, json.loads(json.dumps(everything)))  # as it will be read: tuples are lists


def _expand(missing: Ints) -> tuple[Ints, Ints, Ints]:
    """[C] or [C, A] counts -> per request: label, attribute (-1 = none), ordinal in the class or group."""
    flat = missing.ravel()
    which = np.repeat(np.arange(len(flat)), flat)
    ordinals = np.arange(len(which)) - np.repeat(np.cumsum(flat) - flat, flat)
    if missing.ndim == 1:
        return which, np.full(len(which), -1), ordinals
    return which // missing.shape[1], which % missing.shape[1], ordinals


def _hash64(seed: int, *parts: Ints | int) -> Hashes:
    """A well-mixed 64-bit number per row from whole numbers (the finaliser of SplitMix64 after each part)."""
    state: Any = np.uint64(0)
    with np.errstate(over="ignore"):
        for part in (seed, *parts):
            state = np.asarray(state + np.asarray(part).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15))
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return np.asarray(state, dtype=np.uint64)


def _conditioning_images(
    dataset: Dataset,
    labels: Ints,
    attributes: Ints,
    seeds: Hashes,
    config: SynthesisConfig,
) -> tuple[list[str | None], list[str | None]]:
    """Per request the id and content hash of its random real image; None for text-only requests."""
    if config.conditioning == "text":
        return [None] * len(labels), [None] * len(labels)
    training = dataset.split("train")
    chosen = _draw(training.labels, labels, seeds)
    if len(labels) and chosen.min() < 0:
        raise UserError(
            f"class {dataset.class_names[labels[chosen.argmin()]]!r} has no training image to condition on; "
            "add at least one, or use conditioning='text'"
        )
    if dataset.attribute_names and config.conditioning_from == "group":
        contexts = len(dataset.attribute_names)
        of_group = _draw(training.groups, np.where(attributes < 0, -1, labels * contexts + attributes), seeds)
        chosen = np.where(of_group < 0, chosen, of_group)
    return training.table["image_id"].to_numpy()[chosen].tolist(), _content_hashes(training, chosen).tolist()


def _draw(keys: Ints, wanted: Ints, seeds: Hashes) -> Ints:
    """Per wanted key [n] a random row of `keys` that has it; -1 where there is none, or where -1 is wanted."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    first, past = np.searchsorted(ordered, wanted, side="left"), np.searchsorted(ordered, wanted, side="right")
    there = (past > first) & (wanted >= 0)
    rows = np.full(len(wanted), -1)
    picked = seeds[there] % (past - first)[there].astype(np.uint64)
    rows[there] = order[first[there] + picked.astype(np.int64)]
    return rows


def _content_hashes(dataset: Dataset, rows: Ints) -> NDArray[np.object_]:
    """Of each row [n], every file read once; None for the rows of published counts, which have no image."""
    has_image = (dataset.table["path"].notna() | dataset.table["bytes"].notna()).to_numpy()
    needed = np.unique(rows[has_image[rows]]).tolist()
    hashes = np.full(len(dataset), None, dtype=object)
    with ThreadPoolExecutor() as pool:
        hashes[needed] = list(pool.map(dataset.content_hash, needed))
    drawn: NDArray[np.object_] = hashes[rows]
    return drawn


def _prompts(dataset: Dataset, labels: Ints, attributes: Ints, config: SynthesisConfig) -> list[str]:
    if config.conditioning == "image":
        return [""] * len(labels)

    def words(names: Sequence[str]) -> list[str]:
        return [config.display_names.get(name, name) for name in names]

    if "{attribute}" in config.prompt and (attributes < 0).any():
        raise UserError(
            f"prompt {config.prompt!r} names the attribute, but the plan is per class; plan per group, "
            "or use '{label}'"
        )
    classes, contexts = words(dataset.class_names), words(dataset.attribute_names)
    texts = {
        (label, attribute): config.prompt.format(
            label=classes[label], attribute=contexts[attribute] if attribute >= 0 else ""
        )
        for label, attribute in set(zip(labels.tolist(), attributes.tolist(), strict=True))
    }
    return [texts[pair] for pair in zip(labels.tolist(), attributes.tolist(), strict=True)]


def _criteria(criterion: str | dict[str, float], seeds: Hashes) -> list[str]:
    """One criterion per request; a dict of weights is drawn from (Table 5's FG-Combined)."""
    if isinstance(criterion, str):
        return [criterion] * len(seeds)
    names, weights = list(criterion), np.array(list(criterion.values()), dtype=float)
    uniform = (seeds >> np.uint64(11)).astype(np.float64) / 2**53
    picked = np.searchsorted(np.cumsum(weights / weights.sum()), uniform, side="right")
    return [names[min(index, len(names) - 1)] for index in picked]
