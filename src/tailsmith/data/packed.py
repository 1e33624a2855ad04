"""Images inside Parquet shards, read one by one: `shards/shard-00003.parquet#17` is row 17's column `image`.

A plan of a million photographs fills terabytes; training reads what a mini-batch needs.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tailsmith.files import write_atomically

SEPARATOR = ".parquet#"
ROW_GROUP_BYTES = 4 * 1024**2  # the least that is read for one image: a few photographs, or a whole shard of small ones
OPEN_SHARDS = 512  # whose directory of row groups is remembered


def write_packed(table: pd.DataFrame, path: Path, meta: dict[str, str]) -> None:
    """A shard with a column `image` of encoded images, and its metadata; written to a temporary name first."""
    mean_bytes = table["image"].map(len).mean() if len(table) else 0
    rows = max(1, int(ROW_GROUP_BYTES // max(mean_bytes, 1)))
    whole = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(meta)
    write_atomically(path, lambda temporary: pq.write_table(whole, temporary, row_group_size=rows))


def location(path: Path, row: int) -> str:
    """How a Dataset's column `path` names an image within a shard."""
    return f"{path}#{row}"


def is_packed(path: str) -> bool:
    return SEPARATOR in path


def read_packed(where: str) -> bytes:
    """The encoded image at a location; ValueError where its shard is gone or holds no such row."""
    name, _, row = where.rpartition("#")
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"{path} does not exist, or is no file; its images were to be read: synthesize them again")
    directory, ends = _directory(name, path.stat().st_mtime_ns)
    group = next((number for number, end in enumerate(ends) if int(row) < end), None)
    if group is None:
        raise ValueError(f"{path} has {ends[-1] if ends else 0} images, none with the number {row}")
    with pq.ParquetFile(path, metadata=directory) as shard:  # one each: they are not made for several threads
        images = shard.read_row_group(group, columns=["image"]).column("image")
    first = ends[group - 1] if group else 0
    encoded: bytes = images[int(row) - first].as_py()
    return encoded


@lru_cache(maxsize=OPEN_SHARDS)
def _directory(path: str, changed: int) -> tuple[pq.FileMetaData, list[int]]:
    """A shard's metadata, and the number of rows up to the end of each row group."""
    metadata = pq.read_metadata(path)
    rows = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    return metadata, list(accumulate(rows))
