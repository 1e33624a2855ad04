"""Published benchmarks: as their authors hand them out -> Dataset; as their published counts -> Dataset without images.

docs/recipes.md says where to get them. A benchmark is described by the `benchmark` section of a recipe.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from tailsmith.data.checks import check_dataset, check_table, check_training_labels, check_utf8
from tailsmith.data.counts import class_counts, group_counts
from tailsmith.data.dataset import SPLITS, Dataset, make_table, with_limit
from tailsmith.data.sources.list_files import read_list_files
from tailsmith.data.sources.nico import read_nico
from tailsmith.errors import UserError

READERS: dict[str, Callable[[Benchmark, Path], Dataset]] = {
    "list_files": lambda benchmark, root: read_list_files(
        root,
        benchmark.lists,
        classes=benchmark.classes,
        names=benchmark.names(),
        source=benchmark.name,
        where=benchmark.where("lists"),
    ),
    "nico": lambda benchmark, root: read_nico(
        root,
        contexts=benchmark.contexts,
        classes=benchmark.classes,
        where={what: benchmark.where(what) for what in ("images", "label map")},
    ),
}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Benchmark:
    """What is published of a benchmark; only `name`, `reader` and `classes` are needed to read one."""

    name: str
    reader: str  # list_files | nico
    classes: int
    contexts: tuple[str, ...] = ()  # attribute names
    lists: dict[str, str] = field(default_factory=dict)  # split -> its list file, below the root
    images: dict[str, int] = field(default_factory=dict)  # split -> images
    largest_group: int | None = None  # training images of the largest group, where the groups' counts aren't published
    facts: str = ""  # a JSON file in assets/benchmarks: folder, display name and training images of each class
    counts_sha256: str = ""  # of the training images per class, as `counts_hash` has it
    licence: str = ""
    sources: dict[str, str] = field(default_factory=dict)  # what -> where to get it

    def __post_init__(self) -> None:
        if self.reader not in READERS:
            raise UserError(f"benchmark.reader should be one of {', '.join(READERS)}, got {self.reader!r}")

    def names(self) -> dict[str, str]:
        """Class folder -> display name, where the folder's own words won't do."""
        facts = self._facts()
        return dict(zip(facts.get("folders", ()), facts.get("class_names", ()), strict=True))

    def class_names(self) -> tuple[str, ...]:
        """As published, in the order of the class index; empty where only the files tell."""
        return tuple(self._facts().get("class_names", ()))

    def train_counts(self) -> list[int]:
        """Training images per class, by class index; empty where they aren't published."""
        return list(self._facts().get("train_counts", ()))

    def where(self, *what: str) -> str:
        """Where to get something of it, or all, for complaints."""
        known = [f"{each}: {self.sources[each]}" for each in what or self.sources if each in self.sources]
        return f"docs/recipes.md says how to get it ({'; '.join(known)})" if known else "docs/recipes.md has more"

    def _facts(self) -> dict[str, Any]:
        if not self.facts:
            return {}
        stored: dict[str, Any] = json.loads(
            files("tailsmith").joinpath("assets", "benchmarks", self.facts).read_text(encoding="utf-8")
        )
        return stored


def read(
    benchmark: Benchmark, root: Path, *, skip_corrupt: bool = False, max_megapixels: float | None = None
) -> Dataset:
    """The images below `root`, in the benchmark's own splits, sorted by path.

    Whether every image exists is checked, what it holds only with `skip_corrupt`, which leaves out what can't be read.
    Counts that aren't the published ones are a warning. ValueError for anything wrong with lists, labels or files.
    """
    if not root.is_dir():
        raise UserError(f"no folder {root}; expected the root of {benchmark.name}: {benchmark.where()}")
    found = READERS[benchmark.reader](benchmark, root)
    dataset = Dataset(found.table, found.class_names, found.attribute_names, benchmark.name, benchmark.licence)
    dataset = with_limit(dataset, max_megapixels)
    if skip_corrupt:
        dataset, skipped = check_dataset(dataset, skip_corrupt=True)
        for complaint in skipped:
            log.warning("skipped: %s", complaint)
    else:
        check_table(dataset)
        check_training_labels(dataset)
        _check_files(dataset, root, benchmark.where("images"))
    if found_different := differences(benchmark, dataset):
        log.warning("not as published, so results won't compare: %s", "; ".join(found_different))
    return dataset


