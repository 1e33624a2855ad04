"""What strangers' JSON says of an image, held to what a row of ours can be."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tailsmith.errors import UserError

COLUMNS = ("label", "attribute", "image_id", "source")
Row = dict[str, object]


def read_object(text: str | bytes, what: str) -> Row:
    """A JSON object; ValueError for anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what} is no JSON ({error}); mend it, or remove it") from error
    if not isinstance(value, dict):
        raise UserError(f"{what} should be a JSON object, got {type(value).__name__}")
    return value


def known_of(row: Row, columns: Sequence[str], what: str) -> Row:
    """These columns of a row where it has them, "" counting as nothing; ValueError for what is no name or number."""
    known = {name: row[name] for name in columns if row.get(name) not in (None, "")}
    for name, value in known.items():
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise UserError(f"{what}: {name} should be a name or a number, got {value!r:.80}")
    return known
