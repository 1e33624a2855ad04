"""What the pixels of all images together tell: the range of high bit depths, and images that look wrong."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tailsmith.data.dataset import Dataset
from tailsmith.data.decoding import SHALLOW, Range, Seen, range_in_use, to_8_bits

NEARLY_BLACK = 16  # of 256: an image of high depth whose lightest pixel stays below

log = logging.getLogger(__name__)


def shallow_colour(seen: Sequence[Seen | None]) -> list[int]:
    """Rows of 16-bit colour images, where all of them together use the lower bits only.

    Pillow gives the upper 8 bits of such a channel: of a 12-bit camera's, almost nothing.
    """
    deep = {row: each.high for row, each in enumerate(seen) if each is not None and each.deep_colour}
    return list(deep) if deep and max(deep.values()) < SHALLOW else []


def with_ranges(dataset: Dataset, seen: Sequence[Seen]) -> Dataset:
    """The dataset with the range of each kind of high depth over its images [n], widened by one that it had already."""
    ranges = dict(dataset.decoding.ranges)
    for kind in sorted({each.kind for each in seen if each.kind is not None}):
        of_kind = [each for each in seen if each.kind == kind]
        low, high = range_in_use(kind, min(each.low for each in of_kind), max(each.high for each in of_kind))
        earlier = ranges.get(kind, (low, high))
        ranges[kind] = (min(low, earlier[0]), max(high, earlier[1]))
        shown = "%d images have %s: %.10g..%.10g, the range in use over the dataset, becomes black..white"
        log.warning(shown, len(of_kind), kind, *ranges[kind])
    return replace(dataset, decoding=replace(dataset.decoding, ranges=ranges))


def warn_of_odd_images(dataset: Dataset, seen: Sequence[Seen]) -> None:
    """A log line for each way in which readable images [n] look wrong: how many, and the first."""
    single, dark = [], []
    for row, each in enumerate(seen):
        low, high = _as_8_bits(each, dataset.decoding.ranges.get(each.kind or "", (0, 255)))
        single += [row] if each.single_colour or (each.kind and low == high) else []
        dark += [row] if each.kind and low < high < NEARLY_BLACK else []
    unturned = [row for row, each in enumerate(seen) if not each.upright]
    for rows, what in (
        (single, "%s of a single colour, the first is %s; is that all there is to see?"),
        (unturned, "%s used as stored, for an EXIF orientation that can't be read; the first is %s"),
    ):
        if rows:
            log.warning(what, _counted(len(rows)), dataset.described(rows[0]))
    if dark:
        lightest = int(np.argmax([each.high if each.kind == seen[dark[0]].kind else -np.inf for each in seen]))
        log.warning(
            "%s nearly black beside the lightest pixel of the dataset, which is in %s; the first is %s",
            *(_counted(len(dark)), dataset.described(lightest), dataset.described(dark[0])),
        )


def _as_8_bits(seen: Seen, limits: Range) -> tuple[int, int]:
    """The darkest and the lightest pixel as decoding gives them."""
    if seen.kind is None:
        return int(seen.low), int(seen.high)
    low, high = to_8_bits(np.array([seen.low, seen.high]), seen.kind, limits).tolist()
    return low, high


def _counted(count: int) -> str:
    return "1 image is" if count == 1 else f"{count:,} images are"
