"""ImageNet-LT's 1.18 million requests on 512 workers, simulated: what sharing the work costs.

    python benchmarks/scale.py [--workers 512] [--per-class 1300] [--json FILE]

Real are the plan, its shards' files, the claims, and the scan of a finished set; the images are tiny, the clock and the
workers' machines are not there. A worker renders a shard in the seconds that its images would take, is killed or
preempted now and then, comes back after a while, and what it does in the folder itself is timed and added to its clock.
"""

from __future__ import annotations

import argparse
import heapq
import io
import logging
import os
import random
import resource
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from PIL import Image

from tailsmith.data.packed import write_packed
from tailsmith.data.sources.benchmarks import published
from tailsmith.data.sources.recipes import benchmark_of
from tailsmith.files import write_json
from tailsmith.synthesis import claims
from tailsmith.synthesis.config import SynthesisConfig
from tailsmith.synthesis.plan import Plan
from tailsmith.synthesis.planning import plan as plan_for
from tailsmith.synthesis.sets import keep_plan
from tailsmith.synthesis.shards import read_shards, shard_path, unsound
from tailsmith.synthesis.tries import Tries

SECONDS_PER_IMAGE = 2.0  # of a latent diffusion model of 30 steps with feedback, on one accelerator
HOURS_BETWEEN_LOSSES = 4.0  # of one worker
AWAY_SECONDS = 600.0
KILLED = 0.5  # of the losses; the others are told before, and keep what they have


class Idle(Exception):
    """Instead of sleeping in real time."""


@dataclass
class Machine:
    number: int
    random: random.Random
    turns: Iterator[int] | None = None
    shard: int | None = None
    loss_at: float = 0.0
    order: list[int] = field(default_factory=list)


class Simulation:
    def __init__(self, plan: Plan, out: Path, workers: int) -> None:
        self.plan, self.out, self.clock, self.host = plan, out, 0.0, ""
        self.begin = time.time()
        self.machines = [Machine(number, random.Random(number)) for number in range(workers)]
        self.holders: dict[str, Machine] = {}  # claims of living workers
        self.coordination = self.rendering = self.lost_rendering = 0.0
        self.losses = self.kills = 0
        self.real_stale = claims._is_stale
        image = io.BytesIO()
        Image.new("RGB", (1, 1)).save(image, "PNG")
        self.image = image.getvalue()
        self.meta = {"plan": plan.identity, "common": plan.common, "generator": str(plan.meta["generator"])}

    def stale(self, path: Path) -> bool:
        """The real rule; a claim whose worker lives has been touched a moment ago."""
        if path.name in self.holders:
            os.utime(path, (self.begin + self.clock, self.begin + self.clock))
        return self.real_stale(path)

    def run(self) -> None:
        clock = SimpleNamespace(time=lambda: self.begin + self.clock, sleep=self._idle)
        patches = {
            "time": clock,
            "socket": SimpleNamespace(gethostname=lambda: self.host),
            "threading": SimpleNamespace(
                Event=lambda: SimpleNamespace(set=lambda: None),
                Thread=lambda **_: SimpleNamespace(start=lambda: None, join=lambda: None),
            ),
            "_is_stale": self.stale,
        }
        with mock.patch.multiple(claims, **patches):
            events = [(machine.random.uniform(0, 60), machine.number) for machine in self.machines]
            for machine in self.machines:
                machine.loss_at = machine.random.expovariate(1 / (3600 * HOURS_BETWEEN_LOSSES))
            heapq.heapify(events)
            while events:
                self.clock, number = heapq.heappop(events)
                if (pause := self._step(self.machines[number])) is not None:
                    heapq.heappush(events, (self.clock + pause, number))

    def _idle(self, seconds: float) -> None:
        raise Idle

    def _step(self, machine: Machine) -> float | None:
        """What a worker does now, and the seconds until it does the next thing; None where all shards are there."""
        self.host = f"node-{machine.number}"
        if self.clock >= machine.loss_at:
            return self._lose(machine)
        begin = time.perf_counter()
        if machine.shard is not None:
            self._write(machine.shard)
            self.holders.pop(claims.claim_path(self.out, machine.shard).name, None)
            machine.shard = None
        if machine.turns is None:
            first = machine.random.randrange(len(self.plan.shards))
            machine.order = [*self.plan.shards[first:], *self.plan.shards[:first]]
            machine.turns = claims.in_turn(self.out, machine.order, lambda number: None)
        try:
            machine.shard = next(machine.turns)
        except StopIteration:
            return None
        except Idle:
            machine.turns = None
            return claims.LONGEST_POLL_SECONDS
        finally:
            spent = time.perf_counter() - begin
            self.coordination += spent
        self.holders[claims.claim_path(self.out, machine.shard).name] = machine
        seconds = self.plan.shard_size(machine.shard) * SECONDS_PER_IMAGE * machine.random.uniform(0.9, 1.1)
        if self.clock + spent + seconds > machine.loss_at:  # the shard won't be finished
            self.lost_rendering += machine.loss_at - self.clock
            return max(0.0, machine.loss_at - self.clock)
        self.rendering += seconds
        return spent + seconds

    def _lose(self, machine: Machine) -> float:
        self.losses += 1
        machine.loss_at = self.clock + AWAY_SECONDS + machine.random.expovariate(1 / (3600 * HOURS_BETWEEN_LOSSES))
        if machine.shard is not None:
            name = claims.claim_path(self.out, machine.shard).name
            self.holders.pop(name, None)
            if machine.random.random() < KILLED:
                self.kills += 1
                _graves.append(machine.turns)  # nobody closes it: the claim stays
            elif machine.turns is not None:
                machine.turns.close()  # type: ignore[attr-defined]  # a generator
        machine.turns = machine.shard = None
        return AWAY_SECONDS

    def _write(self, number: int) -> None:
        rows = self.plan.shard(number)
        results = rows.assign(image=[self.image] * len(rows), criterion_value=0.0, skipped_steps=0, retries=0)
        write_packed(results.assign(black=False, seconds=SECONDS_PER_IMAGE), shard_path(self.out, number), self.meta)
        Tries.of(self.out, number).clear()


