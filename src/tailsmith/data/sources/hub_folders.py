"""Folders as Hugging Face's `datasets` and WebDataset have them: Parquet files, metadata.jsonl, tar files -> Dataset.

They come from anybody: a name in them that leads out of the folder is refused.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tailsmith.data.dataset import Dataset
from tailsmith.data.packed import IMAGE, location, read_packed
from tailsmith.data.sources.json_rows import COLUMNS, Row, known_of, read_object
from tailsmith.data.sources.split_names import split_name
from tailsmith.data.sources.tables import Names, dataset_of, names_beside, read_rows
from tailsmith.data.sources.tar_files import is_inside, read_tar
from tailsmith.data.writers import NAMES_JSON
from tailsmith.errors import UserError

METADATA_JSONL = "metadata.jsonl"
PARQUET = re.compile(r"(?P<split>[A-Za-z][\w-]*?)-\d+-of-\d+(-[0-9a-f]{8,})?\.parquet")  # a hash in older ones
WHOLE_PARQUET = re.compile(r"(?P<split>[A-Za-z]\w*)\.parquet")
TAR = re.compile(r"(?P<split>[A-Za-z][\w-]*?)-\d{4,}\.tar")
ONE_BY_ONE = 2**22  # bytes of a row group, up to which an image is read when it is needed

log = logging.getLogger(__name__)

Part = tuple[pd.DataFrame, Names]
Read = Callable[[Path, str, Path], Part]


def load_hub_folder(folder: Path) -> Dataset | None:
    """The images of such a folder, None for a folder that is none; ValueError for what is wrong in it."""
    beside = names_beside(folder / NAMES_JSON)
    readers: tuple[tuple[Read, list[tuple[Path, str]]], ...] = (
        (_parquet, _parquet_files(folder)),
        (_jsonl, _jsonl_files(folder)),
        (_tar, _of_splits(TAR, folder)),
    )
    for read, files in readers:
        if files:
            parts = [read(path, split, folder) for path, split in files]
            rows = pd.concat([rows.astype(object) for rows, _ in parts], ignore_index=True)
            rows = rows.where(rows.notna(), None)
            names = _names([path for path, _ in files], [known for _, known in parts])
            if beside.class_names is not None:
                names = replace(beside, codes=names.codes)
            return dataset_of(rows, names, folder / files[0][0].name, folder.resolve().name)
    return None


def _names(paths: Sequence[Path], parts: Sequence[Names]) -> Names:
    """Of all files: a code means the same in each of them."""
    first = parts[0]
    for path, each in zip(paths, parts, strict=True):
        if each.codes != first.codes or each.class_names != first.class_names:
            raise UserError(
                f"{path} names its labels otherwise than {paths[0]} does; write them with the same features, or move "
                "one of them away"
            )
    return first


def _of_splits(pattern: re.Pattern[str], *folders: Path, strict: bool = True) -> list[tuple[Path, str]]:
    """The files of such names, with their splits; those of no split count for nothing, and where `strict` are a
    ValueError beside others.
    """
    there = (each for folder in folders if folder.is_dir() for each in sorted(folder.iterdir()) if each.is_file())
    found = [(each, named["split"]) for each in there if (named := pattern.fullmatch(each.name)) is not None]
    splits = [(each, split_name(name)) for each, name in found]
    known = [(each, split) for each, split in splits if split is not None]
    if strict and known and len(known) < len(splits):
        stranger = next((each, name) for each, name in found if split_name(name) is None)
        raise UserError(
            f"{stranger[0]} is of the split {stranger[1]!r}, expected train, val or test; rename it, or move it away"
        )
    return known


def _parquet_files(folder: Path) -> list[tuple[Path, str]]:
    """SPLIT-00000-of-00003.parquet as `push_to_hub` writes them, SPLIT/0000.parquet as the hub converts to, or
    SPLIT.parquet as one writes them by hand, which tables of other things are called as well.
    """
    if found := _of_splits(PARQUET, folder, folder / "data"):
        return found
    inside = [(each, split_name(each.parent.name)) for each in sorted(folder.glob("*/[0-9]*.parquet"))]
    whole = _of_splits(WHOLE_PARQUET, folder, folder / "data", strict=False)
    found = [(each, split) for each, split in inside if split is not None] or whole
    return [(each, split) for each, split in found if _image_column(each) is not None]


def _parquet(path: Path, split: str, folder: Path) -> Part:
    """Images stay in the file where they can be read one by one."""
    schema, column = _schema(path), _image_column(path)
    if column is None or "label" not in schema.names:
        lacking = "image column (bytes, image or img)" if column is None else "column 'label'"
        raise UserError(f"{path} has no {lacking}; got {', '.join(schema.names)}")
    known, relative = [name for name in COLUMNS if name in schema.names], path.relative_to(folder)
    if column == IMAGE and _is_finely_grouped(path) and _holds_images(path):
        rows, names = read_rows(path, known)
        places = [{"bytes": None, "path": location(relative, row)} for row in range(len(rows))]
        rows = rows.assign(**{IMAGE: pd.Series(places, dtype=object)})
    else:
        rows, names = read_rows(path, [*known, column])
        _check_images(rows[column], path)
    return rows.assign(split=split), names


def _schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        said = str(error).splitlines()[0]
        raise UserError(f"{path} is not a readable parquet file: {said}; bring back a sound copy") from error


def _image_column(path: Path) -> str | None:
    names = _schema(path).names
    return next((name for name in ("bytes", "image", "img") if name in names), None)


def _is_finely_grouped(path: Path) -> bool:
    """Whether one image can be read without many others."""
    meta = pq.read_metadata(path)
    groups = (meta.row_group(number) for number in range(meta.num_row_groups))
    return all(group.num_rows == 1 or group.total_byte_size <= ONE_BY_ONE for group in groups)


def _holds_images(path: Path) -> bool:
    """Whether the first image is in the file; others name files outside."""
    try:
        return bool(read_packed(location(path, 0)))
    except UserError:
        return False


def _check_images(images: pd.Series, path: Path) -> None:
    """Files that are named instead of held lie in the folder."""
    for row, value in enumerate(images):
        name = value.get("path") if isinstance(value, dict) and value.get("bytes") is None else value
        if isinstance(name, str) and not is_inside(name):
            raise UserError(f"{path}: row {row} should hold its image, or name a file inside the folder, got {name!r}")


def _jsonl_files(folder: Path) -> list[tuple[Path, str]]:
    """Those of the folder and its split folders that say labels: captions of images lie in files of that name, too."""
    below = [(each, split) for each in sorted(folder.iterdir()) if each.is_dir() and (split := split_name(each.name))]
    found = [
        (each / METADATA_JSONL, split)
        for each, split in ((folder, ""), *below)
        if (each / METADATA_JSONL).is_file() and _says_labels(each / METADATA_JSONL)
    ]
    lacking = [each.name for each, split in below if split not in {split for _, split in found}]
    if found and found[0][1] and lacking:
        log.warning("%s: %s has no %s with labels, and is left out", folder, ", ".join(lacking), METADATA_JSONL)
    return found


def _says_labels(path: Path) -> bool:
    first = next(_lines(path), None)
    return first is None or "label" in read_object(first, f"{path}: line 1")


def _jsonl(path: Path, split: str, folder: Path) -> Part:
    """A row's own split counts before that of its folder."""
    rows: list[Row] = []
    for number, line in enumerate(_lines(path), 1):
        row = read_object(line, f"{path}: line {number}")
        name = row.get("file_name")
        if not isinstance(name, str) or not is_inside(name):
            raise UserError(f"{path}: line {number} should have a file_name inside the folder, got {name!r}")
        own = known_of(row, (*COLUMNS, "split"), f"{path}: line {number}")
        rows.append(
            {**({"split": split} if split else {}), **own, "path": str((path.parent / name).relative_to(folder))}
        )
    if not rows:
        raise UserError(f"no images in {path}: it has no lines")
    return pd.DataFrame(rows, dtype=object), Names()


def _lines(path: Path) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8") as file:
            yield from (line for line in file if line.strip())
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8 ({error.reason}); save it as UTF-8") from error


def _tar(path: Path, split: str, folder: Path) -> Part:
    return read_tar(path, path.relative_to(folder)).assign(split=split), Names()
