"""The README's Python runs as printed, and its commands exist."""

import re
from pathlib import Path

import pytest

import tailsmith

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PROSE = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.slow
def test_the_readmes_python_runs_as_printed(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code, str(README), "exec"), names)
    assert len(names["images"]) == 2  # type: ignore[arg-type]
    assert "tensor" in capsys.readouterr().out


def test_the_readmes_commands_and_files_exist(capsys):
    from tailsmith.cli.main import main

    text = README.read_text()
    for command in sorted(set(re.findall(r"tailsmith ([a-z]+(?:-[a-z]+)?) ", text)) - {"trains"}):
        assert main([command, "--help"]) == 0, command
    for path in re.findall(r"\]\((docs/[^)]+|LOG\.md)\)", text):
        assert (README.parent / path).exists()


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_names_and_files_that_the_docs_mention_exist(path):
    text = path.read_text(encoding="utf-8")
    for name in set(re.findall(r"\btailsmith\.([a-z_]+)\b", text)) - {"git"}:
        assert name in tailsmith.__all__ or (ROOT / "src" / "tailsmith" / name).is_dir(), name
    known = {file.name for folder in ("src", "tests", "tools", "benchmarks") for file in (ROOT / folder).rglob("*.py")}
    assert set(re.findall(r"\b\w+\.py\b", text)) <= known
    for result in set(re.findall(r"results/[\w-]+\.json", text)):
        assert (ROOT / result).is_file(), result
