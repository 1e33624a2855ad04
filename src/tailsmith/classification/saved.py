"""What lies in a classifier's folder: config.json, checked as a whole, and weights, checked to be numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tailsmith.classification.heads import LINEAR, checked_head
from tailsmith.errors import UserError
from tailsmith.files import check_readable, read_json
from tailsmith.settings import MOST_PIXELS

WEIGHTS, CONFIG, SEEN = "model.safetensors", "config.json", "seen.safetensors"


@dataclass(frozen=True)
class ClassifierConfig:
    """All of a classifier but its weights; `checked_config` makes one."""

    backbone: str
    class_names: tuple[str, ...]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    head: str = LINEAR


def checked_config(
    *, backbone: Any, class_names: Any, image_size: Any, mean: Any, std: Any, head: Any = LINEAR
) -> ClassifierConfig:
    """Whatever a file or a caller gives, as a configuration; ValueError for what can't be one."""
    if not isinstance(backbone, str) or not backbone:
        raise UserError(f"backbone should be a name, got {backbone!r}")
    if not _is_number(image_size, Integral) or not 1 <= image_size <= MOST_PIXELS:
        raise UserError(f"image_size should be a number of pixels in 1..{MOST_PIXELS}, got {image_size!r}")
    config = ClassifierConfig(
        backbone,
        checked_names(class_names),
        int(image_size),
        _three_numbers("mean", mean),
        _three_numbers("std", std),
        checked_head(head),
    )
    if min(config.std) <= 0:
        raise UserError(f"std should be above 0, got {list(config.std)}")
    return config


def read_config(folder: Path) -> ClassifierConfig:
    """ValueError for a folder that holds no classifier, or one whose config.json is damaged."""
    if not folder.is_dir():
        raise UserError(f"no classifier folder {folder}; train one with `tailsmith train`")
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder} is not a classifier folder: {' and '.join(missing)} missing")
    path = folder / CONFIG
    try:
        config = read_json(path)
    except (ValueError, RecursionError) as error:  # what json raises
        raise UserError(f"{path} is not JSON: {error}; train again") from error
    keys = {each.name for each in fields(ClassifierConfig)}
    if not isinstance(config, dict) or not keys - {"head"} <= config.keys():
        raise UserError(f"{path} is not of a tailsmith classifier: expected {', '.join(sorted(keys - {'head'}))}")
    try:
        return checked_config(**{key: config[key] for key in keys & config.keys()})
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}; train again, or put the file back as it was") from error


def read_seen(folder: Path) -> npt.NDArray[np.uint64] | None:
    """Content keys of the images that a classifier was trained and selected on; None where its folder says nothing."""
    path = folder / SEEN
    if not path.is_file():
        return None
    try:
        keys: npt.NDArray[np.int64] = load_file(path)["keys"].numpy()
    except (SafetensorError, OSError, KeyError) as error:
        raise UserError(f"{path} is damaged ({one_line(error)}); remove it, or train again") from error
    return keys.view(np.uint64)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """ValueError for a file that is damaged, and for weights that are NaN or infinite."""
    path = folder / WEIGHTS
    check_readable(path)
    try:
        weights: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is damaged or of another model: {one_line(error)}; train again") from error
    if broken := not_finite(weights.items()):
        raise UserError(
            f"{path} has NaN or infinite weights in {len(broken)} of {len(weights)} tensors, the first is {broken[0]}: "
            "its training diverged, or the file is damaged; train again, with a lower learning_rate if it diverged"
        )
    return weights


def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    """The names of those that hold NaN or infinities."""
    return [name for name, tensor in tensors if tensor.is_floating_point() and not tensor.isfinite().all()]


def one_line(error: Exception, length: int = 300) -> str:
    """torch lists every weight that doesn't fit, on a line of its own."""
    text = " ".join(str(error).split())
    return text if len(text) <= length else f"{text[:length]} ..."


def checked_names(values: Any) -> tuple[str, ...]:
    """ValueError for what isn't one name per class, each once; numbers will do."""
    listed = list(values) if isinstance(values, Iterable) and not isinstance(values, (str, bytes, dict)) else [None]
    if not all(isinstance(name, (str, Integral)) for name in listed):
        raise UserError(f"class_names should be one name per class, got {values!r}")
    names = tuple(str(name) for name in listed)
    twice = sorted(name for name, times in Counter(names).items() if times > 1)
    if not names or twice:
        got = f"{', '.join(twice)} more than once" if names else "none"
        raise UserError(f"class_names should be one name per class, each once, got {got}")
    return names


def _three_numbers(name: str, values: Any) -> tuple[float, ...]:
    listed = list(values) if isinstance(values, Iterable) and not isinstance(values, (str, bytes, dict)) else []
    numbers = tuple(float(each) for each in listed if _is_number(each, Real))
    if len(listed) != 3 or len(numbers) != 3 or not all(map(math.isfinite, numbers)):
        raise UserError(f"{name} should be three finite numbers, one per colour, got {values!r}")
    return numbers


def _is_number(value: Any, kind: type[Any]) -> bool:
    """NumPy's too, but True is none."""
    return isinstance(value, kind) and not isinstance(value, bool)
