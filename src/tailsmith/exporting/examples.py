"""What is exported: one image after the other, each with what is known of it and, if synthetic, how it was made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from tailsmith.data.checks import class_difference
from tailsmith.data.dataset import Dataset
from tailsmith.data.marks import mark_of, marked
from tailsmith.data.writers import names_of
from tailsmith.errors import UserError
from tailsmith.exporting.fulfilled import Fulfilled

KNOWN = ("image_id", "split", "label", "attribute", "source")  # columns of a dataset's table, as Example has them
# Signature -> what a file of that kind is called; the first three can be marked.
_EXTENSIONS = {
    b"\x89PNG": "png", b"\xff\xd8": "jpg", b"RIFF": "webp", b"II*\0": "tif", b"MM\0*": "tif", b"BM": "bmp",
    b"GIF8": "gif", b"qoif": "qoi", b"\0\0\0\x0cjP  ": "jp2", b"\xff\x4f\xff\x51": "j2k", b"\x0a": "pcx",
    b"\x01\xda": "sgi", b"P4": "pbm", b"P5": "pgm", b"P6": "ppm",
}  # fmt: skip


@dataclass(frozen=True)
class Example:
    """One image and what is known of it; `provenance` is JSON, "" for a real one."""

    image_id: str
    split: str
    label: int
    attribute: int  # -1 = none
    source: str
    encoded: bytes
    provenance: str = ""

    @property
    def extension(self) -> str:
        """Of the format that the bytes are in, without a dot."""
        if self.encoded[4:8] == b"ftyp":
            return "avif" if b"avif" in self.encoded[8:32] else "heic"
        known = (name for signature, name in _EXTENSIONS.items() if self.encoded.startswith(signature))
        return next(known, "tga")  # the only one that is read and has no signature


@dataclass(frozen=True)
class Export:
    """Data, a synthetic set whose plan is fulfilled, or both, of the same classes and attributes."""

    data: Dataset | None = None
    made: Fulfilled | None = None

    def __post_init__(self) -> None:
        if self.data is None or self.made is None:
            return
        for kind in ("class", "attribute"):
            has, planned = (getattr(each, f"{kind}_names") for each in (self.data, self.made))
            if has != planned:
                many = {"class": "classes", "attribute": "attributes"}[kind]
                raise UserError(
                    f"the {many} of the images in {self.made.folder} are not the data's: the data "
                    f"{class_difference(has, planned)}; give the data they were made for"
                )
        both = self.data.table["image_id"].isin(self.made.table["image_id"])
        if both.any():
            raise UserError(
                f"{self.data.table['image_id'][both].iloc[0]!r} is an image of the data and of {self.made.folder} "
                f"({both.sum():,} ids are): the data hold this set, or another of such ids; give data without it"
            )

    @property
    def name(self) -> str:
        """Of the data; of the set's folder where the set names none."""
        if self.data is not None:
            return self.data.name
        assert self.made is not None  # else there is nothing to export
        return self.made.dataset_name or self.made.folder.resolve().name

    @property
    def class_names(self) -> tuple[str, ...]:
        return self._any.class_names

    @property
    def attribute_names(self) -> tuple[str, ...]:
        return self._any.attribute_names

    @property
    def names(self) -> dict[str, object]:
        """What is written beside the rows: all names in their order, as `writers.names_of` has them."""
        if self.data is not None:
            return names_of(self.data)
        names = {"class_names": list(self.class_names), "attribute_names": list(self.attribute_names)}
        return {"name": self.name, "licence": "", **names}

    @property
    def left_out(self) -> dict[str, int]:
        """Why images that were asked for are not there -> how many."""
        return {} if self.made is None else self.made.left_out

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Split -> images in it; no entry for an empty one."""
        parts = [each.table["split"] for each in (self.data, self.made) if each is not None]
        return {str(split): int(count) for split, count in pd.concat(parts).value_counts().items()}

    def examples(self, split: str) -> Iterator[Example]:
        """The data's first; one image at a time is in memory.

        ValueError for a synthetic image that can't say so inside its file, and for one that says so and is listed as
        real.
        """
        if self.data is not None:
            columns = (self.data.table[name].tolist() for name in KNOWN)
            for row, known in enumerate(zip(*columns, strict=True)):
                if known[1] == split:
                    yield self._of_data(self.data, row, known)
        if self.made is not None and split == "train":
            for image_id, label, attribute, encoded, said in self.made.images():
                yield Example(image_id, split, label, attribute, "synthetic", marked(encoded, said), said)

    def _of_data(self, data: Dataset, row: int, known: tuple[str, str, int, int, str]) -> Example:
        encoded = data.encoded(row)
        said = mark_of(encoded)
        if known[-1] == "real":
            if said is not None:
                raise UserError(
                    f"{data.described(row)} says inside that it is synthetic, and is listed as real; list it as "
                    "synthetic, or remove it"
                )
            return Example(*known, encoded)
        if said is None:
            said = self._little_known(data, row)
            try:
                encoded = marked(encoded, said)
            except UserError as error:
                raise UserError(
                    f"{data.described(row)} is synthetic and can't say so inside its file: {error}; convert it to PNG"
                ) from error
        return Example(*known, encoded, said)

    def _little_known(self, data: Dataset, row: int) -> str:
        """Of a synthetic image that others made, and don't say how."""
        attribute = data.attributes[row]
        own = {"attribute": self.attribute_names[attribute]} if attribute >= 0 else {}
        about = {"synthetic": True, "class": self.class_names[data.labels[row]], **own}
        return json.dumps({**about, "image_id": data.table["image_id"].iat[row]}, sort_keys=True)

    @property
    def _any(self) -> Dataset | Fulfilled:
        found = self.data if self.data is not None else self.made
        assert found is not None
        return found
