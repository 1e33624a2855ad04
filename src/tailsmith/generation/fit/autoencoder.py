"""Stage 2: AutoencoderKL, pixels in [-1, 1] <-> latents, with a critic of patches as Stable Diffusion's was trained."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.nn import functional

from tailsmith.generation.fit.captions import Images
from tailsmith.generation.fit.halves import Losses
from tailsmith.generation.fit.stage import Draw

CRITIC_FROM = 0.5  # of the steps: there is nothing to criticise in blurred images


class CriticisedAutoencoder(nn.Module):
    """An autoencoder and the critic that tells its images from real ones while it is trained."""

    def __init__(self, *, image_size: int, channels: tuple[int, ...], latent_channels: int) -> None:
        super().__init__()
        self.autoencoder = create_autoencoder(image_size=image_size, channels=channels, latent_channels=latent_channels)
        self.critic = create_critic(channels[0])


def create_autoencoder(*, image_size: int, channels: tuple[int, ...], latent_channels: int) -> AutoencoderKL:
    """`len(channels) - 1` halvings of the resolution. Its posterior begins narrow: wide ones are noise to unlearn."""
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
        sample_size=image_size,
    )
    nn.init.constant_(autoencoder.quant_conv.bias[latent_channels:], -6.0)  # log-variance
    return autoencoder


def create_critic(channels: int) -> nn.Sequential:
    """A verdict for each patch of 15 pixels, every fourth: PatchGAN (Isola et al. 2017), without normalisation."""
    widths = [3, 2 * channels, 4 * channels, 4 * channels]
    layers: list[nn.Module] = []
    for number, (narrow, wide) in enumerate(pairwise(widths)):
        layers += [nn.Conv2d(narrow, wide, 4 if number < 2 else 3, 2 if number < 2 else 1, 1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 1))


def autoencoder_loss(
    images: Images, *, kl_weight: float, critic_weight: float
) -> Callable[[CriticisedAutoencoder, Draw], Losses]:
    """L1 + L2 reconstruction, a weak pull of the posterior to N(0, 1), and the critic's hinge losses.

    One backward pass trains both: the autoencoder sees the critic's weights as constants, and the critic sees images
    as constants.
    """

    def loss(model: CriticisedAutoencoder, draw: Draw) -> Losses:
        pixels = images(draw.rows)
        posterior = model.autoencoder.encode(pixels).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=draw.torch).to(pixels.device)
        decoded = model.autoencoder.decode(posterior.mean.float() + posterior.std.float() * noise).sample.float()
        error = decoded - pixels
        l1, l2 = error.abs().mean(), error.square().mean()
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        total = l1 + l2 + kl_weight * kl
        if not critic_weight or draw.progress < CRITIC_FROM:
            return {"loss": total, "l1": l1, "kl": kl}
        constant = {name: weight.detach() for name, weight in model.critic.named_parameters()}
        fooled = -torch.func.functional_call(model.critic, constant, (decoded,)).float().mean()
        real, fake = model.critic(torch.cat([pixels, decoded.detach()])).float().chunk(2)
        caught = functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()
        return {"loss": total + critic_weight * fooled + caught, "l1": l1, "kl": kl, "critic": caught}

    return loss


@torch.no_grad()
def encode_all(autoencoder: AutoencoderKL, images: Images, n: int) -> torch.Tensor:
    """Posterior means of all n images, unscaled, [n, C, h, w] on the CPU."""
    batches = [np.arange(start, min(start + 256, n)) for start in range(0, n, 256)]
    return torch.cat([autoencoder.encode(images(rows)).latent_dist.mean.cpu() for rows in batches])
