"""One request per image: everything that determines it, and nothing else."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from tailsmith.data.dataset import Dataset
from tailsmith.errors import UserError
from tailsmith.synthesis.columns import NO_MIXING
from tailsmith.synthesis.config import SynthesisConfig
from tailsmith.synthesis.plan import Plan
from tailsmith.synthesis.plan_checks import REQUESTS, check_config
from tailsmith.synthesis.plan_identity import (
    RENDERING,
    per_call,
)

Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]


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
    if config.embedding_mixing != NO_MIXING:
        table = table.assign(**_mixing(dataset, table, seeds[0], config))
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


def _mixing(dataset: Dataset, table: pd.DataFrame, seeds: Hashes, config: SynthesisConfig) -> dict[str, Any]:
    """The columns of `columns.mixing_columns`; lambda ~ Beta(alpha, alpha). `seeds` drew the first image.

    The second is another one of the same group, or class, unless that has a single image.
    """
    labels, attributes = (table[name].to_numpy(np.int64) for name in ("label", "attribute"))
    ordinals = np.array([int(name.rpartition("-")[2]) for name in table["request_id"]])
    others, weights, starts = (_hash64(config.seed, labels, attributes + 1, ordinals, stream) for stream in (4, 5, 6))
    sources, hashes = _conditioning_images(dataset, labels, attributes, seeds, config, others)
    return {
        "mixing": config.embedding_mixing,
        "mixing_id": sources,
        "mixing_sha256": hashes,
        "mixing_weight": _beta(config.embedding_mixing_alpha, weights),
        "mixing_start": _uniform(starts),
    }


def _conditioning_images(
    dataset: Dataset,
    labels: Ints,
    attributes: Ints,
    seeds: Hashes,
    config: SynthesisConfig,
    others: Hashes | None = None,
) -> tuple[list[str | None], list[str | None]]:
    """Per request the id and content hash of its random real image; None for text-only requests.

    With `others` that of a second one, which is not the one that `seeds` draw where there are two.
    """
    if config.conditioning == "text":
        return [None] * len(labels), [None] * len(labels)
    training = dataset.split("train")
    chosen = _draw(training.labels, labels, seeds, others)
    if len(labels) and chosen.min() < 0:
        raise UserError(
            f"class {dataset.class_names[labels[chosen.argmin()]]!r} has no training image to condition on; "
            "add at least one, or use conditioning='text'"
        )
    if dataset.attribute_names and config.conditioning_from == "group":
        contexts = len(dataset.attribute_names)
        of_group = _draw(training.groups, np.where(attributes < 0, -1, labels * contexts + attributes), seeds, others)
        chosen = np.where(of_group < 0, chosen, of_group)
    return training.table["image_id"].to_numpy()[chosen].tolist(), _content_hashes(training, chosen).tolist()


def _draw(keys: Ints, wanted: Ints, seeds: Hashes, others: Hashes | None = None) -> Ints:
    """Per wanted key [n] a random row of `keys` that has it; -1 where there is none, or where -1 is wanted.

    With `others` it is another row than without, where there is another.
    """
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    first, past = np.searchsorted(ordered, wanted, side="left"), np.searchsorted(ordered, wanted, side="right")
    there = (past > first) & (wanted >= 0)
    rows = np.full(len(wanted), -1)
    count = (past - first)[there].astype(np.uint64)
    picked = seeds[there] % count
    if others is not None:
        further = np.uint64(1) + others[there] % np.maximum(count - np.uint64(1), np.uint64(1))
        picked = (picked + further) % count
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
    picked = np.searchsorted(np.cumsum(weights / weights.sum()), _uniform(seeds), side="right")
    return [names[min(index, len(names) - 1)] for index in picked]


def _uniform(seeds: Hashes) -> NDArray[np.float64]:
    """[n] in 0..1, below 1."""
    return (seeds >> np.uint64(11)).astype(np.float64) / 2**53


def _beta(alpha: float, seeds: Hashes) -> NDArray[np.float64]:
    """[n] of Beta(alpha, alpha), in 0..1; rounded, as versions of scipy differ in the last digits."""
    if alpha == 1:
        return _uniform(seeds)
    drawn: NDArray[np.float64] = special.betaincinv(alpha, alpha, _uniform(seeds)).round(9)
    return drawn
