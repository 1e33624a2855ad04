"""Miniature trees in the layouts of the published benchmarks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from folders import write_image

Lists = Mapping[str, Mapping[str, int]]  # split -> class folder -> images
Groups = Mapping[tuple[str, str], int]  # (context, class folder) -> images

# Class folders in the order of their class index; test images lie below val, as in both benchmarks.
IMAGENET: Lists = {
    "train": {"n01440764": 6, "n01443537": 3, "n01484850": 2},
    "val": {"n01440764": 2, "n01443537": 2, "n01484850": 2},
    "test": {"n01440764": 2, "n01443537": 2, "n01484850": 2},
}
PLACES: Lists = {
    "train": {"airfield": 6, "apartment_building-outdoor": 4, "bank_vault": 2},
    "val": {"airfield": 2, "apartment_building-outdoor": 2, "bank_vault": 2},
    "test": {"airfield": 2, "apartment_building-outdoor": 2, "bank_vault": 2},
}
CONTEXTS = ("autumn", "dim")
NICO: Groups = {
    ("autumn", "dog"): 79,
    ("autumn", "hot air balloon"): 75,
    ("dim", "dog"): 3,
    ("dim", "hot air balloon"): 77,
}


def write_lists(root: Path, prefix: str, counts: Lists, suffix: str = ".JPEG", size: int = 12) -> Path:
    """PREFIX_{train,val,test}.txt and the images they list, every one different."""
    rng = np.random.default_rng(0)
    for split, classes in counts.items():
        folder = "val" if split == "test" else "train"
        lines = []
        for label, (name, count) in enumerate(classes.items()):
            for number in range(count):
                path = f"{folder}/{name}/{name}_{split}_{number}{suffix}"
                write_image(root / path, 60 + 60 * label + rng.normal(0, 25, (size, size, 3)))
                lines.append(f"{path} {label}\n")
        (root / f"{prefix}_{split}.txt").write_text("".join(lines))
    return root


def write_nico(root: Path, counts: Groups = NICO, labels: Sequence[str] = ("hot air balloon", "dog")) -> Path:
    """public_dg_0416/train/CONTEXT/CLASS/*.jpg and the label map, whose order is not that of the folders' names."""
    rng = np.random.default_rng(0)
    for (context, name), count in counts.items():
        for number in range(count):
            path = root / "public_dg_0416" / "train" / context / name / f"{context}_{number:06}.jpg"
            write_image(path, 128 + 30 * labels.index(name) + rng.normal(0, 25, (12, 12, 3)))
    write_label_map(root, {name: label for label, name in enumerate(labels)})
    return root


def write_label_map(root: Path, content: Any) -> None:
    (root / "dg_label_id_mapping.json").write_text(json.dumps(content))
