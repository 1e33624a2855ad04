"""The formats that a set is exported in; each writes into an empty folder, one image at a time."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tailsmith.data.writers import NAMES_JSON, SCHEMA_KEY
from tailsmith.exporting.examples import Example, Export
from tailsmith.exporting.marks import extension_of
from tailsmith.files import write_json

METADATA_JSONL = "metadata.jsonl"
PARQUET_ROWS, TAR_IMAGES, GROUP_ROWS = 4096, 1024, 64  # of a file, and of what is read at once
Write = Callable[[Export, Path, str, Iterator[Example], int], None]


def write_imagefolder(export: Export, out: Path, split: str, examples: Iterator[Example], count: int) -> None:
    """SPLIT/CLASS/ID.png as Hugging Face's `imagefolder` reads it, with SPLIT/metadata.jsonl; labels are names."""
    folder = out / split
    folder.mkdir()
    taken: set[str] = set()
    with open(folder / METADATA_JSONL, "w", encoding="utf-8") as lines:
        for number, each in enumerate(examples):
            stem = f"{_slug(export.class_names[each.label])}/{_slug(each.image_id)}"
            if stem.lower() in taken:
                stem = f"{stem}-{number}"
            taken.add(stem.lower())
            path = folder / f"{stem}.{extension_of(each.encoded)}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(each.encoded)
            lines.write(json.dumps({"file_name": path.relative_to(folder).as_posix(), **_said(export, each)}) + "\n")


def write_parquet(export: Export, out: Path, split: str, examples: Iterator[Example], count: int) -> None:
    """data/SPLIT-00000-of-00003.parquet, with the features' types as `datasets` writes them into the schema."""
    folder, files = out / "data", -(-count // PARQUET_ROWS)
    folder.mkdir(exist_ok=True)
    schema = pa.schema(
        [
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            *(("label", pa.int64()), ("attribute", pa.int64())),
            *((name, pa.string()) for name in ("image_id", "source", "provenance")),
        ],
        metadata={
            b"huggingface": json.dumps({"info": {"features": _features(export)}}),
            SCHEMA_KEY: json.dumps(_names(export)),
        },
    )
    for number in range(files):
        with pq.ParquetWriter(folder / f"{split}-{number:05d}-of-{files:05d}.parquet", schema) as writer:
            for group in _groups(islice(examples, PARQUET_ROWS), GROUP_ROWS):
                rows = [_row(each) for each in group]
                writer.write_table(pa.Table.from_pylist(rows, schema))


def write_webdataset(export: Export, out: Path, split: str, examples: Iterator[Example], count: int) -> None:
    """SPLIT-00000.tar with KEY.png and KEY.json for each image; the same bytes whenever it is written."""
    for number, group in enumerate(_groups(examples, TAR_IMAGES)):
        with tarfile.open(out / f"{split}-{number:05d}.tar", "w") as archive:
            for place, each in enumerate(group):
                key = f"{number:05d}{place:05d}"
                _add(archive, f"{key}.{extension_of(each.encoded)}", io.BytesIO(each.encoded))
                said = {**_said(export, each), "label_index": each.label}
                _add(archive, f"{key}.json", io.BytesIO(json.dumps(said).encode()))


FORMATS: Mapping[str, Write] = {
    "parquet": write_parquet,
    "imagefolder": write_imagefolder,
    "webdataset": write_webdataset,
}


def write_names(export: Export, out: Path) -> None:
    """The order of classes and attributes, and those without images."""
    write_json(out / NAMES_JSON, _names(export))


def _features(export: Export) -> dict[str, Any]:
    """The columns as `datasets` describes them."""
    text = {"dtype": "string", "_type": "Value"}
    attribute = {"names": list(export.attribute_names), "_type": "ClassLabel"}
    return {
        "image": {"_type": "Image"},
        "label": {"names": list(export.class_names), "_type": "ClassLabel"},
        "attribute": attribute if export.attribute_names else {"dtype": "int64", "_type": "Value"},
        **dict.fromkeys(("image_id", "source", "provenance"), text),
    }


def _names(export: Export) -> dict[str, Any]:
    licence = "" if export.real is None else export.real.licence
    names = {"class_names": list(export.class_names), "attribute_names": list(export.attribute_names)}
    return {"name": export.plan.meta.get("dataset", ""), "licence": licence, **names}


def _said(export: Export, each: Example) -> dict[str, str]:
    """All of one type, "" where there is none: `datasets` takes no split in which a column has another."""
    attribute = "" if each.attribute < 0 else export.attribute_names[each.attribute]
    known = {"label": export.class_names[each.label], "attribute": attribute, "image_id": each.image_id}
    return {**known, "source": each.source, "provenance": each.provenance}


def _row(each: Example) -> dict[str, Any]:
    name = f"{_slug(each.image_id)}.{extension_of(each.encoded)}"
    return {
        "image": {"bytes": each.encoded, "path": name},
        "label": each.label,
        "attribute": None if each.attribute < 0 else each.attribute,
        "image_id": each.image_id,
        "source": each.source,
        "provenance": each.provenance or None,
    }


def _add(archive: tarfile.TarFile, name: str, content: IO[bytes]) -> None:
    member = tarfile.TarInfo(name)  # no time and no owner
    member.size = len(content.read())
    content.seek(0)
    archive.addfile(member, content)


def _groups(examples: Iterable[Example], size: int) -> Iterator[list[Example]]:
    rest = iter(examples)
    while group := list(islice(rest, size)):
        yield group


def _slug(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", name).strip(".") or "_"
