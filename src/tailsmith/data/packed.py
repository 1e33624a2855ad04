"""Images inside Parquet and tar files, read one by one: `shards/shard-00003.parquet#17` is row 17's column `image`.

In a tar file it is a place and a length, with the member's name for messages: `train-00000.tar#512+3071:0001.png`.
A plan of a million photographs fills terabytes; training reads what a mini-batch needs. A shard says of itself what was
written: column `image_sha256` of each image, and in its metadata a checksum of everything else.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tailsmith.errors import UserError
from tailsmith.files import sha256_file, write_atomically

LOCATION = re.compile(r"(.+\.parquet)#(\d+)")
MEMBER = re.compile(r"(.+\.tar)#(\d+)\+(\d+):([^#]*)", re.DOTALL)
ROW_GROUP_BYTES = 64 * 1024  # the most that is read for one image smaller than that; a larger one is read alone
REMEMBERED = 64  # shards whose directory of row groups is kept: a megabyte each for photographs
IMAGE, IMAGE_HASH, CHECKSUM = "image", "image_sha256", "checksum"
VERIFIED = "verified.json"  # beside many shards: which were read whole, and found sound
ADVICE = "synthesize again: that sets the file aside and makes its images anew"
FOREIGN = "bring back a sound copy"  # of a file that no synthesis makes


class Damaged(UserError):
    """A file of ours that is not what was written, or not what should be in its place."""

    def __init__(self, fault: str, advice: str = ADVICE) -> None:
        super().__init__(f"{fault}; {advice}")
        self.fault = fault


@contextmanager
def reading(path: Path, advice: str = ADVICE) -> Iterator[None]:
    """Say in one line what is wrong with a Parquet file of ours: Damaged, or a ValueError where it can't be read."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist, or is gone; {advice}") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError, LookupError) as error:  # pyarrow's, for any flipped bit
        number = getattr(error, "errno", None)
        if number is not None:
            reason = os.strerror(number)
            raise UserError(f"{path} can't be read ({reason}); check the path and its permissions") from error
        raise Damaged(f"{path} is damaged ({' '.join(str(error).split())[:200]})", advice) from error


