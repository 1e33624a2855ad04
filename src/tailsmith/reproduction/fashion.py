"""The paper's two experiments on the embedded world: seeds of data, classifier and synthesis, on real test images.

Each seed is an ordinary run directory, so that an interrupted reproduction goes on where it stopped. Budgets are equal:
all arms take the same number of steps of the same batch size, and all synthetic arms the same number of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tailsmith import stages
from tailsmith.classification.classifier import Classifier
from tailsmith.classification.history import selected_score
from tailsmith.classification.prediction import predict
from tailsmith.config import ARMS, FeedbackConfig, RunConfig, SynthesisConfig, TrainConfig, changed
from tailsmith.data.counts import class_counts, group_counts
from tailsmith.data.dataset import Dataset
from tailsmith.data.embedded import MAJORITY_CONTEXT, load_embedded
from tailsmith.data.images import ImageArray
from tailsmith.experiment import synthesize_arm, train_arm
from tailsmith.files import read_json, write_json
from tailsmith.metrics.samples import agreement
from tailsmith.outputs import save_trained
from tailsmith.run_directory import RunDirectory
from tailsmith.sample_study import load_judge
from tailsmith.strata import SHOTS
from tailsmith.synthesis.generators import load_generator

CEILING = "real_images"  # topped up with as many real images instead
FEEDBACK_SCALE = 0.02
STEPS = 500
NUM_INFERENCE_STEPS = 20  # the paper has 30; a third cheaper

_TRAIN = TrainConfig(steps=STEPS, learning_rate=0.1, ema_decay=0.99)
_MIXED = replace(_TRAIN, method="balanced_softmax", resampling="half_and_half")
_SYNTHESIS = SynthesisConfig(
    feedback=FeedbackConfig(
        scale=FEEDBACK_SCALE,
        prediction="guided",  # fashion-gradients compares it with the default
    ),
    num_inference_steps=NUM_INFERENCE_STEPS,
)
_COMMON: dict[str, Any] = {"real": _TRAIN, "mixed": _MIXED}
_ARMS = ("erm", "balanced_softmax", "text", "image_text", "feedback_entropy")

# Suffix of the method's name -> the run it is part of
EXPERIMENTS: dict[str, dict[str, RunConfig]] = {
    "fashion-lt": {
        "": RunConfig(
            data="fashion-lt",
            target=150,
            arms=_ARMS,
            synthesis=_SYNTHESIS,
            **_COMMON,
        ),
    },
    "fashion-gradients": {  # what cheaper gradients buy: one arm of fashion-lt, in several ways, and unguided
        suffix: RunConfig(
            data="fashion-lt",
            target=150,
            arms=("erm", *(() if suffix else ("image_text",)), "feedback_entropy"),
            synthesis=changed(
                _SYNTHESIS, {"feedback": {"prediction": prediction, "through": through, "decoder": decoder}}
            ),
            **_COMMON,
        )
        for suffix, prediction, through, decoder in (
            ("", "conditional", "denoiser", "own"),
            ("_guided", "guided", "denoiser", "own"),
            ("_forward", "conditional", "denoiser-forward", "own"),
            ("_tiny", "conditional", "denoiser", "tiny"),
            ("_decoder", "conditional", "decoder", "tiny"),
        )
    },
    "fashion-groups": {
        "": RunConfig(  # known groups: the prompt names the context, every group is topped up
            data="fashion-groups",
            target=16,
            per="group",
            arms=_ARMS,
            synthesis=replace(_SYNTHESIS, prompt="{label} in {attribute}"),
            **_COMMON,
        ),
        "_hidden": RunConfig(  # hidden groups: as many images, planned per class, no context named
            data="fashion-groups",
            target=230,
            arms=("erm", "text", "image_text", "feedback_entropy"),
            synthesis=_SYNTHESIS,
            **_COMMON,
        ),
    },
}

# Does the default feedback help? The first run of fashion-gradients alone, for more seeds.
EXPERIMENTS["fashion-feedback"] = {"": EXPERIMENTS["fashion-gradients"][""]}


def reproduce(experiment: str, out: Path, results: Path, seeds: Sequence[int] = (0, 1, 2), command: str = "") -> Path:
    """Run an experiment of `EXPERIMENTS` for every seed and write `{"command", "rows"}` to `results` after each."""
    if experiment not in EXPERIMENTS:
        raise ValueError(f"experiment should be one of {list(EXPERIMENTS)}, got {experiment!r}")
    pipe = load_generator()
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        guide: Classifier | None = None
        for suffix, config in EXPERIMENTS[experiment].items():
            folder = out / f"seed-{seed}{suffix}"
            guide, found = _run_seed(seeded(config, seed), folder, suffix, guide, pipe, command)
            rows += [{**row, "seed": seed} for row in found]
            write_json(results, {"command": command, "rows": rows})
    return results


def seeded(config: RunConfig, seed: int) -> RunConfig:
    """One seed for data, classifiers and synthesis."""
    return replace(
        config,
        data_seed=seed,
        real=replace(config.real, seed=seed),
        mixed=replace(config.mixed, seed=seed),
        synthesis=replace(config.synthesis, seed=seed),
    )


def _run_seed(
    config: RunConfig, out: Path, suffix: str, guide: Classifier | None, pipe: Any, command: str
) -> tuple[Classifier, list[dict[str, Any]]]:
    """The guiding classifier and a row per arm; later runs of a seed share the guide, and need no real-only arms."""
    dataset = load_embedded(config.data, seed=config.data_seed)
    directory = RunDirectory.claim(out, config, command, dataset)
    shared = guide is not None
    guide = guide or train_arm(directory, config, dataset, "erm", None)
    rows = []
    for arm in config.arms:
        synthetic = None
        if ARMS[arm]["synthesis"] is not None:
            synthetic = synthesize_arm(directory, config, dataset, arm, guide, pipe)
        elif shared:
            continue
        train_arm(directory, config, dataset, arm, synthetic)
        rows.append(_row(directory, arm, arm + suffix, synthetic))
    if not shared and "balanced_softmax" in config.arms:
        rows.append(_ceiling(directory, config, dataset))
    return guide, rows


def _ceiling(directory: RunDirectory, config: RunConfig, dataset: Dataset) -> dict[str, Any]:
    """Balanced softmax on real images only, topped up to the same counts."""
    if directory.evaluation(CEILING) is None:
        counts = class_counts(dataset) if config.per == "class" else group_counts(dataset)
        full = load_embedded(config.data, seed=config.data_seed, counts=np.maximum(counts, int(config.target)))  # type: ignore[arg-type]
        training = replace(config.real, method="balanced_softmax")
        classifier = stages.train(
            full, None, training, augmentation=config.augmentation, description=f"train: {CEILING}"
        )
        folder = directory.arm(CEILING)
        save_trained(classifier, folder / "classifier", folder / "history.json")
        write_json(directory.arm(CEILING) / "evaluation.json", stages.evaluate(classifier, dataset))
    return _row(directory, CEILING, CEILING, None)


def _row(directory: RunDirectory, arm: str, method: str, synthetic: Dataset | None) -> dict[str, Any]:
    table = directory.evaluation(arm)
    assert table is not None
    test = {"overall": table["overall"]["accuracy"], "worst_group": table["worst_group"]["accuracy"]}
    test |= {shot: table["shots"][shot]["accuracy"] for shot in SHOTS}
    test |= {f"groups_{shot}": cell["accuracy"] for shot, cell in table.get("group_shots", {}).items()}
    history = read_json(directory.arm(arm) / "history.json")
    row = {
        "method": method,
        "test": {name: None if value is None else round(value, 2) for name, value in test.items()},
        "validation": round(selected_score(history) or 0.0, 2),
    }
    if synthetic is not None:
        row["samples"] = judged(synthetic)
    return row


def judged(synthetic: Dataset) -> dict[str, Any]:
    """What the embedded judges say of synthetic images: label agreement, and the share outside the majority context."""
    judged: dict[str, Any] = {"images": len(synthetic)}
    label = load_judge("label", synthetic.class_names)
    attribute = load_judge("attribute", synthetic.attribute_names)
    if label is not None:
        images = ImageArray(synthetic, label.image_size)
        judged["judge_agreement"] = round(agreement(predict(label, images).numpy(), synthetic.labels), 4)
    if attribute is not None:
        contexts = predict(attribute, ImageArray(synthetic, attribute.image_size)).argmax(1).numpy()
        majority = [synthetic.attribute_names.index(MAJORITY_CONTEXT[name]) for name in synthetic.class_names]
        judged["minority_context_share"] = round(float((contexts != np.array(majority)[synthetic.labels]).mean()), 4)
    return judged
