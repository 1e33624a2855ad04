"""The one table that real and synthetic images share, and the class and attribute names beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from tailsmith.data.decoding import Decoding, decode
from tailsmith.data.packed import is_packed, read_packed
from tailsmith.errors import UserError

COLUMNS = ("image_id", "path", "bytes", "label", "attribute", "split", "source")
SPLITS = ("train", "val", "test")
SOURCES = ("real", "synthetic")

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and what is known of them, one row each; the columns are `COLUMNS` and the index is 0..n-1.

    An image is a file or a row of a shard (`path`, see packed.py), or encoded `bytes`, which count where both are
    given. `label` indexes `class_names`; `attribute` indexes `attribute_names`, -1 meaning none. `decoding` is how all
    images become 8-bit RGB.
    """

    table: pd.DataFrame
    class_names: tuple[str, ...]
    attribute_names: tuple[str, ...] = ()
    name: str = ""
    licence: str = ""
    decoding: Decoding = field(default_factory=Decoding)

    def __post_init__(self) -> None:
        if tuple(self.table.columns) != COLUMNS:
            raise UserError(f"a Dataset's table has columns {list(COLUMNS)}, got {list(self.table.columns)}")
        _check_codes("label", self.table["label"].to_numpy(), 0, self.class_names)
        _check_codes("attribute", self.table["attribute"].to_numpy(), -1, self.attribute_names)
        _check_words("split", self.table["split"], SPLITS)
        _check_words("source", self.table["source"], SOURCES)
        object.__setattr__(self, "table", _normalized(self.table))

    def __len__(self) -> int:
        return len(self.table)

    @property
    def labels(self) -> Ints:
        """[n]"""
        return self.table["label"].to_numpy(dtype=np.int64)

    @property
    def attributes(self) -> Ints:
        """[n], -1 where an image has none."""
        return self.table["attribute"].to_numpy(dtype=np.int64)

    @property
    def groups(self) -> Ints:
        """[n], label * A + attribute; -1 where an image has no attribute."""
        attributes = self.attributes
        return np.where(attributes < 0, -1, self.labels * len(self.attribute_names) + attributes)

    @property
    def group_names(self) -> tuple[str, ...]:
        """Names in the order of the group numbers: "sandal in rock"."""
        return tuple(f"{label} in {each}" for label in self.class_names for each in self.attribute_names)

    def split(self, name: str) -> Dataset:
        if name not in SPLITS:
            raise UserError(f"split should be one of {list(SPLITS)}, got {name!r}")
        return self.select(self.table["split"].to_numpy() == name)

    def select(self, mask_or_rows: npt.NDArray[Any] | Sequence[int]) -> Dataset:
        """The rows of a boolean mask [n], or the given row numbers in the given order."""
        chosen = np.asarray(mask_or_rows)
        if chosen.dtype == bool and len(chosen) != len(self):
            raise UserError(f"a mask over this dataset has {len(self)} entries, got {len(chosen)}")
        rows = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64)
        return replace(self, table=self.table.iloc[rows].reset_index(drop=True))

    def encoded(self, row: int) -> bytes:
        """The image file's bytes as stored, undecoded."""
        paths, stored = self._columns
        if stored[row] is not None:
            return bytes(stored[row])
        name = str(paths[row])
        if is_packed(name):
            return read_packed(name)
        try:
            return Path(name).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise UserError(f"{name} does not exist, or is no file; bring it back or pass --skip-corrupt") from error

    def image(self, row: int) -> Image.Image:
        """The decoded image, RGB, upright; ValueError naming the image where it can't be decoded."""
        return decode(self.encoded(row), self.described(row), self.decoding)

    def content_hash(self, row: int) -> str:
        """sha256 of the encoded bytes, so the same file under two names is one image."""
        return content_hash(self.encoded(row))

    def described(self, row: int) -> str:
        """How messages name the image: its path, or else its id."""
        path = self._columns[0][row]
        return str(path) if path is not None else f"image_id {self.table['image_id'].iat[row]!r}"

    @cached_property
    def _columns(self) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.object_]]:
        """`path` and `bytes`, [n] each: a look into the table takes a hundred times as long."""
        return self.table["path"].to_numpy(), self.table["bytes"].to_numpy()

    @staticmethod
    def concatenate(datasets: Sequence[Dataset]) -> Dataset:
        """All rows one after the other, under the first one's name; class and attribute names must agree."""
        if not datasets:
            raise UserError("nothing to concatenate: got no dataset, expected at least one")
        first = datasets[0]
        decoding = first.decoding
        for other in datasets[1:]:
            decoding = decoding.joined(other.decoding)
            _check_same_names("class", first.class_names, other.class_names)
            _check_same_names("attribute", first.attribute_names, other.attribute_names)
        table = pd.concat([each.table for each in datasets], ignore_index=True)
        return replace(first, table=table, decoding=decoding)


