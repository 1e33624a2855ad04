"""How fast photographs come: ours against torchvision's, from shards against from files, from disk against from memory.

    python benchmarks/loading.py --json results/loading.json --note "idle machine"

Photographs of 500x375 (JPEG, cut from scikit-learn's two sample images) through random resized crop 224, flip and
colour jitter, with as many workers and the same transforms as torchvision's ImageFolder and DataLoader; then a training
step of a ResNet-18 at 64 pixels on images that are stored at that size. Rounds take turns, and medians are compared.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from tailsmith import devices
from tailsmith.classification.config import TrainConfig
from tailsmith.classification.sources import AHEAD
from tailsmith.classification.training import train_classifier
from tailsmith.data.dataset import Dataset, make_table
from tailsmith.data.images import Images
from tailsmith.data.packed import location, read_packed, write_packed
from tailsmith.data.transforms import AUGMENTATIONS, Augmentation
from tailsmith.data.view_workers import default_count
from tailsmith.data.views import PerImage

WIDTH, HEIGHT, CLASSES, BATCH, WARM = 500, 375, 10, 64, 4
SHARD = 1000  # images


def photographs(n: int) -> list[bytes]:
    """JPEGs of 500x375, every one another cut of a photograph of 640x427."""
    draws = np.random.default_rng(0)
    wholes = [Image.fromarray(each) for each in load_sample_images().images]
    encoded = []
    for row in range(n):
        whole = wholes[row % len(wholes)]
        left, top = draws.integers(0, whole.width - WIDTH + 1), draws.integers(0, whole.height - HEIGHT + 1)
        encoded.append(jpeg(whole.crop((left, top, left + WIDTH, top + HEIGHT))))
    return encoded


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def as_files(encoded: list[bytes], folder: Path) -> Dataset:
    paths = [folder / f"class-{row % CLASSES}" / f"{row:06d}.jpg" for row in range(len(encoded))]
    for path, content in zip(paths, encoded, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return dataset([str(path) for path in paths])


def as_shards(encoded: list[bytes], folder: Path) -> Dataset:
    folder.mkdir()
    paths = []
    for number, start in enumerate(range(0, len(encoded), SHARD)):
        path, some = folder / f"shard-{number:05d}.parquet", encoded[start : start + SHARD]
        write_packed(pd.DataFrame({"request_id": range(len(some)), "image": some}), path, {})
        paths += [location(path, row) for row in range(len(some))]
    return dataset(paths)


def dataset(paths: list[str]) -> Dataset:
    labels = np.arange(len(paths)) % CLASSES
    names = tuple(f"class-{label}" for label in range(CLASSES))
    return Dataset(make_table(labels, image_ids=[str(row) for row in range(len(paths))], paths=paths), names)


def rate(batches: Iterator[Any]) -> float:
    """Images a second, after the first batches."""
    for _ in range(WARM):
        next(batches)
    begin, images = time.perf_counter(), 0
    for batch in batches:
        images += len(batch)
    return images / (time.perf_counter() - begin)


def ours(data: Dataset, workers: int, passes: int) -> Iterator[torch.Tensor]:
    views = AUGMENTATIONS["imagenet"]
    assert isinstance(views, PerImage)
    images = Images(data, 224, views, workers=workers)
    draws = np.random.default_rng(0)
    order = np.concatenate([draws.permutation(len(data)) for _ in range(passes)])
    waiting: list[Callable[[], torch.Tensor]] = []
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        waiting.append(images.ahead(rows, draws.integers(2**63, size=len(rows), dtype=np.uint64)))
        if len(waiting) > AHEAD:
            yield waiting.pop(0)()
    for each in waiting:
        yield each()
    images.close()


def torchvisions(folder: Path, workers: int, passes: int) -> Iterator[torch.Tensor]:
    steps = [v2.RandomResizedCrop(224), v2.RandomHorizontalFlip(), v2.ColorJitter(0.4, 0.4, 0.4), v2.PILToTensor()]
    folders = ImageFolder(str(folder), v2.Compose(steps))
    twice = torch.utils.data.ConcatDataset([folders] * passes)
    loader = torch.utils.data.DataLoader(twice, BATCH, shuffle=True, num_workers=workers)
    return (images for images, _ in loader)


def seconds_a_step(data: Dataset, steps: int, cache_budget: int) -> float:
    """The median of a ResNet-18's at 64 pixels."""
    config = TrainConfig(backbone="resnet18", image_size=64, steps=steps, batch_size=BATCH, evaluate_every=steps)
    augment = AUGMENTATIONS["crop-flip-colour"]
    assert isinstance(augment, Augmentation)
    images = Images(data, 64, cache_budget=cache_budget)
    if cache_budget:
        images[:]  # in memory from the start
    real = np.zeros(len(data), dtype=bool)
    at = [time.perf_counter()]
    for _ in train_classifier(config, images, data.labels, real, data.class_names, augment=augment):
        at.append(time.perf_counter())
    return statistics.median(np.diff(at)[WARM:-1].tolist())  # the last one has a deep copy of the classifier