_graves: list[Any] = []  # generators of workers that were killed: collected, they would clean up


def timed(what: Any) -> tuple[float, Any]:
    begin = time.perf_counter()
    value = what()
    return time.perf_counter() - begin, value


def simulate(out: Path, workers: int, per_class: int) -> dict[str, Any]:
    """All that is measured, in seconds, shares and gigabytes."""
    dataset = published(benchmark_of("imagenet-lt"))
    planning, plan = timed(lambda: plan_for(dataset, per_class, config=SynthesisConfig(), generator="sd2.1-unclip"))
    keep_plan(out, plan)
    simulation = Simulation(plan, out, workers)
    real, _ = timed(simulation.run)
    ideal = simulation.rendering / workers
    first, missing = timed(lambda: unsound(out, plan, plan.shards))
    again, _ = timed(lambda: unsound(out, plan, plan.shards))
    reading, results = timed(lambda: read_shards(out, plan))
    return {
        "requests": len(plan),
        "shards": len(plan.shards),
        "workers": workers,
        "planning_seconds": planning,
        "simulated_hours": simulation.clock / 3600,
        "hours_of_rendering_per_worker": ideal / 3600,
        "losses": simulation.losses,
        "kills": simulation.kills,
        "hours_of_lost_rendering": simulation.lost_rendering / 3600,
        "coordination_share": simulation.coordination / (simulation.rendering + simulation.lost_rendering),
        "coordination_seconds_per_shard": simulation.coordination / len(plan.shards),
        "simulation_seconds": real,
        "lost": len(plan) - len(set(results["request_id"])) + len(missing),
        "doubled": int(results["request_id"].duplicated().sum()),
        "scan_of_finished_seconds": first,
        "scan_again_seconds": again,
        "reading_rows_seconds": reading,
        "driver_peak_gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=512)
    parser.add_argument("--per-class", type=int, default=1300)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    logging.getLogger("tailsmith").setLevel(logging.ERROR)  # that workers wait for each other is no news
    folder = Path(tempfile.mkdtemp())
    try:
        found = simulate(folder / "set", given.workers, given.per_class)
    finally:
        shutil.rmtree(folder)
    for name, value in found.items():
        print(f"{name:32} {value:.4g}" if isinstance(value, float) else f"{name:32} {value:,}")
    if given.json:
        write_json(given.json, {"command": shlex.join(["python", *sys.argv]), **found})


if __name__ == "__main__":
    main()
