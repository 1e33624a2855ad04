"""The same image in two splits: refused, with a list of all such pairs in a file."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tailsmith.data.dataset import SPLITS, Dataset
from tailsmith.errors import UserError
from tailsmith.files import write_atomically

LIST = "duplicates-across-splits.csv"
HEADER = ("image", "split", "same_content_as", "in_split")

Pairs = Sequence[tuple[int, int]]  # rows: the one of the earlier split, the one of the later


def check_overlap(dataset: Dataset, hashes: Sequence[str]) -> None:
    """No image content [n] lies in two splits; ValueError with how many do, and where they are listed."""
    first: dict[str, int] = {}  # content -> the first row that has it
    splits = dataset.table["split"].to_numpy()
    order = [row for split in SPLITS for row in np.flatnonzero(splits == split).tolist()]
    pairs = [(other, row) for row in order if splits[other := first.setdefault(hashes[row], row)] != splits[row]]
    if pairs:
        earlier, later = pairs[0]
        listed = _write_list(dataset, pairs)
        where = f", all listed in {listed}" if listed else ""
        raise UserError(
            f"{splits[later]} overlaps {splits[earlier]}: {dataset.described(later)} has the content of "
            f"{dataset.described(earlier)} ({len(pairs):,} such {'pair' if len(pairs) == 1 else 'pairs'}{where}); "
            "remove each from one of its two splits"
        )


def _write_list(dataset: Dataset, pairs: Pairs) -> Path | None:
    """All pairs as a CSV file in the current folder, or else in that for temporary files; None where neither will do.

    An earlier list of ours is replaced, another file of that name is left alone.
    """
    for folder in (Path.cwd(), Path(tempfile.gettempdir())):
        path = folder / LIST
        try:
            if not path.exists() or _is_ours(path):
                write_atomically(path, lambda temporary: _write(temporary, dataset, pairs))
                return path
        except (OSError, ValueError):  # not writable, a full disk, not text: the message does without
            continue
    return None


def _is_ours(path: Path) -> bool:
    with open(path, newline="", encoding="utf-8") as file:
        return file.readline().rstrip("\r\n") == ",".join(HEADER)


def _write(path: Path, dataset: Dataset, pairs: Pairs) -> None:
    splits = dataset.table["split"].tolist()
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        writer.writerows(
            (dataset.described(later), splits[later], dataset.described(earlier), splits[earlier])
            for earlier, later in pairs
        )
