"""Synthetic halves compared over seeds: a row per training, and the difference of each half to one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tailsmith.experiment import World
from tailsmith.files import write_json
from tailsmith.generation.generator import load_generator
from tailsmith.metrics.accuracy import AccuracyTable
from tailsmith.metrics.paired import mean_paired_interval
from tailsmith.metrics.seeds import paired_over_seeds
from tailsmith.reproduction.driver import seeded, world_of
from tailsmith.reproduction.fashion import LT
from tailsmith.reproduction.gap import gap_halves
from tailsmith.reproduction.pool import pool_halves
from tailsmith.reproduction.retraining import REPEATS, Half, table_of, trained_rows
from tailsmith.strata import SHOTS

CELLS: Mapping[str, tuple[str, ...]] = {"overall": ("overall",), **{shot: ("shots", shot) for shot in SHOTS}}


@dataclass(frozen=True)
class Comparison:
    """The halves of a world and seed, and the name of the one that all others are held against."""

    halves: Callable[[World, int], Iterator[Half]]
    reference: str


COMPARISONS: Mapping[str, Comparison] = {
    "gap": Comparison(gap_halves, "photographs"),
    "pool": Comparison(pool_halves, "right"),
}


def compare_halves(comparison: Comparison, out: Path, results: Path, seeds: Sequence[int], command: str = "") -> Path:
    """Train with every half of every seed; write `{"command", "rows", "differences"}` to `results` after each half."""
    pipe = load_generator()
    rows: list[dict[str, Any]] = []
    tables: dict[str, dict[int, list[AccuracyTable]]] = {}
    for seed in seeds:
        world = world_of(seeded(LT, seed), out / f"seed-{seed}", pipe, command)
        for half in comparison.halves(world, seed):
            rows += trained_rows(world, half, seed)
            tables.setdefault(half.name, {})[seed] = [table_of(world, half.name, each) for each in range(REPEATS)]
            found = differences(tables, comparison.reference)
            write_json(results, {"command": command, "rows": rows, "differences": found})
    return results


def differences(
    tables: Mapping[str, Mapping[int, Sequence[AccuracyTable]]], reference: str
) -> dict[str, dict[str, dict[str, Any]]]:
    """Half -> cell -> mean difference to the reference in points, over the seeds that both have.

    `over_seeds` is a 95 % t interval of the seeds' differences (each a mean over repeated trainings): how sure it is
    for another draw of everything. `over_images`: how sure it is for other test images, with these classifiers. NaN
    where there is one seed alone.
    """
    base, found = tables.get(reference, {}), {}
    for name, of_half in tables.items():
        seeds = [seed for seed in of_half if seed in base]
        if name != reference and seeds:
            pairs = [(base[seed], of_half[seed]) for seed in seeds]
            found[name] = {cell: _difference(pairs, keys) for cell, keys in CELLS.items()}
    return found


def _difference(
    pairs: Sequence[tuple[Sequence[AccuracyTable], Sequence[AccuracyTable]]], keys: Sequence[str]
) -> dict[str, Any]:
    base, other = (
        np.array([np.mean([t.cell(*keys)["accuracy"] for t in pair[side]]) for pair in pairs]) for side in (0, 1)
    )
    before, after = ([table for pair in pairs for table in pair[side]] for side in (0, 1))
    found, (low, high) = paired_over_seeds(base, other), mean_paired_interval(before, after, keys)
    return {
        "mean": round(found.mean, 2),
        "by_seed": [round(float(each), 2) for each in other - base],
        "over_seeds": [round(found.low, 2), round(found.high, 2)],
        "over_images": [round(low, 2), round(high, 2)],
    }
