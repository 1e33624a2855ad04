"""Figure 5 as an SVG file: small multiples of training points, with the guide's line and the one they lead to."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from tailsmith.report.svg import ARM_COLOURS, COLOURS, FONT_SIZE, new_figure, standalone, to_svg
from tailsmith.studies.points_2d import LONGER, REAL, Figure5, PointsRow
from tailsmith.studies.points_sampling import MODES, LinearClassifier, Points

SHOWN = 400  # points in a panel, so that the file stays small
REACH = 2.4  # coordinates at a panel's edge
PANEL, COLUMNS = 210, 3  # CSS pixels
_BLUE_AND_RED = (ARM_COLOURS[1], ARM_COLOURS[5])


def draw_figure_5(figure: Figure5) -> str:
    """A standalone <svg> with light and dark colours; the panels are those of the first seed."""
    shown = [row for row in figure.rows if row.seed == figure.rows[0].seed and row.row != LONGER]
    rows = -(-len(shown) // COLUMNS)
    drawing, first = new_figure(COLUMNS * PANEL, rows * (PANEL + 30))
    first.remove()
    for number, row in enumerate(shown):
        axes = drawing.add_subplot(rows, COLUMNS, number + 1)
        _panel(axes, row, figure.picture.points[row.row])
        _line(axes, figure.picture.classifiers[REAL], "--")
        if row.row != REAL:
            _line(axes, figure.picture.classifiers[row.row], "-")
    return standalone(to_svg(drawing, "Figure 5: points, and the linear classifier before (dashed) and after (solid)"))


def _panel(axes: Axes, row: PointsRow, points: Points) -> None:
    order = np.linspace(0, len(points) - 1, min(SHOWN, len(points))).round().astype(int)  # both classes, all modes
    at, labels = points.at.numpy()[order], points.labels.numpy()[order]
    for label, colour in enumerate(_BLUE_AND_RED):
        axes.plot(*at[labels == label].T, ".", ms=3, mew=0, color=colour, alpha=0.6)
    for mode in MODES:
        axes.plot(*mode.centre, "+", ms=6, mew=0.9, color=COLOURS["ink"])
    axes.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), xticks=[], yticks=[], aspect="equal")
    for spine in axes.spines.values():
        spine.set_color(COLOURS["line"])
    share, accuracy = 100 * row.value("samples.minority_share"), row.value("overall")
    axes.set_title(row.row, fontsize=FONT_SIZE, color=COLOURS["ink"], parse_math=False)
    axes.set_xlabel(f"{share:.0f} % minority, accuracy {accuracy:.1f} %", fontsize=FONT_SIZE - 1, color=COLOURS["soft"])


def _line(axes: Axes, classifier: LinearClassifier, style: str) -> None:
    """Where the two logits are equal."""
    weight, bias = classifier.linear.weight.detach(), classifier.linear.bias.detach()
    normal, offset = (weight[1] - weight[0]).numpy(), float(bias[1] - bias[0])
    foot, along = -offset * normal / (normal @ normal), np.array([-normal[1], normal[0]])
    ends = foot + np.outer([-1, 1], along) / np.linalg.norm(along) * 4 * REACH
    axes.plot(*ends.T, style, lw=1.3, color=COLOURS["ink"])
