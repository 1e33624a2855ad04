"""Whose folder it is: what is fitted there, and whether it is there as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tailsmith.errors import UserError
from tailsmith.files import write_json
from tailsmith.generation.fit.captions import CaptionedImages
from tailsmith.generation.fit.config import FineTuneConfig, FitGeneratorConfig
from tailsmith.generation.pipeline_folder import INDEX, read_index, read_object
from tailsmith.settings import to_dict

ADDED = {"method": FineTuneConfig.method}  # settings that fits of before don't name


def is_finished(out: Path) -> bool:
    """Whether the pipeline is there as a whole: its index, which is written last, is sound and so are its parts."""
    if not (out / INDEX).exists():
        return False
    try:
        index = read_index(out)
    except ValueError:  # an earlier version's half-written file
        return False
    return all(any((out / name).glob("*")) for name, value in index.items() if isinstance(value, list))


def claim(out: Path, config: FitGeneratorConfig | FineTuneConfig, data: CaptionedImages, contents_sha256: str) -> None:
    """Write down what is being fitted, or refuse a folder that holds something else."""
    path = out / "training" / "config.json"
    fitted = {
        "config": to_dict(config),
        "contents_sha256": contents_sha256,
        "images": len(data),
        "class_names": list(data.captions.class_names),
        "attribute_names": list(data.captions.attribute_names),
    }
    if (out / INDEX).exists() and not path.exists():
        raise UserError(f"{out} holds a pipeline that fit-generator didn't write; use another --out")
    if path.exists() and _identity(read_object(path)) != _identity(fitted):
        raise UserError(f"{out} holds a generator fitted with another configuration or dataset; use another --out")
    write_json(path, fitted)


def _identity(fitted: dict[str, Any]) -> dict[str, Any]:
    """What makes a fit the same one: all but the precision, which a resumed fit may have changed with its machine."""
    config = fitted.get("config")
    if not isinstance(config, dict):
        return fitted
    return {**fitted, "config": {**ADDED, **{name: value for name, value in config.items() if name != "bf16"}}}
