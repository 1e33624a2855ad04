"""The README's Python runs as printed, and its commands exist."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.slow
def test_the_readmes_python_runs_as_printed(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code, str(README), "exec"), names)
    assert len(names["images"]) == 2  # type: ignore[arg-type]
    assert "tensor" in capsys.readouterr().out


def test_the_readmes_commands_and_files_exist(capsys):
    from tailsmith.cli import main

    text = README.read_text()
    for command in sorted(set(re.findall(r"tailsmith ([a-z]+(?:-[a-z]+)?) ", text)) - {"trains"}):
        assert main([command, "--help"]) == 0, command
    for path in re.findall(r"\]\((docs/[^)]+|LOG\.md)\)", text):
        assert (README.parent / path).exists()
