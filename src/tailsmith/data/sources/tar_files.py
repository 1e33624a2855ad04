"""WebDataset's tar files -> rows: an image and a JSON or `cls` file of the same name each; images stay in the file."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

import pandas as pd

from tailsmith.data.decoding import image_suffixes
from tailsmith.data.packed import member as member_location
from tailsmith.data.sources.json_rows import COLUMNS, Row, known_of, read_object
from tailsmith.errors import UserError

MOST_BYTES = 2**28  # of a member: a picture of any camera is smaller


@dataclass
class _Sample:
    """The members of one key."""

    images: list[tarfile.TarInfo] = field(default_factory=list)
    about: Row = field(default_factory=dict)


def read_tar(path: Path, relative: Path) -> pd.DataFrame:
    """image_id, what is known, and `path`: where each image lies in the file, which rows name as `relative`.

    ValueError for links, devices, sparse files and members above 256 MiB, and for names that lead out of the folder.
    """
    samples: dict[str, _Sample] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for key, extension, member in _members(archive, path):
                sample = samples.setdefault(key, _Sample())
                if f".{extension}" in image_suffixes():
                    sample.images.append(member)
                elif extension in ("json", "cls"):
                    content = archive.extractfile(member)
                    assert content is not None  # a file
                    what = f"{path}: {key}.{extension}"
                    own = read_object(content.read(), what) if extension == "json" else _label(content.read())
                    sample.about = {**own, **sample.about} if extension == "cls" else {**sample.about, **own}
    except tarfile.TarError as error:
        raise UserError(f"{path} is not a readable tar file: {error}") from error
    rows: list[Row] = []
    for key, sample in samples.items():
        if len(sample.images) != 1:
            raise UserError(f"{path}: {key} should have one image, got {len(sample.images)}; mend it, or move it away")
        (image,) = sample.images
        where = member_location(relative, image.offset_data, image.size, image.name)
        known = known_of(sample.about, COLUMNS, f"{path}: {key}")
        rows.append({"image_id": f"{path.stem}/{key}", **known, "path": where})
    return pd.DataFrame(rows, dtype=object)


def is_inside(name: str) -> bool:
    """Whether a name can't lead out of the folder it starts from, on any system."""
    path = PurePosixPath(name.replace("\\", "/"))
    return not path.is_absolute() and ".." not in path.parts and not PureWindowsPath(name).drive


def _members(archive: tarfile.TarFile, path: Path) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """Key, extension and header of each file: a name's extension begins at its first dot, as WebDataset has it."""
    for member in archive:
        if member.isdir():
            continue
        sound = member.isreg() and not member.issparse()
        if not sound or not is_inside(member.name) or member.size > MOST_BYTES:
            raise UserError(
                f"{path} has the member {member.name!r} ({member.size:,} bytes), expected files inside of at most "
                f"{MOST_BYTES:,}; it is not read"
            )
        folder, slash, name = member.name.rpartition("/")
        stem, _, extension = name.partition(".")
        if stem:  # what systems leave behind begins with a dot
            yield f"{folder}{slash}{stem}", extension.lower(), member


def _label(content: bytes) -> Row:
    """Of a `cls` file: a number, or a name."""
    text = content.decode("utf-8", "replace").strip()
    return {"label": int(text) if text.isdecimal() else text}
