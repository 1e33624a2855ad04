"""Count profiles with a long tail, and subsets of a dataset that follow them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tailsmith.data.counts import class_counts, group_counts
from tailsmith.data.dataset import Dataset, Ints


def exponential_profile(n_max: int, imbalance_factor: float, classes: int) -> tuple[int, ...]:
    """n_c = n_max * IF^(-c / (C - 1)), rounded, head first (Cao et al. 2019; formulas 6.0); at least 1."""
    if n_max < 1 or classes < 1:
        raise ValueError(f"n_max and classes should be at least 1, got n_max={n_max}, classes={classes}")
    if imbalance_factor < 1:
        raise ValueError(f"imbalance_factor is the largest count over the smallest, at least 1; got {imbalance_factor}")
    exponents = np.arange(classes) / max(classes - 1, 1)
    counts = np.rint(n_max * imbalance_factor**-exponents).astype(int)
    return tuple(int(count) for count in np.maximum(counts, 1))


def subset_to_counts(dataset: Dataset, counts: npt.ArrayLike, *, seed: int) -> Dataset:
    """Training images down to `counts`, per class [C] or per group [C, A]; validation and test rows all stay.

    Without replacement and nested: with one seed, the images chosen for n are among those for n + 1, and
    no class's choice depends on another's count. Rows keep their order.
    """
    wanted = np.asarray(counts, dtype=np.int64)
    cells, available = _cells(dataset, wanted)
    _check_enough(wanted, available, dataset)
    is_train = dataset.table["split"].to_numpy() == "train"
    keep = ~is_train
    for cell, count in enumerate(wanted.ravel()):
        keep[_shuffled(np.flatnonzero(is_train & (cells == cell)), seed, cell)[:count]] = True
    return dataset.select(keep)


def _cells(dataset: Dataset, wanted: Ints) -> tuple[Ints, Ints]:
    """Which entry of `wanted` each row [n] belongs to, and how many training images each entry has."""
    per_class, per_group = class_counts(dataset), group_counts(dataset)
    if wanted.shape == per_class.shape:
        return dataset.labels, per_class
    if wanted.shape == per_group.shape:
        return dataset.groups, per_group
    raise ValueError(
        f"counts should have one entry per class {per_class.shape} or per group {per_group.shape}, "
        f"got shape {wanted.shape}"
    )


def _check_enough(wanted: Ints, available: Ints, dataset: Dataset) -> None:
    names = dataset.class_names if wanted.ndim == 1 else dataset.group_names
    for name, got, count in zip(names, available.ravel(), wanted.ravel(), strict=True):
        if count < 0:
            raise ValueError(f"counts should be 0 or more, got {count} for {name!r}")
        if count > got:
            raise ValueError(f"{name!r} has {got} training images, fewer than the {count} asked for; ask for less")


def _shuffled(rows: npt.NDArray[np.intp], seed: int, cell: int) -> npt.NDArray[np.intp]:
    """One fixed order per cell, of which every choice is a prefix."""
    return np.random.default_rng([seed, cell]).permutation(rows)
