"""Matplotlib figures as inline SVG that takes its colours and its font from the page's CSS variables."""

from __future__ import annotations

import html
import io
import re
import warnings
from importlib.resources import files

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from tailsmith.terminal import shown

# Matplotlib knows only real colours: each role is drawn in one that nobody would choose, and to_svg puts
# var(--role) in its place.
ROLES = ("ink", "soft", "line", "real", "synthetic", "accent", "onfull", *(f"arm{i}" for i in range(8)))
COLOURS = {role: f"#0a5b{index + 1:02x}" for index, role in enumerate(ROLES)}
ARM_COLOURS = [COLOURS[f"arm{i}"] for i in range(8)]
FONT_SIZE = 10.5


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of so many CSS pixels with one bare axes: no frame, quiet ticks."""
    figure = Figure(figsize=(width / 72, height / 72), layout="constrained")  # SVG user unit = 1/72 inch
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0, labelsize=FONT_SIZE, labelcolor=COLOURS["soft"], pad=4)
    axes.set_axisbelow(True)
    return figure, axes


def set_rows(axes: Axes, labels: list[str]) -> None:
    """Name the horizontal rows of a chart, first at the top; names are text, never mathematics."""
    axes.set_yticks(range(len(labels)))
    axes.set_yticklabels([_shorten(shown(label)) for label in labels], parse_math=False, color=COLOURS["ink"])
    axes.set_ylim(len(labels) - 0.4, -0.6)


def to_svg(figure: Figure, label: str) -> str:
    """The figure as an <svg> element that scales to its container; `label` is what a screen reader says."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the browser's fonts have it
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    markup = buffer.getvalue()
    body = markup[markup.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'style="[^"]*"', lambda match: _themed(match[0]), body)
    body = re.sub(r'<g id="arm-(\d+)[^"]*"', r'<g class="arm-\1"', body)
    body = re.sub(r'<g id="[^"]*"', "<g", body)  # the same in every chart, and nothing refers to them
    view_box = re.search(r'viewBox="([^"]+)"', body)
    assert view_box is not None
    opening = f'<svg class="chart" role="img" aria-label="{html.escape(label)}" viewBox="{view_box[1]}">'
    return re.sub(r"\n\s*", "\n", opening + body[body.index(">") + 1 :])


def standalone(chart: str) -> str:
    """One of the report's charts as a file of its own, with the page's colours."""
    css = files("tailsmith.report").joinpath("style.css").read_text(encoding="utf-8")
    themes = re.findall(
        r"^:root \{.*?^\}|^@media \(prefers-color-scheme: dark\) \{.*?^\}", css, re.DOTALL | re.MULTILINE
    )
    namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    style = f"<style>{' '.join(themes)} svg {{ background: var(--card); }}</style>"
    opening, rest = chart.split(">", 1)
    return f"{opening.replace('<svg', f'<svg {namespaces}', 1)}>{style}{rest}\n"


def _themed(style: str) -> str:
    for role, colour in COLOURS.items():
        style = style.replace(colour, f"var(--{role})")
    return re.sub(r"font: ([^;\"]*?[\d.]+px)[^;\"]*", r"font: \1 var(--sans)", style)


def _shorten(label: str, limit: int = 26) -> str:
    return label if len(label) <= limit else label[: limit - 1] + "…"
