"""How many synthetic images each class or group lacks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailsmith.errors import UserError

Counts = NDArray[np.int64]
Target = str | int | Mapping[str, int] | Callable[[Counts], Counts]
MOST = 50_000_000  # images of one plan, each a row in memory: some forty times the paper's


def missing_counts(counts: Counts, target: Target, names: Sequence[str]) -> Counts:
    """Images to add to reach `target`, in the shape of `counts` ([C] per class or [C, A] per group).

    `target`: "max" tops up to the largest count (every group of NICO++ to 811); a number tops up whatever
    has fewer (ImageNet-LT to 1,300) and leaves the rest alone; a dict names single classes or groups
    ("sandal in rock") and leaves the others alone; a function maps counts to target counts. Raises
    ValueError for unknown names, for what is no whole number, for a target below the current count where it is meant
    for that class, and where nothing, or more than `MOST`, would be added.
    """
    wanted = _wanted(counts, target, names)
    missing: Counts = np.maximum(wanted - counts, 0)
    if (added := missing.sum(dtype=object)) > MOST:  # Python's numbers: they don't overflow
        raise UserError(
            f"target {_described(target)} asks for {added:,} images, expected at most {MOST:,} in one plan; give a "
            "smaller target"
        )
    if not missing.any():
        raise UserError(
            f"nothing to add: target {_described(target)} is not above any current count "
            f"({counts.min()} to {counts.max()}); give a larger target"
        )
    return missing


def _wanted(counts: Counts, target: Target, names: Sequence[str]) -> Counts:
    if target == "max":
        return np.full_like(counts, counts.max())
    if isinstance(target, bool | str):
        raise UserError(f"target should be 'max', a number, a dict or a function of counts, got {target!r}")
    if isinstance(target, Mapping):
        return _from_names(counts, target, names)
    if not callable(target):
        number = _whole_number(target, "target")
        if number < 1:
            raise UserError(f"target should be at least 1 image, got {target}")
        return np.full_like(counts, number)
    wanted = np.asarray(target(counts.copy()))
    if wanted.shape != counts.shape or not np.issubdtype(wanted.dtype, np.integer):
        raise UserError(
            f"a target function should return whole numbers of shape {counts.shape}, "
            f"got {wanted.dtype} of shape {wanted.shape}"
        )
    _refuse_lower(counts, wanted, names)
    return wanted.astype(np.int64)


def _whole_number(value: Any, what: str) -> int:
    """A count of images: 12, 12.0 or numpy's; ValueError for 8.7, None, True and what no disk can hold."""
    integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not integer and not (isinstance(value, float | np.floating) and float(value).is_integer()):
        raise UserError(f"{what} should be a whole number, got {value!r}")
    if value > np.iinfo(np.int32).max:
        raise UserError(f"{what} should be at most {np.iinfo(np.int32).max:,} images, got {int(value):,}")
    return int(value)


def _from_names(counts: Counts, target: Mapping[str, int], names: Sequence[str]) -> Counts:
    target = {str(name): _whole_number(count, f"target for {str(name)!r}") for name, count in target.items()}
    unknown = [name for name in target if name not in names]
    if unknown:
        shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
        raise UserError(f"target names {unknown[0]!r}, which is not one of: {shown}")
    flat = counts.ravel().copy()
    for name, count in target.items():
        flat[list(names).index(name)] = count
    wanted = flat.reshape(counts.shape)
    _refuse_lower(counts, wanted, names)
    return wanted


def _refuse_lower(counts: Counts, wanted: Counts, names: Sequence[str]) -> None:
    lower = np.flatnonzero(wanted.ravel() < counts.ravel())
    if len(lower):
        first = lower[0]
        raise UserError(
            f"target {wanted.ravel()[first]} for {names[first]!r} is below its current count "
            f"{counts.ravel()[first]}; tailsmith only adds images, so give at least that"
        )


def _described(target: Target) -> str:
    return "of the given function" if callable(target) else repr(target)
