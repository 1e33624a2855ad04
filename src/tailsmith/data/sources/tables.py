"""CSV and Parquet files, Hugging Face's among them -> Dataset."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
import pyarrow.parquet

from tailsmith.data.dataset import Dataset, make_table
from tailsmith.data.decoding import Decoding
from tailsmith.data.sources.csv_cells import read_cells
from tailsmith.data.sources.split_names import split_name
from tailsmith.data.writers import NAMES_JSON, SCHEMA_KEY
from tailsmith.errors import UserError
from tailsmith.files import read_json

IMAGE_COLUMNS = ("bytes", "image", "img", "path", "file_name")  # tried in this order


@dataclass(frozen=True)
class Names:
    """What stands beside the rows: names in their order where known."""

    name: str = ""
    licence: str = ""
    class_names: tuple[str, ...] | None = None
    attribute_names: tuple[str, ...] | None = None
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)  # of pixels of high depth
    codes: dict[str, tuple[str, ...]] = field(default_factory=dict)  # Hugging Face ClassLabel columns


def load_table(path: Path | str, *, name: str = "") -> Dataset:
    """A .csv or .parquet file with an image, a `label`, and maybe `attribute`, `split`, `image_id`, `source`.

    The image is `path` (relative to the file), or encoded bytes in `bytes`, `image` or `img`, also as Hugging
    Face's struct of both. Labels are names or whole numbers, in order of name or number unless the file says
    otherwise. Rows keep their order; without `split` all are "train". An attribute that is empty or -1 means
    none. `name` is for a file that holds none for the dataset.
    """
    path = Path(path)
    rows, names = read_rows(path)
    return dataset_of(rows, names, path, name or path.stem)


def dataset_of(rows: pd.DataFrame, names: Names, path: Path, name: str) -> Dataset:
    """What the rows of a table say, which lies at `path`; the file's own `names` come before `name`."""
    _check_columns(rows, path)
    rows = _stripped(rows, names)
    _check_filled(rows, path)
    class_names, labels = _codes(rows["label"].tolist(), names.class_names or names.codes.get("label"))
    _check_known(labels, rows["label"], f"{path}: label")
    attribute_names, attributes = _attributes(rows, names)
    paths, encoded = _images(rows, path)
    table = make_table(
        labels,
        image_ids=_image_ids(rows),
        splits=_splits(rows, path),
        paths=paths,
        encoded=encoded,
        attributes=attributes,
        sources=rows["source"].tolist() if "source" in rows else "real",
    )
    decoding = Decoding(ranges=names.ranges)
    return Dataset(table, class_names, attribute_names, names.name or name, names.licence, decoding)


def read_rows(path: Path, only: Sequence[str] | None = None) -> tuple[pd.DataFrame, Names]:
    """The columns as they are, of a Parquet file `only` those asked for, and the names beside them."""
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise UserError(f"can't tell what {path} is; expected an image folder, a .csv or a .parquet file")
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    if suffix == ".csv":
        return _read_csv(path)
    try:
        return _read_parquet(path, only)
    except ValueError as error:  # pyarrow's parsing errors are ValueErrors of several lines
        first_line = str(error).splitlines()[0]
        raise UserError(f"{path} is not a readable {suffix[1:]} file: {first_line}") from error


def _read_csv(path: Path) -> tuple[pd.DataFrame, Names]:
    """All cells as text, so that "007", "NA" and "null" stay class names; empty ones are None."""
    return pd.DataFrame(read_cells(path), dtype=object), names_beside(path.with_name(NAMES_JSON))


def names_beside(path: Path) -> Names:
    """What the names file beside a CSV file says; another's file of that name says nothing."""
    if not path.is_file():
        return Names()
    try:
        value = read_json(path)
    except ValueError as error:
        raise UserError(f"{path} is not a JSON file ({error}); mend it, or move it away") from error
    try:
        return _from_json(value) if isinstance(value, dict) and "class_names" in value else Names()
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} should have class_names and attribute_names as lists of names, and ranges as pairs of numbers "
            f"({error}); mend it, or move it away"
        ) from error


def _read_parquet(path: Path, only: Sequence[str] | None) -> tuple[pd.DataFrame, Names]:
    with pyarrow.parquet.ParquetFile(path) as file:
        table = file.read(columns=only)
    columns = {name: pd.Series(table[name].to_pylist(), dtype=object) for name in table.column_names}
    metadata = table.schema.metadata or {}
    names = _from_json(json.loads(metadata[SCHEMA_KEY])) if SCHEMA_KEY in metadata else Names()
    if b"huggingface" in metadata:
        names = replace(names, codes=_class_labels(json.loads(metadata[b"huggingface"])))
    return pd.DataFrame(columns), names


def _from_json(value: dict[str, Any]) -> Names:
    return Names(
        name=value.get("name", ""),
        licence=value.get("licence", ""),
        class_names=tuple(value["class_names"]) if value.get("class_names") else None,
        attribute_names=tuple(value["attribute_names"]) if value.get("attribute_names") else None,
        ranges={kind: (float(low), float(high)) for kind, (low, high) in value.get("ranges", {}).items()},
    )


