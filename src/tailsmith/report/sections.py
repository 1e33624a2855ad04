"""What each section of the report shows: numbers and charts, ready for the template."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from tailsmith.report import charts
from tailsmith.report.content import ReportData
from tailsmith.report.gallery import view_gallery
from tailsmith.report.headline import bias_of, measures, signed
from tailsmith.report.results import SHOT_TITLES, Arm, Cell, Difference, difference
from tailsmith.strata import SHOTS, shots

MOST_CLASSES = 30  # charts and tables list so many; of more, the rarest
CROWDED = 12  # charts with more rows show only the baseline and the best arm
GLYPHS = "●◆■▲▼⬟✖★"


@dataclass(frozen=True)
class Tile:
    """One number of the first screen, before and after."""

    title: str
    change: Difference
    gain: str


@dataclass(frozen=True)
class Table:
    """Columns and rows of (name, training images, cells), with the charts that show the same."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, int | None, tuple[Cell, ...]], ...]
    charts: tuple[Markup, ...]
    left_out: int = 0
    crowded: bool = False


def added_images(data: ReportData) -> int:
    counts = data.dataset["counts"]
    return sum(max(target - counts[name], 0) for name, target in data.target_counts.items())


def tiles(baseline: Arm, best: Arm) -> list[Tile]:
    changes = {title: difference(baseline, best, *keys) for title, keys in measures([baseline, best]).items()}
    return [Tile(title, change, signed(change.gain)) for title, change in changes.items()]


def legend(data: ReportData, colours: Mapping[str, int]) -> list[dict[str, Any]]:
    """Name, colour, marker and part of each arm."""
    parts = {data.best_arm: "chosen on validation", data.baseline_arm: "baseline"}
    return [
        {
            "name": name,
            "index": index,
            "colour": index % 8,
            "glyph": GLYPHS[index % 8],
            "part": parts.get(name),
        }
        for name, index in colours.items()
    ]


def counts(data: ReportData) -> dict[str, Any]:
    """The chart of images per class before and after, and totals per shot (shots by the count before)."""
    real, target = _sorted_counts(data), data.target_counts
    shown = dict(list(real.items())[-MOST_CLASSES:])
    after = {name: max(target.get(name, n), n) for name, n in real.items()}
    per_shot = []
    shot_of = dict(zip(real, shots(list(real.values())), strict=True))
    for shot, title in SHOT_TITLES.items():
        names = [name for name in real if shot_of[name] == shot]
        before, total = sum(real[name] for name in names), sum(after[name] for name in names)
        per_shot.append({"title": title, "classes": len(names), "real": before, "synthetic": total - before})
    few_words = f"Training images per class: {sum(real.values()):,} real, {added_images(data):,} synthetic"
    curve = len(real) > MOST_CLASSES and charts.counts_curve(list(real.values()), list(after.values()), few_words)
    return {
        "chart": Markup(charts.counts_chart(shown, after, few_words)),
        "curve": Markup(curve or ""),
        "per_shot": per_shot,
        "classes": len(real),
        "real": sum(real.values()),
        "imbalance": max(real.values()) / min(real.values()) if min(real.values()) else math.inf,
    }


def accuracy(data: ReportData, arms: Mapping[str, Arm], colours: Mapping[str, int]) -> Table:
    """Rows = arms, columns = overall, shots, groups; the chart has them the other way round."""
    columns = measures(list(arms.values()))
    rows = {title: {name: arm.cell(*keys) for name, arm in arms.items()} for title, keys in columns.items()}
    known = {title: cells for title, cells in rows.items() if any(not c.missing for c in cells.values())}
    label = "Accuracy of each arm: " + ", ".join(known)
    drawn = (Markup(charts.intervals_chart(known, colours, label)),) if known else ()
    body = tuple((name, None, tuple(cells[name] for cells in rows.values())) for name in arms)
    return Table(tuple(columns), body, drawn)


def remarks(arms: Mapping[str, Arm]) -> list[str]:
    """What the numbers of every arm leave out, and by how much the worst group of each is biased."""
    columns = measures(list(arms.values()))
    found = []
    for title, keys in columns.items():
        partly = dict.fromkeys(cell.partly for arm in arms.values() if (cell := arm.cell(*keys)).partly)
        found += [f"{title}: {words}." for words in partly]
    for name, arm in arms.items():
        if words := bias_of(arm.cell("worst_group")):
            found.append(f"Worst group of “{name}”: {words[0].lower()}{words[1:]}")
    return found


def classes(data: ReportData, arms: Mapping[str, Arm], colours: Mapping[str, int]) -> Table | None:
    if not any(arm.names("classes") for arm in arms.values()):
        return None
    return _listing(data, arms, colours, "classes", list(_sorted_counts(data).items()))


