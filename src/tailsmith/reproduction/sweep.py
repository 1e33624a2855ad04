"""A first sweep of feedback on fashion-lt, on validation: how strong, when, by whom, over how many views."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tailsmith import stages
from tailsmith.classification.prediction import predict_with_features
from tailsmith.config import changed
from tailsmith.data.embedded import load_embedded
from tailsmith.data.images import ImageArray
from tailsmith.files import read_json, write_json
from tailsmith.guidance.criteria import score_of
from tailsmith.metrics.samples import agreement, frechet_distance
from tailsmith.reproduction.fashion import EXPERIMENTS, seeded
from tailsmith.sample_study import load_judge
from tailsmith.synthesis.generators import load_generator

_CONDITIONAL = {"prediction": "conditional"}
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
    "0.02 early": ({"feedback": {"scale": 0.02, "steps": (0, 2, 4, 6)}}, "erm"),
    "0.02 middle": ({"feedback": {"scale": 0.02, "steps": (7, 9, 11, 13)}}, "erm"),
    "0.02 late": ({"feedback": {"scale": 0.02, "steps": (13, 15, 17, 19)}}, "erm"),
    "0.02 balanced": ({"feedback": {"scale": 0.02}}, "balanced_softmax"),
    "0.02 4 views": ({"feedback": {"scale": 0.02, "views": 4}}, "erm"),
    "0.02 reuse": ({"feedback": {"scale": 0.02, "reuse": True}}, "erm"),
    "0.02 forward": ({"feedback": {"scale": 0.02, "through": "denoiser-forward"}}, "erm"),
    "0.02 decoder": ({"feedback": {"scale": 0.02, "through": "decoder"}}, "erm"),
    "conditional": ({"feedback": {"scale": 0.02, **_CONDITIONAL}}, "erm"),
    "conditional forward": ({"feedback": {"scale": 0.02, **_CONDITIONAL, "through": "denoiser-forward"}}, "erm"),
    "conditional decoder": ({"feedback": {"scale": 0.02, **_CONDITIONAL, "through": "decoder"}}, "erm"),
    "conditional but the first": ({"feedback": {"scale": 0.02, **_CONDITIONAL, "steps": (5, 10, 15)}}, "erm"),
}


def sweep(out: Path, results: Path, seed: int = 0, command: str = "", settings: list[str] | None = None) -> Path:
    """Synthesize, look at the samples and retrain for each setting; nothing here sees a test image."""
    config = seeded(EXPERIMENTS["fashion-lt"][""], seed)
    dataset = load_embedded("fashion-lt", seed=seed)
    guides = {
        method: stages.train(dataset, None, replace(config.real, method=method), description=f"train: {method}")
        for method in ("erm", "balanced_softmax")
    }
    pipe, judge = load_generator(), load_judge("label", dataset.class_names)
    assert judge is not None
    validation = dataset.split("val")
    _, real = predict_with_features(judge, ImageArray(validation, judge.image_size))
    rows: list[dict[str, Any]] = read_json(results)["rows"] if results.exists() else []
    for name in settings or list(SETTINGS):
        changes, who = SETTINGS[name]
        if any(row["setting"] == name and row["seed"] == seed for row in rows):
            continue
        synthesis = changed(changed(config.synthesis, {"feedback": {"prediction": "guided"}}), changes)
        plan = stages.plan(dataset, config.target, config=synthesis, classifier=guides[who])
        folder = out / f"seed-{seed}" / name.replace(" ", "-")
        synthetic = stages.synthesize(plan, dataset, folder, classifier=guides[who], pipe=pipe, description=name)
        row: dict[str, Any] = {"setting": name, "seed": seed}
        for method, classifier in guides.items():
            logits, features = predict_with_features(classifier, ImageArray(synthetic, classifier.image_size))
            row[f"entropy_{method}"] = round(float(score_of("entropy")(logits, features, logits).mean()), 4)
        logits, features = predict_with_features(judge, ImageArray(synthetic, judge.image_size))
        row["judge_agreement"] = round(agreement(logits.numpy(), synthetic.labels), 4)
        row["frechet_distance"] = round(frechet_distance(real.numpy(), features.numpy()), 3)
        classifier = stages.train(dataset, synthetic, config.mixed, description=f"train: {name}")
        table = stages.evaluate(classifier, dataset, "val", bootstrap=0)
        row["validation"] = {
            "overall": round(table["overall"]["accuracy"], 2),
            **{shot: round(cell["accuracy"], 2) for shot, cell in table["shots"].items()},
        }
        rows.append(row)
        write_json(results, {"command": command, "rows": rows})
    return results
