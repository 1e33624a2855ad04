"""What the commands print: plain aligned text, from plain dicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from tailsmith.classification.history import selected_score
from tailsmith.generation.fit.config import FitGeneratorConfig
from tailsmith.report.words import bias_words, tested_words
from tailsmith.strata import SHOT_RANGES, SHOTS
from tailsmith.terminal import shown

Cell = Mapping[str, Any]  # of an accuracy table: accuracy, n, low, high

MISSING = "-"
LISTED = 60  # classes or groups of a plan


def aligned(rows: Sequence[Sequence[object]]) -> str:
    """Columns as wide as they need to be: the first to the left, the others to the right."""
    texts = [[shown(str(value)) for value in row] for row in rows]
    widths = [max(len(row[column]) for row in texts) for column in range(len(texts[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in texts]
    return "\n".join(lines)


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def dataset_text(described: Mapping[str, Any]) -> str:
    """Of `data.counts.describe`: splits, shots, a row per class, and a table of groups where there are any."""
    splits = ", ".join(f"{split} {count:,}" for split, count in described["splits"].items())
    shots = [f"{count} {shot} ({SHOT_RANGES[shot]})" for shot, count in described["shots"].items()]
    licence = f" ({described['licence']})" if described["licence"] else ""
    imbalance = described["imbalance_factor"]
    imbalanced = f"imbalance factor {imbalance:.4g}" if math.isfinite(imbalance) else "a class has no training image"
    parts = [
        f"{shown(described['name'])}: {described['images']:,} images{shown(licence)}\n"
        f"{splits}\n"
        f"{len(described['classes'])} classes: {', '.join(shots)}; {imbalanced}",
        _class_table(described),
    ]
    parts += _lacking_text(described)
    if described["groups"]:
        parts.append(_group_table(described))
    if sources := described.get("sources"):  # of a benchmark that was described without its files
        lines = [f"  {what}: {where}" for what, where in sources.items()]
        parts.append("\n".join(["Where to get it (docs/recipes.md):", *lines]))
    return "\n\n".join(parts)


def plan_text(plan: Mapping[str, Any] | None, *, names: bool = True) -> str:
    """What would be made (`names`: for which class or group), and what that takes; None = nothing to add."""
    if plan is None:
        return "Plan: all counts are equal already; give --target N to go above them."
    target = f"{plan['target']:,}" if isinstance(plan["target"], int) else plan["target"]
    named = target if isinstance(target, str) else "of your own"
    made = f"{counted(plan['images'], 'request')} for an image each in {counted(plan['shards'], 'shard')}"
    lines = [f"Plan: target {named} per {plan['per']}, {made}"]
    if names:
        rows = [(f"  {name}", f"+{count:,}") for name, count in plan["to_add"].items() if count]
        lines += [aligned(rows[:LISTED])] if rows else []
        if len(rows) > LISTED:
            lines.append(f"  ... and {len(rows) - LISTED:,} more")
    if plan.get("advice"):
        return "\n".join([*lines, f"Time and disk: unknown. {plan['advice'][0].upper()}{plan['advice'][1:]}"])
    if plan["hours"] is None:
        lines.append(f"Time with {plan['generator']}: unknown; give --seconds-per-image")
    else:
        each = f"{plan['seconds_per_image']:.3g} s per image"
        assumed = f", as {plan['measured']}; give --seconds-per-image for yours" if plan["measured"] else ""
        duration = _duration(plan["hours"], plan["unit"])
        lines.append(f"Time with {plan['generator']}: about {duration} at {each}{assumed}")
    lines.append(f"Disk: about {_bytes(plan['bytes'])}")
    return "\n".join(lines)


def fit_text(config: FitGeneratorConfig, hours: Mapping[str, float]) -> str:
    """Of `fit-generator`, before it begins: what is fitted, and how long each stage takes."""
    stages = ", ".join(f"{name} {_duration(part, 'hours')}" for name, part in hours.items())
    return (
        f"Images of {config.image_size} x {config.image_size} pixels. About {_duration(sum(hours.values()), 'hours')} "
        f"on two idle CPU cores ({stages}), minutes on a GPU; it can be interrupted, and goes on."
    )


def rendered_text(made: Mapping[str, Any]) -> str:
    """Of `synthesis.shards.rendered`: how many images, how fast, and what feedback skipped."""
    return (
        f"{counted(made['images'], 'image')} in {counted(made['shards'], 'shard')}, "
        f"{made['seconds_per_image']:.3g} s per image, {counted(made['skipped_steps'], 'feedback step')} skipped"
    )


def nearness_text(overall: Mapping[str, Any], classes: Mapping[str, Mapping[str, Any]]) -> str:
    """Of `studies.nearness`: the probes, the distances and the copies, then a row per class."""
    percent = {name: _number(100 * value) for name, value in overall.items() if isinstance(value, float)}
    rows: list[Sequence[object]] = [
        ("a probe tells them from real images by simple statistics, %", percent["probe_accuracy"]),
        (f"the same by features ({overall['features']}), %", percent["probe_accuracy_features"]),
        ("a judge sees the class that was asked for, %", percent["judge_agreement"]),
        ("Fréchet distance of these features", f"{overall['frechet_distance']:.4g}"),
        ("kernel distance", f"{overall['kernel_distance']:.4g}"),
        ("precision, %", percent["precision"]),
        ("recall, %", percent["recall"]),
        ("density", f"{overall['density']:.2f}"),
        ("coverage, %", percent["coverage"]),
    ]
    if "copies" in overall:
        near, real = overall["nearest_distance"], overall["nearest_distance_real"]
        rows += [
            ("nearer to a training image than 1 % of these are to each other, %", percent["copies"]),
            ("median distance to the nearest training image (of training images)", f"{near:.3g} ({real:.3g})"),
        ]
    per_class: list[Sequence[object]] = [("class", "synthetic", "real", "judge agrees, %", "density", "coverage, %")]
    for name, row in classes.items():
        agreeing, covered = (_number(100 * row[key]) for key in ("judge_agreement", "coverage"))
        per_class.append(
            (name, f"{row['images']:,}", f"{row['real_images']:,}", agreeing, f"{row['density']:.2f}", covered)
        )
    head = (
        f"{counted(overall['images'], 'synthetic image')}; {overall['compared']:,} compared with as many real ones of "
        "their classes. A probe that can't tell is right in 50 %."
    )
    return "\n\n".join([head, aligned(rows), aligned(per_class)])


def accuracy_text(table: Mapping[str, Any], split: str) -> str:
    """Of `metrics.accuracy.accuracy_table`: overall, shots, worst group, classes, each with n and interval."""
    rows: list[Sequence[object]] = [(f"{split} accuracy in %", "", "95 % interval", "n")]
    rows.append((f"overall{_partly(table['overall'])}", *_cell(table["overall"])))
    if _averages_differ(table):
        rows.append(("average over images", *_cell(table["average"])))
    for shot, cell in table["shots"].items():
        rows.append((f"{shot} ({SHOT_RANGES[shot]}){_partly(cell)}", *_cell(cell)))
    if table["groups"]:
        for shot, cell in table.get("group_shots", {}).items():
            rows.append((f"{shot} groups{_partly(cell)}", *_cell(cell)))
        worst = table["worst_group"]
        rows.append((f"worst group: {worst['group']}{_partly(worst)}", *_cell(worst)))
    rows.append(("", "", "", ""))
    rows += [(name, *_cell(cell)) for name, cell in table["classes"].items()]
    return "\n\n".join([aligned(rows), *_bias(table)])


def best_validation(history: Sequence[Mapping[str, float]]) -> str:
    """The accuracy on validation images that the classifier of a training history was selected for."""
    score = selected_score(history)
    return "none, the data has no validation images" if score is None else f"{score:.1f} %"


def arms_text(arms: Mapping[str, Mapping[str, Any] | Sequence[Mapping[str, Any]]]) -> str:
    """A row per arm of a run: overall, shots, and the worst group where there are groups.

    An arm given as a table per training seed shows their mean, standard deviation and standard error.
    """
    seeds = {arm: [table] if isinstance(table, Mapping) else table for arm, table in arms.items()}
    tables = [table for each in seeds.values() for table in each]
    averaged = any(map(_averages_differ, tables))
    grouped = any(table["groups"] for table in tables)
    columns: dict[str, tuple[str, ...]] = {"overall": ("overall",)}
    columns |= {"average over images": ("average",)} if averaged else {}
    columns |= {shot: ("shots", shot) for shot in SHOTS}
    columns |= {"worst group": ("worst_group",)} if grouped else {}
    rows: list[Sequence[object]] = [["test accuracy in %", *columns]]
    for arm, each in seeds.items():
        rows.append([arm, *(_over_seeds([_at(table, keys) for table in each]) for keys in columns.values())])
    cells = {title: [_at(table, keys) for table in tables] for title, keys in columns.items()}
    partly = {title: dict.fromkeys(map(_tested, row)) for title, row in cells.items()}
    remarks = {f"{title}: {words}": None for title, several in partly.items() for words in several if words}
    if any(len(each) > 1 for each in seeds.values()):
        remarks["mean ± standard deviation over training seeds (standard error of the mean)"] = None
    return "\n".join([aligned(rows), *remarks])


def _lacking_text(described: Mapping[str, Any]) -> list[str]:
    """In words, for no number shows it: classes that no test image, or no validation image, speaks for."""
    advice = {
        "untested": (
            "test",
            "Their accuracy can't be measured: they count neither in the mean of their shot nor overall. Add real test "
            "images of them (a folder test/, or a row with split test)",
        ),
        "unvalidated": (
            "validation",
            "The classifier is selected without them. Add real validation images of them (a folder val/, or a row with "
            "split val)",
        ),
    }
    return [
        f"Classes without a {split} image ({len(described[key])} of {len(described['classes'])}): "
        f"{_first(described[key])}. {said}."
        for key, (split, said) in advice.items()
        if described[key]
    ]


def _first(names: Sequence[str], most: int = 10) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(shown, names[:most])) + more


def _class_table(described: Mapping[str, Any]) -> str:
    to_add = described["plan"]["to_add"] if described.get("plan", {}).get("per") == "class" else None
    added = ["to add"] if to_add else []
    rows: list[Sequence[object]] = [("class", "shot", "train", "val", "test", *added)]
    for name, row in described["classes"].items():
        extra = [f"+{to_add[name]:,}" if to_add[name] else ""] if to_add else []
        counts = ("-" if row[split] is None else f"{row[split]:,}" for split in ("train", "val", "test"))
        rows.append((name, row["shot"], *counts, *extra))
    return aligned(rows)


def _group_table(described: Mapping[str, Any]) -> str:
    """Training images per class and attribute, with what a plan per group adds, and the names of empty groups."""
    attributes, empty = described["attributes"], described["empty_groups"]
    plan = described.get("plan", {})
    to_add = plan["to_add"] if plan.get("per") == "group" else {}
    rows: list[Sequence[object]] = [("train images" + (" + to add" if to_add else ""), *attributes)]
    for name in described["classes"]:
        groups = [f"{name} in {attribute}" for attribute in attributes]
        counts = [(described["groups"][group]["train"], to_add.get(group, 0)) for group in groups]
        rows.append((name, *(f"{count:,}" + (f" + {more:,}" if more else "") for count, more in counts)))
    text = f"{aligned(rows)}\n\nGroups without a training image ({len(empty)}): {_first(empty, len(empty)) or 'none'}"
    untested = described["untested_groups"]
    if untested:
        text += (
            f"\nGroups with training images and without a test image ({len(untested)}): {_first(untested)}; the worst "
            "group is sought without them"
        )
    return text


def _at(table: Mapping[str, Any], keys: Sequence[str]) -> Cell:
    cell: Any = table
    for key in keys:
        cell = cell.get(key, {})
    return cell  # type: ignore[no-any-return]


def _over_seeds(cells: Sequence[Cell]) -> str:
    known = [value for cell in cells if (value := cell.get("accuracy")) is not None and not math.isnan(value)]
    if len(known) < 2:
        return _number(known[0] if known else None)
    deviation = stdev(known)
    return f"{fmean(known):.1f} ± {deviation:.1f} ({deviation / math.sqrt(len(known)):.1f})"


def _averages_differ(table: Mapping[str, Any]) -> bool:
    """Means over classes and over images, in print; a table of an earlier version has no such average."""
    return _number(table["overall"]["accuracy"]) != _number(table.get("average", table["overall"])["accuracy"])


def _partly(cell: Cell) -> str:
    words = _tested(cell)
    return f", {words}" if words else ""


def _tested(cell: Cell) -> str:
    kind = "classes" if "classes" in cell else "groups"
    return tested_words(cell.get(kind, 0), cell.get("of", 0), kind)


def _bias(table: Mapping[str, Any]) -> list[str]:
    """What the lowest of many accuracies is off by, where it shows."""
    worst = table["worst_group"]
    words = bias_words(worst.get("bias"), worst.get("groups", 0))
    return [f"{words}; its interval allows for that."] if words else []


def _cell(cell: Cell) -> tuple[str, str, str]:
    interval = f"{_number(cell['low'])} .. {_number(cell['high'])}"
    return _number(cell["accuracy"]), interval, f"{cell['n']:,}"


def _number(value: float | None) -> str:
    """One decimal; None and NaN, which JSON stores as null, mean that there was nothing to average."""
    return MISSING if value is None or math.isnan(value) else f"{value:.1f}"


def _duration(hours: float, unit: str) -> str:
    if hours < 1 / 60:
        return counted(max(round(hours * 3600), 1), "second")
    return counted(round(hours * 60), "minute") if hours < 2 else f"{hours:,.1f} {unit}"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
