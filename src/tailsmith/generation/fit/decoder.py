"""Stage 4: the decoder goes on by itself, against a critic, until its images can't be told from real ones.

The latents stay as they are, and so the denoiser does. Reconstruction alone blurs what it isn't sure of (Esser et al.
2021); a critic of patches asks for what real images look like there.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import cast

import torch
from diffusers import AutoencoderKL
from torch import nn

from tailsmith.generation.fit.captions import Images
from tailsmith.generation.fit.halves import Losses
from tailsmith.generation.fit.stage import Draw


def create_criticised(autoencoder: AutoencoderKL, channels: int, seed: int) -> nn.ModuleDict:
    """The `autoencoder`, of which only the decoder is trained from now on, and a `critic` of its images."""
    autoencoder.requires_grad_(False)
    for part in (autoencoder.decoder, autoencoder.post_quant_conv):
        part.requires_grad_(True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.ModuleDict({"autoencoder": autoencoder, "critic": create_critic(channels)})


def create_critic(channels: int) -> nn.Sequential:
    """A verdict for each patch of 18 pixels, every fourth: PatchGAN (Isola et al. 2017), without normalisation."""
    widths = [3, 2 * channels, 4 * channels, 4 * channels]
    layers: list[nn.Module] = []
    for number, (narrow, wide) in enumerate(pairwise(widths)):
        halving = number < 2
        layers += [nn.Conv2d(narrow, wide, 4 if halving else 3, 2 if halving else 1, 1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 1))


def decoder_loss(
    images: Images, latents: torch.Tensor, *, critic_weight: float
) -> Callable[[nn.ModuleDict, Draw], Losses]:
    """L1 + L2 reconstruction and the least squares of decoder and critic (Mao et al. 2017).

    `latents` [n, C, h, w] are unscaled. At the image the critic's pull is `critic_weight` times as long as that of
    reconstruction, as in VQGAN (Esser et al. 2021, Eq. 7), whatever the slope of the critic.
    """

    def loss(model: nn.ModuleDict, draw: Draw) -> Losses:
        autoencoder, critic = cast(AutoencoderKL, model["autoencoder"]), model["critic"]
        pixels = images(draw.rows)
        decoded = autoencoder.decode(latents[draw.rows].to(pixels.device)).sample.float()
        error = decoded - pixels
        l1, l2 = error.abs().mean(), error.square().mean()
        real, fake = critic(torch.cat([pixels, decoded.detach()])).float().chunk(2)
        caught = 0.5 * ((real - 1).square().mean() + (fake + 1).square().mean())
        # The decoder's pull as a gradient at the image: the critic's weights take no part in it
        shown = decoded.detach().requires_grad_()
        with torch.enable_grad():
            fooled = 0.5 * (critic(shown).float() - 1).square().mean()
            faithful = (shown - pixels).abs().mean() + (shown - pixels).square().mean()
        pull, own = (torch.autograd.grad(each, shown)[0] for each in (fooled, faithful))
        pull *= critic_weight * own.norm() / pull.norm().clamp(min=1e-8)
        total = l1 + l2 + caught + (pull * decoded).sum()
        return {"loss": total, "l1": l1, "critic": caught, "fooled": fooled}

    return loss
