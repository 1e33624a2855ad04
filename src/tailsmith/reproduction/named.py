"""Every experiment by its name: what `tailsmith reproduce` knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tailsmith.errors import UserError, did_you_mean
from tailsmith.files import write_json, write_text
from tailsmith.reproduction.comparison import COMPARISONS, compare_halves
from tailsmith.reproduction.cost_table import reproduce_costs
from tailsmith.reproduction.driver import reproduce
from tailsmith.reproduction.fashion import EXPERIMENTS
from tailsmith.reproduction.paper_figures import FIGURES, reproduce_figure
from tailsmith.reproduction.paper_results import reproduce_table
from tailsmith.reproduction.paper_tables import TABLES
from tailsmith.reproduction.sweep import sweep
from tailsmith.reproduction.tables import halves_table, markdown_table
from tailsmith.reproduction.worlds import Scale
from tailsmith.studies.points_2d import figure_5, markdown
from tailsmith.studies.points_picture import draw_figure_5


@dataclass(frozen=True)
class Reproduction:
    """Where an experiment's runs lie, where its numbers go, and at which seeds and scale it is made."""

    out: Path
    results: Path  # JSON; a table or picture of the same name lies beside it
    seeds: tuple[int, ...] = (0, 1, 2)
    scale: Scale = field(default_factory=Scale)
    command: str = ""
    rows: tuple[str, ...] = ()  # labels of a table's; () = all


def _table(name: str, asked: Reproduction) -> str:
    reproduce_table(TABLES[name], asked.out, asked.results, asked.seeds, asked.scale, asked.command, asked.rows)
    return _beside(asked, ".md")


def _costs(asked: Reproduction) -> str:
    reproduce_costs(asked.out, asked.results, asked.seeds[0], asked.scale, asked.command)
    return _beside(asked, ".md")


def _figure(name: str, asked: Reproduction) -> str:
    reproduce_figure(FIGURES[name], asked.out, asked.results, asked.seeds[0], asked.scale, asked.command)
    return f"Picture: {asked.results.with_suffix('.png')}"


def _points(asked: Reproduction) -> str:
    if asked.scale.name == "full":
        raise UserError("figure-5 is points in the plane: its scales are tiny and embedded")
    figure = figure_5(asked.seeds, asked.scale.name)
    write_json(asked.results, {**figure.as_json(), "command": asked.command})
    write_text(asked.results.with_suffix(".md"), markdown(figure))
    write_text(asked.results.with_suffix(".svg"), draw_figure_5(figure))
    return _beside(asked, ".md")


def _fashion(name: str, asked: Reproduction) -> str:
    reproduce(EXPERIMENTS[name], asked.out, asked.results, asked.seeds, asked.command)
    return markdown_table(asked.results, EXPERIMENTS[name].columns)


def _halves(name: str, asked: Reproduction) -> str:
    compare_halves(COMPARISONS[name], asked.out, asked.results, asked.seeds, asked.command)
    return halves_table(asked.results)


def _sweep(asked: Reproduction) -> str:
    for seed in asked.seeds:
        sweep(asked.out, asked.results, seed, asked.command)
    return ""


def _beside(asked: Reproduction, suffix: str) -> str:
    return asked.results.with_suffix(suffix).read_text(encoding="utf-8")


# Each returns what is said of its result. The paper's own have scales.
PAPER: Mapping[str, Callable[[Reproduction], str]] = {
    **{name: partial(_table, name) for name in TABLES},
    "table-4": _costs,
    "figure-5": _points,
    **{name: partial(_figure, name) for name in FIGURES},
}
OURS: Mapping[str, Callable[[Reproduction], str]] = {
    **{name: partial(_fashion, name) for name in EXPERIMENTS},
    "feedback-sweep": _sweep,
    **{name: partial(_halves, name) for name in COMPARISONS},
}


def experiment_of(name: str, scale: Scale, rows: Sequence[str] = ()) -> Callable[[Reproduction], str]:
    """ValueError for a name that no experiment has, and for a scale or rows that it doesn't come in."""
    if name not in (known := {**PAPER, **OURS}):
        raise UserError(f"experiment should be one of {', '.join(known)}, got {name!r}{did_you_mean(name, known)}")
    if name in OURS and scale != Scale():
        raise UserError(f"{name} has no other scale than embedded; leave out --scale and --data")
    if rows and name not in TABLES:
        raise UserError(f"{name} is made as a whole; leave out --rows, which is for {', '.join(TABLES)}")
    return known[name]
