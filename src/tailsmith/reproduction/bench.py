"""One world and seed of the paper's tables: classifiers and synthetic sets made when a row asks for them, once for all.

A run directory of no arms of its own: what rows of several tables have in common lies there once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tailsmith.classification.methods import method_of
from tailsmith.classification.stage_run import Diverged
from tailsmith.data.counts import class_counts, group_counts
from tailsmith.data.dataset import Dataset
from tailsmith.data.sources import named
from tailsmith.data.sources.embedded import load_embedded
from tailsmith.experiment import World, synthesize_set, train_arm
from tailsmith.files import read_json, write_json
from tailsmith.metrics.accuracy import AccuracyTable
from tailsmith.reproduction.driver import judged, seeded
from tailsmith.reproduction.row_settings import RowSettings
from tailsmith.reproduction.rows import Result, Row
from tailsmith.reproduction.worlds import Scale
from tailsmith.runs.arms import ARMS, GUIDE
from tailsmith.runs.checks import task_of
from tailsmith.runs.directory import RunDirectory
from tailsmith.runs.training import evaluate
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
    """`world` has the run directory, the world's settings and its real images at this seed."""

    benchmark: str
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
        return Bench(benchmark, scale, seed, World(directory, config, dataset, cache(generator)))

    def result(self, row: Row) -> Result:
        """Of a row, trained and tested unless that is done; without numbers where its training diverges."""
        settings = RowSettings.of(row, self.benchmark, self.scale, self.seed)
        world = replace(self.world, config=settings.config)
        synthetic = self._synthetic(settings) if settings.set_name else None
        real = self._topped_up() if row.real_images else None
        arm = replace(row.arm, method=None if row.method is None else settings.training.method)
        try:
            classifier = train_arm(world, arm, synthetic, real)
        except Diverged as error:
            return Result(row.label, arm.name, self.seed, {}, {}, {}, 0, 0, settings.sha256(), diverged=str(error))
        table = world.directory.evaluation(arm.name)
        assert table is not None
        dataset = world.dataset if real is None else real
        added = synthetic or dataset.select([])
        task = task_of(settings.training, dataset, added.labels, added.groups)
        return Result(
            row.label,
            arm.name,
            self.seed,
            test=_cells(table),
            n={name: table.cell(*keys)["n"] for name, keys in CELLS.items() if table.cell(*keys)},
            validation=self._kept(
                arm.name, "validation", lambda: _cells(evaluate(classifier, world.dataset, "val", bootstrap=0))
            ),
            images_seen=sum(stage.images_seen for stage in method_of(settings.training.method).stages(task)),
            synthetic_images=len(added),
            config_sha256=settings.sha256(),
            samples={}
            if synthetic is None
            else self._kept(settings.set_name, "samples", lambda: self._looked_at(synthetic)),
        )

    # ------------------------------------------------------------------------------------------------------

    def _synthetic(self, settings: RowSettings) -> Dataset:
        guide = train_arm(self.world, ARMS[GUIDE])
        return synthesize_set(replace(self.world, config=settings.config), settings.set_name, guide)

    def _topped_up(self) -> Dataset:
        """The embedded task with as many real images as others have real and synthetic ones."""
        counts = (
            class_counts(self.world.dataset) if self.world.config.per == "class" else group_counts(self.world.dataset)
        )
        target = int(self.world.config.target)  # type: ignore[arg-type]  # a number in all embedded worlds
        return load_embedded(self.world.config.data, seed=self.seed, counts=np.maximum(counts, target))

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


def _cells(table: AccuracyTable) -> dict[str, float | None]:
    found = {name: table.cell(*keys).get("accuracy") for name, keys in CELLS.items()}
    return {name: None if value is None or np.isnan(value) else round(value, 3) for name, value in found.items()}
