"""What may stand in the place of synthetic images, to see where a generator falls short of real ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailsmith.data.counts import class_counts
from tailsmith.data.dataset import Dataset
from tailsmith.data.images import Images
from tailsmith.data.sources.embedded import as_drawings, encode_png, load_embedded
from tailsmith.generation.reconstruction import reconstruct

Rows = NDArray[np.int64]


def lacking_photographs(task: Dataset, target: int, seed: int) -> Dataset:
    """Real photographs of an embedded task's world, as many as a plan to `target` per class asks for."""
    counts = np.maximum(class_counts(task), target)
    topped_up = load_embedded(task.name, seed=seed, counts=counts).split("train")
    new = ~np.isin(topped_up.table["image_id"], task.table["image_id"])
    return in_place_of_synthetic(topped_up.select(new))


def partly_drawn(photographs: Dataset, share: float, seed: int) -> Dataset:
    """A random share of them as drawings."""
    drawn = np.random.default_rng(seed).random(len(photographs)) < share
    return _with_bytes(photographs, np.flatnonzero(drawn), as_drawings(photographs.select(drawn)))


def through_autoencoder(pipe: Any, dataset: Dataset, rows: Rows | None = None) -> Dataset:
    """Some or all images of a dataset of the generator's size as its autoencoder shows them."""
    rows = np.arange(len(dataset)) if rows is None else rows
    chosen = dataset.select(rows)
    shown = reconstruct(pipe, Images(chosen, int(pipe.vae.config.sample_size), cache_budget=0)[:].numpy())
    encoded = np.empty(len(chosen), dtype=object)
    encoded[:] = [encode_png(image.transpose(1, 2, 0)) for image in shown]
    return _with_bytes(dataset, rows, replace(chosen, table=chosen.table.assign(bytes=encoded)))


def half_through_autoencoder(pipe: Any, task: Dataset, seed: int) -> Dataset:
    """The task with every other of its training images, at random, as the generator's autoencoder shows it."""
    training = np.flatnonzero(task.table["split"].to_numpy() == "train")
    rows = np.sort(np.random.default_rng(seed).permutation(training)[: len(training) // 2])
    return through_autoencoder(pipe, task, rows)


def in_place_of_synthetic(images: Dataset) -> Dataset:
    """The images as rows of a synthetic set."""
    ids = [f"instead-{each}" for each in images.table["image_id"]]
    return replace(images, table=images.table.assign(source="synthetic", split="train", image_id=ids))


def _with_bytes(dataset: Dataset, rows: Rows, changed: Dataset) -> Dataset:
    stored = dataset.table["bytes"].to_numpy(copy=True)
    stored[rows] = changed.table["bytes"].to_numpy()
    return replace(dataset, table=dataset.table.assign(bytes=stored))
