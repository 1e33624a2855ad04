"""One function per command: load, call one function of the library, print what came of it.

The command line is made from these signatures (cli.py); heavy imports wait until a command runs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tailsmith.config import FitGeneratorConfig, RunConfig, SynthesisConfig, TrainConfig
from tailsmith.files import to_json, write_json
from tailsmith.text_tables import accuracy_text, arms_text, counted, dataset_text, plan_text

if TYPE_CHECKING:
    from tailsmith.data.dataset import Dataset

Target = int | str | dict[str, int]

_NO_CONFIG = SynthesisConfig()


def demo(
    *,
    out: Path = Path("runs/demo"),  # the run directory
    task: str = "fashion-lt",  # fashion-lt | fashion-groups
    write_data: Path | None = None,  # only write the task's images as an ordinary folder here
    command: str = "tailsmith demo",
) -> None:
    """Run the whole recipe on the embedded photographs: about five minutes on two cores, no download."""
    from tailsmith.data.embedded import TASKS, load_embedded

    if task not in TASKS:
        raise ValueError(f"task should be one of {', '.join(TASKS)}, got {task!r}")
    if write_data is not None:
        from tailsmith.data.writers import write_image_folder

        dataset = load_embedded(task)
        write_image_folder(dataset, write_data)
        print(f"{task}: {len(dataset):,} images in {write_data}/SPLIT/CLASS/*.png")
        print(f"{write_data}/metadata.csv has a row per image: path, label, attribute, split.")
        print(f"Look at it with: tailsmith inspect {write_data}")
        return
    from tailsmith.experiment import demo_config

    print(f"Embedded task {task}: train, plan, synthesize, retrain, evaluate. About five minutes on two cores.")
    run(demo_config(task), out=out, command=command)


def inspect(
    data: str,  # an image folder, a CSV or Parquet file, fashion-lt or fashion-groups
    *,
    target: Target | None = None,  # max, a number, or {name: number}: images per class or group; None = max
    per: str = "class",  # class | group
    generator: str = "mini-unclip",  # its image size and speed decide the cost
    seconds_per_image: float | None = None,  # your generator's, on your machine
    skip_corrupt: bool = False,  # leave unreadable images out, and list them
    data_seed: int = 0,  # which images an embedded task draws; how data without splits is split
    json: bool = False,  # print JSON
) -> None:
    """Counts, shots, groups and imbalance of a dataset, and what a plan would cost; generates nothing."""
    from tailsmith import stages
    from tailsmith.data.counts import class_counts, describe, group_counts
    from tailsmith.synthesis.cost import cost

    dataset = stages.load(data, skip_corrupt=skip_corrupt, seed=data_seed)
    described = describe(dataset)
    counts = group_counts(dataset) if per == "group" else class_counts(dataset)
    if target is not None or not counts.size or counts.min() < counts.max():
        wanted = "max" if target is None else target
        to_add = _to_add(dataset, wanted, per)
        spent = cost(sum(to_add.values()), generator, seconds_per_image, _NO_CONFIG.shard_size)
        described["plan"] = {"target": wanted, "per": per, "to_add": to_add, **spent}
    if json:
        print(to_json(described))
        return
    print(dataset_text(described), end="\n\n")
    print(plan_text(described.get("plan"), names=False))


def plan(
    data: str,  # an image folder, a CSV or Parquet file, fashion-lt or fashion-groups
    *,
    out: Path = Path("plan.parquet"),  # the plan
    target: Target = "max",  # max, a number, or {name: number}: images per class or group afterwards
    per: str = "class",  # class | group
    classifier: Path | None = None,  # folder of the classifier that will guide, to hold the plan to it
    generator: str = "mini-unclip",  # a preset, a folder, or a hub id
    synthesis: SynthesisConfig = _NO_CONFIG,
    seconds_per_image: float | None = None,  # your generator's, on your machine
    skip_corrupt: bool = False,  # leave unreadable images out, and list them
    data_seed: int = 0,  # which images an embedded task draws; how data without splits is split
    dry_run: bool = False,  # print counts and cost, write nothing
) -> None:
    """Write down one request per image that each class or group lacks; generates nothing."""
    from tailsmith import stages
    from tailsmith.classification.classifier import load_classifier
    from tailsmith.synthesis.cost import cost

    guide = load_classifier(classifier) if classifier else None
    dataset = stages.load(data, skip_corrupt=skip_corrupt, seed=data_seed)
    made = stages.plan(dataset, target, per=per, config=synthesis, generator=generator, classifier=guide)
    spent = cost(len(made), generator, seconds_per_image, synthesis.shard_size)
    print(plan_text({"target": target, "per": per, "to_add": _to_add(dataset, target, per), **spent}))
    if dry_run:
        print("Dry run: nothing written.")
        return
    made.write(out)
    print(f"Plan: {out}")


def train(
    data: str,  # an image folder, a CSV or Parquet file, fashion-lt or fashion-groups
    *,
    out: Path,  # folder for the classifier
    synthetic: Path | None = None,  # folder of shards that `tailsmith synthesize` filled
    augmentation: str = "crop-flip-colour",
    train: TrainConfig = TrainConfig(),  # noqa: B008 - frozen
    skip_corrupt: bool = False,  # leave unreadable images out, and list them
    data_seed: int = 0,  # which images an embedded task draws; how data without splits is split
) -> None:
    """Train a classifier on real images, or on real and synthetic ones; under torchrun on many processes."""
    import torch

    from tailsmith import stages

    if (out / "config.json").exists():
        raise ValueError(f"{out} holds a classifier already; use another --out, or delete it to train again")
    dataset = stages.load(data, skip_corrupt=skip_corrupt, seed=data_seed)
    extra = _synthetic_images(synthetic, dataset) if synthetic else None
    try:
        classifier = stages.train(dataset, extra, train, augmentation=augmentation)
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    if int(os.environ.get("RANK", "0")) > 0:  # torchrun numbers its processes; the first one speaks for all
        return
    write_json(out / "history.json", classifier.history)
    classifier.save(out)
    print(f"Validation accuracy (mean over classes): {_best(classifier.history)}")
    print(f"Classifier: {out}")


def synthesize(
    plan: Path,  # written by `tailsmith plan`
    *,
    data: str,  # the data the plan was made for: it holds the conditioning images
    out: Path,  # folder for the shards
    classifier: Path | None = None,  # folder of the classifier that guides; needed where the plan has feedback
    batch_size: int = 64,  # images at a time
    shards: int | str | None = None,  # only these: 3, or 0,1,2, or 0-9; None = all
    skip_corrupt: bool = False,  # leave unreadable images out, and list them
    data_seed: int = 0,  # the same as for the plan
) -> None:
    """Make the images of a plan, shard by shard; the same command again goes on where it stopped."""
    from tailsmith import stages
    from tailsmith.classification.classifier import load_classifier
    from tailsmith.synthesis.requests import Plan

    if batch_size < 1:
        raise ValueError(f"batch_size should be at least 1, got {batch_size}")
    requests = Plan.read(plan)
    chosen = requests.shards if shards is None else chosen_shards(str(shards), requests.shards)
    guide = load_classifier(classifier) if classifier else None
    dataset = stages.load(data, skip_corrupt=skip_corrupt, seed=data_seed)
    stages.synthesize(requests, dataset, out, classifier=guide, batch_size=batch_size, shards=chosen)
    print(_shards_text(out, chosen))


def evaluate(
    classifier: Path,  # folder written by `tailsmith train`
    *,
    data: str,  # the data it was trained on
    split: str = "test",  # train | val | test
    json: Path | None = None,  # also write the table here
    skip_corrupt: bool = False,  # leave unreadable images out, and list them
    data_seed: int = 0,  # the same as for training
) -> None:
    """Accuracy on real images: overall, per shot, class and group, worst group, each with n and interval."""
    from tailsmith import stages
    from tailsmith.classification.classifier import load_classifier

    trained = load_classifier(classifier)
    dataset = stages.load(data, skip_corrupt=skip_corrupt, seed=data_seed)
    table = stages.evaluate(trained, dataset, split)
    if json is not None:
        write_json(json, table)
    print(accuracy_text(table, split))


def run(
    config: RunConfig,
    *,
    out: Path,  # the run directory
    command: str = "tailsmith run",
) -> None:
    """The whole recipe: train, plan, synthesize, retrain, evaluate, report; again, it goes on."""
    from tailsmith import experiment
    from tailsmith.run_directory import RunDirectory

    report_path = experiment.run(config, out, command)
    directory = RunDirectory(out)
    print(arms_text({arm: directory.evaluation(arm) or {} for arm in config.arms}))
    print(f"Report: {report_path}")


def report(
    directory: Path,  # a run directory
) -> None:
    """Render the report of a run directory again."""
    from tailsmith.experiment import report_run

    print(f"Report: {report_run(directory)}")


def reproduce(
    experiment: str,  # fashion-lt | fashion-groups | feedback-sweep
    *,
    out: Path,  # folder for the run directories
    results: Path,  # JSON file for the numbers
    seeds: tuple[int, ...] = (0, 1, 2),  # of data, classifiers and synthesis together
    command: str = "tailsmith reproduce",
) -> None:
    """Repeat the embedded experiments over seeds; again, it goes on."""
    from tailsmith.reproduction.fashion import reproduce
    from tailsmith.reproduction.sweep import sweep
    from tailsmith.reproduction.tables import COLUMNS, markdown_table

    if experiment == "feedback-sweep":
        for seed in seeds:
            sweep(out, results, seed, command)
    else:
        reproduce(experiment, out, results, seeds, command)
        print(markdown_table(results, COLUMNS[experiment]))
    print(f"Results: {results}")


def fit_generator(
    data: str,  # an image folder, a CSV or Parquet file, fashion-lt or fashion-groups
    config: FitGeneratorConfig,
    *,
    out: Path,  # folder for the pipeline
    skip_corrupt: bool = False,  # leave unreadable images out, and list them
    data_seed: int = 0,  # which images an embedded task draws; how data without splits is split
) -> None:
    """Train a small unCLIP diffusion model on a dataset; the same command again goes on."""
    from tailsmith import stages
    from tailsmith.synthesis.fit_generator.recipe import fit_generator

    dataset = stages.load(data, skip_corrupt=skip_corrupt, seed=data_seed)
    folder = fit_generator(dataset, out, config)
    print(f"Generator: {folder} (use it with --generator {folder})")


# What the commands share.


def _to_add(dataset: Dataset, target: Target, per: str) -> dict[str, int]:
    """Class or group -> how many images it lacks."""
    from tailsmith import stages

    names = dataset.group_names if per == "group" else dataset.class_names
    return dict(zip(names, stages.missing(dataset, target, per).ravel().tolist(), strict=True))


def chosen_shards(text: str, known: Sequence[int]) -> list[int]:
    """ "3", "0,1,2" or "0-9,12" -> shard numbers of the plan."""
    chosen: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"shards should be numbers as in 3 or 0,1,2 or 0-9, got {text!r}")
        chosen += range(int(first), int(last if dash else first) + 1)
    unknown = [number for number in chosen if number not in known]
    if unknown or not chosen:
        got = unknown[0] if unknown else text
        raise ValueError(f"the plan has the shards {min(known)}-{max(known)}, got {got}")
    return sorted(set(chosen))


def _synthetic_images(folder: Path, dataset: Dataset) -> Dataset:
    """The images of a folder whose plan is fulfilled; ValueError for half of a plan, or another dataset's."""
    from tailsmith.synthesis.requests import Plan
    from tailsmith.synthesis.worker import read_shards, shard_path, synthetic_dataset

    requests = Plan.read(folder / "plan.parquet")
    if tuple(requests.meta["class_names"]) != dataset.class_names:
        raise ValueError(
            f"the images in {folder} are of the classes {requests.meta['class_names']}, the data has "
            f"{list(dataset.class_names)}; synthesize for this data"
        )
    there = [number for number in requests.shards if shard_path(folder, number).exists()]
    if len(there) < len(requests.shards):
        raise ValueError(
            f"{folder} has {len(there)} of its plan's {len(requests.shards)} shards; "
            "finish it with `tailsmith synthesize`"
        )
    return synthetic_dataset(read_shards(folder, requests), dataset)


def _shards_text(folder: Path, shards: Sequence[int]) -> str:
    """How many images, how fast, and what feedback skipped; reads two columns only."""
    import pandas as pd
    import pyarrow.parquet as pq

    from tailsmith.synthesis.worker import shard_path

    columns = ["seconds", "skipped_steps"]
    parts = [pq.read_table(shard_path(folder, number), columns=columns).to_pandas() for number in shards]
    made = pd.concat(parts, ignore_index=True)
    return (
        f"{counted(len(made), 'image')} in {counted(len(shards), 'shard')}, {made['seconds'].mean():.3g} s per image, "
        f"{counted(int(made['skipped_steps'].sum()), 'feedback step')} skipped\nImages: {folder}"
    )


def _best(history: Sequence[dict[str, float]]) -> str:
    scores = [entry["validation"] for entry in history if entry.get("validation") is not None]
    return f"{max(scores):.1f} %" if scores else "none, the data has no validation images"
