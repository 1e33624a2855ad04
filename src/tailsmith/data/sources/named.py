"""Data by name: a folder, a table, an embedded task, or the benchmark of a recipe."""

from __future__ import annotations

from pathlib import Path

from tailsmith.data.dataset import Dataset
from tailsmith.data.sources import benchmarks, embedded, readers
from tailsmith.data.sources.recipes import benchmark_of, split_data


def load(
    path: str | Path, *, skip_corrupt: bool = False, seed: int = 0, max_megapixels: float | None = None
) -> Dataset:
    """An image folder, CSV or Parquet file, embedded task ("fashion-lt", "fashion-groups"), or RECIPE:ROOT, checked.

    "imagenet-lt:/data/imagenet" is the recipe's benchmark below that root. `seed` decides which images an embedded task
    draws and how a dataset without val or test is split. Raises ValueError for anything wrong with the data; with
    `skip_corrupt` unreadable images are logged and left out. An image above `max_megapixels` (None = 178.9, about where
    Pillow gives up) can't be read.
    """
    if str(path) in embedded.TASKS:
        return embedded.load_embedded(str(path), seed=seed)
    if (named := split_data(str(path))) is not None:
        recipe, root = named
        return benchmarks.read(benchmark_of(recipe), root, skip_corrupt=skip_corrupt, max_megapixels=max_megapixels)
    return readers.load(path, skip_corrupt=skip_corrupt, seed=seed, max_megapixels=max_megapixels)
