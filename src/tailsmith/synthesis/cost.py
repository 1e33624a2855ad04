"""What a plan takes, told before anything is generated."""

from __future__ import annotations

from typing import Any

from tailsmith.files import read_json
from tailsmith.synthesis.generators import PRESETS, generator_folder, preset

# With feedback, 30 steps, batches of 64, on 2 CPU cores; other generators and machines: --seconds-per-image.
SECONDS_PER_IMAGE = {"mini-unclip": 0.1}
PNG_RATIO = 0.8  # bytes of a photograph as PNG per byte of its pixels


def cost(images: int, generator: str, seconds: float | None, shard_size: int) -> dict[str, Any]:
    """What so many images take: shards, hours (None where the generator's speed is unknown), bytes on disk."""
    if seconds is not None and seconds <= 0:
        raise ValueError(f"seconds_per_image should be above 0, got {seconds}")
    each = seconds if seconds is not None else SECONDS_PER_IMAGE.get(generator)
    return {
        "images": images,
        "shards": -(-images // shard_size),
        "generator": generator,
        "seconds_per_image": each,
        "hours": None if each is None else images * each / 3600,
        "bytes": int(images * 3 * _image_size(generator) ** 2 * PNG_RATIO),
    }


def _image_size(generator: str) -> int:
    """Pixels; of a folder as its denoiser and autoencoder say, else the preset's."""
    folder = None if generator in PRESETS else generator_folder(generator)
    if folder is None or not (folder / "unet" / "config.json").is_file():
        return preset(generator).image_size
    latent = int(read_json(folder / "unet" / "config.json")["sample_size"])
    return latent * int(2 ** (len(read_json(folder / "vae" / "config.json")["block_out_channels"]) - 1))
