"""What a run's report says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tailsmith.report.gallery import GalleryRow


@dataclass(frozen=True)
class ReportData:
    """Everything a report says.

    `dataset`: {"name", "counts": {class: training images}} and, where known, "groups": {group: training
    images} and "licence". `target_counts`: class -> images after synthesis; absent classes got none.
    `arms`: name -> accuracy table, or one table per seed. `gallery`: rarest class first.
    `samples`: name -> {"criteria": {criterion: {"guiding": [..], "independent": [..]}}, "judge_agreement": 0..1,
    "frechet_distance", "kernel_distance", "density", "coverage", "feedback_scale", "skipped": {reason: steps},
    "reference": the unguided arm to compare with (else the last unguided one)}, each key optional; names that are also
    arms get a verdict.
    `nearness`: synthetic set -> what `studies.nearness` found of it, and `nearness_pictures` its most and least
    real-looking images.
    `environment`: name -> value or {name: value}: versions, hashes, licences, seeds, machine.
    `timings`: stage -> seconds.
    """

    title: str
    command: str
    created: str
    dataset: Mapping[str, Any]
    target_counts: Mapping[str, int]
    arms: Mapping[str, Mapping[str, Any] | Sequence[Mapping[str, Any]]]
    baseline_arm: str
    best_arm: str
    gallery: Sequence[GalleryRow] = ()
    samples: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    nearness: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    nearness_pictures: Sequence[GalleryRow] = ()
    config_yaml: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()
