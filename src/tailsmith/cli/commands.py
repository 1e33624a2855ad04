"""One function per stage: load, call one function of the library, print what came of it.

The command line is made from these signatures (parsing.py); heavy imports wait until a command runs. Commands that do
a whole experiment are in run_commands.py.
"""

from __future__ import annotations

from pathlib import Path

from tailsmith.classification.config import TrainConfig
from tailsmith.cli.options import Goal, PlanFile, Reading, Sampling
from tailsmith.cli.text import (
    accuracy_text,
    best_validation,
    dataset_text,
    fit_text,
    nearness_text,
    plan_text,
)
from tailsmith.errors import UserError
from tailsmith.files import to_json, write_json
from tailsmith.generation.fit.config import FineTuneConfig, FitGeneratorConfig
from tailsmith.synthesis.config import SynthesisConfig

_NO_CONFIG, _TRAIN, _FINE_TUNE = SynthesisConfig(), TrainConfig(), FineTuneConfig()
_READING, _GOAL, _SAMPLING, _PLAN_FILE = Reading(), Goal(), Sampling(), PlanFile()


def inspect(
    data: str = "",  # an image folder, a CSV or Parquet file, fashion-lt or fashion-groups, or a recipe's root
    *,
    recipe: str | None = None,  # a published benchmark and its settings; without data its published counts are used
    goal: Goal = _GOAL,
    sampling: Sampling = _SAMPLING,
    reading: Reading = _READING,
    json: bool = False,  # print JSON
) -> None:
    """Counts, shots, groups and imbalance of a dataset, and what a plan would cost; generates nothing."""
    from tailsmith.data.counts import class_counts, describe, group_counts
    from tailsmith.data.sources.benchmarks import published
    from tailsmith.data.sources.recipes import data_of
    from tailsmith.generation.generator import Generator
    from tailsmith.runs.recipe import read_recipe
    from tailsmith.synthesis.cost import cost
    from tailsmith.synthesis.planning import to_add

    if recipe is not None and not data:
        benchmark = read_recipe(recipe).benchmark
        dataset = published(benchmark)
        described = describe(dataset)
        splits = {**described["splits"], **benchmark.images}
        for row in described["classes"].values():  # only their sums are published
            row |= {"val": None, "test": None}
        described |= {"splits": splits, "images": sum(splits.values()), "sources": benchmark.sources}
    else:
        dataset = reading.load(data_of(recipe, data))
        described = describe(dataset)
    counts = group_counts(dataset) if goal.per == "group" else class_counts(dataset)
    if goal.target is not None or not counts.size or counts.min() < counts.max():
        wanted = "max" if goal.target is None else goal.target
        lacking = to_add(dataset, wanted, goal.per)
        spent = cost(sum(lacking.values()), sampling.generator, sampling.seconds_per_image, _NO_CONFIG)
        if (advice := Generator.find(sampling.generator).class_advice(dataset.class_names, {})) is not None:
            spent |= {"hours": None, "seconds_per_image": None, "bytes": None, "advice": advice}
        described["plan"] = {"target": wanted, "per": goal.per, "to_add": lacking, **spent}
    if json:
        print(to_json(described))
        return
    print(dataset_text(described), end="\n\n")
    print(plan_text(described.get("plan"), names=False))


def plan(
    data: str = "",  # an image folder, a CSV or Parquet file, fashion-lt or fashion-groups, or a recipe's root
    *,
    recipe: str | None = None,  # a published benchmark and its settings; a dry run needs no data, only its counts
    goal: Goal = _GOAL,
    classifier: Path | None = None,  # folder of the classifier that will guide, to hold the plan to it
    sampling: Sampling = _SAMPLING,
    synthesis: SynthesisConfig = _NO_CONFIG,
    reading: Reading = _READING,
    file: PlanFile = _PLAN_FILE,
) -> None:
    """Write down one request per image that each class or group lacks; generates nothing."""
    from tailsmith.classification.classifier import load_classifier
    from tailsmith.data.sources.recipes import data_of
    from tailsmith.runs.outputs import check_plan_file, check_plan_of, check_plan_replaces
    from tailsmith.runs.recipe import read_recipe
    from tailsmith.synthesis import planning
    from tailsmith.synthesis.cost import cost
    from tailsmith.synthesis.planning import published_requests, to_add

    if not file.dry_run:
        check_plan_file(file.out, data, file.overwrite)
    target = "max" if goal.target is None else goal.target
    guide = load_classifier(classifier) if classifier else None
    if file.dry_run and recipe is not None and not data:
        benchmark = read_recipe(recipe).benchmark
        print(f"{benchmark.name} as published: no image was looked for.")
        requests, lacking = published_requests(
            benchmark, target, per=goal.per, config=synthesis, generator=sampling.generator
        )
    else:
        dataset = reading.load(data_of(recipe, data))
        if not file.dry_run:
            check_plan_of(file.out, dataset, file.overwrite)
        made = planning.plan(
            dataset, target, per=goal.per, config=synthesis, generator=sampling.generator, classifier=guide
        )
        requests, lacking = len(made), to_add(dataset, target, goal.per)
    spent = cost(requests, sampling.generator, sampling.seconds_per_image, synthesis)
    print(plan_text({"target": target, "per": goal.per, "to_add": lacking, **spent}))
    if file.dry_run:
        print("Dry run: nothing written.")
        return
    check_plan_replaces(file.out, made, file.overwrite)
    made.write(file.out)
    print(f"Plan: {file.out}")


