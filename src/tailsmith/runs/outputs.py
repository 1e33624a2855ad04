"""Where results go, asked before any work: writable, outside the data, and not over something that isn't ours."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailsmith.data.sources.recipes import split_data
from tailsmith.errors import UserError
from tailsmith.files import check_writable, read_json, remove_leftovers, write_json

if TYPE_CHECKING:
    from tailsmith.classification.classifier import Classifier
    from tailsmith.data.dataset import Dataset
    from tailsmith.synthesis.plan import Plan

TABLE = "metadata.csv"  # with it, a folder's images are those that it lists
HISTORY = "history.json"


def check_folder(out: Path, data: str = "") -> None:
    """ValueError unless results can go into the folder `out`: no file, writable, not among the images of `data`."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file, and results need a folder; use another --out")
    _check_outside(out, data, out)
    check_writable(out)
    if out.is_dir():
        remove_leftovers(out)


def check_file(path: Path, data: str = "") -> None:
    """ValueError unless the file can be written, and is neither the data nor among its images."""
    if path.is_dir():
        raise UserError(f"{path} is a folder, and the result is a file; give its name as well")
    if data and path.exists() and os.path.exists(data) and os.path.samefile(path, data):
        raise UserError(f"{path} is the data set itself; write to another file")
    if data and path.absolute().parent.resolve() != Path(data).resolve():  # beside class folders no file is an image
        _check_outside(path.absolute().parent, data, path)
    check_writable(path)


def check_classifier_folder(out: Path, data: str) -> None:
    """As `check_folder`; and it holds no classifier, and nothing of others that one would replace."""
    check_folder(out, data)
    if (out / "config.json").exists():
        raise UserError(f"{out} holds a classifier already; use another --out")
    there = [name for name in (HISTORY, "model.safetensors") if (out / name).exists()]
    if there and not _holds(out / HISTORY, lambda stored: all("step" in entry for entry in stored)):
        raise UserError(f"{out} holds a {there[0]} that is not of a training of ours; use another --out")


def check_plan_file(path: Path, data: str, overwrite: bool) -> None:
    """As `check_file`; and an existing file is a plan, or may go."""
    check_file(path, data)
    if path.exists() and not overwrite and plan_meta(path) is None:
        raise UserError(f"{path} exists and is no plan; use another --out, or --overwrite to replace it")


def check_plan_of(path: Path, dataset: Dataset, overwrite: bool) -> None:
    """An existing plan is for the same data, or may go."""
    planned = plan_meta(path) if path.exists() and not overwrite else None
    if planned is None:
        return
    now = {"dataset": dataset.name, "class_names": list(dataset.class_names)}
    if any(planned.get(name) != value for name, value in now.items()):
        raise UserError(
            f"{path} is a plan for other data, {planned.get('dataset')!r}; use another --out, or --overwrite to "
            "replace it"
        )


def check_plan_replaces(path: Path, made: Plan, overwrite: bool) -> None:
    """An existing plan is the same one, or may go."""
    if not path.exists() or overwrite:
        return
    earlier = type(made).read(path)
    if changed := [name for name, part in made.parts.items() if earlier.parts[name] != part]:
        raise UserError(
            f"{path} is another plan ({', '.join(changed)}: not the same); use another --out, or --overwrite to "
            "replace it"
        )


def check_json_file(path: Path, keys: tuple[str, ...], option: str) -> None:
    """As `check_file`; and an existing file has the keys by which we know ours."""
    check_file(path)
    if path.exists() and not _holds(path, lambda stored: isinstance(stored, dict) and set(keys) <= stored.keys()):
        raise UserError(f"{path} exists and is nothing that this command wrote; use another {option}")


def save_trained(classifier: Classifier, folder: Path, history: Path) -> None:
    """Write the classifier and its history; where that fails, to a temporary folder, and ValueError with its name."""
    from safetensors import SafetensorError

    try:
        write_json(history, classifier.history)
        classifier.save(folder)
    except (OSError, ValueError, SafetensorError) as error:
        rescued = Path(tempfile.mkdtemp(prefix="tailsmith-classifier-"))
        write_json(rescued / HISTORY, classifier.history)
        classifier.save(rescued)
        raise UserError(
            f"the classifier could not be written to {folder} ({error}); it is kept in {rescued}: move its config.json "
            f"and model.safetensors to {folder}, and its {HISTORY} to {history}"
        ) from error


def _check_outside(out: Path, data: str, shown: Path) -> None:
    """Whatever lies in a folder of images is one of them, or a class: the next command would choke on results there."""
    folder = Path(data)
    if not data or split_data(data) is not None or not folder.is_dir() or (folder / TABLE).is_file():
        return
    place, root = out.resolve(), folder.resolve()
    if not place.is_relative_to(root) or any(part.startswith(".") for part in place.relative_to(root).parts):
        return
    raise UserError(
        f"{shown} lies in the data folder {data}, where it would be taken for images; use a place outside, as in "
        f"{Path(os.path.relpath(root.parent)) / (place.name if place != root else 'results')}"
    )


def plan_meta(path: Path) -> dict[str, Any] | None:
    """What a plan says of itself; None for any other file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        meta = json.loads((pq.read_schema(path).metadata or {})[b"tailsmith"])
    except (pa.ArrowException, OSError, KeyError, ValueError):
        return None
    return meta if isinstance(meta, dict) and "synthesis" in meta else None


def _holds(path: Path, expected: Callable[[Any], bool]) -> bool:
    """Whether a file is JSON of what we expect there."""
    try:
        return expected(read_json(path))
    except (ValueError, TypeError, OSError):
        return False
