"""A finished run directory -> the content of its report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tailsmith.classification.history import selected_score
from tailsmith.data.dataset import Dataset
from tailsmith.files import read_json, write_json
from tailsmith.metrics.accuracy import AccuracyTable
from tailsmith.report.content import ReportData
from tailsmith.report.document import write_report
from tailsmith.report.gallery import GalleryRow
from tailsmith.report.headline import headline, lead
from tailsmith.report.results import read_arm
from tailsmith.runs.arms import Arm, arm_of
from tailsmith.runs.config import RunConfig, arms_of, sets_of
from tailsmith.runs.directory import RunDirectory
from tailsmith.runs.kept_data import SHOWN, KeptData, kept_data
from tailsmith.runs.search import seed_tables
from tailsmith.runs.studied import study_folder, study_settings
from tailsmith.synthesis.sets import SyntheticSet

NEARNESS = "nearness.json"  # of every synthetic set, in a run's folder


def write_run_report(directory: RunDirectory, config: RunConfig, study: dict[str, dict[str, Any]]) -> Path:
    """Write report.html, and evaluation.json with every arm's accuracies, from what lies in the run directory."""
    kept = kept_data(directory)
    arms = arm_tables(directory, config)
    write_json(directory.path / "evaluation.json", {"arms": arms, "samples": study})
    baseline, best = _baseline(config), _best(directory, config)
    command, near = directory.command(), _nearness(directory)
    data = ReportData(
        title=f"{kept.name or config.data}: what synthetic images bought",
        command=command["command"],
        created=command["created"],
        dataset=_dataset(kept),
        target_counts=_trained_counts(directory, kept, arm_of(best, config.sets)),
        arms=arms,
        baseline_arm=baseline,
        best_arm=best,
        gallery=_gallery(directory, config, kept),
        samples={**_trained(directory, config, study), **study},
        nearness={name: found["overall"] for name, found in near.items()},
        nearness_pictures=_ends(directory, near, kept.without_images()),
        config_yaml=directory.config_text(),
        environment=read_json(directory.path / "environment.json"),
        timings=directory.timings(),
        notes=_notes(config, kept.name, best),
    )
    return write_report(data, directory.path / "report.html")


def verdict(directory: RunDirectory, config: RunConfig) -> str:
    """The report's headline, and how sure it is, as two lines."""
    tables = arm_tables(directory, config)
    baseline, best = (read_arm(name, tables[name]) for name in (_baseline(config), _best(directory, config)))
    return "\n".join([headline(baseline, best), " ".join(lead(baseline, best, 0))])


def arm_tables(directory: RunDirectory, config: RunConfig) -> dict[str, AccuracyTable | list[AccuracyTable]]:
    """Arm -> its accuracy table; with a search, those of its training seeds, of which the chosen trial is none."""
    single = {arm: directory.evaluation(arm) or AccuracyTable() for arm in config.arms}
    tables: dict[str, AccuracyTable | list[AccuracyTable]] = {**single}
    if config.search is not None:
        tables |= {arm: seed_tables(config.search, directory.arm(arm) / "search") or tables[arm] for arm in tables}
    return tables


def _baseline(config: RunConfig) -> str:
    return "balanced_softmax" if "balanced_softmax" in config.arms else "erm"


def _best(directory: RunDirectory, config: RunConfig) -> str:
    """The arm with synthetic images that is best on *validation*; the real-only baseline where there is none."""
    scores = {arm.name: _validation(directory, arm.name) for arm in arms_of(config) if arm.set is not None}
    return max(scores, key=lambda arm: scores[arm]) if scores else _baseline(config)


def _validation(directory: RunDirectory, arm: str) -> float:
    return selected_score(read_json(directory.arm(arm) / "history.json")) or 0.0


def _dataset(kept: KeptData) -> dict[str, Any]:
    described = {"name": kept.name, "licence": kept.described["licence"], "counts": kept.counts}
    return {**described, "groups": kept.group_counts} if kept.group_counts else described


def _trained_counts(directory: RunDirectory, kept: KeptData, arm: Arm) -> dict[str, int]:
    """Class -> images that the arm was trained on, by the shards of its set; empty for an arm of real images."""
    if arm.set is None:
        return {}
    rendered = directory.synthetic_set(arm.set).results()
    labels = rendered["label"].to_numpy()[~rendered["black"].to_numpy(dtype=bool)]  # black ones were left out
    added = np.bincount(labels, minlength=len(kept.counts)).tolist()
    return {name: count + more for (name, count), more in zip(kept.counts.items(), added, strict=True)}


