"""Rebuild the embedded data, and the generator's training data, from Fashion-MNIST's four original files.

    FILES=/usr/share/datasets/fashion-mnist  # Debian: apt-get install dataset-fashion-mnist
    python tools/build_embedded.py subset    --fashion-mnist $FILES
    python tools/build_embedded.py generator --fashion-mnist $FILES --out generator.parquet
    python tools/build_embedded.py unseen    --fashion-mnist $FILES --out unseen.parquet

Within each class photographs are ordered by the SHA-256 of their pixels, a fixed random order that needs no
generator: of the 60,000 the first 600 per class are the tasks' training pool, the next 120 validation, all
others the generator's; of the 10,000 the first 480 per class are the tasks' test images and the others
`unseen`: neither the tasks' nor the generator's, for measuring the generator. `generator` has them too, as validation
and test images that fit-generator doesn't train on.
"""

import argparse
import gzip
import hashlib
import io
import lzma
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tailsmith.data.dataset import Dataset, make_table
from tailsmith.data.sources import embedded
from tailsmith.data.sources.contexts import CONTEXTS, render

ASSETS = Path(__file__).parents[1] / "src" / "tailsmith" / "assets"
POOL, VALIDATION, TEST = 600, 120, 480  # per class


def read_original(folder: Path, prefix: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """idx files -> (pixels [n, 28, 28], labels [n])."""
    pixels = gzip.decompress((folder / f"{prefix}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{prefix}-labels-idx1-ubyte.gz").read_bytes())
    images = np.frombuffer(pixels, np.uint8, offset=16).reshape(-1, 28, 28)
    return images, np.frombuffer(labels, np.uint8, offset=8)


def ordered_rows(pixels: NDArray[np.uint8], labels: NDArray[np.uint8]) -> list[list[int]]:
    """Rows of each class in the order of their pixels' SHA-256, each distinct photograph once."""
    rows: list[list[int]] = []
    for label in range(10):
        first_row: dict[bytes, int] = {}
        for row in np.flatnonzero(labels == label):
            first_row.setdefault(hashlib.sha256(pixels[row].tobytes()).digest(), int(row))
        rows.append([first_row[digest] for digest in sorted(first_row)])
    return rows


def build_subset(folder: Path) -> bytes:
    """The bytes of fashion.npz.xz."""
    train, train_labels = read_original(folder, "train")
    test, test_labels = read_original(folder, "t10k")
    by_class, test_by_class = ordered_rows(train, train_labels), ordered_rows(test, test_labels)
    chosen = [
        [row for rows in by_class for row in rows[:POOL]],
        [row for rows in by_class for row in rows[POOL : POOL + VALIDATION]],
        [row for rows in test_by_class for row in rows[:TEST]],
    ]
    buffer = io.BytesIO()
    np.savez(
        buffer,
        pixels=np.concatenate([train[chosen[0]], train[chosen[1]], test[chosen[2]]]),
        labels=np.concatenate([train_labels[chosen[0]], train_labels[chosen[1]], test_labels[chosen[2]]]),
        origin=np.concatenate([chosen[0], chosen[1], np.array(chosen[2]) + 60_000]).astype(np.int32),
        split=np.repeat(np.arange(3, dtype=np.uint8), [len(rows) for rows in chosen]),
    )
    return lzma.compress(buffer.getvalue(), preset=9 | lzma.PRESET_EXTREME)


def generator_photographs(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Photographs no task uses and that equal no task photograph: (pixels [n, 28, 28], labels [n])."""
    train, labels = read_original(folder, "train")
    by_class = ordered_rows(train, labels)
    rows = np.array([row for per_class in by_class for row in per_class[POOL + VALIDATION :]])
    taken = embedded.photograph_hashes(embedded.load_photographs().pixels)
    free = ~np.isin(embedded.photograph_hashes(train[rows]), taken)
    return train[rows[free]], labels[rows[free]].astype(np.int64)


def unseen_photographs(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    test, labels = read_original(folder, "t10k")
    rows = np.array([row for per_class in ordered_rows(test, labels) for row in per_class[TEST:]])
    return test[rows], labels[rows].astype(np.int64)


def skewed_contexts(labels: NDArray[np.int64], skew: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """A context per photograph: a garment's favourite is `skew` times as likely as each other one."""
    weights = np.ones((10, len(CONTEXTS)))
    for label, name in enumerate(embedded.CLASS_NAMES):
        weights[label, CONTEXTS.index(embedded.MAJORITY_CONTEXT[name])] = skew
    cumulative = np.cumsum(weights / weights.sum(axis=1, keepdims=True), axis=1)
    return np.asarray((rng.random(len(labels))[:, None] > cumulative[labels]).sum(axis=1), dtype=np.int64)


def rendered_dataset(
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    skew: float,
    drawing_share: float,
    seed: int,
    name: str,
) -> Dataset:
    """Each photograph once, in a skewed random context and a random style."""
    rng = np.random.default_rng(seed)
    contexts = skewed_contexts(labels, skew, rng)
    styles = np.where(rng.random(len(labels)) < drawing_share, "drawing", "photograph")
    seeds = rng.integers(0, 2**62, size=len(labels))
    encoded = [
        embedded.encode_png(
            render(
                pixels[row],
                CONTEXTS[contexts[row]],
                seed=int(seeds[row]),
                style=str(styles[row]),
                keep_holes=int(labels[row]) in embedded.KEEPS_HOLES,
            )
        )
        for row in range(len(labels))
    ]
    ids = [f"{name}-{row:05d}-{style}" for row, style in enumerate(styles)]
    table = make_table(labels, image_ids=ids, encoded=encoded, attributes=contexts)
    return Dataset(table, embedded.CLASS_NAMES, CONTEXTS, name, embedded.LICENCE)


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("part", choices=["subset", "generator", "unseen"])
    parser.add_argument("--fashion-mnist", type=Path, required=True, help="folder of the four .gz files")
    parser.add_argument("--out", type=Path, help="Parquet file to write (generator, unseen)")
    parser.add_argument("--skew", type=float, help="how much likelier a favourite context is (5; unseen: 1)")
    parser.add_argument("--drawing-share", type=float, default=0.5, help="share of drawing-like images")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.part == "subset":
        (ASSETS / "fashion.npz.xz").write_bytes(build_subset(arguments.fashion_mnist))
        return
    from tailsmith.data.writers import write_parquet

    source = generator_photographs if arguments.part == "generator" else unseen_photographs
    pixels, labels = source(arguments.fashion_mnist)
    skew = arguments.skew or (5.0 if arguments.part == "generator" else 1.0)
    dataset = rendered_dataset(
        pixels,
        labels,
        skew=skew,
        drawing_share=arguments.drawing_share,
        seed=arguments.seed,
        name=arguments.part,
    )
    if arguments.part == "generator":
        held_out, labels = unseen_photographs(arguments.fashion_mnist)
        unseen = rendered_dataset(
            held_out, labels, skew=1.0, drawing_share=arguments.drawing_share, seed=arguments.seed, name="unseen"
        )
        splits = np.where(np.arange(len(unseen)) % 2, "test", "val")
        dataset = Dataset.concatenate([dataset, replace(unseen, table=unseen.table.assign(split=splits))])
    write_parquet(dataset, arguments.out)
    if arguments.part == "generator":
        np.save(ASSETS / "generator_photographs.npy", np.sort(embedded.photograph_hashes(pixels)))


if __name__ == "__main__":
    main()
