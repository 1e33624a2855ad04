"""Recipes as data has to do with them: which there are, which benchmark they describe, and how it is named.

`RECIPE:ROOT` names the data of a recipe wherever data is named.
"""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from tailsmith.data.sources.benchmarks import Benchmark
from tailsmith.errors import UserError
from tailsmith.settings import from_dict
from tailsmith.yaml_files import read_yaml

SUFFIXES = (".yaml", ".yml")


def known_recipes() -> list[str]:
    """The recipes that tailsmith carries."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def benchmark_of(name: str) -> Benchmark:
    """What the section `benchmark` of a recipe describes."""
    section = recipe_content(name).get("benchmark")
    if not isinstance(section, dict):
        raise UserError(f"recipe {name} has no section 'benchmark', which says how its data is read")
    benchmark: Benchmark = from_dict(Benchmark, section, f"{name}: benchmark")
    return benchmark


def data_of(recipe: str | None, data: str) -> str:
    """How to name the data of a recipe below a root, for `load`: "imagenet-lt:/data/imagenet"."""
    if not data:
        if recipe is None:
            raise UserError("missing: DATA; give a folder or a table of images, or --recipe NAME and --data ROOT")
        raise UserError(
            f"recipe {recipe} needs its images: give their root with --data (docs/recipes.md); "
            f"`tailsmith plan --recipe {recipe} --dry-run` does without them"
        )
    if recipe is None or split_data(data) is not None:
        return data
    own = recipe.endswith(SUFFIXES)
    return f"{Path(recipe).expanduser().resolve() if own else recipe}:{data}"


def split_data(data: str) -> tuple[str, Path] | None:
    """ "imagenet-lt:/data/imagenet" -> the recipe and the root; None for any other name of data."""
    named = re.fullmatch(rf"({'|'.join(map(re.escape, known_recipes()))}|.+\.ya?ml):(.+)", data)
    return (named[1], Path(named[2]).expanduser()) if named else None


def recipe_content(name: str) -> dict[str, Any]:
    """All that a recipe's file says."""
    path = Path(name).expanduser() if name.endswith(SUFFIXES) else _folder() / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"unknown recipe {name!r}: expected one of {', '.join(known_recipes())}, or a YAML file")
    content = read_yaml(path, "recipe")
    if not isinstance(content, dict):
        raise UserError(f"recipe {path} should hold the keys of a run and 'benchmark', got {type(content).__name__}")
    return content


def _folder() -> Path:
    return Path(str(files("tailsmith").joinpath("recipes")))