def _gallery(directory: RunDirectory, config: RunConfig, kept: KeptData) -> list[GalleryRow]:
    """Rarest first; real | each conditioning alone | with the studied feedback scale nearest to the run's own."""
    columns, like = _columns(config), kept.without_images()
    samples = {title: _samples(directory, name, like) for title, name in columns.items()}
    counts = list((kept.counts if config.per == "class" else kept.group_counts).items())
    rows = []
    for index in kept.rarest(config.per).tolist():
        width = len(like.attribute_names) if config.per == "group" else 1
        label, attribute = index // width, index % width if config.per == "group" else None
        images: dict[str, list[Image.Image]] = {"real": kept.pictures(index)}
        for title, rendered in samples.items():
            images[title] = _pick(rendered, label, attribute)
        name, count = counts[index]
        rows.append(GalleryRow(name, images, count))
    return rows


def _nearness(directory: RunDirectory) -> Mapping[str, Mapping[str, Any]]:
    """Set -> what was found; empty for a run of an earlier version."""
    path = directory.path / NEARNESS
    return dict(read_json(path)) if path.exists() else {}


def _ends(directory: RunDirectory, near: Mapping[str, Mapping[str, Any]], like: Dataset) -> list[GalleryRow]:
    """The most and the least real-looking images of each set."""
    rows = []
    for name, found in near.items():
        images = directory.synthetic_set(name).images(like)
        ends = {"most real-looking": found["most_real"], "least real-looking": found["least_real"]}
        pictures = {title: [images.image(row) for row in chosen] for title, chosen in ends.items()}
        rows.append(GalleryRow(name, pictures, None))
    return rows


def _columns(config: RunConfig) -> dict[str, str]:
    """Column title -> study setting."""
    named = study_settings(config)
    guided = [name for name, varied in named.items() if varied.feedback.scale > 0]
    nearest = min(
        guided,
        key=lambda name: abs(named[name].feedback.scale - config.synthesis.feedback.scale),
        default=None,
    )
    columns = {name: name for name, varied in named.items() if varied.feedback.scale == 0}
    if nearest:
        columns[f"with {nearest}"] = nearest
    return columns


def _samples(directory: RunDirectory, name: str, like: Dataset) -> Dataset:
    return SyntheticSet(name, study_folder(directory, name)).images(like)


def _pick(dataset: Dataset, label: int, attribute: int | None) -> list[Image.Image]:
    chosen = dataset.labels == label
    if attribute is not None:
        chosen &= dataset.attributes == attribute
    return [dataset.image(int(row)) for row in np.flatnonzero(chosen)[:SHOWN]]


def _trained(directory: RunDirectory, config: RunConfig, study: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What each arm trained on, every request by the criterion that it followed; arms get a verdict."""
    settings_of = sets_of(config)
    made: dict[str, dict[str, Any]] = {}
    for name, synthesis in settings_of.items():
        results = directory.synthetic_set(name).results()
        made[name] = {
            "criteria": {
                str(criterion): {"guiding": values.tolist()}
                for criterion, values in results.groupby("criterion")["criterion_value"]
            },
            "feedback_scale": float(synthesis.feedback.scale),
            "skipped": {"feedback steps left unguided": int(results["skipped_steps"].sum())},
        }
    found: dict[str, dict[str, Any]] = {}
    for arm in arms_of(config):
        if arm.set is None:
            continue
        found[arm.name] = dict(made[arm.set])
        if settings_of[arm.set].feedback.scale > 0 and "image_text" in config.arms:
            found[arm.name]["reference"] = "image_text"
    return found


def _notes(config: RunConfig, name: str, best: str) -> list[str]:
    notes = [
        f"Selection (which step, and that {best} is shown as best) used validation images only; every number here is "
        "on real test images that nothing was selected on."
    ]
    if config.search is not None:
        notes.append(
            f"Of {config.search.trials} random settings of each arm, validation chose one. The numbers are of "
            f"{config.search.seeds} classifiers trained anew with it; the chosen trial is none of them."
        )
    if name in ("fashion-lt", "fashion-groups"):
        notes.append(
            "This is the embedded world: the generator saw other photographs of the same ten garments, none of the "
            "task's own. It shows the method and its ordering, not the paper's absolute numbers."
        )
    return notes
