"""Jinja templates of this folder -> HTML files that need nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from tailsmith.files import write_atomically


def render_page(template: str, view: Mapping[str, Any]) -> str:
    """A template of this folder, filled in; every value is escaped, and a name it lacks is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(view)


def write_page(path: Path | str, page: str) -> Path:
    """Write the file whole or not at all."""

    def write(temporary: Path) -> None:
        temporary.write_text(page, encoding="utf-8")

    write_atomically(Path(path), write)
    return Path(path)
