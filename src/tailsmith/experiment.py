"""The recipe of the paper (Figure 2), from imbalanced real images to a report, in one function."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tailsmith import stages
from tailsmith.classification.checkpoint import discard_all
from tailsmith.classification.classifier import Classifier
from tailsmith.classification.training import check_train_config, untrained_classifier
from tailsmith.config import ARMS, FeedbackConfig, RunConfig, SynthesisConfig, TrainConfig, changed, check_settled
from tailsmith.data.dataset import Dataset
from tailsmith.data.transforms import augmentation as named_augmentation
from tailsmith.devices import chosen_dtype
from tailsmith.files import read_json, write_json
from tailsmith.outputs import check_folder, save_trained
from tailsmith.run_data import keep_data
from tailsmith.run_directory import RunDirectory, environment
from tailsmith.run_report import write_run_report
from tailsmith.sample_study import Study, study_samples
from tailsmith.sample_study import settings as study_settings
from tailsmith.search import best_of_trials, over_seeds
from tailsmith.synthesis import hardness
from tailsmith.synthesis.generators import generator_hash, preset
from tailsmith.synthesis.provenance import load_hashed


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
    _check(config, dataset)
    directory = RunDirectory.claim(Path(out), config, command, dataset)
    dataset = keep_data(directory, config.per, dataset)

    # 1. A classifier f_phi on the imbalanced real images D_real, by ERM: it gives the feedback.
    guide = train_arm(directory, config, dataset, "erm", None)

    pipe: Any = None
    for arm in config.arms:
        synthetic = None
        if ARMS[arm]["synthesis"] is not None:
            # 2. One request per image that a class or group lacks; 3. D_syn: text- and image-conditioned samples,
            # steered by omega grad C(x, y, f_phi) (Eq. 3).
            pipe = pipe or load_hashed(config.generator, dtype=dtype)
            synthetic = synthesize_arm(directory, config, dataset, arm, guide, pipe)
        # 4. Retrain from scratch on D_real and D_syn, half of each mini-batch; test on real images only.
        train_arm(directory, config, dataset, arm, synthetic)

    # 5. What it bought, and what the samples are like.
    with directory.exclusive("studies the samples"), directory.timed("study samples"):
        pipe = pipe or load_hashed(config.generator, dtype=dtype)
        study = study_samples(Study(directory, config, dataset, guide, pipe))
    write_json(directory.path / "samples.json", study)
    write_json(directory.path / "environment.json", {**environment(), **_provenance(config, dataset, guide)})
    return report_run(directory.path)


def report_run(out: Path, data: str | None = None) -> Path:
    """Render the report of a run directory again, from what lies in it.

    `data` names the run's data where they lie now: they are held to the run, and its pictures made anew.
    """
    directory = RunDirectory.open(Path(out))
    config = directory.config()
    missing = [arm for arm in config.arms if directory.evaluation(arm) is None]
    if missing or not (directory.path / "samples.json").exists():
        raise ValueError(
            f"{out} is not finished (no result of {missing or 'the sample study'}); run the same command again"
        )
    if data is not None:
        dataset = _load(replace(config, data=data))
        directory = RunDirectory.claim(directory.path, replace(config, data=data), "", dataset)
        keep_data(directory, config.per, dataset)
    return write_run_report(directory, config, read_json(directory.path / "samples.json"))


def arm_synthesis(config: RunConfig, arm: str) -> SynthesisConfig:
    """The run's synthesis settings with what makes the arm."""
    return changed(config.synthesis, ARMS[arm]["synthesis"])


def demo_config(task: str = "fashion-lt") -> RunConfig:
    """The embedded task, sized for about five minutes on two cores; `reproduction` has the full-sized one."""
    common: dict[str, Any] = {
        "data": task,
        "arms": ("erm", "balanced_softmax", "image_text", "feedback_entropy"),
        "real": TrainConfig(steps=400, learning_rate=0.1, ema_decay=0.99),
        "mixed": TrainConfig(
            steps=400,
            learning_rate=0.1,
            ema_decay=0.99,
            method="balanced_softmax",
            resampling="half_and_half",
        ),
    }
    feedback = FeedbackConfig(scale=0.02)
    if task == "fashion-groups":
        prompt = SynthesisConfig(prompt="{label} in {attribute}", feedback=feedback)
        return RunConfig(target=15, per="group", synthesis=prompt, **common)
    return RunConfig(target=120, synthesis=SynthesisConfig(feedback=feedback), **common)


def train_config(config: RunConfig, arm: str) -> TrainConfig:
    """Real-only arms differ in their loss alone; arms with synthetic images share one configuration."""
    if ARMS[arm]["synthesis"] is None:
        return replace(config.real, method=arm)
    return config.mixed


