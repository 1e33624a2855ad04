"""The section that asks whether feedback itself helps: samples under two classifiers, per feedback scale."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from tailsmith.report import charts
from tailsmith.report.headline import feedback_verdict, goal_of, signed
from tailsmith.report.results import Arm, Difference

if TYPE_CHECKING:
    from tailsmith.report.document import ReportData


def samples(data: ReportData, arms: Mapping[str, Arm], colours: Mapping[str, int]) -> dict[str, Any] | None:
    """Table and charts of the samples, and a verdict on each feedback arm against its unguided reference."""
    if not data.samples:
        return None
    untrained = [name for name in data.samples if name not in colours]
    own = {**colours, **{name: len(colours) + index for index, name in enumerate(untrained)}}
    reference = _reference(data)
    effects = _effects(data, arms, reference)
    return {
        "rows": [_row(name, entry, effects.get(name)) for name, entry in data.samples.items()],
        "verdicts": [feedback_verdict(goal, name, other, c) for name, (goal, other, c) in effects.items()],
        "goal": next((goal for goal, _, _ in effects.values()), "accuracy"),
        "histograms": _histograms(data, own),
        "scales": _scale_charts(data, reference),
        "skipped": {name: entry["skipped"] for name, entry in data.samples.items() if entry.get("skipped")},
    }


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


def _row(name: str, entry: Mapping[str, Any], effect: tuple[str, str, Difference] | None) -> dict[str, Any]:
    return {
        "name": name,
        "scale": _value(entry, "feedback_scale"),
        "agreement": 100 * _value(entry, "judge_agreement"),
        "frechet": _value(entry, "frechet_distance"),
        "guiding": _mean(entry, "criterion"),
        "independent": _mean(entry, "criterion_independent"),
        "gain": signed(effect[2].gain) if effect else "",
    }


def _histograms(data: ReportData, colours: Mapping[str, int]) -> list[dict[str, Any]]:
    titles = {"criterion": "the guiding classifier", "criterion_independent": "an independent classifier"}
    values = {key: {name: _finite(entry, key) for name, entry in data.samples.items()} for key in titles}
    everything = np.concatenate([sample for per_arm in values.values() for sample in per_arm.values()])
    if everything.size == 0:
        return []
    low, high = (float(end) for end in np.quantile(everything, (0.002, 0.998)))
    span = (low, high if high > low else low + 1.0)
    found = []
    for key, title in titles.items():
        per_arm = {name: sample for name, sample in values[key].items() if sample.size}
        if per_arm:
            label = f"{data.criterion_name} under {title}, per arm"
            chart = charts.ridges_chart(per_arm, colours, span, label)
            found.append({"title": title, "chart": Markup(chart)})
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
        f"Mean {data.criterion_name}": {
            "guiding classifier": [_mean(entry, "criterion") for entry in entries],
            "independent": [_mean(entry, "criterion_independent") for entry in entries],
        },
    }
    drawn = {title: s for title, s in panels.items() if np.isfinite(list(s.values())).any()}
    drawings = {title: charts.scale_chart(scales, s, f"{title} by feedback scale") for title, s in drawn.items()}
    return [{"title": title, "chart": Markup(drawing)} for title, drawing in drawings.items()]


def _value(entry: Mapping[str, Any], key: str) -> float:
    value = entry.get(key)
    return math.nan if value is None else float(value)


def _finite(entry: Mapping[str, Any], key: str) -> np.ndarray:
    given = entry.get(key)
    values = np.array([math.nan if v is None else v for v in (() if given is None else given)], np.float64)
    finite: np.ndarray = values[np.isfinite(values)]
    return finite


def _mean(entry: Mapping[str, Any], key: str) -> float:
    values = _finite(entry, key)
    return float(values.mean()) if values.size else math.nan
