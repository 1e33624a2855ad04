"""One function per stage: load, call one function of the library, print what came of it.

The command line is made from these signatures (cli.py); heavy imports wait until a command runs. Commands that do
a whole experiment are in run_commands.py.
"""

from __future__ import annotations

from pathlib import Path

from tailsmith.classification.config import TrainConfig
from tailsmith.cli.text import accuracy_text, best_validation, dataset_text, plan_text, rendered_text
from tailsmith.errors import UserError
from tailsmith.files import to_json, write_json
from tailsmith.generation.fit.config import FitGeneratorConfig
from tailsmith.synthesis.config import SynthesisConfig

Target = int | str | dict[str, int]

_NO_CONFIG, _TRAIN = SynthesisConfig(), TrainConfig()


def inspect(
    data: str = "",  # an image folder, a CSV or Parquet file, fashion-lt or fashion-groups, or a recipe's root
    *,
    recipe: str | None = None,  # a published benchmark and its settings; without data its published counts are used
    target: Target | None = None,  # max, a number, or {name: number}: images per class or group; None = max
    per: str = "class",  # class | group
    generator: str = "mini-unclip",  # its image size and speed decide the cost
    seconds_per_image: float | None = None,  # your generator's, on your machine
    skip_corrupt: bool = False,  # leave unreadable images out, and list them
    max_megapixels: float | None = None,  # images above it count as unreadable; None = 178.9
    data_seed: int = 0,  # which images an embedded task draws; how data without splits is split
    json: bool = False,  # print JSON
) -> None:
    """Counts, shots, groups and imbalance of a dataset, and what a plan would cost; generates nothing."""
    from tailsmith.data.counts import class_counts, describe, group_counts
    from tailsmith.data.sources import named
    from tailsmith.data.sources.benchmarks import published
    from tailsmith.data.sources.recipes import data_of
    from tailsmith.generation.generator import class_advice
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
        dataset = named.load(
            data_of(recipe, data), skip_corrupt=skip_corrupt, seed=data_seed, max_megapixels=max_megapixels
        )
        described = describe(dataset)
    counts = group_counts(dataset) if per == "group" else class_counts(dataset)
    if target is not None or not counts.size or counts.min() < counts.max():
        wanted = "max" if target is None else target
        lacking = to_add(dataset, wanted, per)
        spent = cost(sum(lacking.values()), generator, seconds_per_image, _NO_CONFIG)
        if (advice := class_advice(generator, dataset.class_names, {})) is not None:
            spent |= {"hours": None, "seconds_per_image": None, "bytes": None, "advice": advice}
        described["plan"] = {"target": wanted, "per": per, "to_add": lacking, **spent}
    if json:
        print(to_json(described))
        return
    print(dataset_text(described), end="\n\n")
    print(plan_text(described.get("plan"), names=False))


def plan(
    data: str = "",  # an image folder, a CSV or Parquet file, fashion-lt or fashion-groups, or a recipe's root
    *,
    recipe: str | None = None,  # a published benchmark and its settings; a dry run needs no data, only its counts
    out: Path = Path("plan.parquet"),  # the plan
    target: Target = "max",  # max, a number, or {name: number}: images per class or group afterwards
    per: str = "class",  # class | group
    classifier: Path | None = None,  # folder of the classifier that will guide, to hold the plan to it
    generator: str = "mini-unclip",  # a preset, a folder, or a hub id
    synthesis: SynthesisConfig = _NO_CONFIG,
    seconds_per_image: float | None = None,  # your generator's, on your machine
    skip_corrupt: bool = False,  # leave unreadable images out, and list them
    max_megapixels: float | None = None,  # images above it count as unreadable; None = 178.9
    data_seed: int = 0,  # which images an embedded task draws; how data without splits is split
    dry_run: bool = False,  # print counts and cost, write nothing
    overwrite: bool = False,  # replace --out, whatever it holds
) -> None:
    """Write down one request per image that each class or group lacks; generates nothing."""
    from tailsmith.classification.classifier import load_classifier
    from tailsmith.data.sources import named
    from tailsmith.data.sources.recipes import data_of
    from tailsmith.runs.outputs import check_plan_file, check_plan_of
    from tailsmith.runs.recipe import read_recipe
    from tailsmith.synthesis import planning
    from tailsmith.synthesis.cost import cost
    from tailsmith.synthesis.planning import published_requests, to_add

    if not dry_run:
        check_plan_file(out, data, overwrite)
    guide = load_classifier(classifier) if classifier else None
    if dry_run and recipe is not None and not data:
        benchmark = read_recipe(recipe).benchmark
        print(f"{benchmark.name} as published: no image was looked for.")
        requests, lacking = published_requests(benchmark, target, per=per, config=synthesis, generator=generator)
    else:
        dataset = named.load(
            data_of(recipe, data), skip_corrupt=skip_corrupt, seed=data_seed, max_megapixels=max_megapixels
        )
        if not dry_run:
            check_plan_of(out, dataset, overwrite)
        made = planning.plan(dataset, target, per=per, config=synthesis, generator=generator, classifier=guide)
        requests, lacking = len(made), to_add(dataset, target, per)
    spent = cost(requests, generator, seconds_per_image, synthesis)
    print(plan_text({"target": target, "per": per, "to_add": lacking, **spent}))
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
    train: TrainConfig = _TRAIN,
    device: str = "auto",  # cpu | cuda | cuda:1 | mps | xpu; auto = the accelerator, where there is one
    skip_corrupt: bool = False,  # leave unreadable images out, and list them
    max_megapixels: float | None = None,  # images above it count as unreadable; None = 178.9
    data_seed: int = 0,  # which images an embedded task draws; how data without splits is split
) -> None:
    """Train a classifier on real images, or real and synthetic ones; again, it goes on. Many processes: torchrun."""
    import torch

    from tailsmith import devices
    from tailsmith.classification.checkpoint import discard
    from tailsmith.data.sources import named
    from tailsmith.runs import training
    from tailsmith.runs.outputs import HISTORY, check_classifier_folder, save_trained
    from tailsmith.synthesis.shards import finished_images

    devices.use(device)
    check_classifier_folder(out, data)
    dataset = named.load(data, skip_corrupt=skip_corrupt, seed=data_seed, max_megapixels=max_megapixels)
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


