"""Image folders, CSV and Parquet files -> Dataset."""

from __future__ import annotations

import logging
from pathlib import Path

from tailsmith.data.checks import check_dataset
from tailsmith.data.dataset import Dataset, make_table
from tailsmith.data.splits import TEST_FRACTION, VAL_FRACTION, fill_splits
from tailsmith.data.tables import load_table, split_name
from tailsmith.data.writers import METADATA_CSV

# What Windows leaves in folders of images; hidden files are ignored too.
IGNORED = ("Thumbs.db", "desktop.ini")

log = logging.getLogger(__name__)


def load(
    path: Path | str,
    *,
    skip_corrupt: bool = False,
    val_fraction: float = VAL_FRACTION,
    test_fraction: float = TEST_FRACTION,
    seed: int = 0,
) -> Dataset:
    """An image folder, .csv or .parquet file -> a checked dataset that has train, val and test images.

    A split that isn't there is taken from train (`fill_splits`). Complaints are ValueErrors
    (`check_dataset`); with `skip_corrupt`, images that can't be read are left out and logged as warnings.
    """
    read = read_unchecked(Path(path))
    whole = fill_splits(read, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)
    dataset, skipped = check_dataset(whole, skip_corrupt=skip_corrupt)
    for complaint in skipped:
        log.warning("skipped: %s", complaint)
    return dataset


def read_unchecked(path: Path) -> Dataset:
    """Whatever reader fits the path; splits as they are, no image opened."""
    if path.is_dir():
        return load_folder(path)
    if not path.exists():
        raise ValueError(f"no such folder or file: {path}; expected an image folder, a .csv or a .parquet file")
    return load_table(path)


def load_folder(path: Path | str) -> Dataset:
    """A folder with metadata.csv, or a folder per class, or train / val / test folders of such.

    Classes are in order of their names, files in order of their paths, and all are "train" in a flat folder.
    A class folder may have folders inside; links are followed, hidden files ignored. A file's path is its id.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ValueError(f"no such folder: {folder}; expected a folder with one folder of images per class")
    if (folder / METADATA_CSV).is_file():
        return load_table(folder / METADATA_CSV, name=folder.resolve().name)
    splits = _split_folders(folder)
    class_folders = [(split, each) for split, parent in splits for each in _folders(parent)]
    files = [(split, each.name, file) for split, each in class_folders for file in _files(each)]
    if not files:
        raise ValueError(f"no images in {folder}; expected one folder of images per class, or {METADATA_CSV}")
    class_names = tuple(sorted({each.name for _, each in class_folders}))
    codes = {name: code for code, name in enumerate(class_names)}
    table = make_table(
        [codes[class_name] for _, class_name, _ in files],
        image_ids=[file.relative_to(folder).as_posix() for _, _, file in files],
        paths=[str(file) for _, _, file in files],
        splits=[split for split, _, _ in files],
    )
    return Dataset(table, class_names, name=folder.resolve().name)


def _split_folders(folder: Path) -> list[tuple[str, Path]]:
    """(split, folder of class folders); a flat folder is all train.

    Splits are there only if every folder is one and train has folders inside: "train" may also be a class.
    """
    children = _folders(folder)
    splits = [(split_name(each.name), each) for each in children]
    train = [each for split, each in splits if split == "train" and _folders(each)]
    if not train:
        return [("train", folder)]
    strangers = [each.name for split, each in splits if split is None]
    if strangers:
        raise ValueError(
            f"{folder} has {train[0].name}/ with class folders, and also {strangers[0]}/; expected train, "
            "val and test folders only, or class folders only: move it elsewhere"
        )
    return [(split, each) for split, each in splits if split is not None]


def _folders(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))


def _files(folder: Path) -> list[Path]:
    """All files below; every real folder once, lest a link to a folder above be followed for ever."""
    found: list[Path] = []
    waiting, seen = [folder], {folder.resolve()}
    while waiting:
        for each in waiting.pop().iterdir():
            if each.name.startswith(".") or each.name in IGNORED:
                continue
            if not each.is_dir():
                found.append(each)
            elif each.resolve() not in seen:
                seen.add(each.resolve())
                waiting.append(each)
    return sorted(found)