def published(benchmark: Benchmark) -> Dataset:
    """The published training split as rows without images: enough to plan on, not to synthesize from."""
    counts = benchmark.train_counts()
    if not counts:
        raise UserError(
            f"{benchmark.name} publishes no count per class or group, only totals; give the images with --data: "
            f"{benchmark.where()}"
        )
    labels = np.repeat(np.arange(len(counts)), counts)
    table = make_table(labels, image_ids=[f"{benchmark.name}-{row}" for row in range(len(labels))])
    return Dataset(table, benchmark.class_names(), (), benchmark.name, benchmark.licence)


def missing_from_totals(benchmark: Benchmark, target: object, per: str) -> int:
    """Images that top up every group to `target`, from the published totals alone.

    Exact for a target that no group exceeds: then it's groups x target - images.
    """
    largest = benchmark.largest_group
    if largest is None or "train" not in benchmark.images:
        raise UserError(f"{benchmark.name} publishes no totals of its groups; give the images with --data")
    wanted = largest if target == "max" else target
    if per != "group" or not isinstance(wanted, int) or wanted < largest:
        raise UserError(
            f"target {target!r} per {per} of {benchmark.name} needs counts that aren't published; give the images "
            f"with --data, or a target per group of at least {largest}, the largest group"
        )
    return benchmark.classes * len(benchmark.contexts) * wanted - benchmark.images["train"]


def differences(benchmark: Benchmark, dataset: Dataset) -> list[str]:
    """In what the dataset's counts are not the published ones, a line each."""
    lines = [
        f"{benchmark.name} has {len(dataset.split(split)):,} {split} images, published are {benchmark.images[split]:,}"
        for split in SPLITS
        if split in benchmark.images and len(dataset.split(split)) != benchmark.images[split]
    ]
    counts = class_counts(dataset).tolist()
    if benchmark.counts_sha256 and counts_hash(counts) != benchmark.counts_sha256:
        lines.append(_first_difference(benchmark, dataset, counts))
    published_names = benchmark.class_names()
    if len(dataset.class_names) == len(published_names) and dataset.class_names != published_names:
        lines.append(_first_other_name(benchmark, dataset))
    if benchmark.largest_group is not None and group_counts(dataset).max() != benchmark.largest_group:
        lines.append(
            f"the largest group of {benchmark.name} has {group_counts(dataset).max():,} training images, "
            f"published are {benchmark.largest_group:,}"
        )
    return lines


def counts_hash(counts: Sequence[int]) -> str:
    """sha256 of the counts as decimal numbers with commas between them."""
    return hashlib.sha256(",".join(map(str, counts)).encode()).hexdigest()


def _first_difference(benchmark: Benchmark, dataset: Dataset, counts: list[int]) -> str:
    expected = benchmark.train_counts()
    pairs = zip(dataset.class_names, counts, expected, strict=False)  # a list of other classes is shorter or longer
    first = next((f": {name!r} has {got}, published are {other}" for name, got, other in pairs if got != other), "")
    return f"the training images per class of {benchmark.name} are not the published ones{first}"


def _first_other_name(benchmark: Benchmark, dataset: Dataset) -> str:
    pairs = zip(dataset.class_names, benchmark.class_names(), strict=False)
    first = next((f": class {i} is {got!r}, not {name!r}" for i, (got, name) in enumerate(pairs) if got != name), "")
    return f"the classes of {benchmark.name} are not those of the published lists, in their order{first}"


def _check_files(dataset: Dataset, root: Path, where: str) -> None:
    """Every listed image is a file, with a name that other files can hold."""
    for path in dataset.table["path"]:
        check_utf8(path, "the path", "rename the file or folder")
    absent = [path for path in dataset.table["path"] if not os.path.isfile(path)]
    if absent:
        raise UserError(
            f"{len(absent):,} of the {len(dataset):,} images of {dataset.name} do not exist, the first is {absent[0]}; "
            f"put them below {root}, or leave them out with --skip-corrupt; {where}"
        )
