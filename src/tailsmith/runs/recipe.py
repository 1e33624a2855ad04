"""A recipe: a published benchmark, and a run of it with the paper's settings, as one YAML file.

Its keys are those of RunConfig, with the reasons beside them as comments, and `benchmark`, which describes the data
(`data.sources.benchmarks.Benchmark`; data/sources/recipes.py reads that part).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from tailsmith.data.sources.benchmarks import Benchmark
from tailsmith.data.sources.recipes import benchmark_of, recipe_content
from tailsmith.runs.config import RunConfig
from tailsmith.settings import from_dict
from tailsmith.synthesis.config import SynthesisConfig


@dataclass(frozen=True)
class Recipe:
    """`settings` are values of RunConfig, as plain dicts and lists; what isn't there keeps RunConfig's default."""

    benchmark: Benchmark
    settings: dict[str, Any]


def read_recipe(name: str) -> Recipe:
    """A recipe of tailsmith by its name, or of your own by its YAML file."""
    return Recipe(benchmark_of(name), _settings(recipe_content(name), name))


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

    collect("", {"data": "", **_settings(recipe_content(name), name)})  # a recipe never runs on the default data
    return found


def _settings(content: dict[str, Any], name: str) -> dict[str, Any]:
    """The settings of a run, checked as a whole."""
    settings = {key: value for key, value in content.items() if key != "benchmark"}
    from_dict(RunConfig, settings, f"recipe {name}")
    if "synthesis" in settings:
        settings["synthesis"] = SynthesisConfig.renamed(settings["synthesis"])
    return settings
