"""Images inside Parquet shards, read one by one: `shards/shard-00003.parquet#17` is row 17's column `image`.

A plan of a million photographs fills terabytes; training reads what a mini-batch needs.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tailsmith.files import write_atomically

LOCATION = re.compile(r"(.+\.parquet)#(\d+)")
ROW_GROUP_BYTES = 4 * 1024**2  # the least that is read for one image: a few photographs, or a whole shard of small ones
REMEMBERED = 64  # shards whose directory of row groups is kept: a megabyte each for photographs


def write_packed(table: pd.DataFrame, path: Path, meta: dict[str, str]) -> None:
    """A shard with a column `image` of encoded images, and its metadata; written to a temporary name first."""
    mean_bytes = table["image"].map(len).mean() if len(table) else 0
    rows = max(1, int(ROW_GROUP_BYTES // max(mean_bytes, 1)))
    whole = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(meta)
    names = [name for name in whole.column_names if name != "image"]
    options = {
        "row_group_size": rows,
        "use_dictionary": names,  # every image is another one, and compressed already
        "compression": {**dict.fromkeys(names, "snappy"), "image": "none"},
        "write_statistics": False,  # they would be most of a directory of many row groups
    }
    write_atomically(path, lambda temporary: pq.write_table(whole, temporary, **options))


def location(path: Path, row: int) -> str:
    """How a Dataset's column `path` names an image within a shard."""
    return f"{path}#{row}"


def is_packed(path: str) -> bool:
    return LOCATION.fullmatch(path) is not None


def read_packed(where: str) -> bytes:
    """The encoded image at a location; ValueError where its shard is gone or damaged, or holds no such row."""
    found = LOCATION.fullmatch(where)
    if found is None:
        raise ValueError(f"{where} is no image of a shard: expected PATH.parquet#ROW")
    path, row = Path(found[1]), int(found[2])
    if not path.is_file():
        raise ValueError(f"{path} does not exist, or is no file; its images were to be read: synthesize them again")
    state = path.stat()
    try:
        directory, ends = _directory(found[1], (state.st_mtime_ns, state.st_size, state.st_ino))
        group = next((number for number, end in enumerate(ends) if row < end), None)
        if group is None:
            raise ValueError(f"{path} has {ends[-1] if ends else 0} images, none with the number {row}")
        with pq.ParquetFile(path, metadata=directory) as shard:  # one each: they are not made for several threads
            images = shard.read_row_group(group, columns=["image"]).column("image")
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); synthesize into another folder") from error
    encoded: bytes = images[row - (ends[group - 1] if group else 0)].as_py()
    return encoded


@lru_cache(maxsize=REMEMBERED)
def _directory(path: str, state: tuple[int, int, int]) -> tuple[pq.FileMetaData, list[int]]:
    """A shard's metadata, and the number of rows up to the end of each row group; anew where the file changed."""
    metadata = pq.read_metadata(path)
    rows = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    return metadata, list(accumulate(rows))
