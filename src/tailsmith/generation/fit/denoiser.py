"""Stage 3: the unCLIP UNet. v-prediction, conditioned on text tokens and on a noised CLIP image embedding."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer

from tailsmith.generation.fit.captions import CaptionedImages
from tailsmith.generation.fit.clip import keep_entries
from tailsmith.generation.fit.halves import Losses
from tailsmith.generation.fit.stage import Draw


def create_denoiser(
    *, latent_size: int, latent_channels: int, channels: tuple[int, ...], text_width: int, embedding: int
) -> UNet2DConditionModel:
    """Attention everywhere but at the finest resolution, where it would cost more than it brings."""
    attending = len(channels) - 1
    return UNet2DConditionModel(
        sample_size=latent_size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * attending),
        up_block_types=(*("CrossAttnUpBlock2D",) * attending, "UpBlock2D"),
        block_out_channels=channels,
        layers_per_block=1,
        cross_attention_dim=text_width,
        attention_head_dim=4,  # diffusers' name for the number of heads
        norm_num_groups=16,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=2 * embedding,
    )


def create_schedulers() -> tuple[DDIMScheduler, DDPMScheduler]:
    """Stable Diffusion's noise schedule with v-prediction, and the schedule that noises image embeddings."""
    latents = DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
    )
    return latents, DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")


def noised_embedding(
    embedding: torch.Tensor,
    levels: torch.Tensor,
    noise: torch.Tensor,
    normalizer: StableUnCLIPImageNormalizer,
    scheduler: DDPMScheduler,
) -> torch.Tensor:
    """What StableUnCLIPImg2ImgPipeline.noise_image_embeddings makes, with a level per image: [B, D] -> [B,
    2D].
    """
    noised = normalizer.unscale(scheduler.add_noise(normalizer.scale(embedding), noise, levels))
    level = get_timestep_embedding(levels, embedding.shape[-1], flip_sin_to_cos=True, downscale_freq_shift=0)
    return torch.cat([noised, level], dim=1)


def min_snr_weights(scheduler: Any) -> torch.Tensor:
    """Of the squared error of what the denoiser predicts, per timestep: min-SNR-5 (Hang et al. 2023)."""
    ratio: torch.Tensor = scheduler.alphas_cumprod / (1 - scheduler.alphas_cumprod)
    return ratio.clamp(max=5) / (ratio + 1 if scheduler.config.prediction_type == "v_prediction" else ratio)


def denoiser_loss(
    data: CaptionedImages,
    latents: torch.Tensor,
    embeddings: torch.Tensor,
    text_states: torch.Tensor,
    normalizer: StableUnCLIPImageNormalizer,
    *,
    text_dropout: float,
    embedding_dropout: float,
    entry_dropout: float,
) -> Callable[[UNet2DConditionModel, Draw], Losses]:
    """v-prediction, min-SNR-5 weighting; latents [n, C, h, w] scaled, text_states [captions, tokens, width].

    The draws are the CPU's; what is computed is computed where `text_states` and the normaliser are.

    An image embedding is dropped as a whole now and then (zeros throughout, as in the pipeline's classifier-free
    negative), and of the others a part of the entries, up to `entry_dropout` of them: sampling drops entries too
    (section 3.3), and a denoiser that has never seen it loses the style of the image with them.
    """
    (scheduler, embedding_scheduler), device = create_schedulers(), text_states.device
    weights = min_snr_weights(scheduler)

    def loss(model: UNet2DConditionModel, draw: Draw) -> Losses:
        batch, random = len(draw.rows), torch.from_numpy(draw.numpy.random((3, len(draw.rows)))).float()[..., None]
        numbers = data.draw_captions(draw.rows, draw.numpy, dropout=text_dropout)
        clean = latents[draw.rows].to(device)
        noise = torch.randn(clean.shape, generator=draw.torch).to(device)
        timesteps = torch.randint(0, 1000, (batch,), generator=draw.torch).to(device)
        embedding = embeddings[draw.rows]  # [B, D]
        kept = keep_entries(embedding.shape, entry_dropout, draw.torch)
        levels = (1000 * random[1] ** 2 * (random[2] < 0.5))[:, 0].long().to(device)  # half are (almost) clean
        condition_noise = torch.randn(embedding.shape, generator=draw.torch).to(device)
        condition = noised_embedding(
            (embedding * kept).to(device), levels, condition_noise, normalizer, embedding_scheduler
        )
        class_labels = condition * (random[0] >= embedding_dropout).to(device)
        predicted = model(
            scheduler.add_noise(clean, noise, timesteps),
            timesteps,
            encoder_hidden_states=text_states[numbers],
            class_labels=class_labels,
        ).sample
        velocity = scheduler.get_velocity(clean, noise, timesteps)
        error = (predicted.float() - velocity).square().mean(dim=(1, 2, 3))
        return {"loss": (weights.to(device)[timesteps] * error).mean(), "v": error.mean()}

    return loss
