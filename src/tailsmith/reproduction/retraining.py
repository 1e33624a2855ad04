"""Several synthetic halves of one task: a classifier is trained with each, a few times, and tested on real images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tailsmith.classification.config import TrainConfig
from tailsmith.data.dataset import Dataset
from tailsmith.data.fingerprint import content_keys
from tailsmith.errors import UserError
from tailsmith.experiment import World
from tailsmith.files import read_json, write_json
from tailsmith.metrics.accuracy import AccuracyTable
from tailsmith.reproduction.driver import judged
from tailsmith.runs.training import evaluate, train
from tailsmith.settings import to_dict
from tailsmith.strata import SHOTS

REPEATS = 2  # trainings of each half: that of a classifier repeats to a point at best (LOG.md, 2026-11-26)
APART = 1000  # between the seeds of repeated trainings


@dataclass(frozen=True)
class Half:
    """What stands beside the real images in every mini-batch, and what is known of it."""

    name: str
    synthetic: Dataset | None  # None = real images only
    real: Dataset | None = None  # in place of the task's own
    facts: Mapping[str, Any] = field(default_factory=dict)


def trained_rows(world: World, half: Half, seed: int) -> Iterator[dict[str, Any]]:
    """A row per training: {"method", "seed", "repeat", "samples", "test"}; kept, and not made twice.

    Everything is trained by the run's settings for real and synthetic images, also where there are no synthetic ones.
    """
    real = world.dataset if half.real is None else half.real
    folder = world.directory.path / "halves" / half.name
    config = world.config.mixed if half.synthetic is not None else replace(world.config.mixed, resampling="uniform")
    images = [real.split("train"), *([] if half.synthetic is None else [half.synthetic])]
    made_from = {"images": _key(images), "config": to_dict(config)}
    _claim(folder / "half.json", made_from)
    facts = {**half.facts, **({} if half.synthetic is None else judged(half.synthetic))}
    for repeat in range(REPEATS):
        table = _trained(world, half, config, folder / f"training-{repeat}.json", repeat)
        test = {"overall": table["overall"]["accuracy"]}
        test |= {shot: table["shots"][shot]["accuracy"] for shot in SHOTS}
        yield {
            "method": half.name,
            "seed": seed,
            "repeat": repeat,
            "samples": facts,
            "test": {name: None if value is None else round(value, 2) for name, value in test.items()},
        }


def _trained(world: World, half: Half, config: TrainConfig, path: Path, repeat: int) -> AccuracyTable:
    if not path.exists():
        classifier = train(
            world.dataset if half.real is None else half.real,
            half.synthetic,
            replace(config, seed=config.seed + APART * repeat),
            augmentation=world.config.augmentation,
            description=f"train: {half.name} {repeat + 1}",
        )
        write_json(path, evaluate(classifier, world.dataset))
    return AccuracyTable(read_json(path))


def _key(datasets: list[Dataset]) -> str:
    keys = np.concatenate([content_keys(each) for each in datasets])
    return f"{np.bitwise_xor.reduce(keys * np.arange(1, len(keys) + 1, dtype=np.uint64)):016x}"


def _claim(path: Path, made_from: dict[str, Any]) -> None:
    if path.exists() and read_json(path) != made_from:
        raise UserError(f"{path.parent} holds trainings with other images or settings; use another --out")
    write_json(path, made_from)
