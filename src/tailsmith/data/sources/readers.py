"""Image folders, CSV and Parquet files -> Dataset."""

from __future__ import annotations

import logging
from pathlib import Path

from tailsmith.data.checks import check_dataset
from tailsmith.data.dataset import Dataset, make_table, with_limit
from tailsmith.data.marked_images import as_marked
from tailsmith.data.sources.hub_folders import load_hub_folder
from tailsmith.data.sources.image_folders import labelled_files
from tailsmith.data.sources.tables import load_table
from tailsmith.data.splits import TEST_FRACTION, VAL_FRACTION, fill_splits
from tailsmith.data.writers import METADATA_CSV
from tailsmith.errors import UserError

log = logging.getLogger(__name__)


def load(
    path: Path | str,
    *,
    skip_corrupt: bool = False,
    val_fraction: float = VAL_FRACTION,
    test_fraction: float = TEST_FRACTION,
    seed: int = 0,
    max_megapixels: float | None = None,
) -> Dataset:
    """An image folder, .csv or .parquet file -> a checked dataset that has train, val and test images.

    What says inside its file that tailsmith made it is synthetic, whatever the folder or table says. A split that isn't
    there is taken from train (`fill_splits`). Complaints are ValueErrors
    (`check_dataset`); with `skip_corrupt`, images that can't be read are left out and logged as warnings.
    Images above `max_megapixels` (None: `MAX_MEGAPIXELS`) can't be read.
    """
    read = with_limit(as_marked(read_unchecked(Path(path))), max_megapixels)
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
        raise UserError(f"no such folder or file: {path}; expected an image folder, a .csv or a .parquet file")
    return load_table(path)


def load_folder(path: Path | str) -> Dataset:
    """A folder with metadata.csv, or as hub_folders.py says, or a folder per class, maybe in train, val, test folders.

    Classes are in order of their names, files in order of their paths, and all are "train" in a flat folder. A class
    folder may have folders inside; links are followed. Hidden files, what systems leave behind, texts beside images and
    empty folders are left out, as a log line says. A file's path is its id.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}; expected a folder with one folder of images per class")
    if (folder / METADATA_CSV).is_file():
        return load_table(folder / METADATA_CSV, name=folder.resolve().name)
    if (found := load_hub_folder(folder)) is not None:
        return found
    files = labelled_files(folder)
    if not files:
        raise UserError(f"no images in {folder}; expected one folder of images per class, or {METADATA_CSV}")
    class_names = tuple(sorted({each.class_name for each in files}))
    codes = {name: code for code, name in enumerate(class_names)}
    table = make_table(
        [codes[each.class_name] for each in files],
        image_ids=[each.path for each in files],
        paths=[str(folder / each.path) for each in files],
        splits=[each.split for each in files],
    )
    return Dataset(table, class_names, name=folder.resolve().name)
