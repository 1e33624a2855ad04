"""What an unCLIP pipeline is conditioned on beside the prompt: embeddings of real images, with dropout."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor


@torch.no_grad()
def embed_images(pipe: Any, images: Sequence[Image.Image], batch_size: int = 64) -> Tensor:
    """CLIP image embeddings of the pipeline's own encoder, [n, D]."""
    embedded = []
    for start in range(0, len(images), batch_size):
        batch = list(images[start : start + batch_size])
        pixels = pipe.feature_extractor(images=batch, return_tensors="pt").pixel_values
        pixels = pixels.to(device=pipe.device, dtype=pipe.image_encoder.dtype)
        embedded.append(pipe.image_encoder(pixels).image_embeds)
    return torch.cat(embedded)


def embedding_size(pipe: Any) -> int:
    return int(pipe.image_encoder.config.projection_dim)


def drop_entries(embedding: Tensor, probability: float, seed: int) -> Tensor:
    """Set each entry of one embedding [D] to zero with the given probability (section 3.3).

    The paper doesn't say whether the rest is scaled up, nor whether this comes before the unCLIP noise: here
    the rest stays as it is, and the pipeline's noise comes after.
    """
    kept = torch.rand(embedding.shape, generator=torch.Generator().manual_seed(seed)) >= probability
    return embedding * kept.to(embedding.device)