def _class_labels(metadata: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """Columns of whole numbers -> their names, as `datasets` writes them into a Parquet schema."""
    features = metadata.get("info", {}).get("features", {})
    return {
        column: tuple(feature["names"])
        for column, feature in features.items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    }


def _check_columns(rows: pd.DataFrame, path: Path) -> None:
    columns = ", ".join(map(str, rows.columns))
    if "label" not in rows:
        raise UserError(f"{path} has no column 'label'; got {columns}")
    if not any(column in rows for column in IMAGE_COLUMNS):
        raise UserError(f"{path} has no image column; expected one of {', '.join(IMAGE_COLUMNS)}; got {columns}")
    if not len(rows):
        raise UserError(f"no images in {path}: it has columns but no rows")


def _check_filled(rows: pd.DataFrame, path: Path) -> None:
    for column in ("label", "split", "source"):
        if column in rows and rows[column].isna().any():
            row = int(rows[column].isna().to_numpy().argmax())
            raise UserError(f"{path}: row {row} has no {column}; fill it in, or remove the row")


def _stripped(rows: pd.DataFrame, names: Names) -> pd.DataFrame:
    """Names without the spaces around them, but for those that the file lists with spaces."""
    listed = {*(names.class_names or ()), *(names.attribute_names or ())}.union(*names.codes.values())

    def strip(value: Any) -> Any:
        return value.strip() or None if isinstance(value, str) and value not in listed else value

    named = [column for column in ("label", "attribute", "split", "source") if column in rows]
    return rows.assign(**{column: pd.Series(map(strip, rows[column]), dtype=object) for column in named})


def _codes(values: Sequence[Any], known: tuple[str, ...] | None) -> tuple[tuple[str, ...], list[int]]:
    """Names or numbers -> (all names, index into them per row); None -> -1, and unknown ones -> -2."""
    values = [int(value) if isinstance(value, float) and value.is_integer() else value for value in values]
    given = {value for value in values if value is not None}
    if known is not None and all(isinstance(value, int) for value in given):
        return known, [-1 if value is None else value if 0 <= value < len(known) else -2 for value in values]
    names = known if known is not None else tuple(str(value) for value in sorted(given, key=_order))
    index = {name: code for code, name in enumerate(names)}
    return names, [-1 if value is None else index.get(str(value), -2) for value in values]


def _order(value: Any) -> tuple[int, int, str]:
    """Whole numbers by size, before names by letter; "10" in a CSV file counts as a number."""
    text = str(value)
    return (0, int(text), text) if text.removeprefix("-").isdecimal() else (1, 0, text)


def _check_known(codes: Sequence[int], values: pd.Series, described: str) -> None:
    for code, value in zip(codes, values, strict=True):
        if code == -2:
            raise UserError(f"{described} {value!r} is none of the names that the file, or {NAMES_JSON}, lists")


def _attributes(rows: pd.DataFrame, names: Names) -> tuple[tuple[str, ...], list[int]]:
    known = names.attribute_names or names.codes.get("attribute")
    if "attribute" not in rows:
        return known or (), [-1] * len(rows)
    given = [None if str(value) == "-1" else value for value in rows["attribute"]]
    attribute_names, codes = _codes(given, known)
    _check_known(codes, rows["attribute"], "attribute")
    return attribute_names, codes


def _images(rows: pd.DataFrame, file: Path) -> tuple[list[str | None], list[bytes | None]]:
    """Path and bytes of every row; relative paths start at the table's folder."""
    column = next(column for column in IMAGE_COLUMNS if column in rows)
    paths: list[str | None] = []
    encoded: list[bytes | None] = []
    for row, value in enumerate(rows[column]):
        inside, outside = _image(value)
        if inside is None and outside is None:
            raise UserError(f"{file}: row {row} has no image in column '{column}'; remove the row")
        encoded.append(inside)
        paths.append(_located(file.parent, outside) if inside is None and outside is not None else None)
    return paths, encoded


def _located(folder: Path, name: str) -> str:
    """A file named in a table; spaces around the name are part of it where there is such a file."""
    if name != name.strip() and not (folder / name).exists():
        name = name.strip()
    return str(folder / name)


def _image(value: Any) -> tuple[bytes | None, str | None]:
    """A cell -> (encoded bytes, path): Hugging Face's struct holds either or both."""
    if isinstance(value, dict):
        return value.get("bytes"), value.get("path")
    if isinstance(value, bytes):
        return value, None
    return None, None if value is None else str(value)


def _image_ids(rows: pd.DataFrame) -> list[str]:
    """The column, else the path as the table has it, else the row's number."""
    for column in ("image_id", "path", "file_name"):
        if column in rows and rows[column].notna().all():
            return [str(value) for value in rows[column]]
    return [f"{row:08d}" for row in range(len(rows))]


def _splits(rows: pd.DataFrame, path: Path) -> list[str] | str:
    if "split" not in rows:
        return "train"
    splits = {value: split_name(str(value)) for value in rows["split"].unique()}
    unknown = [value for value, split in splits.items() if split is None]
    if unknown:
        raise UserError(f"{path}: split should be train, val or test; got {unknown[0]!r}")
    return list(rows["split"].map(splits))
