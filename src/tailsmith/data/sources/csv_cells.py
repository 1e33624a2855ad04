"""A CSV file as people save it -> columns of text; what is wrong with it by line number."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from tailsmith.errors import UserError

SEPARATORS = (",", ";", "\t")


def read_cells(path: Path) -> dict[str, list[str | None]]:
    """Column -> its cells, None where one is empty; names of columns without the spaces around them.

    The separator is the comma, semicolon or tab that the first line has most of; a byte order mark is no part of it.
    ValueError where a line has more or fewer fields than the first, or the file is no UTF-8 text.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            lines = csv.reader(file, delimiter=max(SEPARATORS, key=first.count), strict=True)
            header = [name.strip() for name in next(lines, [])]
            rows = [(lines.line_num, row) for row in lines if row]
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not a readable csv file: it is not UTF-8 text ({error}); save it as UTF-8"
        ) from error
    except csv.Error as error:
        raise UserError(f"{path} is not a readable csv file: line {lines.line_num}: {error}") from error
    if not any(header):
        raise UserError(f"{path} is not a readable csv file: its first line should name the columns, and is empty")
    _check_header(header, path)
    _check_lengths(header, rows, path)
    return {name: [row[place] or None for _, row in rows] for place, name in enumerate(header)}


def _check_header(header: Sequence[str], path: Path) -> None:
    repeated = [name for place, name in enumerate(header) if name in header[:place]]
    if repeated:
        raise UserError(f"{path} has two columns {repeated[0]!r}; name each once")


def _check_lengths(header: Sequence[str], rows: Sequence[tuple[int, Sequence[str]]], path: Path) -> None:
    wrong = [(number, len(row)) for number, row in rows if len(row) != len(header)]
    if wrong:
        number, fields = wrong[0]
        has = f"{fields} field" if fields == 1 else f"{fields} fields"
        raise UserError(
            f"{path}: line {number} has {has}, and the header has {len(header)} ({', '.join(header)}); {len(wrong):,} "
            "lines are so: give each as many, with quotes around what has a comma in it"
        )
