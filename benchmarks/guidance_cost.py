"""What feedback costs: guided against plain sampling of one batch, in one run on one machine.

    python benchmarks/guidance_cost.py [--batch 64] [--repeats 3] [--json FILE]

30 steps, guidance every 5, mini-unclip, resnet-small. Plain and guided alternate; the ratio is of the medians.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import tailsmith
from tailsmith.classification.backbones import create_backbone
from tailsmith.classification.classifier import Classifier
from tailsmith.data.embedded import CLASS_NAMES
from tailsmith.files import write_json


def sample_seconds(pipe: Any, batch: int, steps: int) -> float:
    begin = time.perf_counter()
    pipe(
        image=None,
        prompt=[CLASS_NAMES[i % 10] for i in range(batch)],
        image_embeds=torch.zeros(batch, pipe.image_encoder.config.projection_dim),
        guidance_scale=5.0,
        num_inference_steps=steps,
        noise_level=0,
        generator=[torch.Generator().manual_seed(i) for i in range(batch)],
        output_type="pt",
    )
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    pipe = tailsmith.load_generator()
    backbone = create_backbone("resnet-small", len(CLASS_NAMES))
    classifier = Classifier(
        backbone.module,
        class_names=CLASS_NAMES,
        image_size=backbone.image_size,
        mean=backbone.mean,
        std=backbone.std,
    ).eval()
    labels = [i % 10 for i in range(arguments.batch)]
    seconds: dict[str, list[float]] = {"plain": [], "denoiser": [], "decoder": []}
    sample_seconds(pipe, arguments.batch, 3)  # warm up
    for _ in range(arguments.repeats):
        seconds["plain"].append(sample_seconds(pipe, arguments.batch, arguments.steps))
        for through in ("denoiser", "decoder"):
            with tailsmith.feedback(pipe, classifier, "entropy", 0.02, every=5, labels=labels, through=through):
                seconds[through].append(sample_seconds(pipe, arguments.batch, arguments.steps))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{'':24}{'seconds':>9}{'images/s':>10}{'ratio':>8}")
    for name, value in medians.items():
        print(f"{name:24}{value:9.2f}{arguments.batch / value:10.1f}{value / medians['plain']:8.2f}")
    if arguments.json:
        ratios = {f"{name}_ratio": medians[name] / medians["plain"] for name in ("denoiser", "decoder")}
        write_json(arguments.json, {"batch": arguments.batch, "steps": arguments.steps, "seconds": medians, **ratios})


if __name__ == "__main__":
    main()
