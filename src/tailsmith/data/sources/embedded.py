"""The embedded world: a subset of Fashion-MNIST in six contexts, as two imbalanced tasks over the same
photographs.

`fashion-lt` is class-imbalanced like ImageNet-LT; `fashion-groups` has 60 garment x context groups like
NICO++, many of them rare or empty. Validation and test are balanced and real. Nothing here was seen by the
embedded generator.
"""

import io
import lzma
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tailsmith.data.dataset import Dataset, make_table
from tailsmith.data.sources.contexts import CONTEXTS, render
from tailsmith.errors import UserError

CLASS_NAMES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
KEEPS_HOLES = frozenset({CLASS_NAMES.index("sandal"), CLASS_NAMES.index("bag")})
LICENCE = "Fashion-MNIST, Copyright (c) 2017 Zalando SE, MIT"

# fashion-lt: exponential 500 -> 5, head to tail; hard garments (shirt, coat, pullover, t-shirt look alike)
# and easy ones (trouser, bag, ...) alternate so that no shot is easy by its garments alone.
LONG_TAIL = {
    "t-shirt": 500, "ankle boot": 300, "pullover": 180, "trouser": 108, "coat": 65,
    "sneaker": 39, "dress": 23, "shirt": 14, "bag": 8, "sandal": 5,
}  # fmt: skip

# fashion-groups: each garment is common in one context and rare, or absent, in the others. The generator's
# own training data has the same favourite contexts (tools/build_embedded.py).
MAJORITY_CONTEXT = {
    "t-shirt": "outdoor", "trouser": "rock", "pullover": "autumn", "dress": "grass", "coat": "dim",
    "sandal": "water", "shirt": "water", "sneaker": "grass", "bag": "outdoor", "ankle boot": "rock",
}  # fmt: skip
GROUP_PROFILE = (150, 16, 8, 4, 2, 0)  # the majority context, then the contexts that follow it in CONTEXTS

TASKS = ("fashion-lt", "fashion-groups")


@dataclass(frozen=True)
class Photographs:
    """Grey 28x28 product photographs; `origin` numbers them through the original train (0..59,999) and test
    files.
    """

    pixels: NDArray[np.uint8]  # [n, 28, 28]
    labels: NDArray[np.uint8]  # [n]
    origin: NDArray[np.int32]  # [n]
    split: NDArray[np.uint8]  # [n], 0 train pool, 1 validation, 2 test


@lru_cache(maxsize=1)
def load_photographs() -> Photographs:
    """The shipped subset: per class 600 for training pools, 120 for validation, 480 for test."""
    packed = files("tailsmith.assets").joinpath("fashion.npz.xz").read_bytes()
    with np.load(io.BytesIO(lzma.decompress(packed))) as arrays:
        return Photographs(**{name: arrays[name] for name in ("pixels", "labels", "origin", "split")})


