"""The library face: load, plan, train, synthesize, evaluate. Each is usable alone; experiment.py joins them."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from tailsmith.classification.classifier import WRAPPED, Classifier
from tailsmith.classification.training import train_classifier
from tailsmith.config import SynthesisConfig, TrainConfig
from tailsmith.data import benchmarks, embedded, readers
from tailsmith.data.checks import check_conditionable, class_difference
from tailsmith.data.counts import class_counts, group_counts
from tailsmith.data.dataset import Dataset
from tailsmith.data.images import Images
from tailsmith.data.transforms import Augmentation
from tailsmith.data.transforms import augmentation as named_augmentation
from tailsmith.data.views import PerImage
from tailsmith.errors import UserError
from tailsmith.metrics.accuracy import accuracy_table
from tailsmith.prediction import predict
from tailsmith.recipe import read_recipe, split_data
from tailsmith.synthesis.allocation import Target, missing_counts
from tailsmith.synthesis.cost import image_size
from tailsmith.synthesis.engines import local
from tailsmith.synthesis.families import check_conditioning
from tailsmith.synthesis.generators import (
    EMBEDDED,
    check_generator,
    find_decoder,
    generator_family,
    located_decoder,
)
from tailsmith.synthesis.hardness import FILE, planned_gaussians
from tailsmith.synthesis.plan_checks import check_config
from tailsmith.synthesis.presets import settled
from tailsmith.synthesis.provenance import planned_by
from tailsmith.synthesis.rendering import render, worker_of, written_job
from tailsmith.synthesis.requests import Plan, check_shards, make_plan
from tailsmith.synthesis.shard_checks import unsound
from tailsmith.synthesis.shards import check_folder, keep_plan
from tailsmith.synthesis.storage import stored_size
from tailsmith.synthesis.worker import read_shards, synthetic_dataset
from tailsmith.training_progress import followed, identity


def load(
    path: str | Path, *, skip_corrupt: bool = False, seed: int = 0, max_megapixels: float | None = None
) -> Dataset:
    """An image folder, CSV or Parquet file, embedded task ("fashion-lt", "fashion-groups"), or RECIPE:ROOT, checked.

    "imagenet-lt:/data/imagenet" is the recipe's benchmark below that root. `seed` decides which images an embedded task
    draws and how a dataset without val or test is split. Raises ValueError for anything wrong with the data; with
    `skip_corrupt` unreadable images are logged and left out. An image above `max_megapixels` (None = 178.9, about where
    Pillow gives up) can't be read.
    """
    if str(path) in embedded.TASKS:
        return embedded.load_embedded(str(path), seed=seed)
    if (named := split_data(str(path))) is not None:
        recipe, root = named
        benchmark = read_recipe(recipe).benchmark
        return benchmarks.read(benchmark, root, skip_corrupt=skip_corrupt, max_megapixels=max_megapixels)
    return readers.load(path, skip_corrupt=skip_corrupt, seed=seed, max_megapixels=max_megapixels)


def train(
    dataset: Dataset,
    synthetic: Dataset | None = None,
    config: TrainConfig | None = None,
    *,
    augmentation: str = "crop-flip-colour",
    description: str = "train",
    checkpoint: Path | None = None,
) -> Classifier:
    """Train on the training split, and `synthetic` images if given; selected on the validation split only.

    The classifier carries `history`: a dict per evaluated step. With a `checkpoint` file the same call after an
    interruption goes on; once the classifier is kept, `classification.checkpoint.discard` removes that file.
    """
    config = config or TrainConfig()
    rows = dataset.split("train")
    if synthetic is not None:
        rows = Dataset.concatenate([rows, synthetic])
    size = config.image_size or _default_size(config)
    validation = dataset.split("val")
    made_by = named_augmentation(augmentation)
    each = made_by if isinstance(made_by, PerImage) else None
    with closing(Images(rows, size, each, workers=config.workers)) as images:
        training = train_classifier(
            config,
            images,
            rows.labels,
            (rows.table["source"] == "synthetic").to_numpy(),
            dataset.class_names,
            validation=(Images(validation, size), validation.labels) if len(validation) else None,
            augment=made_by if isinstance(made_by, Augmentation) else None,
            groups=rows.groups,
        )
        records = iter(training)
        if checkpoint is not None:
            records = training.resumable(checkpoint, identity(rows, validation, size, augmentation))
        return followed(records, description)


def plan(
    dataset: Dataset,
    target: Target = "max",
    *,
    per: str = "class",
    config: SynthesisConfig | None = None,
    generator: str = EMBEDDED,
    classifier: Any = None,
) -> Plan:
    """One request per image that each class (or group, `per="group"`) lacks to reach `target`; nothing is generated.

    Name the classifier that will guide where its hash should be part of the plan; images larger than it trains on are
    then stored as small as that, unless `config.store_size` says otherwise.
    """
    config = checked_settings(dataset, config or SynthesisConfig(), str(generator))
    if classifier is not None:
        _check_classes(classifier, dataset, "plan for the data it was trained on")
    seen = getattr(classifier, "image_size", None)
    config = replace(config, store_size=stored_size(config.store_size, seen, image_size(str(generator))))
    lacking = missing(dataset, target, per)
    meta = {"dataset": dataset.name, "per": per, **planned_by(str(generator), config, classifier)}
    return make_plan(dataset, lacking, config, meta=meta)


def checked_settings(dataset: Dataset, config: SynthesisConfig, generator: str) -> SynthesisConfig:
    """The settings with the generator's own defaults; ValueError for what can't work, before anything is planned."""
    check_generator(generator, dataset.class_names, config)
    config = settled(config, generator)
    check_config(config, dataset)
    if config.conditioning != "text":
        check_conditionable(dataset)
    if (known := generator_family(generator)) is not None:
        check_conditioning(*known, [config.conditioning])
    feedback = config.feedback
    if feedback.scale > 0:
        find_decoder(feedback.decoder, generator)
    return replace(config, feedback=replace(feedback, decoder=located_decoder(feedback.decoder)))


def missing(dataset: Dataset, target: Target, per: str) -> npt.NDArray[np.int64]:
    """Images that each class [C] or group [C, A] of the training split lacks to reach `target`."""
    if per not in ("class", "group"):
        raise UserError(f"per should be 'class' or 'group', got {per!r}")
    if per == "group" and not dataset.attribute_names:
        raise UserError("a plan per group needs attributes, and this dataset has none; plan per class")
    if per == "class":
        return missing_counts(class_counts(dataset), target, dataset.class_names)
    return missing_counts(group_counts(dataset), target, dataset.group_names)


def synthesize(
    plan: Plan,
    dataset: Dataset,
    out: str | Path,
    *,
    classifier: Any = None,
    pipe: Any = None,
    batch_size: int = 64,
    shards: list[int] | None = None,
    workers: int = 1,
) -> Dataset:
    """Fulfil a plan into `out/shard-*.parquet` and return the synthetic images; the same call resumes.

    `dataset` holds the conditioning images, `classifier` guides where the plan has feedback, `pipe` replaces the plan's
    generator (shards then say that its weights are unknown), `shards` limits this call, and what it returns, to some
    shards. More than one of `workers` are processes of their own, one per accelerator or sharing the CPU's cores, with
    the plan's own generator. A shard that isn't what was written is set aside and rendered again; one that another
    process renders is waited for. Raises ValueError for a plan that means nothing, where the classifier, the generator,
    the decoder or a conditioning image is not the planned one, and where `out` holds another plan's shards.
    """
    out = Path(out)
    plan.check()
    _check_match(plan, dataset, classifier)
    _check_workers(workers, classifier, pipe)
    plan = check_folder(out, plan)
    mine = plan.shards if shards is None else shards
    check_shards(mine, plan.shards)
    if unfinished := unsound(out, plan, mine):
        total, missing = (sum(map(plan.shard_size, each)) for each in (mine, unfinished))
        gaussians = planned_gaussians(plan, dataset, classifier, out / FILE)
        with tqdm(total=total, initial=total - missing, desc=f"synthesize {out.name}", unit="image") as bar:
            if workers == 1:
                worker = worker_of(plan, dataset, classifier, pipe, gaussians, batch_size)
                render(worker, plan, out, unfinished, bar.update, others=bar.update)
            else:
                with written_job(plan, dataset, out, unfinished, classifier, gaussians, batch_size) as job:
                    local.run_job(job, workers, bar.update)
    else:
        keep_plan(out, plan)
    return synthetic_dataset(read_shards(out, plan, mine), dataset)


def evaluate(classifier: Any, dataset: Dataset, split: str = "test", *, bootstrap: int = 1000) -> dict[str, Any]:
    """Accuracy on real images of a split: overall, per class, shot and group, worst group, each with n and interval.

    Shots and group shots are by the dataset's own training counts.
    """
    rows = dataset.split(split)
    if not len(rows):
        raise UserError(f"dataset {dataset.name!r} has no {split} images to evaluate on")
    _check_classes(classifier, dataset, "evaluate on the data it was trained for")
    return accuracy_table(
        predict(classifier, rows).logits.argmax(1).numpy(),
        rows.labels,
        class_names=dataset.class_names,
        train_counts=class_counts(dataset),
        attributes=rows.attributes if dataset.attribute_names else None,
        attribute_names=dataset.attribute_names,
        train_group_counts=group_counts(dataset) if dataset.attribute_names else None,
        image_ids=rows.table["image_id"].tolist(),
        bootstrap=bootstrap,
    )


def _default_size(config: TrainConfig) -> int:
    from tailsmith.classification.backbones import create_backbone

    with torch.random.fork_rng(devices=[]):
        return create_backbone(config.backbone, 2, False, None).image_size


def _check_classes(classifier: Any, dataset: Dataset, advice: str) -> None:
    names = tuple(getattr(classifier, "class_names", dataset.class_names))
    if names != dataset.class_names:
        raise UserError(
            f"the classifier's classes are not the dataset's: it {class_difference(names, dataset.class_names)}; "
            f"{advice}"
        )


def _check_match(plan: Plan, dataset: Dataset, classifier: Any) -> None:
    expected = tuple(plan.meta["class_names"])
    for what, names in (
        ("dataset", dataset.class_names),
        ("classifier", getattr(classifier, "class_names", expected)),
    ):
        if tuple(names) != expected:
            raise UserError(
                f"the plan's classes are not the {what}'s: the {what} {class_difference(tuple(names), expected)}; "
                "make a new plan"
            )
    if classifier is None and plan.has_feedback:
        raise UserError("the plan has feedback; give the classifier that guides, or plan with feedback.scale=0")
    planned = plan.meta.get("classifier_sha256")
    if planned and isinstance(classifier, Classifier) and classifier.sha256() != planned:
        raise UserError("this classifier is not the one the plan was made for (its hash differs); make a new plan")


def _check_workers(workers: int, classifier: Any, pipe: Any) -> None:
    if workers < 1:
        raise UserError(f"workers should be at least 1, got {workers}")
    if workers > 1 and pipe is not None:
        raise UserError(f"{workers} workers load the plan's generator themselves; leave `pipe` out, or workers=1")
    loadable = classifier is None or (isinstance(classifier, Classifier) and classifier.backbone_name != WRAPPED)
    if workers > 1 and not loadable:
        raise UserError(
            f"{workers} workers load the classifier from a folder, which can't be done with a module of your own; use "
            "workers=1, or one that tailsmith trained"
        )