def write_packed(table: pd.DataFrame, path: Path, meta: dict[str, str]) -> None:
    """A shard with a column `image` of encoded images, and its metadata; written to a temporary name first.

    Adds the column `image_sha256`, and to the metadata a checksum.
    """
    mean_bytes = table[IMAGE].map(len).mean() if len(table) else 0
    rows = max(1, int(ROW_GROUP_BYTES // max(mean_bytes, 1)))
    hashed = table.assign(**{IMAGE_HASH: [hashlib.sha256(image).hexdigest() for image in table[IMAGE]]})
    whole = pa.Table.from_pandas(hashed, preserve_index=False)
    whole = whole.replace_schema_metadata({**meta, CHECKSUM: _checksum(whole.drop_columns([IMAGE]), meta)})
    names = [name for name in whole.column_names if name != IMAGE]
    options = {
        "row_group_size": rows,
        "use_dictionary": names,  # every image is another one, and compressed already
        "compression": {**dict.fromkeys(names, "snappy"), IMAGE: "none"},
        "write_statistics": False,  # they would be most of a directory of many row groups
    }
    write_atomically(path, lambda temporary: pq.write_table(whole, temporary, **options))


def read_rows(path: Path) -> tuple[pd.DataFrame, dict[str, str]]:
    """A shard's columns but for the images, and its metadata; Damaged where they are not what was written.

    Shards of earlier versions have no checksum: whether its absence is right is for the caller to know.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no file, where a shard should be; move it out of the way, and synthesize again")
    with reading(path):
        with pq.ParquetFile(path) as shard:
            rows = shard.read(columns=[name for name in shard.schema_arrow.names if name != IMAGE])
        meta = {key.decode(): value.decode() for key, value in (rows.schema.metadata or {}).items()}
        if CHECKSUM in meta and meta[CHECKSUM] != _checksum(rows, meta):
            raise Damaged(f"{path} is damaged (its rows differ from its checksum)")
        return rows.to_pandas(), meta


def read_meta(path: Path) -> dict[str, str]:
    """A shard's metadata alone, without a look at its rows."""
    with reading(path):
        return {key.decode(): value.decode() for key, value in (pq.read_schema(path).metadata or {}).items()}


def images_key(path: Path) -> str:
    """What tells a shard's images from others, from their hashes alone; of shards without hashes, the file's own."""
    with reading(path):
        with pq.ParquetFile(path) as shard:
            if IMAGE_HASH not in shard.schema_arrow.names:
                return sha256_file(path)
            hashes = shard.read(columns=[IMAGE_HASH])[IMAGE_HASH].to_pylist()
        return hashlib.sha256("".join(map(str, hashes)).encode()).hexdigest()


def check_images(path: Path) -> None:
    """Read all of a shard's images, a row group at a time; Damaged where one is not what was written."""
    with reading(path), pq.ParquetFile(path) as shard:
        hashed = IMAGE_HASH in shard.schema_arrow.names
        for number in range(shard.num_row_groups):
            group = shard.read_row_group(number, columns=[IMAGE, IMAGE_HASH] if hashed else [IMAGE], use_threads=False)
            for row in range(len(group)) if hashed else ():
                _check_image(path, group, row)


def _check_image(path: Path, group: pa.Table, row: int) -> None:
    if hashlib.sha256(group[IMAGE][row].as_buffer() or b"").hexdigest() != group[IMAGE_HASH][row].as_py():
        with suppress(OSError):  # what was sound once isn't any more: the next synthesis looks at all of it
            path.with_name(VERIFIED).unlink(missing_ok=True)
        raise Damaged(f"{path} is damaged (an image differs from its hash)")


def _checksum(rows: pa.Table, meta: dict[str, str]) -> str:
    """Of the values of all columns, whatever their order and encoding, and of the metadata."""
    digest = hashlib.sha256(json.dumps(sorted((k, v) for k, v in meta.items() if k != CHECKSUM)).encode())
    for name in sorted(rows.column_names):
        digest.update(json.dumps([name, rows[name].to_pylist()], default=str).encode())
    return digest.hexdigest()


def location(path: Path, row: int) -> str:
    """How a Dataset's column `path` names an image within a shard."""
    return f"{path}#{row}"


def member(path: Path, start: int, size: int, name: str) -> str:
    """How a Dataset's column `path` names an image within a tar file."""
    return f"{path}#{start}+{size}:{name.replace('#', '_')}"


def shard_of(where: str) -> Path | None:
    """The Parquet file of a location, None for what is none."""
    found = LOCATION.fullmatch(where)
    return Path(found[1]) if found else None


def is_packed(path: str) -> bool:
    return LOCATION.fullmatch(path) is not None or MEMBER.fullmatch(path) is not None


def read_packed(where: str) -> bytes:
    """The encoded image at a location; ValueError where its file is gone or damaged, or holds no such image."""
    if (inside := MEMBER.fullmatch(where)) is not None:
        return _read_member(Path(inside[1]), int(inside[2]), int(inside[3]), inside[4])
    found = LOCATION.fullmatch(where)
    if found is None:
        raise UserError(f"{where} is no image of a shard: expected PATH.parquet#ROW")
    path, row = Path(found[1]), int(found[2])
    if not path.is_file():
        raise UserError(f"{path} does not exist, or is no file; its images were to be read: synthesize them again")
    state = path.stat()
    with reading(path, ADVICE if path.name.startswith("shard-") else FOREIGN):
        directory, ends, hashed = _directory(found[1], (state.st_mtime_ns, state.st_size, state.st_ino))
        number = next((number for number, end in enumerate(ends) if row < end), None)
        if number is None:
            raise UserError(f"{path} has {ends[-1] if ends else 0} images, none with the number {row}")
        with pq.ParquetFile(path, metadata=directory) as shard:  # one each: they are not made for several threads
            group = shard.read_row_group(number, columns=[IMAGE, IMAGE_HASH] if hashed else [IMAGE], use_threads=False)
        within = row - (ends[number - 1] if number else 0)
        if hashed:
            _check_image(path, group, within)
        encoded = group[IMAGE][within].as_py()
        encoded = encoded["bytes"] if isinstance(encoded, dict) else encoded  # as Hugging Face has images
    if not isinstance(encoded, bytes):
        raise UserError(f"{where} has no image; remove the row, or pass --skip-corrupt")
    return encoded


def _read_member(path: Path, start: int, size: int, name: str) -> bytes:
    try:
        with open(path, "rb") as file:
            file.seek(start)
            encoded = file.read(size)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise UserError(f"{path} does not exist, or is no file; {FOREIGN}") from error
    if len(encoded) < size:
        raise UserError(f"{path} ends within {name}; {FOREIGN}")
    return encoded


@lru_cache(maxsize=REMEMBERED)
def _directory(path: str, state: tuple[int, int, int]) -> tuple[pq.FileMetaData, list[int], bool]:
    """A shard's metadata, the number of rows up to the end of each row group, and whether images have hashes.

    Read anew where the file changed.
    """
    metadata = pq.read_metadata(path)
    rows = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    return metadata, list(accumulate(rows)), IMAGE_HASH in metadata.schema.names
