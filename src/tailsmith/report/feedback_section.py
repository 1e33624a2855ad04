"""The section that asks whether feedback itself helps: samples under two classifiers, per feedback scale."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from tailsmith.report import charts
from tailsmith.report.content import ReportData
from tailsmith.report.headline import feedback_verdict, goal_of, signed
from tailsmith.report.results import Arm, Difference

EYES = {"guiding": "the guiding classifier", "independent": "an independent classifier"}


def samples(data: ReportData, arms: Mapping[str, Arm], colours: Mapping[str, int]) -> dict[str, Any] | None:
    """Table and charts of the samples, and a verdict on each feedback arm against its unguided reference."""
    if not data.samples:
        return None
    untrained = [name for name in data.samples if name not in colours]
    own = {**colours, **{name: len(colours) + index for index, name in enumerate(untrained)}}
    reference = _reference(data)
    effects = _effects(data, arms, reference)
    return {
        "rows": [
            {**row, "kind": "what the arm was trained on" if name in arms else "a few, for comparison"}
            for name, entry in data.samples.items()
            for row in _rows(name, entry, effects.get(name))
        ],
        "verdicts": [feedback_verdict(goal, name, other, c) for name, (goal, other, c) in effects.items()],
        "goal": next((goal for goal, _, _ in effects.values()), "accuracy"),
        "histograms": _histograms(data, own),
        "scales": _scale_charts(data, reference),
        "skipped": {name: kept for name, entry in data.samples.items() if (kept := _skipped(entry))},
    }


def _skipped(entry: Mapping[str, Any]) -> dict[str, int]:
    """Reason -> steps, of those that happened."""
    return {reason: steps for reason, steps in (entry.get("skipped") or {}).items() if steps}


def _effects(
    data: ReportData, arms: Mapping[str, Arm], reference: str | None
) -> dict[str, tuple[str, str, Difference]]:
    """Feedback arm -> (measure, unguided reference, difference), where both were trained and tested."""
    found = {}
    for name, entry in data.samples.items():
        unguided = str(entry.get("reference") or reference)
        if _value(entry, "feedback_scale") > 0 and name in arms and unguided in arms:
            goal, change = goal_of(arms[unguided], arms[name])
            if not math.isnan(change.gain):
                found[name] = (goal, unguided, change)
    return found


def _reference(data: ReportData) -> str | None:
    """What feedback is compared with: the last unguided entry, as conditioning grows down the list."""
    unguided = [name for name, entry in data.samples.items() if _value(entry, "feedback_scale") == 0]
    return unguided[-1] if unguided else None


def _rows(name: str, entry: Mapping[str, Any], effect: tuple[str, str, Difference] | None) -> list[dict[str, Any]]:
    """A row per criterion; what doesn't depend on it stands in the first."""
    criteria = entry.get("criteria") or {"": {}}
    return [
        {
            "name": name,
            "first": number == 0,
            "scale": _value(entry, "feedback_scale"),
            "agreement": 100 * _value(entry, "judge_agreement"),
            **{key: _value(entry, key) for key in ("frechet_distance", "kernel_distance", "density", "coverage")},
            "criterion": criterion,
            **{who: _mean(entry, criterion, who) for who in EYES},
            "gain": signed(effect[2].gain) if effect else "",
        }
        for number, criterion in enumerate(criteria)
    ]


def _criteria(data: ReportData) -> list[str]:
    return list(dict.fromkeys(name for entry in data.samples.values() for name in entry.get("criteria") or {}))


def _histograms(data: ReportData, colours: Mapping[str, int]) -> list[dict[str, Any]]:
    """Per criterion a chart for each who looks, on one axis: criteria have units of their own."""
    found = []
    for criterion in _criteria(data):
        values = {who: {n: _finite(entry, criterion, who) for n, entry in data.samples.items()} for who in EYES}
        everything = np.concatenate([sample for per_arm in values.values() for sample in per_arm.values()])
        if everything.size == 0:
            continue
        low, high = (float(end) for end in np.quantile(everything, (0.002, 0.998)))
        span = (low, high if high > low else low + 1.0)
        for who, title in EYES.items():
            per_arm = {name: sample for name, sample in values[who].items() if sample.size}
            if per_arm:
                words = f"{criterion[:1].upper()}{criterion[1:]} under {title}"
                chart = charts.ridges_chart(per_arm, colours, span, f"{words}, per arm")
                found.append({"title": words, "chart": Markup(chart)})
    return found


def _scale_charts(data: ReportData, reference: str | None) -> list[dict[str, Any]]:
    """How samples change with the feedback scale; only where two scales or more were tried."""
    entries = [e for name, e in data.samples.items() if name == reference or _value(e, "feedback_scale") > 0]
    entries.sort(key=lambda entry: _value(entry, "feedback_scale"))
    scales = [_value(entry, "feedback_scale") for entry in entries]
    if len(set(scales)) < 2:
        return []
    panels = {
        "Judge agreement, %": {"judge": [100 * _value(entry, "judge_agreement") for entry in entries]},
        "Fréchet distance to real images": {"distance": [_value(e, "frechet_distance") for e in entries]},
        "Density and coverage of real images": {
            key: [_value(entry, key) for entry in entries] for key in ("density", "coverage")
        },
    }
    for criterion in _criteria(data):
        panels[f"Mean {criterion}"] = {
            title.split(" ", 1)[1]: [_mean(entry, criterion, who) for entry in entries] for who, title in EYES.items()
        }
    drawn = {title: s for title, s in panels.items() if np.isfinite(list(s.values())).any()}
    drawings = {title: charts.scale_chart(scales, s, f"{title} by feedback scale") for title, s in drawn.items()}
    return [{"title": title, "chart": Markup(drawing)} for title, drawing in drawings.items()]


def _value(entry: Mapping[str, Any], key: str) -> float:
    value = entry.get(key)
    return math.nan if value is None else float(value)


def _finite(entry: Mapping[str, Any], criterion: str, who: str) -> np.ndarray:
    given = (entry.get("criteria") or {}).get(criterion, {}).get(who)
    values = np.array([math.nan if v is None else v for v in (() if given is None else given)], np.float64)
    finite: np.ndarray = values[np.isfinite(values)]
    return finite


def _mean(entry: Mapping[str, Any], criterion: str, who: str) -> float:
    values = _finite(entry, criterion, who)
    return float(values.mean()) if values.size else math.nan
