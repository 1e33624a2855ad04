"""What hardness takes at the paper's scale: time and peak memory of 1,000 classes x 2,048 features, long-tailed.

    python benchmarks/hardness_memory.py [--json FILE]

The counts are those of ImageNet-LT (115,846 images, 5 to 1,280 a class), the features random, with a spectrum that
falls as 1 / rank; they are made class by class, as a classifier gives them. Peaks are of the whole process, PyTorch and
all, by getrusage.
"""

import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from embedded import command_line
from tailsmith.files import write_json
from tailsmith.guidance.class_gaussians import Features, fit_class_by_class
from tailsmith.guidance.criteria import hardness
from tailsmith.runs.recipe import read_recipe

WIDTH, BATCH = 2048, 64


def peak_gb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 3)


def one_by_one(counts: np.ndarray) -> Iterator[Features]:
    spread = 1 / np.sqrt(np.arange(1, WIDTH + 1, dtype=np.float32))
    for label, count in enumerate(counts):
        rng = np.random.default_rng(label)
        yield rng.standard_normal((count, WIDTH), dtype=np.float32) * spread + rng.standard_normal(WIDTH) * spread


def main() -> None:
    arguments = command_line(__doc__)
    counts = np.array(read_recipe("imagenet-lt").benchmark.train_counts())
    measured = {"classes": len(counts), "images": int(counts.sum()), "width": WIDTH, "peak_gb_before": peak_gb()}

    begin = time.monotonic()
    gaussians = fit_class_by_class(one_by_one(counts), counts)
    measured["fit_seconds"] = round(time.monotonic() - begin, 1)
    measured["peak_gb_fit"] = peak_gb()
    measured["kept_gb"] = round(sum(each.numel() * each.element_size() for each in vars(gaussians).values()) / 1e9, 3)
    measured["precisions_gb"] = round(len(counts) * WIDTH**2 * 4 / 1e9, 1)  # what whole matrices would be

    labels = torch.from_numpy(np.random.default_rng(0).choice(len(counts), BATCH))
    features = torch.randn(BATCH, WIDTH, requires_grad=True)
    begin = time.monotonic()
    values = hardness(gaussians)(torch.zeros(BATCH, len(counts)), features, labels)
    torch.autograd.grad(values.sum(), features)
    measured["batch_seconds"] = round(time.monotonic() - begin, 3)  # 64 images, nearly as many classes

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hardness.safetensors"
        begin = time.monotonic()
        save_file(vars(gaussians), path)
        measured["save_seconds"] = round(time.monotonic() - begin, 1)
        measured["peak_gb_saved"] = peak_gb()
        del gaussians
        begin = time.monotonic()
        load_file(path)["directions"].sum()
        measured["load_seconds"] = round(time.monotonic() - begin, 1)
    for name, value in measured.items():
        print(f"{name:20}{value}")
    if arguments.json:
        write_json(arguments.json, measured)


if __name__ == "__main__":
    main()
