"""The recipe of the paper (Figure 2), from imbalanced real images to a report; one loop over arms, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from tailsmith.classification.checkpoint import discard_all
from tailsmith.classification.classifier import Classifier
from tailsmith.classification.config import TrainConfig
from tailsmith.data.dataset import Dataset
from tailsmith.data.sources import named
from tailsmith.devices import chosen_dtype
from tailsmith.errors import UserError
from tailsmith.files import read_json, write_json
from tailsmith.generation.generator import Generator, preset
from tailsmith.guidance.config import FeedbackConfig
from tailsmith.metrics.accuracy import AccuracyTable
from tailsmith.runs.arms import ARMS, GUIDE, Arm
from tailsmith.runs.checks import check_run
from tailsmith.runs.config import RunConfig, arms_of, check_settled, synthesis_of, train_config
from tailsmith.runs.directory import RunDirectory, environment
from tailsmith.runs.kept_data import keep_data
from tailsmith.runs.outputs import check_folder, save_trained
from tailsmith.runs.report import NEARNESS, write_run_report
from tailsmith.runs.search import best_of_trials, over_seeds
from tailsmith.runs.training import evaluate, train
from tailsmith.studies.nearness import nearness
from tailsmith.studies.samples import Study, load_judge, study_samples
from tailsmith.synthesis import hardness, planning
from tailsmith.synthesis.config import SynthesisConfig
from tailsmith.synthesis.fulfilment import synthesize
from tailsmith.synthesis.provenance import load_hashed


@dataclass(frozen=True)
class World:
    """Where arms are trained: a run's folder and settings, its real images, and the generator, made when first asked.

    `test` gives the accuracy table of an arm: by default on the real test images.
    """

    directory: RunDirectory
    config: RunConfig
    dataset: Dataset
    generator: Callable[[], Any]
    test: Callable[[Classifier, Dataset], AccuracyTable] = evaluate


@dataclass(frozen=True)
class Trained:
    """What came of an arm, and the images of its set; None for real images only."""

    arm: Arm
    classifier: Classifier
    synthetic: Dataset | None


def run(config: RunConfig, out: Path, command: str = "tailsmith.run(...)") -> Path:
    """Train f on real images, plan, synthesize with f's feedback, retrain, evaluate; returns the report's path.

    Every finished piece is kept in `out`, and the same call goes on where it stopped. Raises ValueError for anything
    wrong with the data or the configuration before any work starts.
    """
    dtype = chosen_dtype(config.synthesis.dtype)
    check_settled(config)
    check_folder(Path(out), config.data)
    RunDirectory(Path(out)).check(config)  # before a look at every image
    dataset = _load(config)
    check_run(config, dataset)
    directory = RunDirectory.claim(Path(out), config, command, dataset)
    dataset = keep_data(directory, config.per, dataset)

    world = World(directory, config, dataset, cache(lambda: load_hashed(config.generator, dtype=dtype)))
    if Generator.find(config.generator).folder is None:
        world.generator()  # from the hub: whether it can be had shows before hours of training

    # 1. A classifier f_phi on the imbalanced real images D_real, by ERM: it gives the feedback.
    guide = train_arm(world, ARMS[GUIDE])
    # 2. to 4. Plan, synthesize, retrain: each arm in turn.
    sets: dict[str, Dataset] = {}
    for trained in train_arms(world, arms_of(config), guide):
        if trained.arm.set is not None and trained.synthetic is not None:
            sets[trained.arm.set] = trained.synthetic

    # 5. What it bought, and what the samples are like.
    with directory.exclusive("studies the samples"), directory.timed("study samples"):
        study = study_samples(Study(directory, config, dataset, guide, world.generator()))
        judge = load_judge("label", dataset.class_names) or directory.classifier("balanced_softmax")
        near = {name: nearness(images, dataset, judge).kept() for name, images in sets.items()}
    write_json(directory.path / NEARNESS, near)
    write_json(directory.path / "samples.json", study)
    write_json(directory.path / "environment.json", {**environment(), **_provenance(config, dataset, guide)})
    return report_run(directory.path)


def train_arms(world: World, arms: Iterable[Arm], guide: Classifier) -> Iterator[Trained]:
    """The loop over arms: each trained and tested, or taken from the run's folder where it is there already.

    Arms that name one synthetic set share its images.
    """
    made: dict[str, Dataset] = {}
    for arm in arms:
        if arm.set is not None and arm.set not in made:
            # 2. One request per image that a class or group lacks; 3. D_syn: text- and image-conditioned samples,
            # steered by omega grad C(x, y, f_phi) (Eq. 3).
            made[arm.set] = synthesize_set(world, arm.set, guide)
        synthetic = None if arm.set is None else made[arm.set]
        # 4. Retrain from scratch on D_real and D_syn, half of each mini-batch; test on real images only.
        yield Trained(arm, train_arm(world, arm, synthetic), synthetic)


def report_run(out: Path, data: str | None = None) -> Path:
    """Render the report of a run directory again, from what lies in it.

    `data` names the run's data where they lie now: they are held to the run, and its pictures made anew.
    """
    directory = RunDirectory.open(Path(out))
    config = directory.config()
    missing = [arm for arm in config.arms if directory.evaluation(arm) is None]
    if missing or not (directory.path / "samples.json").exists():
        raise UserError(
            f"{out} is not finished (no result of {missing or 'the sample study'}); run the same command again"
        )
    if data is not None:
        dataset = _load(replace(config, data=data))
        directory = RunDirectory.claim(directory.path, replace(config, data=data), "", dataset)
        keep_data(directory, config.per, dataset)
    return write_run_report(directory, config, read_json(directory.path / "samples.json"))


def demo_config(task: str = "fashion-lt") -> RunConfig:
    """The embedded task, sized for up to eight minutes on two cores; `reproduction` has the full-sized one."""
    common: dict[str, Any] = {
        "data": task,
        "arms": ("erm", "balanced_softmax", "image_text", "feedback_entropy"),
        "real": TrainConfig(steps=250, learning_rate=0.1, ema_decay=0.99),
        "mixed": TrainConfig(
            steps=250,
            learning_rate=0.1,
            ema_decay=0.99,
            method="balanced_softmax",
            resampling="half_and_half",
        ),
    }
    # as `reproduction` has it: by text at 3 is the best of 13 settings, and 60 steps make no better samples than 20
    guidance: dict[str, Any] = {"guided_by": "text", "guidance_scale": 3.0, "num_inference_steps": 20}
    synthesis = SynthesisConfig(**guidance, feedback=FeedbackConfig(scale=0.02))
    if task == "fashion-groups":
        prompted = replace(synthesis, prompt="{label} in {attribute}")
        return RunConfig(target=15, per="group", synthesis=prompted, **common)
    return RunConfig(target=120, synthesis=synthesis, **common)


def synthesize_set(world: World, name: str, guide: Classifier) -> Dataset:
    """Plan and render a synthetic set, or what of it is missing; a larger target adds shards to those there are."""
    config = world.config
    plan = planning.plan(
        world.dataset,
        config.target,
        per=config.per,
        config=synthesis_of(config, name),
        generator=config.generator,
        classifier=guide,
    )
    with world.directory.timed(f"synthesize {name}"):
        if plan.has_hardness:  # its class Gaussians are fitted once, for all sets and the study
            hardness.class_gaussians(world.dataset, guide, world.directory.path / hardness.FILE)
        return synthesize(
            plan,
            world.dataset,
            world.directory.synthetic_set(name).folder,
            classifier=guide,
            pipe=world.generator() if config.crew.in_this_process else None,
            batch_size=config.batch_size,
            workers=config.crew,
        )


def train_arm(world: World, arm: Arm, synthetic: Dataset | None = None, real: Dataset | None = None) -> Classifier:
    """Train and test one arm unless it is there already; of several processes in a run directory one does.

    `real` replaces the run's own images in training, as where more real ones are the arm; it is tested on the run's.
    """
    directory = world.directory
    classifier = directory.classifier(arm.name) if directory.evaluation(arm.name) is not None else None
    if classifier is not None:
        discard_all(directory.arm(arm.name) / "training")
        return classifier
    with directory.exclusive("trains a classifier"):
        return _train_arm(world, arm, synthetic, world.dataset if real is None else real)


def _train_arm(world: World, arm: Arm, synthetic: Dataset | None, real: Dataset) -> Classifier:
    """Once, or the best of a search and then over seeds."""
    directory, config = world.directory, world.config
    folder, training = directory.arm(arm.name), train_config(config, arm)

    def fit(settings: TrainConfig, what: str = "") -> Classifier:
        description = f"train: {arm.name} {what}".rstrip()
        # What lies there of other fits is of finished ones: they follow each other in one order
        checkpoint = folder / "training" / f"{what.replace(' ', '-') or 'checkpoint'}.safetensors"
        discard_all(checkpoint.parent, but=checkpoint)
        return train(
            real,
            synthetic,
            settings,
            augmentation=config.augmentation,
            description=description,
            checkpoint=checkpoint,
        )

    def evaluate(trained: Classifier) -> AccuracyTable:
        return world.test(trained, world.dataset)

    classifier = directory.classifier(arm.name)
    if classifier is None:
        with directory.timed(f"train {arm.name}"):
            if config.search is None:
                classifier = fit(training)
            else:
                classifier = best_of_trials(config.search, training, fit, folder / "search")
        save_trained(classifier, folder / "classifier", folder / "history.json")
    if directory.evaluation(arm.name) is None:
        table = evaluate(classifier)
        if config.search is not None:
            with directory.timed(f"train {arm.name}"):
                result = over_seeds(config.search, training, fit, evaluate, folder / "search")
            write_json(folder / "search.json", result)
        write_json(folder / "evaluation.json", table)
    discard_all(folder / "training")
    return classifier


def _load(config: RunConfig) -> Dataset:
    return named.load(
        config.data,
        skip_corrupt=config.skip_corrupt,
        seed=config.data_seed,
        max_megapixels=config.max_megapixels,
    )


def _provenance(config: RunConfig, dataset: Dataset, guide: Classifier) -> dict[str, Any]:
    return {
        "licences": {
            "data": dataset.licence or "the user's own",
            "generator": preset(config.generator).licence,
        },
        "hashes": {
            f"generator {config.generator}": Generator.find(config.generator).sha256(),
            "guiding classifier": guide.sha256(),
        },
        "seeds": {
            "data": config.data_seed,
            "training": config.mixed.seed,
            "synthesis": config.synthesis.seed,
        },
    }