def groups(data: ReportData, arms: Mapping[str, Arm], colours: Mapping[str, int]) -> Table | None:
    names = list(dict.fromkeys(name for arm in arms.values() for name in arm.names("groups")))
    if not names:
        return None
    known = data.dataset.get("groups") or {}
    order = sorted(names, key=lambda name: -(known.get(name) or 0))
    return _listing(data, arms, colours, "groups", [(name, known.get(name)) for name in order])


def nearness(data: ReportData) -> dict[str, Any] | None:
    """A row per synthetic set, shares in %, and pictures of the most and least real-looking images."""
    if not data.nearness:
        return None
    shares = ("probe_accuracy", "probe_accuracy_features", "judge_agreement", "copies")
    rows = []
    for name, found in data.nearness.items():
        values = {key: math.nan if value is None else value for key, value in found.items()}
        percent = {key: 100 * values.get(key, math.nan) for key in shares}
        rows.append({"name": name, **values, **percent})
    return {
        "rows": rows,
        "features": rows[0]["features"],
        "gallery": view_gallery(data.nearness_pictures),
    }


def confusions(data: ReportData, baseline: Arm, best: Arm) -> list[dict[str, Any]]:
    """Matrices of the baseline and the best arm; with many classes, summed to shots."""
    shown = []
    for part, arm in {"before": baseline, "after": best}.items():
        matrix = arm.confusion()
        names = arm.names("classes") or list(data.dataset["counts"])
        if matrix is None or len(matrix) != len(names) or (part == "after" and best.name == baseline.name):
            continue
        per_shot = len(names) > MOST_CLASSES
        if per_shot:
            matrix, names = _by_shot(matrix, names, data.dataset["counts"])
        chart = charts.confusion_chart(matrix, names, f"Confusion matrix of {arm.name}, {part}")
        shown.append({"arm": arm.name, "part": part, "chart": Markup(chart), "per_shot": per_shot})
    return shown


def timings(data: ReportData) -> list[dict[str, Any]]:
    longest = max(data.timings.values(), default=0.0) or 1.0
    return [
        {"stage": stage, "text": _duration(seconds), "share": 100 * seconds / longest}
        for stage, seconds in data.timings.items()
    ]


def environment(values: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Nested values as titled lists of (name, text); plain values come first, under "Run"."""
    plain = [(name, _text(value)) for name, value in values.items() if not isinstance(value, Mapping)]
    nested = [
        (name, [(str(key), _text(value)) for key, value in inner.items()])
        for name, inner in values.items()
        if isinstance(inner, Mapping)
    ]
    return ([("run", plain)] if plain else []) + nested


def _listing(
    data: ReportData,
    arms: Mapping[str, Arm],
    colours: Mapping[str, int],
    section: str,
    named: Sequence[tuple[str, int | None]],
) -> Table:
    """One row per class or group, most frequent first, of more than MOST_CLASSES the rarest."""
    shown = list(named[-MOST_CLASSES:])
    crowded = len(shown) > CROWDED and len(arms) > 2
    drawn = {n: c for n, c in colours.items() if not crowded or n in (data.baseline_arm, data.best_arm)}
    cells = {name: {arm: arms[arm].cell(section, name) for arm in arms} for name, _ in shown}
    label, span = f"Accuracy per {section} of {', '.join(drawn)}", charts.percent_span(cells)
    halves = [charts.intervals_chart(half, drawn, f"{label}: {', '.join(half)}", span) for half in _halves(cells)]
    rows = tuple((name, count, tuple(cells[name].values())) for name, count in shown)
    return Table(tuple(arms), rows, tuple(map(Markup, halves)), len(named) - len(shown), crowded)


def _halves(rows: Mapping[str, dict[str, Cell]]) -> list[dict[str, dict[str, Cell]]]:
    """Two charts side by side where one would be long: they stack on a phone."""
    items = list(rows.items())
    middle = math.ceil(len(items) / 2) if len(items) >= 6 else len(items)
    return [dict(half) for half in (items[:middle], items[middle:]) if half]


def _sorted_counts(data: ReportData) -> dict[str, int]:
    return dict(sorted(data.dataset["counts"].items(), key=lambda item: -item[1]))


def _by_shot(matrix: np.ndarray, names: Sequence[str], counts: Mapping[str, int]) -> tuple[np.ndarray, list[str]]:
    of_class = shots([counts.get(name, 0) for name in names])
    used = [shot for shot in SHOTS if shot in of_class]
    member = np.array([of_class == shot for shot in used])  # [S, C]
    return member.astype(float) @ matrix @ member.T, [SHOT_TITLES[shot] for shot in used]


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_text(inner)}" for key, inner in value.items())
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
