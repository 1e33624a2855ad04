"""What a grid asks for: one request per image, alike in everything but the steps of its axes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tailsmith.data.counts import class_counts, group_counts, rarest
from tailsmith.data.dataset import Dataset
from tailsmith.errors import UserError
from tailsmith.settings import changed, to_dict
from tailsmith.studies.grid.cells import Axes, Place
from tailsmith.studies.grid.config import GridConfig
from tailsmith.synthesis import planning
from tailsmith.synthesis.columns import NO_MIXING
from tailsmith.synthesis.config import SynthesisConfig
from tailsmith.synthesis.plan import Plan
from tailsmith.synthesis.plan_checks import check_config, settled
from tailsmith.synthesis.planning import missing, with_class_tokens
from tailsmith.synthesis.requests import make_plan

CLASSES = 2  # the rarest, where none are named
SHARD = 32  # images at most that an interruption loses
LISTED = 12  # names that an error lists

Ints = NDArray[np.int64]
Request = Mapping[Any, Any]  # column of a plan -> value


def plan_grid(dataset: Dataset, classifier: Any, config: GridConfig, generator: str) -> Plan:
    """One request per image, in the order of `Axes.rendered`; ValueError for a grid that can't be drawn."""
    axes = grid_axes(dataset, config)
    base = settled(replace(config.base, conditioning=axes.conditionings[-1]), generator)
    base = with_class_tokens(base, generator, dataset.class_names)
    if base.embedding_mixing != NO_MIXING:
        raise UserError(
            "the cells of a grid share one real image, got synthesis.embedding_mixing="
            f"{base.embedding_mixing!r}; leave it out"
        )
    _check_steps(axes, base, dataset)
    chosen = np.isin(_names(dataset, config.per), axes.names)

    def one_more(counts: Ints) -> Ints:
        return counts + chosen.reshape(counts.shape)

    guided = {"scale": float(max(axes.feedback_scales))}  # by the strongest: its decoder is part of the plan
    strongest = changed(base, {"feedback": guided})
    made = planning.plan(
        dataset, one_more, per=config.per, config=strongest, generator=generator, classifier=classifier
    )
    lacking = missing(dataset, one_more, config.per)
    named = [name for name, wanted in zip(_names(dataset, config.per), chosen, strict=True) if wanted]
    requests: dict[tuple[str, int, str], Request] = {}
    for seed in axes.seeds:
        for conditioning in axes.conditionings:
            settings = replace(base, seed=seed, conditioning=conditioning)
            records = make_plan(dataset, lacking, settings, meta={}).table.to_dict("records")
            requests |= {(name, seed, conditioning): each for name, each in zip(named, records, strict=True)}
    table = pd.DataFrame([_request(place, requests, axes.seeds[0]) for place in axes.rendered()])
    return Plan(table.assign(shard=_shard_numbers(table)), {**made.meta, "grid": to_dict(config)})


def request_id(place: Place) -> str:
    return "|".join(map(str, place))


def grid_axes(dataset: Dataset, config: GridConfig) -> Axes:
    """The axes of a configuration, numbers ascending; ValueError for an empty one, a step twice, an unknown name."""
    known = _names(dataset, config.per)
    counts = group_counts(dataset) if config.per == "group" else class_counts(dataset)
    rare = tuple(known[index] for index in rarest(counts)[:CLASSES])
    steps = {
        "classes": rare if config.classes is None else tuple(config.classes),
        "seeds": tuple(sorted(config.seeds)),
        "conditionings": tuple(config.conditionings),
        "dropouts": tuple(sorted(config.dropouts)),
        "criteria": tuple(config.criteria),
        "guidance_scales": tuple(sorted(config.guidance_scales)),
        "feedback_scales": tuple(sorted(config.feedback_scales)),
    }
    for what, values in steps.items():
        if not values:
            raise UserError(f"{what} should name at least one, got none")
        if len(set(values)) < len(values):
            raise UserError(f"{what} should name each once, got {list(values)}")
    unknown = [name for name in steps["classes"] if name not in known]
    if unknown:
        shown = ", ".join(known[:LISTED]) + (", ..." if len(known) > LISTED else "")
        raise UserError(f"classes names {unknown[0]!r}, which is no {config.per} of the data; it has: {shown}")
    return Axes(*steps.values())  # type: ignore[arg-type]


def _names(dataset: Dataset, per: str) -> tuple[str, ...]:
    """Of classes or groups, in the order of their numbers."""
    names = dataset.group_names if per == "group" else dataset.class_names
    if not names:
        raise UserError("a grid per group needs attributes, and this dataset has none; use per='class'")
    return names


def _check_steps(axes: Axes, base: SynthesisConfig, dataset: Dataset) -> None:
    """Raise ValueError for a step that no request can have."""
    for scale in axes.guidance_scales:
        if not np.isfinite(scale) or scale < 0:
            raise UserError(f"guidance_scales should be finite and not negative, got {scale}")
    changes: list[dict[str, Any]] = [
        *({"seed": each} for each in axes.seeds),
        *({"conditioning": each} for each in axes.conditionings),
        *({"embedding_dropout": each} for each in axes.dropouts),
        *({"feedback": {"criterion": each}} for each in axes.criteria),
        *({"feedback": {"scale": each}} for each in axes.feedback_scales),
    ]
    for each in changes:
        check_config(changed(base, each), dataset)


def _request(place: Place, requests: Mapping[tuple[str, int, str], Request], first_seed: int) -> dict[Any, Any]:
    """The request of the place's class, seed and conditioning, with its other steps.

    The conditioning image is the first seed's, as in Fig. 8: seeds differ in noise and dropout mask alone.
    """
    pictured = requests[place.name, first_seed, place.conditioning]
    return {
        **requests[place.name, place.seed, place.conditioning],
        "request_id": request_id(place),
        "conditioning_id": pictured["conditioning_id"],
        "conditioning_sha256": pictured["conditioning_sha256"],
        "embedding_dropout": float(place.dropout),
        "guidance_scale": float(place.guidance_scale),
        "feedback_scale": float(place.feedback_scale),
        "criterion": place.criterion,
    }


def _shard_numbers(table: pd.DataFrame) -> list[int]:
    """Shards of at most SHARD requests that can share a pipeline call: one guidance scale, all guided or none."""
    alike = zip(table["guidance_scale"], table["feedback_scale"] > 0, strict=True)
    numbers: list[int] = []
    for _, run in groupby(alike):
        first = numbers[-1] + 1 if numbers else 0
        numbers += [first + position // SHARD for position, _ in enumerate(run)]
    return numbers
