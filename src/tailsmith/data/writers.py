"""A dataset as an ordinary image folder or as one Parquet file; `readers.load` brings either back."""

from __future__ import annotations

import json
import re
from io import BytesIO
from pathlib import Path

import pandas as pd
import pyarrow
import pyarrow.parquet

from tailsmith.data.dataset import Dataset
from tailsmith.errors import UserError
from tailsmith.files import write_atomically, write_json

METADATA_CSV = "metadata.csv"
NAMES_JSON = "dataset.json"  # beside metadata.csv: the order of the names, and names without images
SCHEMA_KEY = b"tailsmith"  # the same in a Parquet schema

_PNG = b"\x89PNG\r\n\x1a\n"


def write_image_folder(dataset: Dataset, folder: Path) -> None:
    """split/class/[attribute--]id.png, with metadata.csv (path, label, attribute, split) and dataset.json.

    PNG bytes are copied as they are, so content hashes stay; other formats are re-encoded without loss.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder; choose a new one, or empty it")
    paths = _relative_paths(dataset)
    for row, relative in enumerate(paths):
        target = folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(_as_png(dataset, row))
    columns = pd.DataFrame({"path": paths, **_named_columns(dataset)})
    write_atomically(folder / METADATA_CSV, lambda temporary: columns.to_csv(temporary, index=False))
    write_json(folder / NAMES_JSON, names_of(dataset))


def write_parquet(dataset: Dataset, path: Path) -> None:
    """One file, image bytes inside, labels and attributes by name; atomic."""
    columns = {
        "image_id": dataset.table["image_id"].tolist(),
        "bytes": [dataset.encoded(row) for row in range(len(dataset))],
        **_named_columns(dataset),
    }
    metadata = {SCHEMA_KEY: json.dumps(names_of(dataset))}
    table = pyarrow.table(columns).replace_schema_metadata(metadata)
    write_atomically(path, lambda temporary: pyarrow.parquet.write_table(table, temporary, compression="zstd"))


def names_of(dataset: Dataset) -> dict[str, object]:
    """What the rows don't say: all names in their order, the dataset's own name and its licence, and the ranges by
    which its high-depth images are scaled.
    """
    return {
        "name": dataset.name,
        "licence": dataset.licence,
        "class_names": list(dataset.class_names),
        "attribute_names": list(dataset.attribute_names),
        "ranges": {kind: list(limits) for kind, limits in dataset.decoding.ranges.items()},
    }


def _named_columns(dataset: Dataset) -> dict[str, list[str | None]]:
    """label, attribute (if there are any), split, source (if not all are real)."""
    labels = [dataset.class_names[label] for label in dataset.labels]
    columns: dict[str, list[str | None]] = {"label": [*labels]}
    if dataset.attribute_names:
        columns["attribute"] = [_attribute(dataset, attribute) for attribute in dataset.attributes]
    columns["split"] = dataset.table["split"].tolist()
    if (dataset.table["source"] != "real").any():
        columns["source"] = dataset.table["source"].tolist()
    return columns


def _attribute(dataset: Dataset, attribute: int) -> str | None:
    return dataset.attribute_names[attribute] if attribute >= 0 else None


def _relative_paths(dataset: Dataset) -> list[str]:
    """One path per row, readable, safe in any file system, unique even where ids differ in odd signs only."""
    paths: list[str] = []
    taken: set[str] = set()
    columns = [dataset.table[name] for name in ("image_id", "label", "attribute", "split")]
    for row, (image_id, label, code, split) in enumerate(zip(*columns, strict=True)):
        attribute = _attribute(dataset, code)
        stem = _slug(image_id) if attribute is None else f"{_slug(attribute)}--{_slug(image_id)}"
        path = f"{split}/{_slug(dataset.class_names[label])}/{stem}.png"
        if path.lower() in taken:
            path = f"{path.removesuffix('.png')}-{row}.png"
        taken.add(path.lower())
        paths.append(path)
    return paths


def _slug(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", name).strip(".") or "_"


def _as_png(dataset: Dataset, row: int) -> bytes:
    encoded = dataset.encoded(row)
    if encoded.startswith(_PNG):
        return encoded
    buffer = BytesIO()
    dataset.image(row).save(buffer, format="PNG")
    return buffer.getvalue()
