"""Who may import whom (docs/architecture.md, "Layers"), and how large things grow: read from the source, not run."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "tailsmith"
FILES = {path.relative_to(SOURCE).as_posix(): path for path in sorted(SOURCE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}

# What each room may import, beside itself and the ground: the files at the root that know nothing of the rooms.
SHELVES = ("data", "classification", "guidance", "generation", "metrics")  # never one another
ALLOWED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(SHELVES, ()),
    "synthesis": SHELVES,
    "report": ("data", "metrics"),  # a page, from what others read out of runs and grids
    "exporting": (*SHELVES, "synthesis"),
    "runs": (*SHELVES, "synthesis", "report"),
    "studies": (*SHELVES, "synthesis", "report", "runs"),
    "experiment": (*SHELVES, "synthesis", "report", "runs", "studies"),
    "reproduction": (*SHELVES, "synthesis", "report", "runs", "studies", "experiment"),
    "cli": (*SHELVES, "synthesis", "report", "runs", "studies", "experiment", "reproduction", "exporting"),
}
GROUND = {
    "contracts", "strata", "files", "errors", "settings", "devices", "interruption", "locks", "randomness", "terminal",
    "yaml_files",
}  # fmt: skip
MOST_LINES, MOST_PARAMETERS = 300, 8
LONG = {"feedback": 10}  # the short form of FeedbackConfig: its keywords are the fields


def imported(name: str) -> set[str]:
    """Full names of the modules that a file imports, at any depth of it, and of what it imports from them."""
    names: set[str] = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} imports relatively"
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


IMPORTS = {name: imported(name) for name in FILES}


def module(name: str) -> str:
    """data/counts.py -> tailsmith.data.counts"""
    return ".".join(["tailsmith", *Path(name).with_suffix("").parts]).removesuffix(".__init__")


MODULES = {module(name): name for name in FILES}


def room(name: str) -> str:
    return Path(name).with_suffix("").parts[0]


def importers(package: str) -> set[str]:
    return {name for name, names in IMPORTS.items() if any(f"{each}.".startswith(f"{package}.") for each in names)}


def test_every_room_is_named():
    assert {room(name) for name in FILES} == {*ALLOWED, *GROUND, "__init__", "__main__"}
    assert all(importers(f"tailsmith.{each}") for each in [*SHELVES, "synthesis", "runs", "studies", "report"])


@pytest.mark.parametrize(("one", "other"), [pair for pair in product(ALLOWED, ALLOWED) if pair[0] != pair[1]])
def test_every_pair_of_rooms(one, other):
    if other not in ALLOWED[one]:
        assert not {name for name in importers(f"tailsmith.{other}") if room(name) == one}


@pytest.mark.parametrize("one", sorted(GROUND))
def test_the_ground_knows_no_room(one):
    for name in FILES:
        if room(name) == one:
            known = {each.split(".")[1] for each in IMPORTS[name] if each.startswith("tailsmith.")}
            assert known <= GROUND | {"__version__"}


def test_modules_do_not_import_each_other_in_a_circle():
    """Type checkers' imports and those inside functions count as well."""
    direct = {name: {MODULES[each] for each in names if each in MODULES} - {name} for name, names in IMPORTS.items()}
    # Packages only hold their modules, and the top one resolves its names lazily.
    below = {name: others for name, others in direct.items() if not name.endswith("__init__.py")}
    while True:
        leaves = {name for name, others in below.items() if not others & below.keys()}
        if not leaves:
            break
        below = {name: others for name, others in below.items() if name not in leaves}
    assert not below, f"in or above a circle: {sorted(below)}"


def test_only_generation_and_the_edge_of_guidance_know_diffusers():
    known = {name for name in importers("diffusers") if room(name) != "generation"}
    assert known <= {"guidance/latents.py"} and importers("diffusers")


def test_only_backbones_know_timm():
    assert importers("timm") <= {"classification/backbones.py", "data/views.py"}


def test_there_is_no_drawer_for_odds_and_ends():
    assert not {name for name in FILES if Path(name).stem in {"utils", "common", "helpers", "misc"}}


def test_no_root_module_has_the_name_of_a_public_function():
    import tailsmith

    assert not {Path(name).stem for name in FILES if "/" not in name} & set(tailsmith.__all__)


def test_files_stay_readable():
    assert not {name: n for name, path in FILES.items() if (n := len(path.read_text().splitlines())) > MOST_LINES}


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                yield f"{name}: {node.name}", node


def parameters(node: ast.FunctionDef) -> list[ast.arg]:
    every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return [each for each in every if each.arg not in ("self", "cls")]


def test_functions_take_nouns():
    many = {name: n for name, node in functions() if (n := len(parameters(node))) > MOST_PARAMETERS}
    assert many == {f"guidance/feedback.py: {name}": n for name, n in LONG.items()}


# Where values have no type of ours yet, or no longer: YAML and JSON as they are read and written, and pages.
JSON_EDGE = {
    "cli/parsing.py", "settings.py", "data/sources/recipes.py", "runs/recipe.py", "generation/pipeline_folder.py",
    "synthesis/config.py", "report/sections.py", "report/feedback_section.py",
}  # fmt: skip
AS_JSON = {  # what is written down as it is: descriptions, measurements, a plan's metadata
    "describe", "cost", "rendered", "environment", "summarise", "study_samples", "write_run_report", "plan_meta",
    "judged", "per_call", "over_seeds", "make_plan", "identity_parts", "planned_by", "config", "collect",
    "trained_rows", "differences", "denoiser_arguments", "kept",
}  # fmt: skip


def test_what_travels_is_a_noun():
    loose = set()
    for name, node in functions():
        hints = [each.annotation for each in parameters(node)] + [node.returns]
        if any(hint is not None and "dict[str, Any]" in ast.unparse(hint) for hint in hints):
            public = not node.name.startswith("_")
            loose |= {name} if public and name.partition(":")[0] not in JSON_EDGE else set()
    assert {each.rpartition(" ")[2] for each in loose} <= AS_JSON


def test_importing_tailsmith_and_its_configuration_imports_nothing_heavy():
    heavy = ["torch", "diffusers", "transformers", "timm", "pandas", "sklearn", "scipy", "matplotlib", "pyarrow"]
    code = f"import sys, tailsmith, tailsmith.runs.config; print([each for each in {heavy} if each in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
