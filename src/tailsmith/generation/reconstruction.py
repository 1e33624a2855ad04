"""Real images through a generator's autoencoder and back: what of them it can show at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

BATCH = 100


@torch.no_grad()
def reconstruct(pipe: Any, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 [n, 3, H, W] -> the same shape, by the means of the posteriors; H and W as the autoencoder takes them."""
    vae = pipe.vae
    done = [np.empty((0, *pixels.shape[1:]), dtype=np.uint8)]
    for start in range(0, len(pixels), BATCH):
        batch = torch.from_numpy(pixels[start : start + BATCH]).to(vae.device, vae.dtype) / 127.5 - 1
        decoded = vae.decode(vae.encode(batch).latent_dist.mean).sample.float().clamp(-1, 1)
        done.append(((decoded + 1) * 127.5).round().to(torch.uint8).cpu().numpy())
    return np.concatenate(done)
