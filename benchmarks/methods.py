"""Time per training step of every method over that of ERM, in one run.

    python benchmarks/methods.py [--steps 12] [--repeats 3] [--json FILE]

fashion-groups, resnet-small, batches of 128; methods take turns, a ratio is of medians over the repeats. Second stages
are counted at their own steps: what is compared is the mean over all steps of a training, as it is by default.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import time
from pathlib import Path

from tailsmith.classification.config import TrainConfig
from tailsmith.classification.methods import METHODS
from tailsmith.classification.training import Groups, train_classifier
from tailsmith.data.images import Images
from tailsmith.data.sources.embedded import load_embedded
from tailsmith.files import write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    dataset = load_embedded("fashion-groups")
    rows, validation = dataset.split("train"), dataset.split("val").select(range(0, 1200, 10))
    images, held_out = Images(rows, 32), Images(validation, 32)
    images[:], held_out[:]  # decoded before anything is timed
    second = {"head_steps": given.steps, "scale_steps": given.steps}

    def seconds(name: str) -> float:
        """Of a step."""
        known = METHODS[name].__dataclass_fields__
        settings = ",".join(f"{key}={value}" for key, value in second.items() if key in known)
        config = TrainConfig(steps=given.steps, method=f"{name}:{settings}" if settings else name, evaluate_every=10**9)
        training = train_classifier(
            config,
            images,
            rows.labels,
            (rows.table["source"] == "synthetic").to_numpy(),
            dataset.class_names,
            validation=(held_out, validation.labels),
            groups=Groups(rows.groups, validation.groups, len(dataset.attribute_names)),
        )
        times, before = [], time.perf_counter()
        for _ in training:
            times.append(time.perf_counter() - before)
            before = time.perf_counter()
        return statistics.median(times)

    taken: dict[str, list[float]] = {name: [] for name in METHODS}
    for _ in range(given.repeats):
        for name in METHODS:
            taken[name].append(seconds(name))
    erm = statistics.median(taken["erm"])
    ratios = {name: round(statistics.median(each) / erm, 2) for name, each in taken.items()}
    for name, ratio in ratios.items():
        print(f"{name:20s} {statistics.median(taken[name]) * 1000:7.0f} ms  {ratio:.2f} x ERM")
    if given.json:
        write_json(given.json, {"command": f"python {shlex.join(sys.argv)}", "over_erm": ratios})


if __name__ == "__main__":
    main()
