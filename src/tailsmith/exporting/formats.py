"""The formats that images are exported in; each is written into an empty folder, one image at a time."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from tailsmith.data.decoding import image_suffixes
from tailsmith.data.writers import NAMES_JSON, SCHEMA_KEY
from tailsmith.exporting.examples import Example, Export
from tailsmith.exporting.features import class_label, column, of_files, schema_features
from tailsmith.exporting.tally import Tally
from tailsmith.files import write_json

METADATA_JSONL = "metadata.jsonl"
FILE_IMAGES, FILE_BYTES = 10_000, 2**28  # of a Parquet or tar file: it ends with the image that reaches either
GROUP_BYTES = 2**19  # of a Parquet row group: who reads one image reads as much
LONGEST_NAME = 100  # bytes of a file's name that come from an id or class

Write = Callable[[Export, Path, str, Iterator[Example]], None]


@dataclass(frozen=True)
class Format:
    """How a split is written; what `datasets` is told of the columns, and where it finds a split's files."""

    write: Write
    features: Callable[[Export, Tally], list[Mapping[str, object]]]
    files: str  # with {split}
    in_config: bool = False  # its loader takes the columns from there


def write_imagefolder(export: Export, out: Path, split: str, examples: Iterator[Example]) -> None:
    """SPLIT/CLASS/ID.png as Hugging Face's `imagefolder` reads it, with SPLIT/metadata.jsonl; labels are names."""
    folder, folders = out / split, _folder_names(export.class_names)
    folder.mkdir()
    taken: set[str] = set()
    with open(folder / METADATA_JSONL, "w", encoding="utf-8") as lines:
        for number, each in enumerate(examples):
            stem = f"{folders[each.label]}/{_stem(each.image_id)}"
            if stem.lower() in taken:
                stem = f"{stem}-{number}"
            taken.add(stem.lower())
            name = f"{stem}.{each.extension}"
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(each.encoded)
            lines.write(json.dumps({"file_name": name, **_said(export, each)}) + "\n")


def write_parquet(export: Export, out: Path, split: str, examples: Iterator[Example]) -> None:
    """data/SPLIT-00000-of-00003.parquet, with the columns' types as `datasets` writes them into the schema."""
    folder = out / "data"
    folder.mkdir(exist_ok=True)
    schema = pa.schema(
        [
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            *(("label", pa.int64()), ("attribute", pa.int64())),
            *((name, pa.string()) for name in ("image_id", "source", "provenance")),
        ],
        metadata={b"huggingface": json.dumps(schema_features(export)), SCHEMA_KEY: json.dumps(export.names)},
    )
    texts = ["image.path", "label", "attribute", "image_id", "source", "provenance"]
    options = {
        "compression": {**dict.fromkeys(texts, "zstd"), "image.bytes": "none"},  # images are compressed already
        "use_dictionary": texts,
        "write_statistics": texts,
    }
    written = []
    for number, portion in enumerate(_portions(examples)):
        written.append(folder / f"{split}-{number:05d}")
        with pq.ParquetWriter(written[-1], schema, **options) as writer:
            for group in _groups(portion):
                writer.write_table(pa.Table.from_pylist(list(map(_row, group)), schema))
    for path in written:  # how many there are is known only now
        path.rename(f"{path}-of-{len(written):05d}.parquet")


def write_webdataset(export: Export, out: Path, split: str, examples: Iterator[Example]) -> None:
    """SPLIT-00000.tar with KEY.png and KEY.json for each image; the same bytes whenever it is written."""
    for number, portion in enumerate(_portions(examples)):
        with tarfile.open(out / f"{split}-{number:05d}.tar", "w") as archive:
            for place, each in enumerate(portion):
                key = f"{number:05d}{place:05d}"
                _add(archive, f"{key}.{each.extension}", each.encoded)
                said = {**_said(export, each), "label_index": each.label}
                _add(archive, f"{key}.json", json.dumps(said).encode())


def _of_imagefolder(export: Export, tally: Tally) -> list[Mapping[str, object]]:
    return [column("image", "image"), *of_files(export, tally)]


def _of_parquet(export: Export, tally: Tally) -> list[Mapping[str, object]]:
    attribute = class_label(export.attribute_names) if export.attribute_names else "int64"
    texts = [column(name, "string") for name in ("image_id", "source", "provenance")]
    label = column("label", class_label(export.class_names))
    return [column("image", "image"), label, column("attribute", attribute), *texts]


def _of_webdataset(export: Export, tally: Tally) -> list[Mapping[str, object]]:
    """A column for each format that occurs: left to itself, `datasets` knows those of the first images only."""
    images = [column(extension, "image") for extension in sorted(tally.extensions)]
    about = {"name": "json", "struct": [*of_files(export, tally), column("label_index", "int64")]}
    return [*images, about, column("__key__", "string"), column("__url__", "string")]


FORMATS: Mapping[str, Format] = {
    "parquet": Format(write_parquet, _of_parquet, "data/{split}-*"),
    "imagefolder": Format(write_imagefolder, _of_imagefolder, "{split}/**", in_config=True),
    "webdataset": Format(write_webdataset, _of_webdataset, "{split}-*.tar"),
}


def write_names(export: Export, out: Path) -> None:
    """The order of classes and attributes, and those without images."""
    write_json(out / NAMES_JSON, export.names)


def _said(export: Export, each: Example) -> dict[str, str]:
    """All of one type, "" where there is none: `datasets` takes no split in which a column has another."""
    attribute = "" if each.attribute < 0 else export.attribute_names[each.attribute]
    known = {"label": export.class_names[each.label], "attribute": attribute, "image_id": each.image_id}
    return {**known, "source": each.source, "provenance": each.provenance}


def _row(each: Example) -> dict[str, object]:
    return {
        "image": {"bytes": each.encoded, "path": f"{_stem(each.image_id)}.{each.extension}"},
        "label": each.label,
        "attribute": None if each.attribute < 0 else each.attribute,
        "image_id": each.image_id,
        "source": each.source,
        "provenance": each.provenance or None,
    }


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # no time and no owner
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _portions(examples: Iterable[Example]) -> Iterator[Iterator[Example]]:
    """What goes into one file each; the next one begins once the one before is used up."""
    rest = iter(examples)
    for first in rest:
        yield _until_full(chain([first], rest))


def _until_full(examples: Iterator[Example]) -> Iterator[Example]:
    size = 0
    for images, each in enumerate(examples, 1):
        size += len(each.encoded)
        yield each
        if images >= FILE_IMAGES or size >= FILE_BYTES:
            return


def _groups(examples: Iterable[Example]) -> Iterator[list[Example]]:
    group: list[Example] = []
    size = 0
    for each in examples:
        group.append(each)
        size += len(each.encoded)
        if size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _folder_names(class_names: Sequence[str]) -> list[str]:
    """One for each class, also where names differ in odd signs or in case only."""
    names: list[str] = []
    for label, class_name in enumerate(class_names):
        name = _slug(class_name)
        again = name.lower() in (each.lower() for each in names)
        names.append(f"{name}-{label}" if again else name)
    return names


def _stem(image_id: str) -> str:
    """A file's name from an id, which may be a path."""
    suffix = PurePosixPath(image_id).suffix
    return _slug(image_id.removesuffix(suffix) if suffix.lower() in image_suffixes() else image_id)


def _slug(name: str) -> str:
    short = re.sub(r"[^\w.+-]+", "_", name).encode("utf-8", "ignore")[-LONGEST_NAME:].decode("utf-8", "ignore")
    return short.strip(".") or "_"
