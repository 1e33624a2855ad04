"""What a run keeps of its data, so that its report needs them no more: names, counts, and a few small pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tailsmith.data.counts import describe, rarest
from tailsmith.data.dataset import Dataset, make_table
from tailsmith.data.decoding import decode
from tailsmith.errors import UserError
from tailsmith.files import read_json, write_atomically, write_json
from tailsmith.runs.directory import RunDirectory

SHOWN = 6  # pictures of a class or group
THUMBNAIL = 96  # pixels of a side at most, as the report shows them
DESCRIPTION, PICTURES = "dataset.json", "pictures"


@dataclass(frozen=True)
class KeptData:
    """`described` is what `describe` said of the dataset; `folder` is the run's."""

    described: dict[str, Any]
    folder: Path

    @property
    def name(self) -> str:
        return str(self.described["name"])

    @property
    def counts(self) -> dict[str, int]:
        """Class -> real training images."""
        return {name: row["train"] for name, row in self.described["classes"].items()}

    @property
    def group_counts(self) -> dict[str, int]:
        """Group -> real training images; empty without attributes."""
        return {name: row["train"] for name, row in self.described["groups"].items()}

    def without_images(self) -> Dataset:
        """A dataset of these classes and attributes, and no rows."""
        names = tuple(self.described["classes"]), tuple(self.described["attributes"])
        return Dataset(make_table([], image_ids=[]), *names, self.name, self.described["licence"])

    def rarest(self, per: str) -> NDArray[np.int64]:
        """Flat indices of the rarest classes or groups, rarest first."""
        counts = self.counts if per == "class" else self.group_counts
        return rarest(np.array(list(counts.values()), dtype=np.int64))

    def pictures(self, index: int) -> list[Image.Image]:
        """Real training images of a class or group, by its flat index; none in a run that kept none."""
        paths = sorted((self.folder / PICTURES).glob(f"{index}-*.png"))
        return [decode(path.read_bytes(), str(path)) for path in paths]


def keep_data(directory: RunDirectory, per: str, dataset: Dataset) -> Dataset:
    """Write down what a report needs of the data; the dataset comes back under the name that the run began with.

    A folder that was renamed since is the same data, and plans hold the name.
    """
    path = directory.path / DESCRIPTION
    if path.exists():
        dataset = replace(dataset, name=read_json(path)["name"])
    write_json(path, describe(dataset))
    kept, training = kept_data(directory), dataset.split("train")
    places = training.labels if per == "class" else training.groups
    for index in kept.rarest(per).tolist():
        for number, row in enumerate(np.flatnonzero(places == index)[:SHOWN].tolist()):
            _write_picture(training.image(row), directory.path / PICTURES / f"{index}-{number}.png")
    return dataset


def kept_data(directory: RunDirectory) -> KeptData:
    path = directory.path / DESCRIPTION
    if not path.exists():
        raise UserError(f"{directory.path} has no {DESCRIPTION}; run the same command again, and it goes on")
    return KeptData(read_json(path), directory.path)


def _write_picture(image: Image.Image, path: Path) -> None:
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    write_atomically(path, lambda temporary: image.save(temporary, "PNG"))
