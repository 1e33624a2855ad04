"""Folders as Hugging Face's `datasets` and WebDataset have them: Parquet files, metadata.jsonl, tar files -> Dataset.

They come from anybody: a name in them that leads out of the folder is refused.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from tailsmith.data.dataset import Dataset
from tailsmith.data.sources.split_names import split_name
from tailsmith.data.sources.tables import Names, dataset_of, names_beside, read_rows
from tailsmith.data.writers import NAMES_JSON
from tailsmith.errors import UserError

METADATA_JSONL = "metadata.jsonl"
PARQUET = re.compile(r"(?P<split>[\w-]+?)-\d+-of-\d+\.parquet")
TAR = re.compile(r"(?P<split>[\w-]+?)-\d+\.tar")
MOST_BYTES = 2**28  # of a member of a tar file: a picture of any camera is smaller
COLUMNS = ("label", "attribute", "image_id", "source")


def load_hub_folder(folder: Path) -> Dataset | None:
    """The images of such a folder, None for a folder that is none; ValueError for what is wrong in it."""
    names = names_beside(folder / NAMES_JSON)
    for read, files in (
        (_parquet, _matching(PARQUET, folder, folder / "data")),
        (
            _jsonl,
            [each for each in (folder / METADATA_JSONL, *sorted(folder.glob(f"*/{METADATA_JSONL}"))) if each.is_file()],
        ),
        (_tar, _matching(TAR, folder)),
    ):
        if files:
            parts = [read(each, folder) for each in files]
            rows = pd.concat([rows.astype(object) for rows, _ in parts], ignore_index=True)
            rows = rows.where(rows.notna(), None)
            found = next((known for _, known in parts if known is not None), Names())
            listed = found if names.class_names is None else replace(names, codes=found.codes)
            return dataset_of(rows, listed, folder / files[0].name, folder.resolve().name)
    return None


Part = tuple[pd.DataFrame, Names | None]


def _matching(pattern: re.Pattern[str], *folders: Path) -> list[Path]:
    found = (each for folder in folders if folder.is_dir() for each in sorted(folder.iterdir()))
    return [each for each in found if each.is_file() and pattern.fullmatch(each.name)]


def _split_of(name: str, path: Path) -> str:
    split = split_name(name)
    if split is None:
        raise UserError(f"{path} is of the split {name!r}, expected train, val or test; rename it, or move it away")
    return split


def _parquet(path: Path, folder: Path) -> Part:
    found = PARQUET.fullmatch(path.name)
    assert found is not None  # _matching has seen to it
    rows, names = read_rows(path)
    known = [name for name in (*COLUMNS, "image", "img", "bytes") if name in rows]
    return rows[known].assign(split=_split_of(found["split"], path)), names


def _jsonl(path: Path, folder: Path) -> Part:
    split = None if path.parent == folder else split_name(path.parent.name)
    rows = []
    for number, line in enumerate(_lines(path), 1):
        row = _object(line, f"{path}: line {number}")
        name = row.get("file_name")
        if not isinstance(name, str) or not _is_inside(name):
            raise UserError(f"{path}: line {number} should have a file_name inside the folder, got {name!r}")
        own = {column: row[column] for column in (*COLUMNS, "split") if row.get(column) is not None}
        rows.append(
            {**({"split": split} if split else {}), **own, "path": str((path.parent / name).relative_to(folder))}
        )
    if not rows:
        raise UserError(f"no images in {path}: it has no lines")
    return pd.DataFrame(rows), None


def _lines(path: Path) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8") as file:
            yield from (line for line in file if line.strip())
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8 ({error.reason}); save it as UTF-8") from error


def _tar(path: Path, folder: Path) -> Part:
    found = TAR.fullmatch(path.name)
    assert found is not None  # _matching has seen to it
    samples: dict[str, dict[str, bytes]] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.isdir():
                    continue
                if not member.isfile() or not _is_inside(member.name) or member.size > MOST_BYTES:
                    raise UserError(
                        f"{path} has the member {member.name!r} ({member.size:,} bytes), expected files inside of at "
                        f"most {MOST_BYTES:,}; it is not read"
                    )
                content = archive.extractfile(member)
                assert content is not None  # a file
                key, _, extension = member.name.partition(".")
                samples.setdefault(key, {})[extension.lower()] = content.read()
    except tarfile.TarError as error:
        raise UserError(f"{path} is not a readable tar file: {error}") from error
    rows = []
    for key, parts in samples.items():
        said = _object(parts.pop("json", b"{}"), f"{path}: {key}.json")
        if "cls" in parts:
            said.setdefault("label", parts.pop("cls").decode("utf-8", "replace").strip())
        if len(parts) != 1:
            raise UserError(f"{path}: {key} should have one image, got {sorted(parts)}")
        own = {column: said.get(column) for column in COLUMNS if said.get(column) is not None}
        rows.append({"image_id": f"{path.stem}/{key}", **own, "bytes": next(iter(parts.values()))})
    return pd.DataFrame(rows, dtype=object).assign(split=_split_of(found["split"], path)), None


def _object(text: str | bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what} is no JSON ({error}); mend it, or remove it") from error
    if not isinstance(value, dict):
        raise UserError(f"{what} should be a JSON object, got {type(value).__name__}")
    return value


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    return not path.is_absolute() and ".." not in path.parts and ":" not in name
