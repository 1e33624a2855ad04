"""A declared experiment, over seeds: every run of a seed through the recipe's loop, and a row per arm.

Each run is an ordinary run directory, so that an interrupted reproduction goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tailsmith.classification.classifier import Classifier
from tailsmith.classification.history import selected_score
from tailsmith.data.counts import class_counts, group_counts
from tailsmith.data.dataset import Dataset
from tailsmith.data.sources.embedded import MAJORITY_CONTEXT, load_embedded
from tailsmith.experiment import Trained, World, train_arm, train_arms
from tailsmith.files import read_json, write_json
from tailsmith.generation.generator import load_generator
from tailsmith.metrics.samples import agreement
from tailsmith.runs.arms import ARMS, GUIDE, Arm
from tailsmith.runs.config import RunConfig, arms_of
from tailsmith.runs.directory import RunDirectory
from tailsmith.strata import SHOTS
from tailsmith.studies.samples import load_judge
from tailsmith.synthesis.prediction import predict

CEILING = Arm("real_images", "balanced_softmax")  # topped up with as many real images instead


@dataclass(frozen=True)
class Experiment:
    """Arms x seeds x world -> one table. `runs`: suffix of the arms' names in the table -> their run.

    The runs of a seed share the guide, which the first trains; arms of real images are of the first alone.
    `columns` are those of the table.
    """

    runs: Mapping[str, RunConfig]
    columns: tuple[str, ...]


def reproduce(
    experiment: Experiment, out: Path, results: Path, seeds: Sequence[int] = (0, 1, 2), command: str = ""
) -> Path:
    """Run an experiment for every seed and write `{"command", "rows"}` to `results` after each run."""
    pipe = load_generator()
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        guide: Classifier | None = None
        for suffix, config in experiment.runs.items():
            world = world_of(seeded(config, seed), out / f"seed-{seed}{suffix}", pipe, command)
            arms = arms_of(config)
            if guide is None:
                guide = train_arm(world, ARMS[GUIDE])
            else:
                arms = [arm for arm in arms if arm.set is not None]
            rows += [{**row, "method": row["method"] + suffix, "seed": seed} for row in _rows(world, arms, guide)]
            write_json(results, {"command": command, "rows": rows})
    return results


def seeded(config: RunConfig, seed: int) -> RunConfig:
    """One seed for data, classifiers and synthesis."""
    return replace(
        config,
        data_seed=seed,
        real=replace(config.real, seed=seed),
        mixed=replace(config.mixed, seed=seed),
        synthesis=replace(config.synthesis, seed=seed),
    )


def world_of(config: RunConfig, out: Path, pipe: Any, command: str) -> World:
    """A run on the embedded world, begun or gone on with."""
    dataset = load_embedded(config.data, seed=config.data_seed)
    return World(RunDirectory.claim(out, config, command, dataset), config, dataset, lambda: pipe)


def _rows(world: World, arms: Sequence[Arm], guide: Classifier) -> Iterator[dict[str, Any]]:
    """A row per arm, and one of the ceiling where its method is among them."""
    for trained in train_arms(world, arms, guide):
        yield _row(world, trained)
    if any(arm.set is None and arm.method == CEILING.method for arm in arms):
        yield _row(world, Trained(CEILING, train_arm(world, CEILING, real=_topped_up(world)), None))


def _topped_up(world: World) -> Dataset:
    """The task with as many real images as its runs have real and synthetic ones."""
    config = world.config
    counts = class_counts(world.dataset) if config.per == "class" else group_counts(world.dataset)
    return load_embedded(config.data, seed=config.data_seed, counts=np.maximum(counts, int(config.target)))  # type: ignore[arg-type]


def _row(world: World, trained: Trained) -> dict[str, Any]:
    table = world.directory.evaluation(trained.arm.name)
    assert table is not None
    test = {"overall": table["overall"]["accuracy"], "worst_group": table["worst_group"]["accuracy"]}
    test |= {shot: table["shots"][shot]["accuracy"] for shot in SHOTS}
    test |= {f"groups_{shot}": cell["accuracy"] for shot, cell in table.get("group_shots", {}).items()}
    history = read_json(world.directory.arm(trained.arm.name) / "history.json")
    row = {
        "method": trained.arm.name,
        "test": {name: None if value is None else round(value, 2) for name, value in test.items()},
        "validation": round(selected_score(history) or 0.0, 2),
    }
    if trained.synthetic is not None:
        row["samples"] = judged(trained.synthetic)
    return row


def judged(synthetic: Dataset) -> dict[str, Any]:
    """What the embedded judges say of synthetic images: label agreement, and the share outside the majority context."""
    judged: dict[str, Any] = {"images": len(synthetic)}
    label = load_judge("label", synthetic.class_names)
    attribute = load_judge("attribute", synthetic.attribute_names)
    if label is not None:
        judged["judge_agreement"] = round(agreement(predict(label, synthetic).logits.numpy(), synthetic.labels), 4)
    if attribute is not None:
        contexts = predict(attribute, synthetic).logits.argmax(1).numpy()
        majority = [synthetic.attribute_names.index(MAJORITY_CONTEXT[name]) for name in synthetic.class_names]
        judged["minority_context_share"] = round(float((contexts != np.array(majority)[synthetic.labels]).mean()), 4)
    return judged
