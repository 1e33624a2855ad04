"""NICO++ track 1 (Zhang et al., 2023) in the split of SubpopBench (Yang et al., 2023)."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from tailsmith.data.dataset import Dataset, make_table
from tailsmith.data.sources.list_files import words
from tailsmith.errors import UserError

LABELS = "dg_label_id_mapping.json"  # class folder -> class index
IMAGES = Path("public_dg_0416") / "train"  # then a folder per context, then one per class
HELD_OUT = 75  # images of a group that validation and test take, a third and two thirds; the rest is for training
SPLIT_SEED = 666  # SubpopBench's

log = logging.getLogger(__name__)


def read_nico(root: Path, *, contexts: Sequence[str], classes: int, where: Mapping[str, str]) -> Dataset:
    """`root` holds the label map and public_dg_0416, or track_1 with both; a class is called after its folder.

    `where` says where to get the "images" and the "label map", for complaints.

    SubpopBench shuffles file names in whatever order the file system lists them, so that its split differs between
    machines; here they are sorted first, and the split is the one SubpopBench makes where the file system sorts.
    """
    root = root / "track_1" if (root / "track_1" / LABELS).is_file() else root
    label_of = _label_map(root / LABELS, classes, where["label map"])
    generator = random.Random(SPLIT_SEED)
    rows: list[tuple[str, int, int, str]] = []  # path below IMAGES, label, attribute, split
    for attribute, context in enumerate(contexts):  # SubpopBench's order: contexts, then classes as the map has them
        _check_context(root / IMAGES / context, set(label_of), where["images"])
        for folder, label in label_of.items():
            files = sorted((root / IMAGES / context / folder).glob("*.jpg"))
            names = [f"{context}/{folder}/{file.name}" for file in files]
            rows += [(name, label, attribute, split) for name, split in _split_group(names, generator)]
    rows.sort()
    paths, labels, attributes, splits = zip(*rows, strict=True) if rows else ((), (), (), ())
    table = make_table(
        labels,
        image_ids=paths,
        paths=[str(root / IMAGES / path) for path in paths],
        splits=splits,
        attributes=attributes,
    )
    in_order = sorted(label_of, key=label_of.__getitem__)
    return Dataset(table, tuple(words(folder) for folder in in_order), tuple(contexts), name="nico++")


def _split_group(names: list[str], generator: random.Random) -> list[tuple[str, str]]:
    """Of a group's m = min(n, 75) shuffled images the first m // 3 are for validation, the others for test.

    A group of 75 images or fewer therefore has no training image.
    """
    shuffled = names.copy()
    generator.shuffle(shuffled)
    held_out = min(len(names), HELD_OUT)
    splits = ["val"] * (held_out // 3) + ["test"] * (held_out - held_out // 3) + ["train"] * (len(names) - held_out)
    return list(zip(shuffled, splits, strict=True))


def _label_map(path: Path, classes: int, where: str) -> dict[str, int]:
    if not path.is_file():
        raise UserError(f"no label map {path}; nico++ needs {LABELS}: {where}")
    try:
        label_of = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not a JSON file ({error}); download it again") from error
    if not isinstance(label_of, dict) or sorted(map(str, label_of.values())) != sorted(map(str, range(classes))):
        raise UserError(
            f"{path} should map {classes} class names to the numbers 0..{classes - 1}, one each; download it again"
        )
    return {str(name): int(label) for name, label in label_of.items()}


def _check_context(folder: Path, known: set[str], where: str) -> None:
    """The context is there, and holds no folder of images that the label map would make us overlook."""
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; nico++ has one per context: unpack track_1.zip there; {where}")
    strangers = sorted(each.name for each in folder.iterdir() if each.is_dir() and each.name not in known)
    if strangers:
        log.warning(
            "%s has %d folders that %s doesn't name, left out: %s", folder, len(strangers), LABELS, strangers[0]
        )
