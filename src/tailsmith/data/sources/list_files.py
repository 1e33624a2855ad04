"""Lists of the long-tailed benchmarks (Liu et al., 2019): one line an image, a path and its class index."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tailsmith.data.dataset import Dataset, make_table
from tailsmith.errors import UserError


class Entry(NamedTuple):
    """One line of a list; `path` is relative to the root, with slashes."""

    split: str
    path: str
    label: int


def read_list_files(
    root: Path, lists: Mapping[str, str], *, classes: int, names: Mapping[str, str], source: str, where: str
) -> Dataset:
    """ImageNet_LT_{train,val,test}.txt or Places_LT_{train,val,test}.txt and the images beside them.

    A class is called after its images' folder: by `names`, else by the folder's own words. Rows are sorted by path, so
    that nothing depends on the order of the lines. `source` is the benchmark's name and `where` says where to get the
    lists, for complaints.
    """
    for path in (root / name for name in lists.values()):
        if not path.is_file():
            raise UserError(f"no list {path}; {source} needs {path.name}: {where}")
    entries = [entry for split, name in lists.items() for entry in _read_list(root / name, split, classes, source)]
    folders = _class_folders(entries, classes, source)
    order = {split: number for number, split in enumerate(lists)}
    entries.sort(key=lambda entry: (order[entry.split], entry.path))
    table = make_table(
        [entry.label for entry in entries],
        image_ids=[entry.path for entry in entries],
        paths=[str(root / entry.path) for entry in entries],
        splits=[entry.split for entry in entries],
    )
    return Dataset(table, tuple(names.get(folder, words(folder)) for folder in folders), name=source)


def words(folder: str) -> str:
    """ "apartment_building-outdoor" -> "apartment building outdoor" """
    return folder.replace("_", " ").replace("-", " ")


def _read_list(path: Path, split: str, classes: int, source: str) -> list[Entry]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error}); download it again") from error
    entries = []
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2 or not fields[1].isdecimal():
            raise UserError(
                f"{path}, line {number}: expected a path, a space and a class index, got {line!r}; download the list "
                "again"
            )
        if int(fields[1]) >= classes:
            raise UserError(
                f"{path}, line {number}: the class index of {source} should be within 0..{classes - 1}, got {fields[1]}"
            )
        entries.append(Entry(split, fields[0], int(fields[1])))
    if not entries:
        raise UserError(f"{path} lists no image; download it again")
    return entries


def _class_folders(entries: list[Entry], classes: int, source: str) -> list[str]:
    """The folder of each class, by class index: one for all its images, and of no other class."""
    folders: dict[int, str] = {}
    labels: dict[str, int] = {}
    for entry in entries:
        folder = PurePosixPath(entry.path).parent.name
        if not folder:
            raise UserError(f"{source}: {entry.path!r} should lie in a folder of its class")
        if folders.setdefault(entry.label, folder) != folder or labels.setdefault(folder, entry.label) != entry.label:
            raise UserError(
                f"{source}: {entry.path!r} is listed under class {entry.label}, but that class has images in "
                f"{folders[entry.label]!r} and {folder!r} belongs to class {labels.get(folder, entry.label)}; "
                "are all lists of one benchmark, in one version?"
            )
    lacking = [label for label in range(classes) if label not in folders]
    if lacking:
        raise UserError(
            f"{source}: the lists have no image of class {lacking[0]} ({len(lacking)} such classes of {classes}); "
            "download them again"
        )
    return [folders[label] for label in range(classes)]
