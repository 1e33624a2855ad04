"""A dataset as another process needs it: its rows, as they were found and checked, in one file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tailsmith.data.dataset import Dataset
from tailsmith.data.decoding import Decoding
from tailsmith.data.packed import is_packed, reading
from tailsmith.data.writers import names_of
from tailsmith.files import write_atomically

SCHEMA_KEY = b"tailsmith-manifest"


def write_manifest(dataset: Dataset, path: Path) -> None:
    """Files stay where they are and are named by absolute paths; only images that were bytes already come along."""
    paths = [_absolute(each) for each in dataset.table["path"]]
    table = pa.Table.from_pandas(dataset.table.assign(path=np.array(paths, dtype=object)), preserve_index=False)
    about = {**names_of(dataset), "max_megapixels": dataset.decoding.max_megapixels}
    table = table.replace_schema_metadata({SCHEMA_KEY: json.dumps(about)})
    write_atomically(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))


def read_manifest(path: Path) -> Dataset:
    """The dataset of `write_manifest`, equal to it; nothing is looked for and nothing is checked again."""
    with reading(path):
        stored = pq.read_table(path)
        about = json.loads(stored.schema.metadata[SCHEMA_KEY])
    return Dataset(
        stored.to_pandas(),
        tuple(about["class_names"]),
        tuple(about["attribute_names"]),
        about["name"],
        about["licence"],
        Decoding(about["max_megapixels"], {kind: (low, high) for kind, (low, high) in about["ranges"].items()}),
    )


def _absolute(path: str | None) -> str | None:
    if path is None:
        return None
    if is_packed(path):
        shard, _, row = path.rpartition("#")
        return f"{Path(shard).absolute()}#{row}"
    return str(Path(path).absolute())
