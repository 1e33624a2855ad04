"""Synthetic halves compared over seeds: a row per training, and the difference of each half to one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tailsmith.errors import UserError
from tailsmith.experiment import World
from tailsmith.files import read_json, write_json
from tailsmith.generation.generator import load_generator
from tailsmith.metrics.seeds import paired_over_seeds
from tailsmith.reproduction.driver import seeded, world_of
from tailsmith.reproduction.fashion import LT
from tailsmith.reproduction.gap import gap_halves
from tailsmith.reproduction.pool import pool_halves
from tailsmith.reproduction.retraining import Half, trained_rows
from tailsmith.settings import own_settings, sha256_of
from tailsmith.strata import SHOTS

CELLS = ("overall", *SHOTS)
Row = Mapping[str, Any]  # as results hold it


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
    """Train with every half of every seed; write `{"command", "rows", "differences", ...}` after each half.

    Rows of other seeds that `results` has already stay in it; ValueError where they are of other settings.
    """
    settings = sha256_of(own_settings(LT))[:16]
    rows, commands = _recorded(results, settings)
    commands = list(dict.fromkeys([*commands, command]))
    pipe = load_generator()
    for seed in seeds:
        world = world_of(seeded(LT, seed), out / f"seed-{seed}", pipe, command)
        for half in comparison.halves(world, seed):
            rows.update({_key(row): row for row in trained_rows(world, half, seed)})
            found = differences(rows.values(), comparison.reference)
            content = {"command": "; ".join(commands), "config_sha256": settings}
            write_json(results, {**content, "rows": [*rows.values()], "differences": found})
    return results


def differences(rows: Iterable[Row], reference: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Half -> cell -> mean difference to the reference in points, over the seeds that both have.

    `over_seeds` is a 95 % t interval of the seeds' differences, each of means over repeated trainings: how sure it is
    for another draw of everything; NaN where there is one seed alone.
    """
    repeated: dict[str, dict[int, list[Row]]] = {}
    for row in rows:
        repeated.setdefault(row["method"], {}).setdefault(row["seed"], []).append(row["test"])
    base, found = repeated.get(reference, {}), {}
    for name, of_half in repeated.items():
        seeds = sorted(of_half.keys() & base.keys())
        if name != reference and seeds:
            found[name] = {
                cell: _difference(*([np.mean([t[cell] for t in of[seed]]) for seed in seeds] for of in (base, of_half)))
                for cell in CELLS
            }
    return found


def _difference(base: list[Any], other: list[Any]) -> dict[str, Any]:
    found = paired_over_seeds(base, other)
    return {
        "mean": round(found.mean, 2),
        "by_seed": [round(float(after - before), 2) for before, after in zip(base, other, strict=True)],
        "over_seeds": [round(found.low, 2), round(found.high, 2)],
    }


def _recorded(results: Path, settings: str) -> tuple[dict[tuple[Any, ...], Row], list[str]]:
    if not results.exists():
        return {}, []
    content = read_json(results)
    if content["config_sha256"] != settings:
        raise UserError(f"{results} holds trainings of other settings than this version's; give another --results")
    return {_key(row): row for row in content["rows"]}, content["command"].split("; ")


def _key(row: Row) -> tuple[Any, ...]:
    return row["method"], row["seed"], row["repeat"]
