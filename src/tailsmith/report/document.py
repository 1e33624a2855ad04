"""The content of a run's report, and its rendering as one HTML file that needs nothing else."""

from __future__ import annotations

from pathlib import Path

from tailsmith.errors import UserError
from tailsmith.report import sections
from tailsmith.report.content import ReportData
from tailsmith.report.feedback_section import samples
from tailsmith.report.gallery import view_gallery
from tailsmith.report.headline import headline, lead
from tailsmith.report.page import render_page, write_page
from tailsmith.report.results import read_arm


def render_report(data: ReportData) -> str:
    """The report as HTML text; ValueError where the data contradict themselves."""
    _check(data)
    arms = {name: read_arm(name, tables) for name, tables in data.arms.items()}
    baseline, best = arms[data.baseline_arm], arms[data.best_arm]
    colours = _arm_colours(data)
    view = {
        "data": data,
        "headline": headline(baseline, best),
        "lead": lead(baseline, best, sections.added_images(data)),
        "tiles": sections.tiles(baseline, best),
        "legend": sections.legend(data, colours),
        "counts": sections.counts(data),
        "accuracy": sections.accuracy(data, arms, colours),
        "remarks": sections.remarks(arms),
        "classes": sections.classes(data, arms, colours),
        "groups": sections.groups(data, arms, colours),
        "confusions": sections.confusions(data, baseline, best),
        "gallery": view_gallery(data.gallery),
        "nearness": sections.nearness(data),
        "samples": samples(data, arms, colours),
        "timings": sections.timings(data),
        "environment": sections.environment(data.environment),
    }
    return render_page("template.html", view)


def write_report(data: ReportData, path: Path | str) -> Path:
    """Render, and write the file whole or not at all."""
    return write_page(path, render_report(data))


def _arm_colours(data: ReportData) -> dict[str, int]:
    """Arm name -> colour number, in the order of the arms: 0 the baseline (grey), 1 the best, then others."""
    fixed = {data.best_arm: 1, data.baseline_arm: 0}  # where they are one, it is the baseline
    others = iter(range(2, len(data.arms) + 2))
    return {name: fixed[name] if name in fixed else next(others) for name in data.arms}


def _check(data: ReportData) -> None:
    for role, name in (("baseline_arm", data.baseline_arm), ("best_arm", data.best_arm)):
        if name not in data.arms:
            known = ", ".join(data.arms) or "none given"
            raise UserError(f"{role}: got {name!r}, expected one of the arms: {known}")
    if not data.dataset.get("counts"):
        raise UserError("dataset: expected 'counts' with the training images of each class, got none")
    unknown = sorted(set(data.target_counts) - set(data.dataset["counts"]))
    if unknown:
        raise UserError(f"target_counts: got classes that dataset['counts'] lacks: {', '.join(unknown[:5])}")
