"""What the run bought, in one line and a short paragraph that doesn't flatter."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tailsmith.report.results import GROUP_SHOT_TITLES, SHOT_TITLES, Arm, Cell, Difference, difference
from tailsmith.report.words import bias_words

# What a run is for, most telling first: the first that both arms have makes the headline.
GOALS = {
    "few-shot accuracy": ("shots", "few"),
    "worst-group accuracy": ("worst_group",),
    "overall accuracy": ("overall",),
}
TELLING = 3.0  # points: with an interval that reaches further to either side, an effect of the usual size goes unseen
SCOPES = {"few-shot accuracy": " of the few-shot classes", "worst-group accuracy": " of the worst group"}


def measures(arms: Sequence[Arm]) -> dict[str, tuple[str, ...]]:
    """Column title -> keys into an accuracy table; group columns only where some arm has groups.

    The mean over images, as group benchmarks have it, stands beside that over classes where they differ in print.
    """
    found: dict[str, tuple[str, ...]] = {"Overall": ("overall",)}
    if any(averages_differ(arm.cell("overall"), arm.cell("average")) for arm in arms):
        found["Average over images"] = ("average",)
    found |= {title: ("shots", shot) for shot, title in SHOT_TITLES.items()}
    if any(arm.names("groups") for arm in arms):
        used = {name for arm in arms for name in arm.names("group_shots")}
        found |= {title: ("group_shots", shot) for shot, title in GROUP_SHOT_TITLES.items() if shot in used}
        found["Worst group"] = ("worst_group",)
    return found


def averages_differ(overall: Cell, average: Cell) -> bool:
    """Means over classes and over images, to the decimal that is shown; False where one is missing."""
    return not (overall.missing or average.missing) and abs(overall.accuracy - average.accuracy) >= 0.05


def headline(baseline: Arm, best: Arm) -> str:
    """E.g. "Few-shot accuracy 41.2 → 58.9 (+17.7), overall ..."; says so first when nothing was gained."""
    goal, change = goal_of(baseline, best)
    if math.isnan(change.gain):
        return "No test images: nothing can be said about accuracy"
    if baseline.name == best.name:
        return f"{goal.capitalize()} {change.before.accuracy:.1f}, and no arm that improves on it"
    figures, total = f"{goal} {_arrow(change)}", difference(baseline, best, "overall")
    if goal != "overall accuracy":
        figures += f", overall {_arrow(total)}"
    if change.verdict == "gain":
        cost = ": overall it got worse" if total.verdict == "loss" else ""
        return figures[0].upper() + figures[1:] + cost
    if change.verdict == "loss":
        return f"It got worse: {figures}"
    if total.verdict == "loss":
        return f"It got worse overall: {figures}"
    return f"{'No clear gain' if change.gain > 0 else 'Nothing gained'}: {figures}"


def lead(baseline: Arm, best: Arm, added: int) -> list[str]:
    """Sentences under the headline: which arms, on how many images, how sure, overall, and what it cost."""
    goal, change = goal_of(baseline, best)
    if math.isnan(change.gain):
        return ["Give the run a test split with images of the rare classes to measure what it bought."]
    if baseline.name == best.name:
        return [_alone(baseline, change.before)]
    images = f", which also trained on {added:,} synthetic images," if added else ""
    partly = f" ({change.after.partly})" if change.after.partly else ""
    on = f"on {change.after.n:,} real test images{SCOPES.get(goal, '')}{partly}"
    sentences = [f"“{best.name}”{images} against “{baseline.name}”, {on}.", _how_sure(goal, change)]
    if downwards := bias_of(change.after):
        sentences.append(downwards)
    if goal != "overall accuracy":
        total = difference(baseline, best, "overall")
        figures = f"{signed(total.gain)} ({interval_of(total)})"
        sentences.append(f"Overall, on {total.after.n:,} images: {figures}.")
    return sentences + _costs(baseline, best, besides=GOALS[goal])


def goal_of(baseline: Arm, best: Arm) -> tuple[str, Difference]:
    """The headline's measure: the first of GOALS that both arms have, else overall accuracy, missing."""
    changes = {goal: difference(baseline, best, *keys) for goal, keys in GOALS.items()}
    known = [(goal, change) for goal, change in changes.items() if not math.isnan(change.gain)]
    return known[0] if known else ("overall accuracy", changes["overall accuracy"])


def feedback_verdict(goal: str, name: str, reference: str, change: Difference) -> str:
    """One sentence on feedback against the same pipeline unguided."""
    figures = f"{goal} {signed(change.gain)} points (95 % interval {interval_of(change)})"
    narrow = (change.high - change.low) / 2 <= TELLING
    words = {
        "gain": "feedback helped",
        "loss": "feedback hurt",
        "unclear": "no measurable effect of feedback" if narrow else "too few test images or seeds to tell",
    }
    return f"“{name}” against “{reference}”: {words[change.verdict]}, {figures}."


def bias_of(cell: Cell) -> str:
    """What a minimum over few images is off by, in a sentence; empty where it's nothing, or unknown."""
    words = bias_words(cell.bias, cell.tested)
    allowed = "; its 95 % interval allows for that" if cell.seeds == 1 else ""
    return f"{words}{allowed}." if words else ""


def signed(value: float) -> str:
    """+1.2, −1.2 (with a true minus sign), ±0.0."""
    if math.isnan(value):
        return "–"
    return f"{value:+.1f}".replace("-", "−") if abs(value) >= 0.05 else "±0.0"


def interval_of(change: Difference) -> str:
    return "unknown width" if math.isnan(change.low) else f"{signed(change.low)} to {signed(change.high)}"


def _arrow(change: Difference) -> str:
    return f"{change.before.accuracy:.1f} → {change.after.accuracy:.1f} ({signed(change.gain)})"


def _alone(arm: Arm, cell: Cell) -> str:
    spread = "95 % interval" if cell.seeds == 1 else f"mean ± std over {cell.seeds} seeds"
    partly = f"; {cell.partly}" if cell.partly else ""
    return f"“{arm.name}”, on {cell.n:,} test images ({spread}: {cell.low:.1f} to {cell.high:.1f}{partly})."


def _how_sure(goal: str, change: Difference) -> str:
    if math.isnan(change.low):
        return f"No interval is known for the difference in {goal}."
    sure = f"The difference in {goal} has a 95 % interval of {interval_of(change)} points ({change.basis})"
    return sure + ("; it includes zero: chance alone could explain it." if change.verdict == "unclear" else ".")


def _costs(baseline: Arm, best: Arm, besides: tuple[str, ...]) -> list[str]:
    """What fell, other than overall accuracy and the headline's measure, which are said already."""
    others = {t: keys for t, keys in measures([baseline, best]).items() if keys not in (besides, ("overall",))}
    gains = {title: difference(baseline, best, *keys).gain for title, keys in others.items()}
    fell = [f"{title} {signed(gain)}" for title, gain in gains.items() if gain <= -0.05]
    return [f"What it cost: {', '.join(fell)}."] if fell else []
