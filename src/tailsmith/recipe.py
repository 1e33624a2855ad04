"""A recipe: a published benchmark, and a run of it with the paper's settings, as one YAML file.

Its keys are those of RunConfig, with the reasons beside them as comments, and `benchmark`, which describes the data
(`data.benchmarks.Benchmark`). `RECIPE:ROOT` names the data of a recipe wherever data is named.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailsmith.config import RunConfig, from_dict, renamed
from tailsmith.errors import UserError
from tailsmith.yaml_files import read_yaml

if TYPE_CHECKING:
    from tailsmith.data.benchmarks import Benchmark

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Recipe:
    """`settings` are values of RunConfig, as plain dicts and lists; what isn't there keeps RunConfig's default."""

    benchmark: Benchmark
    settings: dict[str, Any]


def known_recipes() -> list[str]:
    """The recipes that tailsmith carries."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def read_recipe(name: str) -> Recipe:
    """A recipe of tailsmith by its name, or of your own by its YAML file."""
    from tailsmith.data.benchmarks import Benchmark

    content = _content(name)
    if not isinstance(content.get("benchmark"), dict):
        raise UserError(f"recipe {name} has no section 'benchmark', which says how its data is read")
    return Recipe(from_dict(Benchmark, content["benchmark"], f"{name}: benchmark"), _settings(content, name))


def defaults(name: str, options: Collection[str]) -> dict[str, Any]:
    """Those settings of a recipe that a command has an option for: dotted option -> value."""
    found: dict[str, Any] = {}

    def collect(prefix: str, settings: dict[str, Any]) -> None:
        for key, value in settings.items():
            option = f"{prefix}{key}"
            if option in options:
                found[option] = value
            elif isinstance(value, dict):
                collect(f"{option}.", value)

    collect("", {"data": "", **_settings(_content(name), name)})  # a recipe never runs on the default data
    return found


def data_of(recipe: str | None, data: str) -> str:
    """How to name the data of a recipe below a root, for `stages.load`: "imagenet-lt:/data/imagenet"."""
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


def _content(name: str) -> dict[str, Any]:
    path = Path(name).expanduser() if name.endswith(SUFFIXES) else _folder() / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"unknown recipe {name!r}: expected one of {', '.join(known_recipes())}, or a YAML file")
    content = read_yaml(path, "recipe")
    if not isinstance(content, dict):
        raise UserError(f"recipe {path} should hold the keys of a run and 'benchmark', got {type(content).__name__}")
    return content


def _settings(content: dict[str, Any], name: str) -> dict[str, Any]:
    """The settings of a run, checked as a whole."""
    settings = {key: value for key, value in content.items() if key != "benchmark"}
    from_dict(RunConfig, settings, f"recipe {name}")
    if "synthesis" in settings:
        settings["synthesis"] = renamed(settings["synthesis"])
    return settings


def _folder() -> Path:
    return Path(str(files("tailsmith").joinpath("recipes")))
