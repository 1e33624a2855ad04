"""Latents -> pixels: the only place of guidance that knows how a family of pipelines packs its latents."""

from collections.abc import Callable
from typing import Any

from torch import Tensor


def _decode_kl(pipe: Any, latents: Tensor) -> Tensor:
    """AutoencoderKL without shift: Stable Diffusion 1, 2, unCLIP."""
    decoded: Tensor = pipe.vae.decode(latents / pipe.vae.config.scaling_factor, return_dict=False)[0]
    return decoded / 2 + 0.5  # not clamped: a clamped pixel would have no gradient


DECODERS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "StableUnCLIPImg2ImgPipeline": _decode_kl,
    "StableDiffusionPipeline": _decode_kl,
}


def get_decoder(pipe: Any) -> Callable[[Tensor], Tensor]:
    """latents [N, ...] -> images [N, 3, H, W], about [0, 1], differentiable."""
    name = type(pipe).__name__
    if name not in DECODERS:
        raise ValueError(f"feedback supports the pipelines {sorted(DECODERS)}, got {name}")
    decode = DECODERS[name]
    return lambda latents: decode(pipe, latents)
