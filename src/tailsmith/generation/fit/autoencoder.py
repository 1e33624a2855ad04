"""Stage 2: AutoencoderKL, pixels in [-1, 1] <-> latents at a quarter of the resolution."""

from collections.abc import Callable

import numpy as np
import torch
from diffusers import AutoencoderKL

from tailsmith.generation.fit.captions import Images
from tailsmith.generation.fit.halves import Losses
from tailsmith.generation.fit.stage import Draw


def create_autoencoder(*, image_size: int, channels: tuple[int, ...], latent_channels: int) -> AutoencoderKL:
    """`len(channels) - 1` halvings of the resolution. Its posterior begins narrow: a wide one is noise to unlearn."""
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
        sample_size=image_size,
    )
    torch.nn.init.constant_(autoencoder.quant_conv.bias[latent_channels:], -6.0)  # log-variance
    return autoencoder


def autoencoder_loss(images: Images, *, kl_weight: float) -> Callable[[AutoencoderKL, Draw], Losses]:
    """L1 + L2 reconstruction and a weak pull of the posterior to N(0, 1)."""

    def loss(model: AutoencoderKL, draw: Draw) -> Losses:
        pixels = images(draw.rows)
        posterior = model.encode(pixels).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=draw.torch).to(pixels.device)
        decoded = model.decode(posterior.mean.float() + posterior.std.float() * noise).sample
        error = decoded.float() - pixels
        l1, l2 = error.abs().mean(), error.square().mean()
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        return {"loss": l1 + l2 + kl_weight * kl, "l1": l1, "kl": kl}

    return loss


@torch.no_grad()
def encode_all(autoencoder: AutoencoderKL, images: Images, n: int) -> torch.Tensor:
    """Posterior means of all n images, unscaled, [n, C, h, w] on the CPU."""
    batches = [np.arange(start, min(start + 256, n)) for start in range(0, n, 256)]
    return torch.cat([autoencoder.encode(images(rows)).latent_dist.mean.cpu() for rows in batches])
