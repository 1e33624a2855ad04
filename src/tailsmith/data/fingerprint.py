"""What a dataset was: ids, splits, labels and a cheap key of every content, to say later what of it changed.

A moved or copied folder is the same data: ids are relative to it, and keys know neither places nor dates.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tailsmith.data.checks import class_difference
from tailsmith.data.dataset import Dataset
from tailsmith.data.packed import is_packed
from tailsmith.errors import UserError
from tailsmith.files import write_atomically

WHOLE = 12 * 1024  # bytes: files up to this are read whole, larger ones at their beginning, middle and end
CHUNK = 1000  # rows that a thread takes at a time
SCHEMA_KEY = b"tailsmith"
MOST_CHANGES = 5  # kinds of change that a complaint lists

Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """One row per image in the dataset's order: image_id, split, source, label, attribute (names), content (uint64)."""

    table: pd.DataFrame
    class_names: tuple[str, ...]
    attribute_names: tuple[str, ...]

    def write(self, path: Path) -> None:
        """One compressed Parquet file: about 20 bytes an image."""
        names = {"class_names": self.class_names, "attribute_names": self.attribute_names}
        table = pa.Table.from_pandas(self.table, preserve_index=False)
        table = table.replace_schema_metadata({SCHEMA_KEY: json.dumps(names)})
        write_atomically(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))

    @staticmethod
    def read(path: Path) -> Fingerprint:
        try:
            stored = pq.read_table(path)
            names = json.loads(stored.schema.metadata[SCHEMA_KEY])
        except (pa.ArrowException, OSError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged, so what the data were can't be told ({error})") from error
        table = stored.to_pandas()
        return Fingerprint(table, tuple(names["class_names"]), tuple(names["attribute_names"]))


def fingerprint(dataset: Dataset) -> Fingerprint:
    """Of a dataset as it is now; reads a few kilobytes of every file."""
    table = dataset.table
    columns = {
        "image_id": table["image_id"].astype(str),
        "split": pd.Categorical(table["split"]),
        "source": pd.Categorical(table["source"]),
        "label": pd.Categorical.from_codes(dataset.labels, pd.Index(dataset.class_names, dtype=object)),
        "attribute": pd.Categorical.from_codes(dataset.attributes, pd.Index(dataset.attribute_names, dtype=object)),
        "content": content_keys(dataset),
    }
    return Fingerprint(pd.DataFrame(columns), dataset.class_names, dataset.attribute_names)


def content_keys(dataset: Dataset) -> Keys:
    """[n]: of bytes in the table a hash; of files one of their size, beginning, middle and end; 0 without an image."""
    paths, encoded = dataset.table["path"].to_numpy(), dataset.table["bytes"].to_numpy()

    def key(row: int) -> int:
        if encoded[row] is not None:
            return _hash(encoded[row])
        if paths[row] is None:
            return 0
        return _hash(dataset.encoded(row)) if is_packed(paths[row]) else _file_key(paths[row])

    def keys(rows: range) -> list[int]:
        return [key(row) for row in rows]

    chunks = [range(start, min(start + CHUNK, len(dataset))) for start in range(0, len(dataset), CHUNK)]
    with ThreadPoolExecutor() as pool:
        found = [value for chunk in pool.map(keys, chunks) for value in chunk]
    return np.array(found, dtype=np.uint64)


def changes(before: Fingerprint, now: Fingerprint) -> str:
    """What became of the data, in words with counts and the first example; empty where nothing changed."""
    found = _renamed("class", before.class_names, now.class_names)
    found += _renamed("attribute", before.attribute_names, now.attribute_names)
    one, other = before.table, now.table
    place = pd.Index(other["image_id"]).get_indexer(one["image_id"])  # -1 where it is gone
    added = np.ones(len(other), dtype=bool)
    added[place[place >= 0]] = False
    found += _per_split(other[added], ("was added to", "were added to"))
    found += _per_split(one[place < 0], ("is gone from", "are gone from"))
    if not found and (np.diff(place) < 0).any():
        found.append("its images are in another order")
    found += _altered(one[place >= 0].reset_index(drop=True), other.iloc[place[place >= 0]])
    more = f", and {len(found) - MOST_CHANGES} more kinds of change" if len(found) > MOST_CHANGES else ""
    return ", ".join(found[:MOST_CHANGES]) + more


def _renamed(what: str, before: Sequence[str], now: Sequence[str]) -> list[str]:
    return [] if tuple(before) == tuple(now) else [f"of {what} names it {class_difference(now, before)}"]


def _per_split(rows: pd.DataFrame, words: tuple[str, str]) -> list[str]:
    """ "36 images were added to test (first: test/cat/new0.png)" """
    found = []
    for split in ("train", "val", "test"):
        ids = rows["image_id"][(rows["split"] == split).to_numpy()]
        if len(ids):
            found.append(f"{_counted(len(ids), *words)} {split} (first: {ids.iloc[0]})")
    return found


def _altered(before: pd.DataFrame, now: pd.DataFrame) -> list[str]:
    """What differs of images that are in both, row by row."""
    found = []
    for column, words in (("split", "split"), ("label", "class"), ("attribute", "attribute"), ("source", "source")):
        old, new = (each[column].astype(object).fillna("none").to_numpy() for each in (before, now))
        rows = np.flatnonzero(old != new)
        if len(rows):
            first = f"{before['image_id'].iat[rows[0]]}, from {old[rows[0]]} to {new[rows[0]]}"
            found.append(f"{_counted(len(rows), 'has', 'have')} another {words} (first: {first})")
    rows = np.flatnonzero(before["content"].to_numpy() != now["content"].to_numpy())
    if len(rows):
        which = before["image_id"].iat[rows[0]]
        found.append(f"{_counted(len(rows), 'has', 'have')} other contents (first: {which})")
    return found


def _counted(number: int, one: str, several: str) -> str:
    return f"1 image {one}" if number == 1 else f"{number:,} images {several}"


def _file_key(path: str) -> int:
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))  # a third of the time that open() takes
    try:
        size = os.fstat(descriptor).st_size
        if size <= WHOLE:
            return _hash(os.read(descriptor, size), size)
        parts = []
        for start in (0, (size - WHOLE // 3) // 2, size - WHOLE // 3):
            os.lseek(descriptor, start, os.SEEK_SET)
            parts.append(os.read(descriptor, WHOLE // 3))
    finally:
        os.close(descriptor)
    return _hash(b"".join(parts), size)


def _hash(content: Any, size: int | None = None) -> int:
    digest = hashlib.blake2b(content, digest_size=8)
    digest.update((len(content) if size is None else size).to_bytes(8, "little"))
    return int.from_bytes(digest.digest(), "little")
