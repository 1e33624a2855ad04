"""The loss of fine-tuning: the denoiser's own, on class-balanced real images and on what it made before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tailsmith.generation.fit.captions import CaptionedImages
from tailsmith.generation.fit.clip import keep_entries
from tailsmith.generation.fit.conditions import CaptionStates, denoiser_arguments
from tailsmith.generation.fit.config import FineTuneConfig
from tailsmith.generation.fit.denoiser import min_snr_weights
from tailsmith.generation.fit.halves import Losses
from tailsmith.generation.fit.stage import Draw

States = Callable[[NDArray[np.int64]], CaptionStates]  # of caption numbers [B]


@dataclass(frozen=True)
class Encoded:
    """Images as the denoiser sees them, on the CPU."""

    latents: Tensor  # [n, C, h, w], scaled
    embeddings: Tensor | None  # [n, D], for a pipeline that takes them

    def __len__(self) -> int:
        return len(self.latents)


@dataclass(frozen=True)
class Prior:
    """What the generator made of the captions before it was tuned, from text alone (DreamBooth, Ruiz et al. 2023)."""

    latents: Tensor  # [m, C, h, w], scaled; m = 0 for none
    numbers: NDArray[np.int64]  # [m], captions


def balanced_rows(labels: NDArray[np.int64], size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows of random images, each of a random class among those that there are."""
    classes = rng.choice(np.unique(labels), size)
    rows = np.empty(size, dtype=np.int64)
    for label in np.unique(classes):
        wanted = classes == label
        rows[wanted] = rng.choice(np.flatnonzero(labels == label), int(wanted.sum()))
    return rows


def tuning_loss(
    pipe: Any, data: CaptionedImages, real: Encoded, captions: States, prior: Prior, config: FineTuneConfig
) -> Callable[[Any, Draw], Losses]:
    """Prediction error with min-SNR-5 weighting (Hang et al. 2023), whatever the pipeline's denoiser predicts.

    The loss is asked for with the model that is trained, which is part of the pipeline: the denoiser, or its tokens.
    """
    scheduler, device = pipe.scheduler, pipe.device
    velocity = scheduler.config.prediction_type == "v_prediction"
    weights = min_snr_weights(scheduler)

    def loss(_: Any, draw: Draw) -> Losses:
        n = len(draw.rows)
        rows = balanced_rows(data.labels, n, draw.numpy)
        numbers = data.draw_captions(rows, draw.numpy, dropout=config.text_dropout)
        clean = real.latents[rows]
        embeddings = None
        if real.embeddings is not None:
            kept = keep_entries(real.embeddings[rows].shape, config.entry_dropout, draw.torch)
            whole = torch.rand(n, 1, generator=draw.torch) >= config.embedding_dropout
            embeddings = real.embeddings[rows] * kept * whole
        importance = torch.ones(n)
        if len(prior.latents):
            old = draw.numpy.integers(0, len(prior.latents), size=n)
            clean, numbers = torch.cat([clean, prior.latents[old]]), np.concatenate([numbers, prior.numbers[old]])
            importance = torch.cat([importance, torch.full((n,), config.prior_weight)])
            if embeddings is not None:
                embeddings = torch.cat([embeddings, torch.zeros_like(embeddings)])
        clean, noise = clean.to(device), torch.randn(clean.shape, generator=draw.torch).to(device)
        timesteps = torch.randint(0, len(weights), (len(clean),), generator=draw.torch)
        embedding_noise = None
        if embeddings is not None:
            embedding_noise = torch.randn(embeddings.shape, generator=draw.torch).to(device)
            embeddings = embeddings.to(device)
        predicted = pipe.unet(
            scheduler.add_noise(clean, noise, timesteps.to(device)),
            timesteps.to(device),
            **denoiser_arguments(pipe, captions(numbers), embeddings, embedding_noise),
        ).sample
        wanted = scheduler.get_velocity(clean, noise, timesteps.to(device)) if velocity else noise
        error = (predicted.float() - wanted).square().mean(dim=(1, 2, 3)) * weights[timesteps].to(device)
        found = {"loss": (importance.to(device) * error).sum() / importance.sum(), "real": error[:n].mean()}
        return {**found, "prior": error[n:].mean()} if len(prior.latents) else found

    return loss


@torch.no_grad()
def held_out_loss(model: Any, loss: Callable[[Any, Draw], Losses], draws: Callable[[], list[Draw]]) -> float:
    """Mean error on held-out images; `draws` makes the same ones each time, as drawing uses them up."""
    model.eval()
    return float(np.mean([float(loss(model, draw)["loss"]) for draw in draws()]))
