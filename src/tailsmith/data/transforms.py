"""Training augmentation by name; that of whole batches, with one generator: per-image code would dominate at 32x32."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor

from tailsmith.data.views import TIMM, PerImage, timm_policy
from tailsmith.errors import UserError

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow and torchvision use it


@dataclass(frozen=True)
class Augmentation:
    """How strong each step is; 0 switches it off, and all 0 is the identity."""

    shift: float = 0.0  # largest shift either way, as a share of the side
    zoom: float = 0.0  # scale factor from exp(-zoom) to exp(zoom)
    flip: float = 0.0  # probability of a horizontal flip
    brightness: float = 0.0  # factor from 1 - brightness to 1 + brightness, as in torchvision's ColorJitter
    contrast: float = 0.0
    saturation: float = 0.0
    grayscale: float = 0.0  # probability
    blur: float = 0.0  # probability
    blur_sigma: float = 1.0  # largest sigma, in pixels of a 32x32 image; grows with the side

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """images float [B, 3, H, W] in [0, 1] -> the same shape and range."""
        return augment_batch(images, generator, self)


AUGMENTATIONS: dict[str, Augmentation | PerImage] = {  # of whole batches, for tiny images; of each, for photographs
    "none": Augmentation(),
    # Without zoom, shifts are whole pixels and nothing is blurred that is sharp at test time.
    "crop-flip": Augmentation(shift=0.125, flip=0.5),
    "crop-flip-colour": Augmentation(shift=0.125, flip=0.5, brightness=0.2, contrast=0.2, saturation=0.2),
    # The paper's App. G.2: random crop, colour jitter, blur, grayscale; the strengths are ours.
    "paper": Augmentation(
        shift=0.125, zoom=0.2, flip=0.5, brightness=0.4, contrast=0.4, saturation=0.4, grayscale=0.2, blur=0.2
    ),
    "resize-crop": PerImage(crop="plain"),
    "resized-crop": PerImage(),
    "imagenet": PerImage(jitter=0.4),  # of long-tailed ImageNet, since Kang et al. (2020)
    "paper-photographs": PerImage(jitter=0.4, grayscale=0.2, blur=0.2),  # what App. G.2 names, of each photograph
    "randaugment": PerImage(policy="randaugment"),
}


def augmentation(name: str) -> Augmentation | PerImage:
    if name.startswith(TIMM):
        return timm_policy(name)
    if name not in AUGMENTATIONS:
        known = ", ".join([*AUGMENTATIONS, f"{TIMM}POLICY"])
        raise UserError(f"augmentation should be one of {known}; got {name!r}")
    return AUGMENTATIONS[name]


def augment_batch(images: Tensor, generator: torch.Generator, strengths: Augmentation) -> Tensor:
    """images float [B, 3, H, W] in [0, 1] -> augmented, every image with its own draws; the input stays.

    Draws come from `generator` on its own device, in an order that only the strengths and B decide.
    """
    if not len(images):
        return images
    crop = strengths.shift > 0 or strengths.zoom > 0 or strengths.flip > 0
    images = random_crop_flip(images, generator, strengths) if crop else images
    images = colour_jitter(images, generator, strengths)
    if strengths.grayscale > 0:
        grey = luma(images).expand_as(images)
        images = _where(_chance(images, strengths.grayscale, generator), grey, images)
    if strengths.blur > 0:
        blurred = random_blur(images, generator, strengths.blur_sigma)
        images = _where(_chance(images, strengths.blur, generator), blurred, images)
    return images


def random_crop_flip(images: Tensor, generator: torch.Generator, strengths: Augmentation) -> Tensor:
    """Whole-pixel shift, zoom and flip in one bilinear resampling; what lies outside repeats the border."""
    sides = torch.tensor([images.shape[-1], images.shape[-2]], device=images.device, dtype=images.dtype)
    pixels = torch.round(_uniform(images, 2, generator) * strengths.shift * sides)
    shift = 2 * pixels / sides  # grid coordinates span 2
    zoom = torch.exp(-_uniform(images, 1, generator)[:, 0] * strengths.zoom)
    mirror = torch.where(_chance(images, strengths.flip, generator), -1.0, 1.0)
    affine = torch.zeros(len(images), 2, 3, device=images.device, dtype=images.dtype)
    affine[:, 0, 0], affine[:, 1, 1], affine[:, :, 2] = zoom * mirror, zoom, shift
    grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False).clamp(0, 1)


def colour_jitter(images: Tensor, generator: torch.Generator, strengths: Augmentation) -> Tensor:
    """Brightness, contrast, saturation: blends with black, with the mean grey and with the image in grey."""
    steps: list[tuple[float, Callable[[Tensor], Tensor]]] = [
        (strengths.brightness, torch.zeros_like),
        (strengths.contrast, lambda batch: luma(batch).mean((1, 2, 3), keepdim=True)),
        (strengths.saturation, luma),
    ]
    for strength, other in steps:
        if strength > 0:
            factor = (1 + strength * _uniform(images, 1, generator))[:, :, None, None]
            images = (factor * images + (1 - factor) * other(images)).clamp(0, 1)
    return images


def random_blur(images: Tensor, generator: torch.Generator, largest_sigma: float) -> Tensor:
    """Gaussian blur with sigma from 0.1 to `largest_sigma` pixels at side 32, the same look at any size."""
    scale = images.shape[-1] / 32
    share = (_uniform(images, 1, generator) + 1) / 2
    sigma = scale * (0.1 + share * (largest_sigma - 0.1))  # [B, 1]
    radius = min(math.ceil(2 * largest_sigma * scale), images.shape[-1] - 1, images.shape[-2] - 1)
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.softmax(-(offsets**2) / (2 * sigma**2), dim=1)  # [B, 2 * radius + 1]
    across = _filter_each(images, kernel[:, None, None, :], (radius, radius, 0, 0))
    return _filter_each(across, kernel[:, None, :, None], (0, 0, radius, radius)).clamp(0, 1)


def luma(images: Tensor) -> Tensor:
    """[B, 3, H, W] -> [B, 1, H, W]"""
    weights = torch.tensor(LUMA, device=images.device, dtype=images.dtype)
    return (images * weights[:, None, None]).sum(1, keepdim=True)


def _filter_each(images: Tensor, kernels: Tensor, padding: tuple[int, int, int, int]) -> Tensor:
    """Every image [3, H, W] by its own kernel [1, kh, kw], as one grouped convolution."""
    b, channels = images.shape[:2]
    padded = functional.pad(images, padding, mode="reflect").flatten(0, 1)[None]  # [1, B * 3, H', W']
    each = kernels.repeat_interleave(channels, 0)
    return functional.conv2d(padded, each, groups=b * channels).view_as(images)


def _uniform(images: Tensor, columns: int, generator: torch.Generator) -> Tensor:
    """[B, columns] uniform in [-1, 1), drawn where the generator lives, handed over where the images are."""
    drawn = torch.rand(len(images), columns, generator=generator, device=generator.device)
    return (2 * drawn - 1).to(images)


def _chance(images: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """[B] bool"""
    drawn = torch.rand(len(images), generator=generator, device=generator.device)
    return (drawn < probability).to(images.device)


def _where(chosen: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return torch.where(chosen[:, None, None, None], one, other)
