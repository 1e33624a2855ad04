"""A diffusion model of points in the plane (Appendix A.3), in the shape of a diffusers pipeline.

A point is an image of one pixel whose red and green are its coordinates: latents [N, 2, 1, 1], a denoiser `unet`, a
`scheduler`, and a `vae` that has nothing to decode. So whatever wraps the pipelines of images wraps this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace

import torch
from diffusers import DDPMScheduler
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

from tailsmith.errors import UserError

EXTENT = 4.0  # coordinates -EXTENT..EXTENT are the colours 0..1
_TIME, _WIDTH = 32, 96


@dataclass(frozen=True)
class PointsTraining:
    """Of the denoiser, by Adam with a cosine schedule."""

    steps: int = 3000
    batch_size: int = 256
    learning_rate: float = 3e-3
    seed: int = 0


class PointsDenoiser(nn.Module):
    """eps-hat(x_t, t, y): a perceptron with three hidden layers."""

    def __init__(self, classes: int, generator: torch.Generator) -> None:
        super().__init__()
        self.of_class = nn.Embedding(classes, _TIME)
        widths = (2 + 2 * _TIME, _WIDTH, _WIDTH, _WIDTH, 2)
        layers = [nn.Linear(*pair) for pair in pairwise(widths)]
        self.layers = nn.ModuleList(layers)
        nn.init.normal_(self.of_class.weight, generator=generator)
        for layer in layers:
            nn.init.kaiming_uniform_(layer.weight, a=1.0, generator=generator)
            nn.init.zeros_(layer.bias)

    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor) -> tuple[Tensor]:
        """[N, 2, 1, 1], a time for all or one for each, classes [N] -> ([N, 2, 1, 1],), as diffusers' denoisers."""
        time = get_timestep_embedding(timestep.expand(len(sample)), _TIME)
        x = torch.cat([sample.flatten(1), time, self.of_class(class_labels)], dim=1)
        for layer in self.layers[:-1]:
            x = nn.functional.silu(layer(x))
        return (self.layers[-1](x)[:, :, None, None],)


class PointsDecoder(nn.Module):
    """Latents [N, 2, 1, 1] -> pixels [N, 3, 1, 1] in [-1, 1], blue unused."""

    config = SimpleNamespace(scaling_factor=1.0, latent_channels=2, block_out_channels=(1,))

    def __init__(self) -> None:
        super().__init__()
        self.extent = nn.Parameter(torch.tensor(EXTENT))  # a parameter, as its precision is asked for

    def decode(self, latents: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        return (torch.cat([latents, torch.zeros_like(latents[:, :1])], dim=1) / self.extent,)


class PointsPipeline:
    """Ancestral sampling of a DDPM, class-conditional, without classifier-free guidance."""

    def __init__(self, unet: nn.Module, scheduler: DDPMScheduler) -> None:
        self.unet, self.scheduler, self.vae = unet, scheduler, PointsDecoder()

    @property
    def components(self) -> dict[str, object]:
        """What diffusers' pipelines have by this name."""
        return {"unet": self.unet, "scheduler": self.scheduler, "vae": self.vae}

    def prepare_latents(self, generators: Sequence[torch.Generator]) -> Tensor:
        """Noise [N, 2, 1, 1], each point's from its own generator."""
        return torch.cat([torch.randn((1, 2, 1, 1), generator=each) for each in generators])

    @torch.no_grad()
    def __call__(self, labels: Tensor, generators: Sequence[torch.Generator], num_inference_steps: int) -> Tensor:
        """Points [N, 2] of the classes `labels` [N]; a point follows from its class and its generator alone.

        ValueError unless there is one generator per label.
        """
        if len(labels) != len(generators):
            raise UserError(
                f"expected one generator per point, got {len(generators)} for {len(labels)} labels; give each its own"
            )
        self.scheduler.set_timesteps(num_inference_steps)
        latents = self.prepare_latents(generators)
        for timestep in self.scheduler.timesteps:
            output = self.unet(latents, timestep, class_labels=labels)[0]
            latents = self.scheduler.step(output, timestep, latents, list(generators), return_dict=False)[0]
        return latents.flatten(1)


def points_scheduler() -> DDPMScheduler:
    """100 levels of noise; the last one leaves a signal of 0.05."""
    return DDPMScheduler(
        num_train_timesteps=100,
        beta_start=1e-3,
        beta_end=0.12,
        clip_sample=False,  # feedback moves x0-hat
        timestep_spacing="trailing",
    )


def train_points_denoiser(points: Tensor, labels: Tensor, training: PointsTraining) -> PointsPipeline:
    """A DDPM (Ho et al., 2020, Algorithm 1) of points [n, 2] about as large as noise, with classes `labels` [n].

    ValueError for other shapes, points that are no numbers, or negative labels.
    """
    _check(points, labels)
    generator = torch.Generator().manual_seed(training.seed)
    denoiser = PointsDenoiser(int(labels.max()) + 1, generator)
    scheduler = points_scheduler()
    optimizer = torch.optim.Adam(denoiser.parameters(), training.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, training.steps)
    clean, levels = points.float()[:, :, None, None], len(scheduler.alphas_cumprod)
    for _ in range(training.steps):
        rows = torch.randint(len(points), (training.batch_size,), generator=generator)
        times = torch.randint(levels, (training.batch_size,), generator=generator)
        noise = torch.randn((training.batch_size, 2, 1, 1), generator=generator)
        noisy = scheduler.add_noise(clean[rows], noise, times)
        loss = (denoiser(noisy, times, class_labels=labels[rows])[0] - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return PointsPipeline(denoiser.eval().requires_grad_(False), scheduler)


def _check(points: Tensor, labels: Tensor) -> None:
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise UserError(f"points should be [n, 2] with n at least 1, got {list(points.shape)}")
    if labels.shape != points.shape[:1] or labels.is_floating_point() or int(labels.min()) < 0:
        got = f"{str(labels.dtype).removeprefix('torch.')} {list(labels.shape)}, from {labels.min().item()}"
        raise UserError(f"labels should be whole numbers from 0, one for each of {len(points)} points; got {got}")
    if not bool(torch.isfinite(points).all()):
        raise UserError(f"points should be finite numbers; {int((~torch.isfinite(points)).any(1).sum())} are not")
