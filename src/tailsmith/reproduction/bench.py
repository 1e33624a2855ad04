"""One world and seed of the paper's tables: classifiers and synthetic sets made when a row asks for them, once for all.

A run directory of no arms of its own: what rows of several tables have in common lies there once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tailsmith.classification.config import TrainConfig
from tailsmith.classification.methods import method_of
from tailsmith.data.counts import class_counts, group_counts
from tailsmith.data.dataset import Dataset
from tailsmith.data.sources import named
from tailsmith.data.sources.embedded import load_embedded
from tailsmith.experiment import World, synthesize_set, train_arm
from tailsmith.files import read_json, write_json
from tailsmith.metrics.accuracy import AccuracyTable
from tailsmith.reproduction.driver import judged, seeded
from tailsmith.reproduction.rows import Result, Row
from tailsmith.reproduction.worlds import Scale
from tailsmith.runs.arms import ARMS, GUIDE
from tailsmith.runs.checks import task_of
from tailsmith.runs.config import RunConfig, synthesis_of
from tailsmith.runs.directory import RunDirectory
from tailsmith.runs.training import evaluate
from tailsmith.settings import changed, to_dict
from tailsmith.strata import GROUP_SHOTS, SHOTS
from tailsmith.studies.nearness import nearness
from tailsmith.studies.samples import load_judge

CELLS: Mapping[str, tuple[str, ...]] = {
    "overall": ("overall",),
    "average": ("average",),
    **{shot: ("shots", shot) for shot in SHOTS},
    "worst_group": ("worst_group",),
    **{f"groups_{shot}": ("group_shots", shot) for shot in GROUP_SHOTS},
}
SAMPLE_FACTS = ("frechet_distance", "density", "coverage", "probe_accuracy")


@dataclass(frozen=True)
class Bench:
    """`config` is the world's, with the sets that rows may name; `dataset` its real images at this seed."""

    config: RunConfig
    scale: Scale
    seed: int
    world: World

    @staticmethod
    def open(benchmark: str, scale: Scale, seed: int, out: Path, generator: Callable[[], Any], command: str) -> Bench:
        """The bench of a benchmark and seed in `out`, begun or gone on with."""
        config = seeded(scale.world(benchmark), seed)
        dataset = named.load(config.data, seed=seed)
        # Sets and a second stage are a row's: more of them doesn't make it another run.
        plain = replace(config, sets={}, mixed=replace(config.mixed, stage_two=None))
        directory = RunDirectory.claim(out / scale.folder(benchmark) / f"seed-{seed}", plain, command, dataset)
        return Bench(config, scale, seed, World(directory, config, dataset, cache(generator)))

    def result(self, row: Row) -> Result:
        """Of a row, trained and tested unless that is done."""
        config = self._config(row)
        world = replace(self.world, config=config)
        synthetic = None if row.set is None else self._synthetic(row, config)
        real = self._topped_up() if row.real_images else None
        arm = replace(row.arm, method=None if row.method is None else self.scale.method(row.method))
        classifier = train_arm(world, arm, synthetic, real)
        table = world.directory.evaluation(arm.name)
        assert table is not None
        training = self._training(config, row)
        dataset = world.dataset if real is None else real
        added = synthetic or dataset.select([])
        stages = method_of(training.method).stages(task_of(training, dataset, added.labels, added.groups))
        return Result(
            row.label,
            arm.name,
            self.seed,
            test=_cells(table),
            n={name: table.cell(*keys)["n"] for name, keys in CELLS.items() if table.cell(*keys)},
            validation=self._kept(
                arm.name, "validation", lambda: _cells(evaluate(classifier, world.dataset, "val", bootstrap=0))
            ),
            images_seen=sum(stage.images_seen for stage in stages),
            synthetic_images=len(added),
            config_sha256=self._identity(training, row, config),
            samples={}
            if synthetic is None
            else self._kept(_set_name(row), "samples", lambda: self._looked_at(synthetic)),
        )

    # ------------------------------------------------------------------------------------------------------

    def _config(self, row: Row) -> RunConfig:
        """The world's, with what the row changes, and its set by the name that it lies under."""
        config, name = self.config, _set_name(row)
        if not row.stage_two:
            config = replace(config, mixed=replace(config.mixed, stage_two=None))
        training = {part: changed(getattr(config, part), row.training, row.label) for part in ("real", "mixed")}
        target = self.scale.target(row.target, config)
        if name and name != row.set:
            settings = to_dict(synthesis_of(config, str(row.set)))
            config = replace(config, sets={**config.sets, name: settings})
        return replace(config, target=target, **training)

    def _synthetic(self, row: Row, config: RunConfig) -> Dataset:
        guide = train_arm(self.world, ARMS[GUIDE])
        return synthesize_set(replace(self.world, config=config), _set_name(row), guide)

    def _training(self, config: RunConfig, row: Row) -> TrainConfig:
        training = config.real if row.set is None else config.mixed
        return training if row.method is None else replace(training, method=self.scale.method(row.method))

    def _topped_up(self) -> Dataset:
        """The embedded task with as many real images as others have real and synthetic ones."""
        counts = class_counts(self.world.dataset) if self.config.per == "class" else group_counts(self.world.dataset)
        target = int(self.config.target)  # type: ignore[arg-type]  # a number in all embedded worlds
        return load_embedded(self.config.data, seed=self.seed, counts=np.maximum(counts, target))

    def _looked_at(self, synthetic: Dataset) -> dict[str, Any]:
        """How near to the validation images, of the same mix of classes, and what the judges say."""
        judge = load_judge("label", synthetic.class_names)
        near = nearness(synthetic, self.world.dataset, judge).overall
        return {**judged(synthetic), **{fact: near[fact] for fact in SAMPLE_FACTS}}

    def _kept(self, name: str, what: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        path = self.world.directory.path / "facts" / f"{name.replace(':', '-')}.{what}.json"
        if not path.exists():
            write_json(path, make())
        kept: dict[str, Any] = read_json(path)
        return kept

    def _identity(self, training: TrainConfig, row: Row, config: RunConfig) -> str:
        """Of all settings that the row's numbers follow from, but the data."""
        settings = {"training": to_dict(training), "target": config.target, "per": config.per, "seed": self.seed}
        if row.set is not None:
            settings |= {"synthesis": to_dict(synthesis_of(config, _set_name(row))), "generator": config.generator}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _set_name(row: Row) -> str:
    return "" if row.set is None else row.set if row.target is None else f"{row.set}.{row.target}"


def _cells(table: AccuracyTable) -> dict[str, float | None]:
    found = {name: table.cell(*keys).get("accuracy") for name, keys in CELLS.items()}
    return {name: None if value is None or np.isnan(value) else round(value, 3) for name, value in found.items()}
