"""Figures 4 and 8 to 13 of the paper: grids of samples that differ in one thing, for the guide of a bench."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tailsmith.experiment import train_arm
from tailsmith.files import read_json, write_atomically, write_json
from tailsmith.generation.generator import load_generator
from tailsmith.reproduction.bench import Bench
from tailsmith.reproduction.worlds import Scale
from tailsmith.runs.arms import ARMS, GUIDE
from tailsmith.studies.grid.config import GridConfig
from tailsmith.studies.grid.draw import draw_grids


@dataclass(frozen=True)
class PaperFigure:
    """`grid` says which axes move; `picture` is the one of its files that is the figure."""

    title: str
    world: str  # of worlds.EMBEDDED
    grid: GridConfig
    picture: str


_STILL = GridConfig(
    guidance_scales=(3.0,),
    feedback_scales=(0.0, 0.02),
    dropouts=(0.0, 0.7),
    conditionings=("text", "image+text"),
    criteria=("entropy",),
)


def _scales(criterion: str) -> GridConfig:
    """Guidance by feedback scale, for one criterion."""
    return replace(
        _STILL,
        guidance_scales=(1.0, 3.0, 5.0, 8.0),
        feedback_scales=(0.0, 0.01, 0.02, 0.04),
        dropouts=(0.7,),
        conditionings=("image+text",),
        criteria=(criterion,),
    )


FIGURES: Mapping[str, PaperFigure] = {
    "figure-4": PaperFigure(
        "Figure 4: dropout and feedback", "imagenet-lt", replace(_STILL, seeds=(0, 1, 2)), "conditioning"
    ),
    "figure-8": PaperFigure(
        "Figure 8: dropout of the image embedding",
        "imagenet-lt",
        replace(_STILL, feedback_scales=(0.0,), dropouts=(0.0, 0.3, 0.5, 0.7, 0.9), seeds=(0, 1, 2)),
        "dropout",
    ),
    "figure-9": PaperFigure(
        "Figure 9: real images, plain samples, feedback by entropy; ImageNet-LT",
        "imagenet-lt",
        replace(_STILL, classes=None, seeds=tuple(range(6))),
        "conditioning",
    ),
    "figure-10": PaperFigure(
        "Figure 10: real images, plain samples, feedback by entropy; NICO++",
        "nico++",
        replace(_STILL, per="group", seeds=tuple(range(6))),
        "conditioning",
    ),
    **{
        f"figure-{number}": PaperFigure(
            f"Figure {number}: guidance by feedback scale, {criterion}",
            "imagenet-lt",
            _scales(criterion),
            f"guidance-feedback-{criterion}",
        )
        for number, criterion in ((11, "entropy"), (12, "loss"), (13, "hardness"))
    },
}


def reproduce_figure(figure: PaperFigure, out: Path, results: Path, seed: int, scale: Scale, command: str = "") -> Path:
    """Draw it for one seed; `results` has each cell's criterion and top 3 classes, the picture lies beside it."""
    bench = Bench.open(figure.world, scale, seed, out, load_generator, command)
    guide = train_arm(bench.world, ARMS[GUIDE])
    synthesis = replace(bench.world.config.synthesis, seed=0)  # the grid has seeds of its own
    drawn = draw_grids(
        bench.world.dataset,
        guide,
        bench.world.directory.path / "figures" / figure.title.partition(":")[0].lower().replace(" ", "-"),
        replace(figure.grid, synthesis=synthesis, num_inference_steps=synthesis.num_inference_steps),
        generator=bench.world.config.generator,
        pipe=bench.world.generator(),
        command=command,
    )
    (picture,) = [each for each in drawn.figures if each.stem == figure.picture]
    write_atomically(results.with_suffix(".png"), partial(_copied, picture))
    cells = read_json(drawn.cells)["cells"]
    write_json(results, {"figure": figure.title, "scale": scale.name, "command": command, "rows": cells})
    return results


def _copied(source: Path, to: Path) -> None:
    to.write_bytes(source.read_bytes())
