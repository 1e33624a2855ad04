"""What a pipeline is conditioned on beside the prompt: CLIP embeddings of real images, with dropout."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from tailsmith.randomness import noise_generator


@torch.no_grad()
def embed_images(pipe: Any, images: Sequence[Image.Image]) -> Tensor:
    """CLIP image embeddings of the pipeline's own encoder, [n, D]."""
    encoder = pipe.image_encoder
    pixels = pipe.feature_extractor(images=list(images), return_tensors="pt").pixel_values
    embeddings: Tensor = encoder(pixels.to(_input_device(encoder), encoder.dtype)).image_embeds
    return embeddings


def embedding_size(pipe: Any) -> int:
    return int(pipe.image_encoder.config.projection_dim)


def drop_entries(embedding: Tensor, probability: float, seed: int) -> Tensor:
    """Set each entry of one embedding [D] to zero with the given probability (section 3.3).

    The paper doesn't say whether the rest is scaled up, nor whether this comes before the unCLIP noise: here
    the rest stays as it is, and the pipeline's noise comes after.
    """
    kept = torch.rand(embedding.shape, generator=noise_generator(seed)) >= probability
    return embedding * kept.to(embedding.device)


def mixed(kind: str, one: Tensor, other: Tensor, weight: float, start: float) -> Tensor:
    """The embeddings of two real images of a class as one (Augmented Conditioning, Chen et al., 2025).

    `weight` in 0..1 is lambda, the share of `one`. mixup: lambda * one + (1 - lambda) * other, with the mean of both
    lengths, since the mean of two directions is shorter than either. cutmix: a run of entries that is 1 - lambda of
    all is the other's; it begins at `start` in 0..1, and goes on at the first entry after the last.
    """
    first, second = one.flatten(), other.flatten()
    if kind == "mixup":
        mean = weight * first + (1 - weight) * second
        length = weight * first.norm() + (1 - weight) * second.norm()
        return torch.as_tensor(mean * length / mean.norm().clamp_min(1e-12)).reshape(one.shape)
    size = len(first)
    places = (int(start * size) + torch.arange(round((1 - weight) * size))) % size
    result = first.clone()
    result[places] = second[places]
    return result.reshape(one.shape)


def _input_device(module: torch.nn.Module) -> torch.device:
    """Where a module's inputs belong: under CPU offload its weights lie elsewhere until it runs."""
    for part in module.modules():
        device = getattr(getattr(part, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device)
    return next(module.parameters()).device