def train(
    data: str,  # an image folder, a CSV or Parquet file, fashion-lt or fashion-groups
    *,
    out: Path,  # folder for the classifier
    synthetic: Path | None = None,  # folder of shards that `tailsmith synthesize` filled
    augmentation: str = "crop-flip-colour",
    train: TrainConfig = _TRAIN,
    device: str = "auto",  # cpu | cuda | cuda:1 | mps | xpu; auto = the accelerator, where there is one
    reading: Reading = _READING,
) -> None:
    """Train a classifier on real images, or real and synthetic ones; again, it goes on. Many processes: torchrun."""
    import torch

    from tailsmith import devices
    from tailsmith.classification.checkpoint import discard
    from tailsmith.runs import training
    from tailsmith.runs.outputs import HISTORY, check_classifier_folder, save_trained
    from tailsmith.synthesis.sets import finished_images

    devices.use(device)
    check_classifier_folder(out, data)
    dataset = reading.load(data)
    extra = finished_images(synthetic, dataset) if synthetic else None
    checkpoint = out / "training" / "checkpoint.safetensors"
    first = True
    try:
        classifier = training.train(dataset, extra, train, augmentation=augmentation, checkpoint=checkpoint)
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            first = torch.distributed.get_rank() == 0
            torch.distributed.destroy_process_group()
    if not first:  # the first process speaks for all
        return
    save_trained(classifier, out, out / HISTORY)
    discard(checkpoint)
    over = "images" if train.select_by == "image_mean" else "classes"
    print(f"Validation accuracy (mean over {over}): {best_validation(classifier.history)}")
    print(f"Classifier: {out}")


def inspect_samples(
    samples: Path,  # folder of shards that `tailsmith synthesize` filled, or RUN/synthetic/SET
    *,
    data: str,  # the data they were made for
    judge: Path | None = None,  # a classifier that says what images show; None = the embedded task's own, if it is one
    features: str | None = None,  # distances by these, not the judge's: CLASSIFIER, timm:NAME[@FILE], inception@FILE ..
    pictures: Path | None = None,  # also write a PNG here: the most and least real-looking, and the nearest to training
    json: bool = False,  # print JSON
    device: str = "auto",  # cpu | cuda | cuda:1 | mps | xpu; auto = the accelerator, where there is one
    reading: Reading = _READING,
) -> None:
    """How near synthetic images lie to the real ones: can a probe tell, what is covered, what is copied."""
    from tailsmith import devices
    from tailsmith.classification.classifier import load_classifier, on_accelerator
    from tailsmith.runs.outputs import check_file
    from tailsmith.studies.features import feature_extractor
    from tailsmith.studies.nearness import nearness
    from tailsmith.studies.nearness_pictures import write_pictures
    from tailsmith.studies.samples import load_judge
    from tailsmith.synthesis.prediction import check_classes
    from tailsmith.synthesis.sets import finished_images

    devices.use(device)
    if pictures is not None:
        check_file(pictures, data)
    dataset = reading.load(data)
    synthetic = finished_images(samples, dataset)
    chosen = load_judge("label", dataset.class_names) if judge is None else load_classifier(judge)
    if chosen is not None:
        check_classes(chosen, dataset, "give a --judge that was trained on this data's classes")
        chosen = on_accelerator(chosen)
    eyes = None if features is None else feature_extractor(features)
    found = nearness(synthetic, dataset, chosen, features=eyes)
    print(to_json({**found.overall, "classes": found.classes}) if json else nearness_text(found.overall, found.classes))
    if pictures is not None:
        write_pictures(found, synthetic, dataset, pictures)


def evaluate(
    classifier: Path,  # folder written by `tailsmith train`
    *,
    data: str,  # the data it was trained on
    split: str = "test",  # train | val | test
    json: Path | None = None,  # also write the table here
    device: str = "auto",  # cpu | cuda | cuda:1 | mps | xpu; auto = the accelerator, where there is one
    reading: Reading = _READING,
) -> None:
    """Accuracy on real images: overall, per shot, class and group, worst group, each with n and interval."""
    from tailsmith import devices
    from tailsmith.classification.classifier import load_classifier, on_accelerator
    from tailsmith.runs.outputs import check_json_file
    from tailsmith.runs.training import check_unseen, evaluate

    devices.use(device)
    if split not in ("train", "val", "test"):
        raise UserError(f"split should be one of train, val, test, got {split!r}")
    if json is not None:
        check_json_file(json, ("overall", "classes"), "--json")
    trained = on_accelerator(load_classifier(classifier))
    dataset = reading.load(data)
    if split == "test":
        check_unseen(trained, dataset)
    table = evaluate(trained, dataset, split)
    if json is not None:
        write_json(json, table)
    print(accuracy_text(table, split))


def fit_generator(
    data: str,  # an image folder, a CSV or Parquet file, fashion-lt or fashion-groups
    config: FitGeneratorConfig,
    *,
    out: Path,  # folder for the pipeline
    from_: str | None = None,  # adapt this generator (a preset, a folder, a hub id) instead of training a new one
    finetune: FineTuneConfig = _FINE_TUNE,
    device: str = "auto",  # cpu | cuda | cuda:1 | mps | xpu; auto = the accelerator, where there is one
    reading: Reading = _READING,
) -> None:
    """Train a small unCLIP diffusion model on a dataset, or adapt one (--from); the same command again goes on."""
    from tailsmith import devices
    from tailsmith.generation.fit.cost import hours_on_two_cores
    from tailsmith.runs.outputs import check_folder
    from tailsmith.synthesis.fitting import check_only, fine_tune_generator, fit_generator, settled_for

    devices.use(device)
    check_only(from_, config, finetune)
    check_folder(out, data)
    dataset = reading.load(data)
    if from_ is not None:
        folder = fine_tune_generator(dataset, from_, out, finetune)
    else:
        settled = settled_for(dataset, config)
        print(fit_text(settled, hours_on_two_cores(settled)))
        folder = fit_generator(dataset, out, settled)
    print(f"Generator: {folder} (use it with --generator {folder})")
