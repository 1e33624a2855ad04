"""A first sweep of feedback on fashion-lt, on validation: how strong, when, by whom, over how many views."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tailsmith.classification.classifier import Classifier
from tailsmith.data.dataset import Dataset
from tailsmith.experiment import train_arm, train_arms
from tailsmith.files import read_json, write_json
from tailsmith.generation.generator import load_generator
from tailsmith.guidance.criteria import entropy
from tailsmith.metrics.accuracy import AccuracyTable
from tailsmith.metrics.samples import agreement, frechet_distance
from tailsmith.reproduction.driver import seeded, world_of
from tailsmith.reproduction.fashion import LT
from tailsmith.runs.arms import ARMS, SETS, arm_of
from tailsmith.runs.training import evaluate
from tailsmith.studies.samples import load_judge
from tailsmith.synthesis.prediction import predict

GUIDES = ("erm", "balanced_softmax")
# name -> (changes to the synthesis settings, who guides); but for the last ones, x0-hat is the guided one
SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "text": ({"feedback": {"scale": 0.0}, "conditioning": "text"}, "erm"),
    "text, guidance 3": ({"feedback": {"scale": 0.0}, "conditioning": "text", "guidance_scale": 3.0}, "erm"),
    "dropout 0.3": ({"feedback": {"scale": 0.0}, "embedding_dropout": 0.3}, "erm"),
    "dropout 0.5": ({"feedback": {"scale": 0.0}, "embedding_dropout": 0.5}, "erm"),
    "dropout 0.7": ({"feedback": {"scale": 0.0}, "embedding_dropout": 0.7}, "erm"),
    "dropout 0.85": ({"feedback": {"scale": 0.0}, "embedding_dropout": 0.85}, "erm"),
    "dropout 0.5, guidance 3": ({"feedback": {"scale": 0.0}, "embedding_dropout": 0.5, "guidance_scale": 3.0}, "erm"),
    "dropout 0.7, guidance 3": ({"feedback": {"scale": 0.0}, "embedding_dropout": 0.7, "guidance_scale": 3.0}, "erm"),
    "dropout 0.5, guidance 8": ({"feedback": {"scale": 0.0}, "embedding_dropout": 0.5, "guidance_scale": 8.0}, "erm"),
    "0.005": ({"feedback": {"scale": 0.005}}, "erm"),
    "0.01": ({"feedback": {"scale": 0.01}}, "erm"),
    "0.02": ({"feedback": {"scale": 0.02}}, "erm"),
    "0.05": ({"feedback": {"scale": 0.05}}, "erm"),
    "0.02 early": ({"feedback": {"scale": 0.02, "steps": [0, 2, 4, 6]}}, "erm"),
    "0.02 middle": ({"feedback": {"scale": 0.02, "steps": [7, 9, 11, 13]}}, "erm"),
    "0.02 late": ({"feedback": {"scale": 0.02, "steps": [13, 15, 17, 19]}}, "erm"),
    "0.02 balanced": ({"feedback": {"scale": 0.02}}, "balanced_softmax"),
    "0.02 4 views": ({"feedback": {"scale": 0.02, "views": 4}}, "erm"),
    "0.02 reuse": ({"feedback": {"scale": 0.02, "reuse": True}}, "erm"),
    "0.02 forward": ({"feedback": {"scale": 0.02, "through": "denoiser-forward"}}, "erm"),
    "0.02 decoder": ({"feedback": {"scale": 0.02, "through": "decoder"}}, "erm"),
    "conditional": ({"feedback": {"scale": 0.02, "prediction": "conditional"}}, "erm"),
    "conditional forward": (
        {"feedback": {"scale": 0.02, "prediction": "conditional", "through": "denoiser-forward"}},
        "erm",
    ),
    "conditional decoder": ({"feedback": {"scale": 0.02, "prediction": "conditional", "through": "decoder"}}, "erm"),
    "conditional but the first": (
        {"feedback": {"scale": 0.02, "prediction": "conditional", "steps": [5, 10, 15]}},
        "erm",
    ),
}


def sweep(out: Path, results: Path, seed: int = 0, command: str = "", settings: list[str] | None = None) -> Path:
    """Synthesize, look at the samples and retrain for each setting; nothing here sees a test image."""
    sets = {_slug(name): changes for name, (changes, _) in SETTINGS.items() if name not in SETS}
    config = replace(LT, sets=sets, arms=(*GUIDES, *map(_slug, SETTINGS)))
    pipe = load_generator()
    world = replace(world_of(seeded(config, seed), out / f"seed-{seed}", pipe, command), test=_on_validation)
    guides = {method: train_arm(world, ARMS[method]) for method in GUIDES}
    judge = load_judge("label", world.dataset.class_names)
    assert judge is not None
    real = predict(judge, world.dataset.split("val")).features
    rows: list[dict[str, Any]] = read_json(results)["rows"] if results.exists() else []
    done = {row["setting"] for row in rows if row["seed"] == seed}
    wanted = {_slug(name): name for name in settings or SETTINGS if name not in done}
    for who, guide in guides.items():
        arms = [arm_of(slug, sets) for slug, name in wanted.items() if SETTINGS[name][1] == who]
        for trained in train_arms(world, arms, guide):
            assert trained.synthetic is not None
            row: dict[str, Any] = {"setting": wanted[trained.arm.name], "seed": seed}
            for method, classifier in guides.items():
                logits, features = predict(classifier, trained.synthetic)
                row[f"entropy_{method}"] = round(float(entropy(logits, features, logits).mean()), 4)
            logits, features = predict(judge, trained.synthetic)
            row["judge_agreement"] = round(agreement(logits.numpy(), trained.synthetic.labels), 4)
            row["frechet_distance"] = round(frechet_distance(real.numpy(), features.numpy()), 3)
            table = world.directory.evaluation(trained.arm.name)
            assert table is not None
            row["validation"] = {
                "overall": round(table["overall"]["accuracy"], 2),
                **{shot: round(cell["accuracy"], 2) for shot, cell in table["shots"].items()},
            }
            rows.append(row)
            write_json(results, {"command": command, "rows": rows})
    return results


def _slug(name: str) -> str:
    """As sets are named: "dropout 0.5, guidance 3" -> "dropout-0.5-guidance-3"."""
    return name.replace(",", "").replace(" ", "-")


def _on_validation(classifier: Classifier, dataset: Dataset) -> AccuracyTable:
    return evaluate(classifier, dataset, "val", bootstrap=0)
