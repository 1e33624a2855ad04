"""What the samples are like, per feedback scale: the same few requests with and without feedback, seen by four eyes.

The guiding classifier says whether each criterion rose; an independently trained one whether that is more than an
adversarial pattern; a judge whether the label still holds; its features how far the samples are from real images, and
how much of them they cover.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tailsmith.classification.classifier import Classifier, load_classifier
from tailsmith.data.counts import class_counts, group_counts, rarest
from tailsmith.data.dataset import Dataset
from tailsmith.guidance.class_gaussians import ClassGaussians
from tailsmith.guidance.criteria import score_of
from tailsmith.metrics.samples import agreement, compare
from tailsmith.runs.config import RunConfig
from tailsmith.runs.directory import RunDirectory
from tailsmith.runs.studied import studied_criteria, study_folder, study_settings
from tailsmith.synthesis import hardness
from tailsmith.synthesis.config import SynthesisConfig
from tailsmith.synthesis.fulfilment import synthesize
from tailsmith.synthesis.plan_checks import settled
from tailsmith.synthesis.planning import with_class_tokens
from tailsmith.synthesis.prediction import Prediction, predict
from tailsmith.synthesis.provenance import planned_by
from tailsmith.synthesis.requests import make_plan
from tailsmith.synthesis.shards import read_shards, synthetic_dataset

PER_CLASS = 16  # images of each, per setting


@dataclass(frozen=True)
class Study:
    """A run, its data, the classifier that guides and the generator."""

    directory: RunDirectory
    config: RunConfig
    dataset: Dataset
    guide: Classifier
    pipe: Any


@dataclass(frozen=True)
class Eye:
    """A classifier that looks at the samples; the class Gaussians are there where hardness is asked for."""

    classifier: Classifier
    gaussians: ClassGaussians | None = None


@dataclass(frozen=True)
class Eyes:
    """Who looks at the samples; None where a run has no such classifier."""

    guiding: Eye
    independent: Eye | None  # trained apart from the guide on the same real images
    judge: Classifier | None


def study_samples(study: Study) -> dict[str, dict[str, Any]]:
    """Setting -> {"criteria": {name: {"guiding", "independent": [values]}}, "judge_agreement", distances, ...}."""
    judge = load_judge("label", study.dataset.class_names)
    independent = study.directory.classifier("balanced_softmax")
    criteria = studied_criteria(study.config)

    def eye(classifier: Classifier, kept: Path) -> Eye:
        needed = "hardness" in criteria
        return Eye(classifier, hardness.class_gaussians(study.dataset, classifier, kept) if needed else None)

    folder = study.directory.path
    other = None if independent is None else eye(independent, folder / "study" / hardness.FILE)
    eyes = Eyes(eye(study.guide, folder / hardness.FILE), other, judge or independent)
    return {name: _measure(study, eyes, name, varied) for name, varied in study_settings(study.config).items()}


def load_judge(what: str, names: tuple[str, ...]) -> Classifier | None:
    """The embedded judge of "label" or "attribute", None where it knows other names."""
    folder = Path(str(files("tailsmith").joinpath("assets", "judges", what)))
    if not folder.is_dir():
        return None
    judge = load_classifier(folder)
    return judge if judge.class_names == names else None


def _measure(study: Study, eyes: Eyes, name: str, varied: SynthesisConfig) -> dict[str, Any]:
    results = _render(study, name, varied)
    synthetic = synthetic_dataset(results, study.dataset)
    labels = synthetic.labels
    seen = {"guiding": eyes.guiding} | ({"independent": eyes.independent} if eyes.independent else {})
    measured: dict[str, Any] = {
        "criteria": _values(
            {who: (eye, predict(eye.classifier, synthetic)) for who, eye in seen.items()}, study, labels
        ),
        "feedback_scale": float(varied.feedback.scale),
        "images": len(synthetic),
        "skipped": {"feedback steps left unguided": int(results["skipped_steps"].sum())},
        "seconds_per_image": float(results["seconds"].mean()),
    }
    if eyes.judge is not None:
        logits, features = predict(eyes.judge, synthetic)
        measured["judge_agreement"] = agreement(logits.numpy(), labels)
        real = predict(eyes.judge, _real_images(study.dataset, labels)).features
        measured |= compare(real.numpy(), features.numpy())
    return measured


def _render(study: Study, name: str, varied: SynthesisConfig) -> Any:
    generator = study.config.generator
    config = with_class_tokens(settled(varied, generator), generator, study.dataset.class_names)
    counts = class_counts(study.dataset) if study.config.per == "class" else group_counts(study.dataset)
    wanted = np.zeros(counts.size, dtype=np.int64)
    wanted[rarest(counts)] = PER_CLASS
    meta = {"study": name, **planned_by(generator, config, study.guide)}
    plan = make_plan(study.dataset, wanted.reshape(counts.shape), config, meta=meta)
    folder = study_folder(study.directory, name)
    synthesize(
        plan,
        study.dataset,
        folder,
        classifier=study.guide,
        pipe=study.pipe,
        batch_size=study.config.batch_size,
    )
    return read_shards(folder, plan)


def _values(
    seen: dict[str, tuple[Eye, Prediction]], study: Study, labels: NDArray[np.int64]
) -> dict[str, dict[str, list[float]]]:
    """Criterion -> who looks -> a value per image."""
    found: dict[str, dict[str, list[float]]] = {}
    for name in studied_criteria(study.config):
        found[name] = {}
        for who, (eye, (logits, features)) in seen.items():
            values = score_of(name, eye.gaussians)(logits, features, torch.tensor(labels)).tolist()
            found[name][who] = [round(value, 5) for value in values]
    return found


def _real_images(dataset: Dataset, labels: NDArray[np.int64]) -> Dataset:
    """Real images of the samples' classes: validation, or training where there is none."""
    real = dataset.split("val") if len(dataset.split("val")) else dataset.split("train")
    return real.select(np.isin(real.labels, np.unique(labels)))
