"""Which figures a grid makes: what runs along their rows and columns while every other axis is held."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from tailsmith.files import write_atomically
from tailsmith.studies.grid.cells import Grid, Place
from tailsmith.studies.grid.drawing import Cell, Panel, draw_figure


def write_figures(grid: Grid, folder: Path) -> tuple[Path, ...]:
    """PNG files: guidance-feedback-CRITERION, dropout (where there is a real image to drop of), conditioning."""
    drawn = {f"guidance-feedback-{each}": guidance_by_feedback(grid, each) for each in grid.axes.criteria}
    if grid.real:
        drawn["dropout"] = dropout_levels(grid)
    drawn["conditioning"] = conditioning_modes(grid)
    return tuple(_write(image, folder / f"{name}.png") for name, image in drawn.items())


def guidance_by_feedback(grid: Grid, criterion: str) -> Image.Image:
    """The paper's Figures 11 (entropy), 12 (loss), 13 (hardness): guidance scale to the right, feedback scale down."""
    gammas, omegas = grid.axes.guidance_scales, grid.axes.feedback_scales
    panels = [
        Panel(
            cells=[
                [_cell(grid, place, criterion=criterion, guidance_scale=g, feedback_scale=w) for g in gammas]
                for w in omegas
            ],
            rows=[f"ω {w:g}" for w in omegas],
            columns=[f"γ {g:g}" for g in gammas],
            title=subject,
            row_axis="feedback scale ω →",
            column_axis="guidance scale γ →",
        )
        for subject, place in _subjects(grid).items()
    ]
    held = _spelled(grid.held.conditioning)
    if grid.held.conditioning != "text":
        held += f", dropout {grid.held.dropout:g}"
    return draw_figure(f"Guidance × feedback by {criterion}", f"Conditioned on {held}. {_alike(grid)}", panels)


def dropout_levels(grid: Grid) -> Image.Image:
    """The paper's Figure 8: one real image, dropout of its embedding rising to the right, text only at the end."""
    pictured = [name for name in grid.axes.conditionings if name != "text"]
    conditioning = grid.held.conditioning if grid.held.conditioning in pictured else pictured[-1]
    omega = grid.axes.feedback_scales[0]
    columns: dict[str, dict[str, Any]] = {
        f"dropout {share:g}": {"conditioning": conditioning, "dropout": share} for share in grid.axes.dropouts
    }
    if "text" in grid.axes.conditionings:
        columns["text only"] = {"conditioning": "text"}
    columns = {title: {**steps, "feedback_scale": omega} for title, steps in columns.items()}
    held = f"Conditioned on {_spelled(conditioning)}, guidance scale {grid.held.guidance_scale:g}, {_feedback(omega)}."
    return _by_subject(grid, "Dropout of the image embedding", held, columns)


def conditioning_modes(grid: Grid) -> Image.Image:
    """The paper's Figures 4, 9 and 10: plain samples of each conditioning, then with dropout, then with feedback."""
    omega, share, held = grid.axes.feedback_scales[0], grid.axes.dropouts[0], grid.held
    columns: dict[str, dict[str, Any]] = {
        _spelled(name): {"conditioning": name, "dropout": share, "feedback_scale": omega}
        for name in grid.axes.conditionings
    }
    said = f"Guidance scale {held.guidance_scale:g}. First {_feedback(omega)} and dropout {share:g}"
    if held.dropout > share:
        columns["+ dropout"] = {"feedback_scale": omega}
        said += f"; then {_spelled(held.conditioning)} with dropout {held.dropout:g}"
    if held.feedback_scale > omega:
        columns |= {f"+ {criterion}": {"criterion": criterion} for criterion in grid.axes.criteria}
        said += f"; then also feedback of scale {held.feedback_scale:g} by a criterion"
    return _by_subject(grid, "Conditioning, dropout, feedback", f"{said}.", columns)


def _by_subject(grid: Grid, title: str, held: str, columns: Mapping[str, Mapping[str, Any]]) -> Image.Image:
    """A row per class and seed, the real image first."""
    rows = []
    for place in _subjects(grid).values():
        real = grid.real.get(place.name)
        first = [Cell(real, grid.asked[place.name], grid.held.criterion)] if real else []
        rows.append([*first, *(_cell(grid, place, **steps) for steps in columns.values())])
    titles = [*(["real image"] if grid.real else []), *columns]
    return draw_figure(title, f"{held} {_alike(grid)}", [Panel(rows, list(_subjects(grid)), titles)])


def _subjects(grid: Grid) -> dict[str, Place]:
    """Class, and seed where there are several -> its place with all else held."""
    several = len(grid.axes.seeds) > 1
    return {
        f"{name}, seed {seed}" if several else name: grid.held.moved(name=name, seed=seed)
        for name in grid.axes.names
        for seed in grid.axes.seeds
    }


def _cell(grid: Grid, place: Place, **steps: Any) -> Cell:
    place = place.moved(**steps)
    return Cell(grid.at(place), grid.asked[place.name], place.criterion)


def _spelled(conditioning: str) -> str:
    return conditioning.replace("+", " + ")


def _feedback(scale: float) -> str:
    return f"feedback scale {scale:g}" if scale else "no feedback"


def _alike(grid: Grid) -> str:
    subject = "class" if len(grid.axes.seeds) == 1 else "class and seed"
    mask = ", conditioning image and dropout mask" if grid.real else ""
    return (
        f"The same noise{mask} for all cells of a {subject}; {grid.num_inference_steps} steps of {grid.generator}. "
        "Bars: the classifier's top 3, blue for the class asked for."
    )


def _write(image: Image.Image, path: Path) -> Path:
    write_atomically(path, lambda temporary: image.save(temporary, "PNG"))
    return path
