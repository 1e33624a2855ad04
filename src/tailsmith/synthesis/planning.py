"""How many images each class or group lacks, and one request for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tailsmith.data.checks import check_conditionable
from tailsmith.data.counts import class_counts, group_counts
from tailsmith.data.dataset import Dataset
from tailsmith.data.sources.benchmarks import Benchmark, missing_from_totals, published
from tailsmith.errors import UserError
from tailsmith.generation.families import check_conditioning
from tailsmith.generation.generator import EMBEDDED, Generator, find_decoder, located_decoder
from tailsmith.synthesis.allocation import Target, missing_counts
from tailsmith.synthesis.config import SynthesisConfig
from tailsmith.synthesis.cost import image_size
from tailsmith.synthesis.plan import Plan
from tailsmith.synthesis.plan_checks import check_config, check_generator, settled
from tailsmith.synthesis.prediction import check_classes
from tailsmith.synthesis.provenance import planned_by
from tailsmith.synthesis.requests import make_plan
from tailsmith.synthesis.storage import stored_size


def plan(
    dataset: Dataset,
    target: Target = "max",
    *,
    per: str = "class",
    config: SynthesisConfig | None = None,
    generator: str = EMBEDDED,
    classifier: Any = None,
) -> Plan:
    """One request per image that each class (or group, `per="group"`) lacks to reach `target`; nothing is generated.

    Name the classifier that will guide where its hash should be part of the plan; images larger than it trains on are
    then stored as small as that, unless `config.store_size` says otherwise.
    """
    config = checked_settings(dataset, config or SynthesisConfig(), str(generator))
    if classifier is not None:
        check_classes(classifier, dataset, "plan for the data it was trained on")
    seen = getattr(classifier, "image_size", None)
    config = replace(config, store_size=stored_size(config.store_size, seen, image_size(str(generator))))
    lacking = missing(dataset, target, per)
    meta = {"dataset": dataset.name, "per": per, **planned_by(str(generator), config, classifier)}
    return make_plan(dataset, lacking, config, meta=meta)


def checked_settings(dataset: Dataset, config: SynthesisConfig, generator: str) -> SynthesisConfig:
    """The settings with the generator's own defaults; ValueError for what can't work, before anything is planned."""
    check_generator(generator, dataset.class_names, config)
    config = with_class_tokens(settled(config, generator), generator, dataset.class_names)
    check_config(config, dataset)
    if config.conditioning != "text":
        check_conditionable(dataset)
    if (known := Generator.find(generator).family) is not None:
        check_conditioning(*known, [config.conditioning])
    feedback = config.feedback
    if feedback.scale > 0:
        find_decoder(feedback.decoder, generator)
    return replace(config, feedback=replace(feedback, decoder=located_decoder(feedback.decoder)))


def with_class_tokens(config: SynthesisConfig, generator: str, class_names: Sequence[str]) -> SynthesisConfig:
    """The settings with the tokens that a generator learned for classes, where they give these no words themselves."""
    tokens = Generator.find(generator).class_tokens(class_names)
    return replace(config, display_names={**tokens, **config.display_names})


def missing(dataset: Dataset, target: Target, per: str) -> npt.NDArray[np.int64]:
    """Images that each class [C] or group [C, A] of the training split lacks to reach `target`."""
    if per not in ("class", "group"):
        raise UserError(f"per should be 'class' or 'group', got {per!r}")
    if per == "group" and not dataset.attribute_names:
        raise UserError("a plan per group needs attributes, and this dataset has none; plan per class")
    if per == "class":
        return missing_counts(class_counts(dataset), target, dataset.class_names)
    return missing_counts(group_counts(dataset), target, dataset.group_names)


def to_add(dataset: Dataset, target: Target, per: str) -> dict[str, int]:
    """Class or group -> how many images it lacks."""
    names = dataset.group_names if per == "group" else dataset.class_names
    return dict(zip(names, missing(dataset, target, per).ravel().tolist(), strict=True))


def published_requests(
    benchmark: Benchmark, target: Target, *, per: str, config: SynthesisConfig, generator: str
) -> tuple[int, dict[str, int]]:
    """How many requests the published numbers make, and what each class lacks (empty where only totals are known).

    With published counts per class these are the requests of a whole plan, conditioned on images that have a number
    and no file; with totals it's a subtraction.
    """
    if not benchmark.train_counts():
        return missing_from_totals(benchmark, target, per), {}
    dataset = published(benchmark)
    made = plan(dataset, target, per=per, config=config, generator=generator)
    return len(made), to_add(dataset, target, per)


def with_dtype(plan: Plan, dtype: str) -> Plan:
    """The same requests for the generator in another precision, which makes slightly other images: another plan."""
    return Plan(plan.table, {**plan.meta, "synthesis": {**plan.meta["synthesis"], "dtype": dtype}})
