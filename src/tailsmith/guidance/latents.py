"""Latents -> pixels: the only place of guidance that knows how a family of pipelines packs and decodes its latents."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tailsmith.errors import UserError

Size = tuple[int, int] | None  # pixels (height, width) of the pipeline call, None where its latents don't need it


@dataclass(frozen=True)
class LatentsAdapter:
    """What a family does between its denoiser and its pixels."""

    autoencoder: str  # the pipeline's attribute
    decode: Callable[[Any, Tensor], Tensor]  # (autoencoder, [N, C, h, w]) -> pixels about [-1, 1]
    unpack: Callable[[Any, Tensor, Size], Tensor] | None = None  # (pipe, latents, size) -> [N, C, h, w]


def _decode_kl(vae: Any, latents: Tensor) -> Tensor:
    """AutoencoderKL and AutoencoderTiny: the factors are those of their configuration, where they have any."""
    config = vae.config
    latents = latents / config.scaling_factor
    if getattr(config, "latents_mean", None) is not None and getattr(config, "latents_std", None) is not None:
        mean, std = (latents.new_tensor(each).view(1, -1, 1, 1) for each in (config.latents_mean, config.latents_std))
        latents = latents * std + mean
    decoded: Tensor = vae.decode(latents + (getattr(config, "shift_factor", None) or 0.0), return_dict=False)[0]
    return decoded


def _decode_movq(movq: Any, latents: Tensor) -> Tensor:
    """Kandinsky's VQModel, without quantisation, as its pipeline calls it."""
    decoded: Tensor = movq.decode(latents, force_not_quantize=True, return_dict=False)[0]
    return decoded


def _unpack_flux(pipe: Any, latents: Tensor, size: Size) -> Tensor:
    """[N, h w / 4, 4 C] -> [N, C, h, w]."""
    if size is None or latents.ndim != 3:
        raise UserError(f"Flux's latents should be packed, [N, patches, channels]; got {tuple(latents.shape)}")
    unpacked: Tensor = pipe._unpack_latents(latents, *size, pipe.vae_scale_factor)
    return unpacked


_KL = LatentsAdapter("vae", _decode_kl)
ADAPTERS: dict[str, LatentsAdapter] = {
    "StableUnCLIPImg2ImgPipeline": _KL,
    "StableDiffusionPipeline": _KL,
    "StableDiffusionXLPipeline": _KL,
    "StableDiffusion3Pipeline": _KL,
    "FluxPipeline": LatentsAdapter("vae", _decode_kl, _unpack_flux),
    "KandinskyV22Pipeline": LatentsAdapter("movq", _decode_movq),
}


@dataclass(frozen=True)
class Decoder:
    """x0-hat in a pipeline's latents -> the image that the classifier sees, differentiable."""

    pipe: Any
    adapter: LatentsAdapter
    cheap: torch.nn.Module | None = None  # instead of the pipeline's own autoencoder
    decode_size: int | None = None  # pixels of the short side, by resizing the latents first

    @property
    def autoencoder(self) -> Any:
        return self.cheap if self.cheap is not None else getattr(self.pipe, self.adapter.autoencoder)

    def spatial(self, latents: Tensor, size: Size) -> Tensor:
        """The pipeline's latents as [N, C, h, w], resized for `decode_size`; ValueError for any other shape."""
        unpacked = latents if self.adapter.unpack is None else self.adapter.unpack(self.pipe, latents, size)
        channels = int(getattr(self.pipe, self.adapter.autoencoder).config.latent_channels)
        if unpacked.ndim != 4 or unpacked.shape[1] != channels:
            raise UserError(
                f"the pipeline's latents should be [N, {channels}, h, w], as its autoencoder takes them; got "
                f"{tuple(unpacked.shape)}; a pipeline that packs them needs an adapter, see docs/adding-a-family.md"
            )
        if self.decode_size is None:
            return unpacked
        height, width = unpacked.shape[-2:]
        ratio = self.decode_size / (self.upsampling * min(height, width))
        if ratio >= 1:
            return unpacked
        smaller = (max(1, round(height * ratio)), max(1, round(width * ratio)))
        resized = functional.interpolate(unpacked.float(), smaller, mode="bilinear", antialias=True)
        return resized.to(unpacked.dtype)

    def __call__(self, latents: Tensor, size: Size = None) -> Tensor:
        """Latents -> images fp32 [N, 3, H, W], about [0, 1]: not clamped, as a clamped pixel has no gradient."""
        autoencoder, latents = self.autoencoder, self.spatial(latents, size)
        latents = latents.to(next(autoencoder.parameters()).dtype)
        decode = _decode_kl if self.cheap is not None else self.adapter.decode
        return decode(autoencoder, latents).float() / 2 + 0.5

    def image_size(self, latents: Tensor, size: Size) -> tuple[int, int]:
        """Height and width of the images that would come out."""
        height, width = self.spatial(latents, size).shape[-2:]
        return height * self.upsampling, width * self.upsampling

    @property
    def upsampling(self) -> int:
        """Pixels per latent along a side."""
        channels = getattr(self.pipe, self.adapter.autoencoder).config.block_out_channels
        return int(2 ** (len(channels) - 1))

    @contextmanager
    def at_safe_precision(self) -> Iterator[None]:
        """The autoencoder in fp32 where its fp16 overflows (`force_upcast`, SDXL): for decoding and its gradient."""
        autoencoder = self.autoencoder
        overflows = getattr(autoencoder.config, "force_upcast", False) and self.cheap is None
        half = next(autoencoder.parameters()).dtype == torch.float16
        if not (overflows and half):
            yield
            return
        try:
            autoencoder.to(torch.float32)
            yield
        finally:
            autoencoder.to(torch.float16)


def get_decoder(pipe: Any, cheap: torch.nn.Module | None = None, decode_size: int | None = None) -> Decoder:
    """The decoder of a supported pipeline, or `cheap` in its place; ValueError for an unknown family."""
    name = type(pipe).__name__
    if name not in ADAPTERS:
        raise UserError(
            f"feedback supports the pipelines {sorted(ADAPTERS)}, got {name}; docs/adding-a-family.md tells how to "
            "add one"
        )
    if cheap is not None and not (
        hasattr(cheap, "decode") and hasattr(getattr(cheap, "config", None), "scaling_factor")
    ):
        raise UserError(
            f"decoder should be a diffusers autoencoder such as AutoencoderTiny, got {type(cheap).__name__}"
        )
    if cheap is not None:
        own = getattr(pipe, ADAPTERS[name].autoencoder).config.latent_channels
        given: Any = getattr(cheap.config, "latent_channels", own)
        if given != own:
            raise UserError(f"decoder should take the pipeline's {own} latent channels, got one that takes {given}")
    return Decoder(pipe, ADAPTERS[name], cheap, decode_size)
