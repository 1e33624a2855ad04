"""Who may import whom (docs/architecture.md, "Layers"), read from the source without running it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "tailsmith"
FILES = {path.relative_to(SOURCE).as_posix(): path for path in sorted(SOURCE.rglob("*.py"))}
ROOMS = ("data", "classification", "guidance", "metrics")  # never import one another
ABOVE = {"synthesis", "stages", "experiment", "reproduction", "cli"}


def imported(path):
    """Full names of the modules that a file imports, at any depth of the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = ["tailsmith", *path.relative_to(SOURCE).parts[: -node.level]] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names


IMPORTS = {name: imported(path) for name, path in FILES.items()}


def importers(package):
    return {name for name, names in IMPORTS.items() if any(f"{each}.".startswith(f"{package}.") for each in names)}


def test_there_is_something_to_check():
    assert all(importers(f"tailsmith.{room}") for room in ROOMS)
    assert {"guidance/feedback.py", "classification/backbones.py"} <= set(FILES)


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("other", [*ROOMS, *sorted(ABOVE)])
def test_rooms_do_not_import_one_another_nor_what_joins_them(room, other):
    if room != other:
        assert not {name for name in importers(f"tailsmith.{other}") if name.startswith(f"{room}/")}


@pytest.mark.parametrize("above", ["stages", "experiment", "reproduction", "cli"])
def test_synthesis_does_not_import_what_stands_on_it(above):
    assert not {name for name in importers(f"tailsmith.{above}") if name.startswith("synthesis/")}


def test_nothing_stands_on_the_command_line():
    assert importers("tailsmith.cli") <= {"__main__.py", "cli.py"} | {n for n in FILES if n.startswith("cli/")}


def test_only_generators_and_latents_know_diffusers():
    known = importers("diffusers")
    assert known
    assert {name for name in known if not name.startswith("synthesis/fit_generator/")} <= {
        "synthesis/generators.py",
        "guidance/latents.py",
    }


def test_only_backbones_and_its_augmentation_policies_know_timm():
    assert importers("timm") == {"classification/backbones.py", "data/views.py"}


def test_there_is_no_drawer_for_odds_and_ends():
    assert not {name for name in FILES if Path(name).stem in {"utils", "common", "helpers", "misc"}}


def test_importing_tailsmith_and_its_configuration_imports_nothing_heavy():
    heavy = ["torch", "diffusers", "transformers", "timm", "pandas", "sklearn", "scipy", "matplotlib", "pyarrow"]
    code = f"import sys, tailsmith, tailsmith.config; print([each for each in {heavy} if each in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