def synthesize_arm(
    directory: RunDirectory, config: RunConfig, dataset: Dataset, arm: str, guide: Classifier, pipe: Any
) -> Dataset:
    """Plan and render the synthetic images of one arm, or what of them is missing."""
    plan = stages.plan(
        dataset,
        config.target,
        per=config.per,
        config=arm_synthesis(config, arm),
        generator=config.generator,
        classifier=guide,
    )
    with directory.timed(f"synthesize {arm}"):
        return stages.synthesize(
            plan,
            dataset,
            directory.arm(arm) / "synthetic",
            classifier=guide,
            pipe=pipe,
            batch_size=config.batch_size,
            hardness=directory.path / hardness.FILE,
            description=f"synthesize: {arm}",
        )


def train_arm(
    directory: RunDirectory, config: RunConfig, dataset: Dataset, arm: str, synthetic: Dataset | None
) -> Classifier:
    """Train and test one arm unless it is there already; of several processes in a run directory one does."""
    classifier = directory.classifier(arm) if directory.evaluation(arm) is not None else None
    if classifier is not None:
        discard_all(directory.arm(arm) / "training")
        return classifier
    with directory.exclusive("trains a classifier"):
        return _train_arm(directory, config, dataset, arm, synthetic)


def _train_arm(
    directory: RunDirectory, config: RunConfig, dataset: Dataset, arm: str, synthetic: Dataset | None
) -> Classifier:
    """Once, or the best of a search and then over seeds."""
    folder, training = directory.arm(arm), train_config(config, arm)

    def fit(settings: TrainConfig, what: str = "") -> Classifier:
        description = f"train: {arm} {what}".rstrip()
        # What lies there of other fits is of finished ones: they follow each other in one order
        checkpoint = folder / "training" / f"{what.replace(' ', '-') or 'checkpoint'}.safetensors"
        discard_all(checkpoint.parent, but=checkpoint)
        return stages.train(
            dataset,
            synthetic,
            settings,
            augmentation=config.augmentation,
            description=description,
            checkpoint=checkpoint,
        )

    def evaluate(trained: Classifier) -> dict[str, Any]:
        return stages.evaluate(trained, dataset)

    classifier = directory.classifier(arm)
    if classifier is None:
        with directory.timed(f"train {arm}"):
            if config.search is None:
                classifier = fit(training)
            else:
                classifier = best_of_trials(config.search, training, fit, folder / "search")
        save_trained(classifier, folder / "classifier", folder / "history.json")
    if directory.evaluation(arm) is None:
        table = evaluate(classifier)
        if config.search is not None:
            with directory.timed(f"train {arm}"):
                result = over_seeds(config.search, training, fit, evaluate, folder / "search")
            write_json(folder / "search.json", result)
        write_json(folder / "evaluation.json", table)
    discard_all(folder / "training")
    return classifier


def _load(config: RunConfig) -> Dataset:
    return stages.load(
        config.data,
        skip_corrupt=config.skip_corrupt,
        seed=config.data_seed,
        max_megapixels=config.max_megapixels,
    )


def _check(config: RunConfig, dataset: Dataset) -> None:
    """Everything that would only fail hours later."""
    for training in (config.real, config.mixed):
        check_train_config(training)
        untrained_classifier(training, dataset.class_names)  # pretrained weights are there, and fit
    if config.search is not None and not len(dataset.split("val")):
        raise ValueError(f"dataset {dataset.name!r} has no validation images, and search selects on them alone")
    named_augmentation(config.augmentation)
    generator_hash(config.generator)
    for arm in config.arms:
        if ARMS[arm]["synthesis"] is not None:
            stages.checked_settings(dataset, arm_synthesis(config, arm), config.generator)
            stages.missing(dataset, config.target, config.per)
    for settings in study_settings(config).values():
        stages.checked_settings(dataset, settings, config.generator)
    if not len(dataset.split("test")):
        raise ValueError(f"dataset {dataset.name!r} has no test images; a run reports on real test images")


def _provenance(config: RunConfig, dataset: Dataset, guide: Classifier) -> dict[str, Any]:
    return {
        "licences": {
            "data": dataset.licence or "the user's own",
            "generator": preset(config.generator).licence,
        },
        "hashes": {
            f"generator {config.generator}": generator_hash(config.generator),
            "guiding classifier": guide.sha256(),
        },
        "seeds": {
            "data": config.data_seed,
            "training": config.mixed.seed,
            "synthesis": config.synthesis.seed,
        },
    }
