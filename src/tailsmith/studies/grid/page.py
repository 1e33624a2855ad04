"""The grid as a page with sliders: one HTML file that needs nothing else and works from file://."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any

from tailsmith.data.decoding import decode
from tailsmith.report.gallery import data_uri
from tailsmith.report.page import render_page, write_page
from tailsmith.studies.grid.cells import Grid, Place, Seen

THUMBNAIL = 320  # pixels of an image at most: hundreds of them lie in the page


def write_grid_page(grid: Grid, path: Path) -> Path:
    """Render, and write the file whole or not at all."""
    return write_page(path, render_grid_page(grid))


def render_grid_page(grid: Grid) -> str:
    """The page as HTML text; what moves in it is drawn by grid.js from the data."""
    return render_page("grid.html", {"grid": grid, "data": _data(grid)})


def _data(grid: Grid) -> dict[str, Any]:
    """What grid.js reads: every image once, and the number of its image for every combination of steps."""
    axes = dict(zip(Place._fields, vars(grid.axes).values(), strict=True))
    numbers = {place: number for number, place in enumerate(grid.seen)}
    combinations = [Place(*steps).moved() for steps in product(*axes.values())]
    return {
        "axes": axes,
        "order": Place._fields,
        "start": {
            name: steps.index(held) if held in steps else 0
            for (name, steps), held in zip(axes.items(), grid.held, strict=True)
        },
        "numbers": [numbers[grid.axes.shown_at(place)] for place in combinations],
        "images": [_image(seen, grid) for seen in grid.seen.values()],
        "real": {name: _image(seen, grid) for name, seen in grid.real.items()},
        "asked": grid.asked,
    }


def _image(seen: Seen, grid: Grid) -> dict[str, Any]:
    """Values are in the order of the criteria axis; null where there is none, for JSON has no NaN."""
    values = [seen.values[criterion] for criterion in grid.axes.criteria]
    return {
        "src": data_uri(decode(seen.image, "an image of the grid"), THUMBNAIL),
        "values": [round(value, 4) if math.isfinite(value) else None for value in values],
        "top": [[label, round(probability, 4)] for label, probability in seen.top],
    }
