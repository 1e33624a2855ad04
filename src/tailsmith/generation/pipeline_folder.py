"""A generator's folder as it lies on disk: its index and the classes that it was fitted to, checked when read."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tailsmith.errors import UserError
from tailsmith.files import read_json

INDEX = "model_index.json"
FITTED = Path("training") / "config.json"  # what fit-generator was run with
CLASS_TOKENS = "class_tokens.json"  # class -> the token that textual inversion learned for it
PLAIN = re.compile(r"(?!\.+$)[\w.-]+")  # a name that stays inside the folder
WRITERS = "`tailsmith fit-generator` or by pipe.save_pretrained"


def index_path(folder: Path) -> Path:
    """Where the index of a pipeline's folder is; ValueError for a folder without one."""
    path = folder / INDEX
    if not path.is_file():
        raise UserError(f"{folder} is not a diffusers pipeline: it has no {INDEX}; give a folder written by {WRITERS}")
    return path


def read_index(folder: Path) -> dict[str, Any]:
    """model_index.json, with a pipeline class and well-formed parts; ValueError for anything else."""
    path = index_path(folder)
    index = read_object(path)
    if not isinstance(index.get("_class_name"), str):
        raise UserError(f"{path} names no pipeline class (_class_name); give a folder written by {WRITERS}")
    for name, value in index.items():
        if name.startswith("_") or not (isinstance(value, list) or (folder / name).is_dir()):
            continue  # other values are options of the pipeline
        if not PLAIN.fullmatch(name):
            raise UserError(f"{path} has a part {name!r}, which is no name of a folder in {folder}; remove it")
        if not (isinstance(value, list) and len(value) == 2 and all(isinstance(each, str | None) for each in value)):
            raise UserError(f"{path}: part {name!r} should be [library, class], got {value!r}")
    return index


def own_parts(folder: Path, index: Mapping[str, Any]) -> list[Path]:
    """The folders of a pipeline's parts: those that its index names, and that lie in it."""
    return [folder / name for name in sorted(index) if PLAIN.fullmatch(name) and (folder / name).is_dir()]


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object of a file; ValueError that names the file for anything else."""
    try:
        content = read_json(path)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged, it is not JSON: {error}; write the generator again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: it should hold a JSON object, got {type(content).__name__}")
    return content


def fitted_classes(folder: Path) -> tuple[str, ...] | None:
    """The classes that fit-generator showed a generator; None where another made it, and nobody says."""
    path = folder / FITTED
    names = read_object(path).get("class_names") if path.is_file() else None
    return tuple(map(str, names)) if isinstance(names, list) else None


def class_tokens(folder: Path, class_names: Sequence[str]) -> dict[str, str]:
    """The tokens that a generator learned for some of these classes, by class; case and spaces don't matter."""
    path = folder / CLASS_TOKENS
    learned = read_object(path) if path.is_file() else {}
    if not all(isinstance(token, str) for token in learned.values()):
        raise UserError(f"{path} is damaged: it should hold a token for each class, got {learned!r}; fit it again")
    known = {_words(name): str(token) for name, token in learned.items()}
    return {name: known[_words(name)] for name in class_names if _words(name) in known}


def unknown_classes(known: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Those wanted that a generator doesn't know, in the words of prompts; case and spaces don't matter to it."""
    same = {_words(name) for name in known}
    return [name for name in wanted if _words(name) not in same]


def _words(name: str) -> str:
    return " ".join(name.lower().split())