def photograph_hashes(pixels: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """One 64-bit hash per photograph [n, 28, 28] -> [n], to tell whether two sets share an image."""
    import hashlib

    digests = [hashlib.sha256(image.tobytes()).digest()[:8] for image in pixels]
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def group_counts() -> NDArray[np.int64]:
    """Training images of each group of fashion-groups, [10, 6]."""
    counts = np.zeros((len(CLASS_NAMES), len(CONTEXTS)), dtype=np.int64)
    for label, name in enumerate(CLASS_NAMES):
        first = CONTEXTS.index(MAJORITY_CONTEXT[name])
        for step, count in enumerate(GROUP_PROFILE):
            counts[label, (first + step) % len(CONTEXTS)] = count
    return counts


def load_embedded(task: str, *, seed: int = 0, counts: Sequence[int] | NDArray[np.int64] | None = None) -> Dataset:
    """One of `TASKS`; the seed decides which real photographs, and which contexts, the training split gets.

    `counts` replaces the task's training counts: [10] for fashion-lt, [10, 6] for fashion-groups. With the
    same seed a larger count keeps every image of the smaller one, which is how "topped up with real images"
    is made. Validation (1,200) and test (4,800) are the same for every seed.
    """
    if task not in TASKS:
        raise UserError(f"embedded task should be one of {list(TASKS)}, got {task!r}")
    if counts is None:
        counts = [LONG_TAIL[name] for name in CLASS_NAMES] if task == "fashion-lt" else group_counts()
    wanted = np.asarray(counts)
    shape = (len(CLASS_NAMES),) if task == "fashion-lt" else (len(CLASS_NAMES), len(CONTEXTS))
    if wanted.shape != shape:
        raise UserError(f"counts for {task} should have shape {shape}, got {wanted.shape}")
    photographs = load_photographs()
    rows, contexts = _training_rows(photographs, wanted, seed)
    parts = [_rendered(photographs, rows, contexts, "train"), _balanced("val"), _balanced("test")]
    return Dataset.concatenate([Dataset(part.table, CLASS_NAMES, CONTEXTS, task, LICENCE) for part in parts])


@lru_cache(maxsize=2)
def _balanced(split: str) -> Dataset:
    """The validation or test images, which all tasks and seeds have in common."""
    photographs = load_photographs()
    rows = np.flatnonzero(photographs.split == {"val": 1, "test": 2}[split])
    return _rendered(photographs, rows, np.arange(len(rows)) % len(CONTEXTS), split)


def _training_rows(
    photographs: Photographs, counts: NDArray[np.int64], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the training pool and their contexts; prefixes of one random order per class."""
    rows: list[int] = []
    contexts: list[int] = []
    for label in range(len(CLASS_NAMES)):
        rng = np.random.default_rng([seed, label])
        pool = np.flatnonzero((photographs.split == 0) & (photographs.labels == label))
        total = int(counts[label].sum())
        if total > len(pool):
            raise UserError(f"class {CLASS_NAMES[label]!r} has {len(pool)} photographs to draw from, asked for {total}")
        order, random_contexts = rng.permutation(pool), rng.integers(0, len(CONTEXTS), size=len(pool))
        if counts.ndim == 1:
            rows += order[:total].tolist()
            contexts += random_contexts[:total].tolist()
        else:  # every context owns a share of the order, so that groups grow independently
            for context, part in enumerate(_shares(order, label)):
                if counts[label, context] > len(part):
                    raise UserError(
                        f"group {CLASS_NAMES[label]!r} in {CONTEXTS[context]!r} has {len(part)} photographs "
                        f"to draw from, asked for {counts[label, context]}"
                    )
                rows += part[: counts[label, context]].tolist()
                contexts += [context] * int(counts[label, context])
    return np.array(rows, dtype=np.int64), np.array(contexts, dtype=np.int64)


def _shares(order: NDArray[np.int64], label: int) -> list[NDArray[np.int64]]:
    """Split a class's photographs between the contexts: a quarter to its majority context, 15 % to each
    other.
    """
    first = CONTEXTS.index(MAJORITY_CONTEXT[CLASS_NAMES[label]])
    edges = np.cumsum([0.25] + [0.15] * (len(CONTEXTS) - 1))[:-1] * len(order)
    parts = np.split(order, np.rint(edges).astype(int))
    return [parts[(context - first) % len(CONTEXTS)] for context in range(len(CONTEXTS))]


def as_drawings(dataset: Dataset) -> Dataset:
    """The same photographs of a task in the generator's other style, in the same order."""
    photographs = load_photographs()
    row_of = {int(origin): row for row, origin in enumerate(photographs.origin)}
    rows = np.array([row_of[int(each.split("-")[-2])] for each in dataset.table["image_id"]], dtype=np.int64)
    drawn = _rendered(photographs, rows, dataset.attributes, "train", style="drawing")
    return replace(dataset, table=dataset.table.assign(bytes=drawn.table["bytes"]))


def _rendered(
    photographs: Photographs,
    rows: NDArray[np.int64],
    contexts: NDArray[np.int64],
    split: str,
    style: str = "photograph",
) -> Dataset:
    encoded = [
        encode_png(
            render(
                photographs.pixels[row],
                CONTEXTS[context],
                seed=int(photographs.origin[row]) * len(CONTEXTS) + int(context),
                style=style,
                keep_holes=int(photographs.labels[row]) in KEEPS_HOLES,
            )
        )
        for row, context in zip(rows, contexts, strict=True)
    ]
    ids = [
        f"{split}-{photographs.origin[row]:05d}-{CONTEXTS[context]}"
        for row, context in zip(rows, contexts, strict=True)
    ]
    table = make_table(
        photographs.labels[rows].astype(np.int64),
        image_ids=ids,
        splits=split,
        encoded=encoded,
        attributes=contexts,
    )
    return Dataset(table, CLASS_NAMES, CONTEXTS)


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """uint8 [H, W, 3] -> PNG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
