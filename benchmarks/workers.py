"""What two workers bring over one, and what shards and checks cost over bare sampling; ratios in one run.

    python benchmarks/workers.py [--images 260] [--repeats 3] [--engines local ray] [--json FILE]

mini-unclip, unguided, on fashion-lt; each worker has one thread, and one worker one core (Linux). Speeds are counted
from the first request on: loading a model costs the same whatever is made with it afterwards.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import tailsmith
from tailsmith.data.dataset import Dataset
from tailsmith.files import write_json
from tailsmith.generation.generator import load_generator
from tailsmith.guidance.config import FeedbackConfig
from tailsmith.reproduction.fashion import LT
from tailsmith.synthesis.engines.config import Workers
from tailsmith.synthesis.engines.status import read_statuses
from tailsmith.synthesis.plan import Plan
from tailsmith.synthesis.planning import checked_settings
from tailsmith.synthesis.provenance import planned_by
from tailsmith.synthesis.requests import make_plan
from tailsmith.synthesis.worker import Worker

BATCH, SHARD = 16, 64  # a shard of 256, the default, would leave a small plan without a second one


def plan_of(dataset: Dataset, images: int) -> Plan:
    settings = replace(LT.synthesis, feedback=FeedbackConfig(scale=0.0), shard_size=SHARD)
    config = checked_settings(dataset, settings, "mini-unclip")
    wanted = np.full(len(dataset.class_names), images // len(dataset.class_names))
    meta = {"dataset": dataset.name, "per": "class", **planned_by("mini-unclip", config, None)}
    return make_plan(dataset, wanted, config, meta=meta)


def images_per_second(plan: Plan, dataset: Dataset, workers: Workers, cores: set[int]) -> float:
    """Of all workers together, from their first request to their last image."""
    with tempfile.TemporaryDirectory() as folder, on_cores(cores):  # which the workers inherit
        tailsmith.synthesize(plan, dataset, folder, workers=workers, batch_size=BATCH)
        statuses = read_statuses(Path(folder))
    return sum(each.images for each in statuses) / max(each.rendering_seconds for each in statuses)


def images_per_second_here(plan: Plan, dataset: Dataset) -> float:
    """Of this process, on one core."""
    pipe = load_generator("mini-unclip")
    with tempfile.TemporaryDirectory() as folder, on_cores({0}):
        begin = time.perf_counter()
        tailsmith.synthesize(plan, dataset, folder, pipe=pipe, batch_size=BATCH)
        return len(plan) / (time.perf_counter() - begin)


@contextmanager
def on_cores(cores: set[int]) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def overhead(plan: Plan, dataset: Dataset, repeats: int) -> list[float]:
    """Per repeat: seconds of a synthesis over seconds of the pipeline's calls alone, with the same batches."""
    pipe, ratios = load_generator("mini-unclip"), []
    worker = Worker(pipe, dataset.split("train"), None, guided_by="text")
    for _ in range(repeats):
        begin = time.perf_counter()
        family = worker._check(plan.table, plan.feedback)
        for number in plan.shards:
            requests = plan.shard(number)
            worker._sample(requests, worker._conditioning_embeddings(requests, family), plan.feedback, family)
        bare = time.perf_counter() - begin
        with tempfile.TemporaryDirectory() as folder:
            begin = time.perf_counter()
            tailsmith.synthesize(plan, dataset, folder, pipe=pipe, batch_size=BATCH)
            ratios.append((time.perf_counter() - begin) / bare - 1)
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=260)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--engines", nargs="+", default=["local"])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    torch.set_num_threads(1)
    dataset = tailsmith.load("fashion-lt")
    plan = plan_of(dataset, given.images)
    found: dict[str, object] = {"command": shlex.join(["python", *sys.argv])}
    shares = overhead(plan, dataset, given.repeats)
    found["overhead_percent"] = [round(100 * each, 2) for each in shares]
    print(f"shards, provenance and checks: {100 * statistics.median(shares):+.1f} % (median of {given.repeats})")
    for engine in given.engines:
        options = {"num_cpus": "1"} if engine == "ray" else {}
        gains = []
        for _ in range(given.repeats):
            if engine == "local":
                one = images_per_second_here(plan, dataset)
            else:
                one = images_per_second(plan, dataset, Workers(1, engine, options), {0})
            gains.append(images_per_second(plan, dataset, Workers(2, engine, options), {0, 1}) / one)
        found[f"two_{engine}_workers_over_one"] = [round(each, 3) for each in gains]
        print(f"two {engine} workers over one: {statistics.median(gains):.2f} (median of {given.repeats})")
    if given.json:
        write_json(given.json, found)


if __name__ == "__main__":
    main()
