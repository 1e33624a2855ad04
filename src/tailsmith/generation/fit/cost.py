"""How long a fit takes: measured once, on two idle cores of a server with bf16 (LOG.md, 2026-11-26)."""

from __future__ import annotations

from tailsmith.generation.fit.config import PRESETS, STEPS, FitGeneratorConfig

PER_SECOND = {"clip": 800.0, "autoencoder": 210.0, "denoiser": 450.0, "decoder": 150.0}  # images of the preset small


def hours_on_two_cores(config: FitGeneratorConfig) -> dict[str, float]:
    """Stage -> hours, of a settled configuration: work grows with pixels and, in the denoiser, with its channels."""
    small = PRESETS["small"]
    pixels = (config.image_size / small.image_size) ** 2
    wider = sum(width**2 for width in config.denoiser_channels) / sum(width**2 for width in small.denoiser_channels)
    more = {
        "clip": 1.0,
        "autoencoder": pixels,
        "denoiser": pixels * wider,
        "decoder": pixels,
    }  # CLIP's patches grow with the images
    return {
        name: getattr(config, name).steps * getattr(config, name).batch_size * more[name] / PER_SECOND[name] / 3600
        for name in STEPS
    }
