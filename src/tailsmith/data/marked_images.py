"""Images that say inside their files that they are synthetic, whatever a folder or table says of them."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from tailsmith.data.dataset import Dataset
from tailsmith.data.marks import HEAD_BYTES, is_webp, mark_of
from tailsmith.data.packed import is_packed

log = logging.getLogger(__name__)


def as_marked(dataset: Dataset) -> Dataset:
    """The dataset with source "synthetic" where an image has a mark, and a log line that counts those it changes.

    Reads the beginning of every file that is listed as real; one that can't be read is for later checks.
    """
    table = dataset.table
    rows = np.flatnonzero(table["source"].to_numpy() == "real")
    with ThreadPoolExecutor() as pool:
        marked = rows[np.array(list(pool.map(lambda row: _is_marked(dataset, row), rows.tolist())), dtype=bool)]
    if not len(marked):
        return dataset
    log.warning(
        "%d of the images that are listed as real say inside that they are synthetic, and count as such; the first is "
        "%s",
        *(len(marked), dataset.described(int(marked[0]))),
    )
    sources = table["source"].to_numpy(dtype=object).copy()
    sources[marked] = "synthetic"
    return replace(dataset, table=table.assign(source=sources))


def _is_marked(dataset: Dataset, row: int) -> bool:
    path = dataset.table["path"].iat[row]
    in_file = isinstance(path, str) and dataset.table["bytes"].iat[row] is None and not is_packed(path)
    try:
        if not in_file:
            return mark_of(dataset.encoded(row)) is not None
        with open(str(path), "rb") as file:
            encoded = file.read(HEAD_BYTES)
            encoded += file.read() if is_webp(encoded) else b""  # which has its mark at the end
        return mark_of(encoded) is not None
    except (ValueError, OSError):
        return False