def synthesize(
    plan: Path,  # written by `tailsmith plan`
    *,
    data: str,  # the data the plan was made for: it holds the conditioning images
    out: Path,  # folder for the shards
    classifier: Path | None = None,  # folder of the classifier that guides; needed where the plan has feedback
    batch_size: int = 64,  # images at a time
    shards: int | str | None = None,  # only these: 3, or 0,1,2, or 0-9; None = all
    workers: int = 1,  # processes that render: one per accelerator, or sharing the CPU's cores
    dtype: str | None = None,  # fp32 | fp16 (accelerators only) | bf16, kept with the shards; None = the plan's
    device: str = "auto",  # cpu | cuda | cuda:1 | mps | xpu; auto = the accelerator, where there is one
    skip_corrupt: bool = False,  # leave unreadable images out, and list them
    max_megapixels: float | None = None,  # images above it count as unreadable; None = 178.9
    data_seed: int = 0,  # the same as for the plan
) -> None:
    """Make the images of a plan, shard by shard; the same command again goes on where it stopped."""
    from tailsmith import devices
    from tailsmith.classification.classifier import load_classifier, on_accelerator
    from tailsmith.data.sources import named
    from tailsmith.runs.outputs import check_folder
    from tailsmith.synthesis.fulfilment import synthesize
    from tailsmith.synthesis.plan import Plan
    from tailsmith.synthesis.planning import with_dtype
    from tailsmith.synthesis.shards import chosen_shards, plan_in, rendered

    devices.use(device)
    if batch_size < 1:
        raise UserError(f"batch_size should be at least 1, got {batch_size}")
    check_folder(out, data)
    requests = plan_in(out, Plan.read(plan) if dtype is None else with_dtype(Plan.read(plan), dtype))
    devices.chosen_dtype(requests.meta["synthesis"].get("dtype", "fp32"))
    chosen = requests.shards if shards is None else chosen_shards(str(shards), requests.shards)
    guide = on_accelerator(load_classifier(classifier)) if classifier else None
    dataset = named.load(data, skip_corrupt=skip_corrupt, seed=data_seed, max_megapixels=max_megapixels)
    synthesize(requests, dataset, out, classifier=guide, batch_size=batch_size, shards=chosen, workers=workers)
    print(f"{rendered_text(rendered(out, chosen))}\nImages: {out}")


def evaluate(
    classifier: Path,  # folder written by `tailsmith train`
    *,
    data: str,  # the data it was trained on
    split: str = "test",  # train | val | test
    json: Path | None = None,  # also write the table here
    device: str = "auto",  # cpu | cuda | cuda:1 | mps | xpu; auto = the accelerator, where there is one
    skip_corrupt: bool = False,  # leave unreadable images out, and list them
    max_megapixels: float | None = None,  # images above it count as unreadable; None = 178.9
    data_seed: int = 0,  # the same as for training
) -> None:
    """Accuracy on real images: overall, per shot, class and group, worst group, each with n and interval."""
    from tailsmith import devices
    from tailsmith.classification.classifier import load_classifier, on_accelerator
    from tailsmith.data.sources import named
    from tailsmith.runs.outputs import check_json_file
    from tailsmith.runs.training import evaluate

    devices.use(device)
    if split not in ("train", "val", "test"):
        raise UserError(f"split should be one of train, val, test, got {split!r}")
    if json is not None:
        check_json_file(json, ("overall", "classes"), "--json")
    trained = on_accelerator(load_classifier(classifier))
    dataset = named.load(data, skip_corrupt=skip_corrupt, seed=data_seed, max_megapixels=max_megapixels)
    table = evaluate(trained, dataset, split)
    if json is not None:
        write_json(json, table)
    print(accuracy_text(table, split))


def fit_generator(
    data: str,  # an image folder, a CSV or Parquet file, fashion-lt or fashion-groups
    config: FitGeneratorConfig,
    *,
    out: Path,  # folder for the pipeline
    device: str = "auto",  # cpu | cuda | cuda:1 | mps | xpu; auto = the accelerator, where there is one
    skip_corrupt: bool = False,  # leave unreadable images out, and list them
    max_megapixels: float | None = None,  # images above it count as unreadable; None = 178.9
    data_seed: int = 0,  # which images an embedded task draws; how data without splits is split
) -> None:
    """Train a small unCLIP diffusion model on a dataset; the same command again goes on."""
    from tailsmith import devices
    from tailsmith.data.sources import named
    from tailsmith.runs.outputs import check_folder
    from tailsmith.synthesis.fitting import fit_generator

    devices.use(device)
    check_folder(out, data)
    dataset = named.load(data, skip_corrupt=skip_corrupt, seed=data_seed, max_megapixels=max_megapixels)
    folder = fit_generator(dataset, out, config)
    print(f"Generator: {folder} (use it with --generator {folder})")
