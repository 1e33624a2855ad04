"""The report's charts: each takes plain numbers and returns one inline <svg>."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from tailsmith.report.results import Cell
from tailsmith.report.svg import ARM_COLOURS, COLOURS, FONT_SIZE, new_figure, set_rows, to_svg
from tailsmith.terminal import shown

WIDTH = 400  # narrow on purpose: readable on a phone, and two fit side by side on a desk
MARKERS = "oDs^vpX*"  # the same shapes as the glyphs of the legend


def counts_chart(real: Mapping[str, int], target: Mapping[str, int], label: str) -> str:
    """Stacked bars, one row per name: real images, and synthetic ones up to the target."""
    names = list(real)
    before = np.array([real[name] for name in names], float)
    added = np.maximum([target.get(name, real[name]) for name in names] - before, 0)
    figure, axes = new_figure(WIDTH, 30 + 25 * len(names))
    rows = np.arange(len(names))
    axes.barh(rows, before, height=0.72, color=COLOURS["real"])
    axes.barh(rows, added, left=before, height=0.72, color=COLOURS["synthetic"])
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


def intervals_chart(
    rows: Mapping[str, Mapping[str, Cell]],
    colours: Mapping[str, int],
    label: str,
    span: tuple[float, float] | None = None,
) -> str:
    """Dots with whiskers: rows = what was measured, one dot per arm; missing cells leave their place empty.

    `colours`: arm -> number, which fixes colour and marker; its order is that of the dots in a row.
    `span`: the axis in percent, None = as far as the cells reach.
    """
    step = min(0.8 / max(len(colours), 1), 0.24)
    figure, axes = new_figure(WIDTH, 40 + len(rows) * max(24, 11 * len(colours)))
    axes.grid(axis="x", color=COLOURS["line"], lw=0.7)
    for row in range(0, len(rows), 2):
        axes.axhspan(row - 0.5, row + 0.5, color=COLOURS["line"], alpha=0.35, lw=0)
    for place, (arm, index) in enumerate(colours.items()):
        offset = (place - (len(colours) - 1) / 2) * step
        _dots(axes, [cells.get(arm, Cell()) for cells in rows.values()], offset, index)
    set_rows(axes, list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(*(span or percent_span(rows)))
    axes.set_xlabel("accuracy, %", fontsize=FONT_SIZE, color=COLOURS["soft"])
    return to_svg(figure, label)


def percent_span(rows: Mapping[str, Mapping[str, Cell]]) -> tuple[float, float]:
    """The part of 0..100 % that the cells use, rounded outwards to tens."""
    cells = [cell for row in rows.values() for cell in row.values()]
    ends = [end for cell in cells for end in (cell.accuracy, cell.low, cell.high) if np.isfinite(end)]
    if not ends:
        return 0.0, 100.0
    low, high = 10 * np.floor(min(ends) / 10), 10 * np.ceil(max(ends) / 10)
    return max(float(low), 0.0) - 1, min(float(max(high, low + 10)), 100.0) + 1


def confusion_chart(matrix: np.ndarray, names: Sequence[str], label: str) -> str:
    """Rows = true, columns = predicted, each row in percent of its test images; the diagonal is right."""
    total = matrix.sum(axis=1, keepdims=True)
    share = np.divide(matrix, total, out=np.full(matrix.shape, np.nan), where=total > 0)
    size, ink, on_full = len(names), COLOURS["ink"], COLOURS["onfull"]
    figure, axes = new_figure(WIDTH, WIDTH - 10)
    for row, column in zip(*np.nonzero(np.nan_to_num(share) >= 0.005), strict=True):
        value = float(share[row, column])
        colour = COLOURS["accent" if row == column else "synthetic"]
        square = (column - 0.47, row - 0.47)
        axes.add_patch(Rectangle(square, 0.94, 0.94, fc=colour, alpha=0.08 + 0.72 * value, lw=0))
        if size <= 12:
            text = on_full if value > 0.75 else ink
            axes.annotate(f"{100 * value:.0f}", (column, row), ha="center", va="center", size=9.5, color=text)
    set_rows(axes, list(names))
    axes.set_ylim(size - 0.5, -0.5)
    axes.set_xlim(-0.5, size - 0.5)
    axes.xaxis.tick_top()
    axes.set_xticks(range(size))
    short = [name if len(name) <= 14 else name[:13] + "…" for name in map(shown, names)]
    axes.set_xticklabels(short, rotation=90 if size > 4 else 0, parse_math=False, color=ink)
    if size > 20:
        axes.tick_params(labelsize=6.5)
    return to_svg(figure, label)


def ridges_chart(
    values: Mapping[str, np.ndarray], colours: Mapping[str, int], span: tuple[float, float], label: str
) -> str:
    """One histogram per arm on a shared axis `span`, outliers in its end bins, with a line at the mean."""
    figure, axes = new_figure(WIDTH, 40 + 44 * len(values))
    edges = np.linspace(*span, 33)
    for row, (arm, sample) in enumerate(values.items()):
        height, _ = np.histogram(np.clip(sample, *span), edges)
        top = row + 0.32 - 0.74 * height / height.max()
        colour = ARM_COLOURS[colours[arm] % len(ARM_COLOURS)]
        axes.stairs(top, edges, baseline=row + 0.32, fill=True, color=colour, alpha=0.45, lw=0)
        axes.stairs(top, edges, baseline=row + 0.32, color=colour, lw=1.1)
        mean = float(np.clip(sample.mean(), *span))
        axes.plot([mean, mean], [row + 0.4, row - 0.42], color=COLOURS["ink"], lw=1.1)
        beside = mean + 0.012 * (span[1] - span[0])
        axes.text(beside, row - 0.36, f"{sample.mean():.2f}", fontsize=9, color=COLOURS["ink"])
    set_rows(axes, list(values))
    axes.set_xlim(*span)
    axes.set_ylim(len(values) - 0.5, -0.6)
    axes.grid(axis="x", color=COLOURS["line"], lw=0.7)
    return to_svg(figure, label)


def scale_chart(scales: Sequence[float], series: Mapping[str, Sequence[float]], label: str) -> str:
    """Lines over the feedback scale, named in a legend where there are several; NaN points are left out."""
    figure, axes = new_figure(290, 190)
    axes.grid(axis="y", color=COLOURS["line"], lw=0.7)
    looks = (("accent", "o"), ("synthetic", "D"), ("real", "s"))
    for (name, values), (colour, marker) in zip(series.items(), looks, strict=False):
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
    """Dots and whiskers of an arm, tagged so that the page can hide them (to_svg makes it a class)."""
    colour = ARM_COLOURS[index % len(ARM_COLOURS)]
    known = [(row + offset, cell) for row, cell in enumerate(cells) if not cell.missing]
    spread = [(height, cell) for height, cell in known if np.isfinite(cell.low + cell.high)]
    if not known:
        return
    ends = [cell.low for _, cell in spread], [cell.high for _, cell in spread]
    whiskers = axes.hlines([height for height, _ in spread], *ends, color=colour, lw=1.3)
    whiskers.set_gid(f"arm-{index}-whiskers")
    (dots,) = axes.plot([cell.accuracy for _, cell in known], [height for height, _ in known], color=colour)
    dots.set(linestyle="none", marker=MARKERS[index % len(MARKERS)], markersize=5.2, markeredgewidth=0)
    dots.set_gid(f"arm-{index}-dots")
