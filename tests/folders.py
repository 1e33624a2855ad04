"""Small datasets on disk, as a user has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

Counts = Mapping[str, Mapping[str, int]]  # split -> class -> images

SOUND: Counts = {
    "train": {"cat": 6, "dog": 3},
    "val": {"cat": 2, "dog": 2},
    "test": {"cat": 2, "dog": 2},
}


def write_folder(folder: Path, counts: Counts = SOUND, size: int = 12) -> Path:
    """split/class/n.png, every image different: noise around a colour of the class."""
    rng = np.random.default_rng(0)
    for split, classes in counts.items():
        for label, (name, count) in enumerate(classes.items()):
            for number in range(count):
                noise = rng.normal(0, 20, (size, size, 3))
                write_image(folder / split / name / f"{number}.png", 80 + 90 * label + noise)
            (folder / split / name).mkdir(parents=True, exist_ok=True)
    return folder


def write_image(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