def loader_alone(data: Dataset) -> float:
    """Images a second that come from disk in the test view of 64 pixels."""
    images = Images(data, 64, cache_budget=0)
    rows = np.arange(len(data))
    begin = time.perf_counter()
    for start in range(0, len(rows), BATCH):
        images[rows[start : start + BATCH]]
    return len(data) / (time.perf_counter() - begin)


def bytes_read(data: Dataset) -> float:
    """That one image of a shard costs, as a multiple of its own bytes, by Linux' count of this process."""

    def so_far() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    paths = data.table["path"].tolist()
    read_packed(paths[0])  # the directory
    begin = so_far()
    own = sum(len(read_packed(path)) for path in paths[1:101])
    return (so_far() - begin) / own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--workers", type=int, default=default_count())
    parser.add_argument("--note", default="", help="what else the machine was doing")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root, encoded = Path(temporary), photographs(chosen.images)
        files, shards = as_files(encoded, root / "files"), as_shards(encoded, root / "shards")
        stored = [jpeg(Image.open(io.BytesIO(each)).resize((86, 64), Image.Resampling.LANCZOS)) for each in encoded]
        small = as_shards(stored, root / "small")
        rates: dict[str, list[float]] = {"torchvision": [], "files": [], "shards": []}
        steps: dict[str, list[float]] = {"memory": [], "disk": []}
        for _ in range(chosen.rounds):
            rates["torchvision"].append(rate(torchvisions(root / "files", chosen.workers, 2)))
            rates["files"].append(rate(ours(files, chosen.workers, 2)))
            rates["shards"].append(rate(ours(shards, chosen.workers, 2)))
        for _ in range(chosen.rounds):
            steps["memory"].append(seconds_a_step(small, chosen.steps, 2**31))
            steps["disk"].append(seconds_a_step(small, chosen.steps, 0))
        results = {
            "ours_over_torchvision": over(rates["files"], rates["torchvision"]),
            "shards_over_files": over(rates["shards"], rates["files"]),
            "fed_from_disk_over_memory": over(steps["disk"], steps["memory"]),
            "images_a_second": {name: [round(each, 1) for each in values] for name, values in rates.items()},
            "seconds_a_step": {name: [round(each, 4) for each in values] for name, values in steps.items()},
            "loader_alone_images_a_second": round(loader_alone(small), 1),
            "bytes_read_over_bytes_of_an_image": {
                "500x375": round(bytes_read(shards), 2),
                "86x64": round(bytes_read(small), 2),
            },
            "mean_bytes_of_an_image": {"500x375": _mean(encoded), "86x64": _mean(stored)},
            "workers": chosen.workers,
            "device": str(devices.chosen_device()),
            "cores": os.cpu_count(),
            "note": chosen.note,
            "command": " ".join(["python", *sys.argv]),
        }
    print(json.dumps(results, indent=2))
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def over(ones: list[float], others: list[float]) -> float:
    """The median over rounds of the ratio within one: machines are faster and slower from minute to minute."""
    return round(statistics.median(one / other for one, other in zip(ones, others, strict=True)), 3)


def _mean(encoded: list[bytes]) -> int:
    return round(statistics.mean(map(len, encoded)))


if __name__ == "__main__":
    main()
