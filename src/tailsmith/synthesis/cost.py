"""What a plan takes, told before anything is generated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tailsmith.errors import UserError
from tailsmith.generation.generator import EMBEDDED, PRESETS, Generator, preset
from tailsmith.generation.pipeline_folder import read_object
from tailsmith.synthesis.config import SynthesisConfig

# 30 steps: seconds with feedback and without, in which precision and where; for others there is --seconds-per-image.
SECONDS_PER_IMAGE = {
    "mini-unclip": (0.1, 0.07, "fp32", "on 2 CPU cores, 64 at a time"),
    "sd2.1-unclip": (21.9, 3.8, "fp16", "on one V100, one at a time (the paper's Table 4)"),
}
FLUX_LATENT = 128  # its pipeline's own constant: Flux's configuration doesn't say
PNG_RATIO = 0.8  # bytes of a photograph as PNG per byte of its pixels


def cost(images: int, generator: str, seconds: float | None, config: SynthesisConfig) -> dict[str, Any]:
    """What so many images take: shards, hours of one device (None where the generator's speed is unknown), bytes.

    "measured" says in which precision and on what machine, where `seconds` doesn't come from the caller.
    """
    if seconds is not None and seconds <= 0:
        raise UserError(f"seconds_per_image should be above 0, got {seconds}")
    side = image_size(generator)
    each, where = (seconds, None) if seconds is not None else _measured(generator, config)
    return {
        "images": images,
        "shards": -(-images // config.shard_size),
        "generator": generator,
        "seconds_per_image": each,
        "measured": where,
        "unit": "hours" if generator == EMBEDDED else "GPU-hours",
        "hours": None if each is None else images * each / 3600,
        "bytes": int(images * 3 * min(side, config.store_size or side) ** 2 * PNG_RATIO),
    }


def _measured(generator: str, config: SynthesisConfig) -> tuple[float | None, str | None]:
    """Seconds per image, and how they were measured; None where nobody has."""
    name = generator.partition("=")[0]
    if name not in SECONDS_PER_IMAGE:
        return None, None
    guided, plain, dtype, where = SECONDS_PER_IMAGE[name]
    other = "" if config.dtype == dtype else f", not in {config.dtype} as here"
    return guided if config.feedback.scale > 0 else plain, f"in {dtype}{other}, {where}"


def image_size(generator: str) -> int:
    """Pixels; of a folder as its denoiser and autoencoder say, else the preset's."""
    folder = None if generator in PRESETS else Generator.find(generator).folder
    denoiser, autoencoder = _part(folder, "unet", "transformer"), _part(folder, "vae", "movq")
    if denoiser is None or autoencoder is None:
        return preset(generator).image_size
    latent, channels = denoiser.get("sample_size", FLUX_LATENT), autoencoder.get("block_out_channels")
    if not isinstance(latent, int) or not isinstance(channels, list) or not channels:
        raise UserError(
            f"{folder} is damaged: the config.json of its denoiser and autoencoder should give sample_size as a "
            f"number and block_out_channels as a list, got {latent!r} and {channels!r}"
        )
    return latent * int(2 ** (len(channels) - 1))


def _part(folder: Path | None, *names: str) -> dict[str, Any] | None:
    """The configuration of the first of these parts that a pipeline's folder has."""
    paths = [folder / name / "config.json" for name in names] if folder else []
    return next((read_object(path) for path in paths if path.is_file()), None)
