"""Every complaint about user data, each one line: what was got, what is expected, what to do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tailsmith.data.counts import class_counts
from tailsmith.data.dataset import Dataset, content_hash
from tailsmith.data.decoding import Seen, examine
from tailsmith.data.overlap import check_overlap
from tailsmith.data.survey import shallow_colour, warn_of_odd_images, with_ranges
from tailsmith.errors import UserError
from tailsmith.terminal import shown


def check_dataset(dataset: Dataset, *, skip_corrupt: bool = False) -> tuple[Dataset, list[str]]:
    """The dataset, fit for use, and a line for each corrupt image that `skip_corrupt` left out.

    Decodes and hashes every image once, and so finds the range by which high bit depths are scaled, alike in all
    splits; images that look wrong are log lines. ValueError for: no image, a single class, duplicate ids, synthetic
    images in val or test, corrupt images, names that are not UTF-8, classes that only val or test has, one image in two
    splits.
    """
    check_table(dataset)
    hashes, seen, complaints = _examine(dataset)
    skipped = [complaint for complaint in complaints if complaint is not None]
    if skipped and not skip_corrupt:
        more = f" (and {len(skipped) - 1} more like it)" if len(skipped) > 1 else ""
        raise UserError(f"{skipped[0]}{more}")
    if skipped:
        fit = [row for row, complaint in enumerate(complaints) if complaint is None]
        whole, dataset = dataset, dataset.select(fit)
        hashes, seen = [hashes[row] for row in fit], [seen[row] for row in fit]
        _check_left(whole, dataset, skipped)
        check_table(dataset)
    check_training_labels(dataset)
    check_overlap(dataset, hashes)
    sound = [each for each in seen if each is not None]
    dataset = with_ranges(dataset, sound)
    warn_of_odd_images(dataset, sound)
    return dataset, skipped


def check_table(dataset: Dataset) -> None:
    """What can be said without opening an image."""
    name = dataset.name or "the dataset"
    if len(dataset) == 0:
        raise UserError(f"{name}: no images; expected a folder per class with images in it, or a table of images")
    if len(dataset.class_names) < 2:
        raise UserError(
            f"{name}: one class only ({dataset.class_names[0]!r}); a classifier needs two or more: "
            "one folder per class, or a label column with two values"
        )
    for each in (dataset.name, *dataset.class_names, *dataset.attribute_names):
        check_utf8(each, "this name, of the data, a class or an attribute,", "rename it")
    _check_ids(dataset)
    _check_real_evaluation(dataset)


def check_utf8(text: str, what: str, advice: str) -> None:
    """ValueError for a name that is no UTF-8, as old archives and disks leave them: no file of ours could hold it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{shown(text)}: {what} is not UTF-8; {advice}") from error


def check_training_labels(dataset: Dataset) -> None:
    """Val and test have no class that train lacks."""
    train = class_counts(dataset, "train")
    for split in ("val", "test"):
        lacking = np.flatnonzero((class_counts(dataset, split) > 0) & (train == 0))
        if len(lacking):
            raise UserError(
                f"label {dataset.class_names[lacking[0]]!r} is in {split} but not in train "
                f"({len(lacking)} such labels); add training images of it or remove it from {split}"
            )


def check_conditionable(dataset: Dataset) -> None:
    """Every class has a real training image that synthesis can be conditioned on."""
    real = dataset.select(dataset.table["source"].to_numpy() == "real")
    empty = np.flatnonzero(class_counts(real) == 0)
    if len(empty):
        raise UserError(
            f"class {dataset.class_names[empty[0]]!r} has no training image, and so nothing to condition on "
            f"({len(empty)} such classes); add at least one image, remove the class, or condition on text alone "
            "(synthesis.conditioning text; in a run with arms such as erm,text)"
        )


def class_difference(has: Sequence[str], expected: Sequence[str]) -> str:
    """What class names have instead of the expected ones, the first few of a thousand."""
    lacking, others = sorted(set(expected) - set(has)), sorted(set(has) - set(expected))
    if lacking or others:
        parts = [f"{what} {_first(names)}" for what, names in (("lacks", lacking), ("has", others)) if names]
        return " and ".join(parts)
    place = next(place for place, name in enumerate(has) if name != expected[place])
    return f"has the same classes in another order, first {has[place]!r} in place of {expected[place]!r}"


def _first(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def _check_left(whole: Dataset, left: Dataset, skipped: Sequence[str]) -> None:
    """Skipping took no class away."""
    had, has = (np.bincount(each.labels, minlength=len(each.class_names)) for each in (whole, left))
    gone = np.flatnonzero((had > 0) & (has == 0))
    if len(gone) and len(left):
        raise UserError(
            f"class {whole.class_names[gone[0]]!r} has no image left without those that can't be read "
            f"({len(gone)} such classes), the first: {skipped[0].split(';')[0]}; mend them, or remove the class"
        )


def _check_ids(dataset: Dataset) -> None:
    ids = dataset.table["image_id"]
    repeated = ids[ids.duplicated()]
    if len(repeated):
        raise UserError(
            f"duplicate image_id {repeated.iloc[0]!r} ({len(repeated)} rows repeat an id); "
            "every image should have an id, or path, of its own"
        )


def _check_real_evaluation(dataset: Dataset) -> None:
    table = dataset.table
    wrong = np.flatnonzero((table["source"] == "synthetic") & (table["split"] != "train"))
    if len(wrong):
        row = int(wrong[0])
        raise UserError(
            f"{dataset.described(row)} is synthetic and in {table['split'].iat[row]} ({len(wrong)} such "
            "images); validation and test should be real: move it to train"
        )


def _examine(dataset: Dataset) -> tuple[list[str], list[Seen | None], list[str | None]]:
    """Content hash, what was seen, and complaint (None = a sound image) of every row."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        examined = list(pool.map(lambda row: _examine_one(dataset, row), range(len(dataset))))
    seen = [each for _, each, _ in examined]
    complaints = [complaint for _, _, complaint in examined]
    for row in shallow_colour(seen):
        complaints[row] = (
            f"{dataset.described(row)} has 16 bits a colour channel and uses the lower ones only, as all such images "
            "here: it would be black; convert them to 8 bits, all by the same factor, or pass --skip-corrupt"
        )
    return [content for content, _, _ in examined], seen, complaints


def _examine_one(dataset: Dataset, row: int) -> tuple[str, Seen | None, str | None]:
    described = dataset.described(row)
    try:
        for name in (dataset.table["path"].iat[row], dataset.table["image_id"].iat[row]):
            check_utf8(str(name), "the path", "rename the file or folder, or pass --skip-corrupt")
        encoded = dataset.encoded(row)
        seen = examine(encoded, described, dataset.decoding)
    except (ValueError, OSError) as error:
        return "", None, " ".join(str(error).split())
    return content_hash(encoded), seen, None
