"""What the benchmarks share: their options, and for the embedded generator a batch of requests and a classifier."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import tailsmith
from tailsmith.classification.backbones import create_backbone
from tailsmith.classification.classifier import Classifier
from tailsmith.classification.config import TrainConfig
from tailsmith.data.sources.embedded import CLASS_NAMES

GUIDANCE_SCALE, STEPS, EVERY, OMEGA = 5.0, 30, 5, 0.02


def command_line(description: str, **counts: int) -> argparse.Namespace:
    """A benchmark's options from the command line: whole numbers with these defaults, and --json FILE."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in counts.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    return parser.parse_args()


def untrained_classifier() -> Classifier:
    """As costly as a trained one."""
    backbone = create_backbone("resnet-small", len(CLASS_NAMES))
    classifier = Classifier(
        backbone.module, class_names=CLASS_NAMES, image_size=backbone.image_size, mean=backbone.mean, std=backbone.std
    )
    return classifier.eval()


def trained_classifier(image_size: int | None = None) -> Classifier:
    """The guide of fashion-lt, seed 0; it looks at 32 pixels unless told otherwise."""
    config = TrainConfig(steps=500, learning_rate=0.1, ema_decay=0.99, image_size=image_size)
    return tailsmith.train(tailsmith.load("fashion-lt"), config=config).eval()


def sample(pipe: Any, seeds: Sequence[int], steps: int = STEPS) -> Tensor:
    """Text-only images [n, 3, H, W] of the classes in turn."""
    images: Tensor = pipe(
        image=None,
        prompt=[CLASS_NAMES[seed % len(CLASS_NAMES)] for seed in seeds],
        image_embeds=torch.zeros(len(seeds), pipe.image_encoder.config.projection_dim),
        guidance_scale=GUIDANCE_SCALE,
        num_inference_steps=steps,
        noise_level=0,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="pt",
    ).images
    return images


def labels(seeds: Sequence[int]) -> list[int]:
    return [seed % len(CLASS_NAMES) for seed in seeds]
