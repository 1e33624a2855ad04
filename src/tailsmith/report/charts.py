"""The report's charts: each takes plain numbers and returns one inline <svg>."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from tailsmith.report.results import Cell
from tailsmith.report.svg import ARM_COLOURS, COLOURS, FONT_SIZE, new_figure, set_rows, to_svg

WIDTH = 460  # narrow on purpose: readable on a phone, and two fit side by side on a desk
MARKERS = "oDs^vPX*"


def counts_chart(real: Mapping[str, int], target: Mapping[str, int], label: str) -> str:
    """Stacked bars, one row per name: real images, and synthetic ones up to the target."""
    names = list(real)
    before = np.array([real[name] for name in names], float)
    added = np.maximum([target.get(name, real[name]) for name in names] - before, 0)
    figure, axes = new_figure(WIDTH, 34 + 21 * len(names))
    rows = np.arange(len(names))
    axes.barh(rows, before, height=0.68, color=COLOURS["real"])
    axes.barh(rows, added, left=before, height=0.68, color=COLOURS["synthetic"])
    limit = max(float((before + added).max()), 1.0)
    for row, (n, extra) in enumerate(zip(before, added, strict=True)):
        text = f"{n:,.0f}" + (f" + {extra:,.0f}" if extra else "")
        axes.text(n + extra + limit * 0.015, row, text, va="center", fontsize=FONT_SIZE - 1, color=COLOURS["soft"])
    set_rows(axes, names)
    axes.set_xlim(0, limit * 1.2)
    axes.set_xticks([])
    return to_svg(figure, label)


def counts_curve(real: Sequence[int], target: Sequence[int], label: str) -> str:
    """Images per class over the rank of the class, most frequent first: what many classes look like."""
    order = np.argsort(real)[::-1]
    before, after = np.asarray(real, float)[order], np.asarray(target, float)[order]
    rank = np.arange(1, len(before) + 1)
    figure, axes = new_figure(WIDTH, 250)
    axes.fill_between(rank, before, np.maximum(after, before), color=COLOURS["synthetic"], lw=0, step="mid")
    axes.fill_between(rank, 0, before, color=COLOURS["real"], lw=0, step="mid")
    axes.set_xlim(1, max(len(rank), 2))
    axes.set_ylim(0, None)
    axes.set_xlabel("classes, most frequent first", fontsize=FONT_SIZE, color=COLOURS["soft"])
    axes.set_ylabel("training images", fontsize=FONT_SIZE, color=COLOURS["soft"])
    axes.grid(axis="y", color=COLOURS["line"], lw=0.7)
    return to_svg(figure, label)


def intervals_chart(rows: Mapping[str, Mapping[str, Cell]], arms: Sequence[str], label: str) -> str:
    """Dots with whiskers: rows = what was measured, one dot per arm; missing cells leave their place empty.

    `arms` fixes colour, marker and place of each arm, the first being the baseline.
    """
    step = min(0.8 / max(len(arms), 1), 0.24)
    figure, axes = new_figure(WIDTH, 40 + len(rows) * max(24, 11 * len(arms)))
    axes.grid(axis="x", color=COLOURS["line"], lw=0.7)
    for row in range(0, len(rows), 2):
        axes.axhspan(row - 0.5, row + 0.5, color=COLOURS["line"], alpha=0.35, lw=0)
    for index, arm in enumerate(arms):
        offset = (index - (len(arms) - 1) / 2) * step
        _dots(axes, [cells.get(arm, Cell()) for cells in rows.values()], offset, index)
    set_rows(axes, list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(*_percent_range(cell for cells in rows.values() for cell in cells.values()))
    axes.set_xlabel("accuracy, %", fontsize=FONT_SIZE, color=COLOURS["soft"])
    return to_svg(figure, label)


def confusion_chart(matrix: np.ndarray, names: Sequence[str], label: str) -> str:
    """Rows = true, columns = predicted, each row in percent of its test images; the diagonal is right."""
    total = matrix.sum(axis=1, keepdims=True)
    share = np.divide(matrix, total, out=np.full(matrix.shape, np.nan), where=total > 0)
    size = len(names)
    figure, axes = new_figure(WIDTH, WIDTH - 10)
    for row, column in zip(*np.nonzero(np.nan_to_num(share) >= 0.005), strict=True):
        value = float(share[row, column])
        colour = COLOURS["accent" if row == column else "synthetic"]
        square = (column - 0.47, row - 0.47)
        axes.add_patch(Rectangle(square, 0.94, 0.94, fc=colour, alpha=0.08 + 0.72 * value, lw=0))
        if size <= 12:
            axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=9.5, color=COLOURS["ink"])
    set_rows(axes, list(names))
    axes.set_ylim(size - 0.5, -0.5)
    axes.set_xlim(-0.5, size - 0.5)
    axes.xaxis.tick_top()
    axes.set_xticks(range(size))
    short = [name if len(name) <= 14 else name[:13] + "…" for name in names]
    axes.set_xticklabels(short, rotation=90 if size > 4 else 0, parse_math=False, color=COLOURS["ink"])
    if size > 20:
        axes.tick_params(labelsize=6.5)
    return to_svg(figure, label)


def ridges_chart(values: Mapping[str, np.ndarray], colours: Mapping[str, int], span: tuple[float, float], label: str) -> str:
    """One histogram per arm on a shared axis `span`, a tick at its mean; an arm without values keeps an empty row."""
    figure, axes = new_figure(WIDTH, 40 + 44 * len(values))
    edges = np.linspace(*span, 33)
    for row, (arm, sample) in enumerate(values.items()):
        if len(sample) == 0:
            continue
        height, _ = np.histogram(np.clip(sample, *span), edges)
        top = row + 0.32 - 0.74 * height / height.max()
        colour = ARM_COLOURS[colours[arm]]
        axes.stairs(top, edges, baseline=row + 0.32, fill=True, color=colour, alpha=0.45, lw=0)
        axes.stairs(top, edges, baseline=row + 0.32, color=colour, lw=1.1)
        mean = float(np.clip(sample.mean(), *span))
        axes.plot([mean, mean], [row + 0.4, row - 0.42], color=COLOURS["ink"], lw=1.1)
        axes.text(mean + 0.012 * (span[1] - span[0]), row - 0.36, f"{sample.mean():.2f}", fontsize=9, color=COLOURS["ink"])
    set_rows(axes, list(values))
    axes.set_xlim(*span)
    axes.set_ylim(len(values) - 0.5, -0.6)
    axes.grid(axis="x", color=COLOURS["line"], lw=0.7)
    return to_svg(figure, label)


def scale_chart(scales: Sequence[float], series: Mapping[str, Sequence[float]], label: str) -> str:
    """Lines over the feedback scale, each named at its right end; NaN points are left out."""
    figure, axes = new_figure(300, 200)
    axes.grid(axis="y", color=COLOURS["line"], lw=0.7)
    for (name, values), colour, marker in zip(series.items(), ("accent", "synthetic", "real"), "oDs", strict=False):
        known = [(x, y) for x, y in zip(scales, values, strict=True) if np.isfinite(y)]
        if not known:
            continue
        xs, ys = zip(*known, strict=True)
        axes.plot(xs, ys, marker=marker, ms=5, lw=1.8, color=COLOURS[colour], label=name)
    if len(series) > 1 and axes.lines:
        axes.legend(frameon=False, fontsize=9, labelcolor=COLOURS["soft"], loc="best", handlelength=1.4)
    axes.margins(x=0.08, y=0.18)
    axes.set_xlabel("feedback scale ω", fontsize=FONT_SIZE, color=COLOURS["soft"])
    axes.set_xticks(sorted(set(scales))[:6])
    return to_svg(figure, label)


def _dots(axes: Axes, cells: Sequence[Cell], offset: float, index: int) -> None:
    colour, known = ARM_COLOURS[index % len(ARM_COLOURS)], [i for i, cell in enumerate(cells) if not cell.missing]
    if not known:
        return
    heights = [row + offset for row in known]
    spread = [cells[row] for row in known if np.isfinite(cells[row].low + cells[row].high)]
    at = [row + offset for row in known if np.isfinite(cells[row].low + cells[row].high)]
    whiskers = axes.hlines(at, [cell.low for cell in spread], [cell.high for cell in spread], color=colour, lw=1.3)
    whiskers.set_gid(f"arm-{index}-whiskers")
    (dots,) = axes.plot([cells[row].accuracy for row in known], heights, MARKERS[index % len(MARKERS)], color=colour)
    dots.set(markersize=5.2, markeredgewidth=0)
    dots.set_gid(f"arm-{index}-dots")


def _percent_range(cells: Iterable[Cell]) -> tuple[float, float]:
    """The part of 0..100 % that the cells use, rounded outwards to tens."""
    ends = [end for cell in cells for end in (cell.accuracy, cell.low, cell.high) if np.isfinite(end)]
    if not ends:
        return 0.0, 100.0
    low, high = 10 * np.floor(min(ends) / 10), 10 * np.ceil(max(ends) / 10)
    return max(float(low), 0.0) - 1, min(float(max(high, low + 10)), 100.0) + 1
