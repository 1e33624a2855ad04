"""Grids of samples that differ in one thing at a time: guidance x feedback scale, dropout level, conditioning.

The paper's Figures 11-13 (guidance x feedback scale by entropy, loss and hardness), 8 (dropout of one real image's
embedding, then text only) and 4, 9, 10 (plain, with dropout, with feedback), for any data and generator. All cells of
a class and seed share the initial noise, the conditioning image and the dropout mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tailsmith.contracts import Score
from tailsmith.data.dataset import Dataset
from tailsmith.data.sources.embedded import encode_png
from tailsmith.files import write_json
from tailsmith.generation.generator import EMBEDDED, preset
from tailsmith.guidance.criteria import score_of
from tailsmith.studies.grid.cells import Axes, Grid, Place, Seen
from tailsmith.studies.grid.config import GridConfig
from tailsmith.studies.grid.figures import write_figures
from tailsmith.studies.grid.page import write_grid_page
from tailsmith.studies.grid.plan import grid_axes, plan_grid, request_id
from tailsmith.synthesis.config import SynthesisConfig
from tailsmith.synthesis.fulfilment import synthesize
from tailsmith.synthesis.hardness import FILE, class_gaussians
from tailsmith.synthesis.plan import Plan
from tailsmith.synthesis.prediction import predict
from tailsmith.synthesis.shards import read_shards, synthetic_dataset

__all__ = ["Drawn", "GridConfig", "draw_grids"]

TOP = 3  # classes named per cell


@dataclass(frozen=True)
class Drawn:
    """The files that came of it."""

    page: Path
    figures: tuple[Path, ...]
    cells: Path


def draw_grids(
    dataset: Dataset,
    classifier: Any,
    out: str | Path,
    config: GridConfig | None = None,
    *,
    generator: str = EMBEDDED,
    pipe: Any = None,
    command: str = "",
) -> Drawn:
    """Draw the grids into `out`: PNGs, a page with sliders, and grid.json; the same call resumes.

    `classifier` guides and judges, `pipe` replaces the generator that `generator` names, `command` is shown on the
    page. Raises ValueError, before anything is generated, for a grid that can't be drawn.
    """
    config, out = config or GridConfig(), Path(out)
    axes, plan = grid_axes(dataset, config), plan_grid(dataset, classifier, config, generator)
    cells = out / "cells"
    synthesize(plan, dataset, cells, classifier=classifier, pipe=pipe, batch_size=config.batch_size)
    results = read_shards(cells, plan).assign(black=False)  # an image that shows nothing belongs into its cell
    held = _held(axes, config.base, preset(generator).guidance_scale)
    grid = _grid(plan, axes, held, synthetic_dataset(results, dataset), dataset, classifier, cells / FILE, command)
    meta = {name: value for name, value in plan.meta.items() if name != "synthesis"}  # cells have steps of their own
    write_json(out / "grid.json", {**meta, "axes": vars(axes), "cells": _as_json(grid)})
    return Drawn(write_grid_page(grid, out / "grid.html"), write_figures(grid, out), out / "grid.json")


def _grid(
    plan: Plan,
    axes: Axes,
    held: Place,
    synthetic: Dataset,
    dataset: Dataset,
    classifier: Any,
    kept: Path,
    command: str,
) -> Grid:
    """The grid as the classifier sees it, beside the real images that it is conditioned on.

    `kept`: where the class Gaussians of hardness are, or will be.
    """
    places, requests = axes.rendered(), plan.table
    pictured = {
        place.name: image_id
        for place, image_id in zip(places, requests["conditioning_id"], strict=True)
        if isinstance(image_id, str)
    }
    row_of = {image_id: row for row, image_id in enumerate(dataset.table["image_id"])}
    real = dataset.select(np.array([row_of[image_id] for image_id in pictured.values()], dtype=np.int64))
    gaussians = class_gaussians(dataset, classifier, kept) if "hardness" in axes.criteria else None
    scores = {name: score_of(name, gaussians) for name in axes.criteria}
    seen = _look(Dataset.concatenate([synthetic, real]), classifier, scores)
    return Grid(
        dataset=dataset.name,
        generator=plan.meta["generator"],
        command=command,
        num_inference_steps=int(requests["num_inference_steps"].iloc[0]),
        axes=axes,
        held=held,
        seen=dict(zip(places, seen[: len(places)], strict=True)),
        real=dict(zip(pictured, seen[len(places) :], strict=True)),
        asked={place.name: dataset.class_names[label] for place, label in zip(places, requests["label"], strict=True)},
    )


def _look(images: Dataset, classifier: Any, scores: Mapping[str, Score]) -> list[Seen]:
    """What the classifier says of each image."""
    logits, features = predict(classifier, images)
    labels = torch.tensor(images.labels)
    values = {name: score(logits, features, labels).tolist() for name, score in scores.items()}
    highest = logits.softmax(dim=1).topk(min(TOP, logits.shape[1]))
    tops = zip(highest.indices.tolist(), highest.values.tolist(), strict=True)
    return [
        Seen(
            image=_picture(images, row),
            values={name: each[row] for name, each in values.items()},
            top=tuple((images.class_names[c], p) for c, p in zip(classes, probabilities, strict=True)),
        )
        for row, (classes, probabilities) in enumerate(tops)
    ]


def _picture(images: Dataset, row: int) -> bytes:
    """Encoded, to be decoded without the dataset: a real image as the models see it, upright and of 8 bits."""
    if images.table["source"].iat[row] == "synthetic":
        return images.encoded(row)
    return encode_png(np.asarray(images.image(row)))


def _held(axes: Axes, usual: SynthesisConfig, guidance_scale: float) -> Place:
    """Where an axis stands while others are drawn: at the step nearest to the usual one."""

    def nearest(steps: Sequence[float], wanted: float) -> float:
        return min(steps, key=lambda step: abs(step - wanted))

    def same(steps: Sequence[str], wanted: Any, otherwise: str) -> str:
        return wanted if wanted in steps else otherwise

    return Place(
        name=axes.names[0],
        seed=axes.seeds[0],
        conditioning=same(axes.conditionings, usual.conditioning, axes.conditionings[-1]),
        dropout=nearest(axes.dropouts, usual.embedding_dropout),
        criterion=same(axes.criteria, usual.feedback.criterion, axes.criteria[0]),
        guidance_scale=nearest(axes.guidance_scales, usual.guidance_scale or guidance_scale),
        feedback_scale=nearest([scale for scale in axes.feedback_scales if scale > 0] or [0.0], usual.feedback.scale),
    ).moved()


def _as_json(grid: Grid) -> list[dict[str, Any]]:
    """Every cell: its place, the request whose image it shows, the criterion's value and the classifier's top 3."""
    return [
        {
            **place._asdict(),
            "request_id": request_id(grid.axes.shown_at(place)),
            "criterion_value": grid.at(place).values[place.criterion],
            "top": [{"label": label, "probability": probability} for label, probability in grid.at(place).top],
        }
        for place in grid.axes.places()
    ]