def make_table(
    labels: Sequence[int] | Ints,
    *,
    image_ids: Sequence[str],
    splits: Sequence[str] | str = "train",
    paths: Sequence[str | None] | None = None,
    encoded: Sequence[bytes | None] | None = None,
    attributes: Sequence[int] | Ints | None = None,
    sources: Sequence[str] | str = "real",
) -> pd.DataFrame:
    """A Dataset's table from its columns; one string for `splits` or `sources` holds for every row."""
    n = len(labels)
    return pd.DataFrame(
        {
            "image_id": _objects(image_ids, n),
            "path": _objects(paths if paths is not None else [None] * n, n),
            "bytes": _objects(encoded if encoded is not None else [None] * n, n),
            "label": np.asarray(labels, dtype=np.int64),
            "attribute": np.full(n, -1) if attributes is None else np.asarray(attributes, dtype=np.int64),
            "split": _objects([splits] * n if isinstance(splits, str) else splits, n),
            "source": _objects([sources] * n if isinstance(sources, str) else sources, n),
        }
    )


def with_limit(dataset: Dataset, max_megapixels: float | None) -> Dataset:
    """The dataset with another limit on the size of its images; None leaves it."""
    if max_megapixels is None:
        return dataset
    return replace(dataset, decoding=replace(dataset.decoding, max_megapixels=max_megapixels))


def content_hash(encoded: bytes) -> str:
    return hashlib.sha256(encoded).hexdigest()


def _objects(values: Sequence[object], n: int) -> pd.Series:
    """A column of Python objects, so that None stays None and bytes stay bytes."""
    if len(values) != n:
        raise UserError(f"every column should have one value per label: expected {n}, got {len(values)}")
    return pd.Series(list(values), dtype=object)


def _normalized(table: pd.DataFrame) -> pd.DataFrame:
    """Index 0..n-1; `path` and `bytes` as Python objects, for pandas makes NaN of a None beside strings."""
    index = table.index
    if not (isinstance(index, pd.RangeIndex) and index.start == 0 and index.step == 1):
        table = table.reset_index(drop=True)
    for column in ("path", "bytes"):
        if table[column].dtype != object:
            values = table[column].astype(object)
            table = table.assign(**{column: values.where(values.notna(), None)})
    return table


def _check_codes(column: str, codes: npt.NDArray[np.int64], lowest: int, names: tuple[str, ...]) -> None:
    if not np.issubdtype(codes.dtype, np.integer):
        raise UserError(f"column '{column}' should hold whole numbers, got {codes.dtype}")
    outside = codes[(codes < lowest) | (codes >= len(names))]
    if len(outside):
        raise UserError(
            f"column '{column}' should be within {lowest}..{len(names) - 1}, one per name; got {outside[0]}"
        )


def _check_words(column: str, values: pd.Series, allowed: tuple[str, ...]) -> None:
    unknown = [value for value in pd.unique(values) if value not in allowed]
    if unknown:
        raise UserError(f"column '{column}' should hold {', '.join(allowed)}; got {unknown[0]!r}")


def _check_same_names(kind: str, expected: tuple[str, ...], got: tuple[str, ...]) -> None:
    if expected != got:
        raise UserError(
            f"datasets to concatenate should have the same {kind} names, got {list(expected)} and {list(got)}"
        )
