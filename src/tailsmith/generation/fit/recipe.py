"""Train a small unCLIP latent diffusion model on captioned images; save it as an ordinary diffusers pipeline."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, StableUnCLIPImg2ImgPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from tailsmith.devices import chosen_device, has_bf16_arithmetic
from tailsmith.generation.fit.autoencoder import autoencoder_loss, create_autoencoder, encode_all
from tailsmith.generation.fit.captions import CaptionedImages, Images, build_tokenizer
from tailsmith.generation.fit.claim import claim, is_finished
from tailsmith.generation.fit.clip import clip_loss, create_clip, image_embedding, spread_embedding, tokenize
from tailsmith.generation.fit.config import FitGeneratorConfig
from tailsmith.generation.fit.decoder import create_criticised, decoder_loss
from tailsmith.generation.fit.denoiser import create_denoiser, create_schedulers, denoiser_loss
from tailsmith.generation.fit.saving import save_pipeline
from tailsmith.generation.fit.stage import Fitting, run_stage


def fit(data: CaptionedImages, contents_sha256: str, out: Path, config: FitGeneratorConfig) -> Path:
    """Train on captioned images, on the chosen device; write a StableUnCLIPImg2ImgPipeline folder to `out`.

    Each stage (clip, autoencoder, denoiser) goes on from its own checkpoint in `out/training`: the same call resumes,
    and does nothing where the pipeline is already there. Raises ValueError where `out` holds another pipeline, or a fit
    of another configuration or of images with other contents.
    """
    claim(out, config, data, contents_sha256)
    if is_finished(out):
        return out
    device = chosen_device()
    bf16 = has_bf16_arithmetic(device) if config.bf16 is None else config.bf16
    tokenizer = build_tokenizer(data.captions.texts, kept=out / "training" / "tokenizer.json")
    tokens = tokenize(tokenizer, data.captions.texts).to(device)
    clip, autoencoder, denoiser = _initial_models(tokenizer, config)
    stage: Any = partial(run_stage, Fitting(out / "training", len(data), device, bf16))

    clip = stage(
        "clip", clip, clip_loss(data, tokens, entry_dropout=config.entry_dropout), config.clip, seed=config.seed
    )
    spread_embedding(clip, _embed(clip, data.images, len(data)), config.embedding_entries, config.seed)
    reconstruct = autoencoder_loss(data.images, kl_weight=config.kl_weight)
    autoencoder = stage("autoencoder", autoencoder, reconstruct, config.autoencoder, seed=config.seed + 1)

    latents = encode_all(autoencoder, data.images, len(data))
    autoencoder.register_to_config(scaling_factor=float(1 / latents.std()))
    embeddings = _embed(clip, data.images, len(data))
    normalizer = _normalizer(embeddings).to(device)
    with torch.no_grad():
        text_states = clip.text_model(input_ids=tokens).last_hidden_state  # [captions, tokens, width]
    denoise = denoiser_loss(
        data,
        latents * autoencoder.config.scaling_factor,
        embeddings,
        text_states,
        normalizer,
        text_dropout=config.text_dropout,
        embedding_dropout=config.embedding_dropout,
        entry_dropout=config.entry_dropout,
    )
    denoiser = stage("denoiser", denoiser, denoise, config.denoiser, seed=config.seed + 2)
    sharpen = decoder_loss(data.images, latents, critic_weight=config.critic_weight)
    criticised = create_criticised(autoencoder, config.autoencoder_channels[0], config.seed)
    autoencoder = stage("decoder", criticised, sharpen, config.decoder, seed=config.seed + 3)["autoencoder"]

    parts = clip.cpu(), tokenizer, autoencoder.cpu(), denoiser.cpu(), normalizer.cpu()
    save_pipeline(assemble(*parts, image_size=config.image_size), out, scratch=out / "training" / "saving")
    for checkpoint in (out / "training").glob("*.pt"):
        checkpoint.unlink()
    return out


def _initial_models(
    tokenizer: CLIPTokenizer, config: FitGeneratorConfig
) -> tuple[CLIPModel, AutoencoderKL, UNet2DConditionModel]:
    """The three models before training, from the configuration's seed."""
    halvings = len(config.autoencoder_channels) - 1
    with torch.random.fork_rng(devices=[]):  # diffusers and transformers take no generator
        torch.manual_seed(config.seed)
        clip = create_clip(
            tokenizer,
            image_size=config.image_size,
            width=config.clip_width,
            embedding=config.clip_embedding,
        )
        autoencoder = create_autoencoder(
            image_size=config.image_size,
            channels=config.autoencoder_channels,
            latent_channels=config.latent_channels,
        )
        denoiser = create_denoiser(
            latent_size=config.image_size // 2**halvings,
            latent_channels=config.latent_channels,
            channels=config.denoiser_channels,
            text_width=clip.config.text_config.hidden_size,
            embedding=config.embedding_entries,
        )
    return clip, autoencoder, denoiser


def assemble(
    clip: CLIPModel,
    tokenizer: CLIPTokenizer,
    autoencoder: AutoencoderKL,
    denoiser: torch.nn.Module,
    normalizer: StableUnCLIPImageNormalizer,
    *,
    image_size: int,
) -> StableUnCLIPImg2ImgPipeline:
    """The trained parts as the pipeline that Stable Diffusion 2.1 unCLIP is."""
    with torch.random.fork_rng(devices=[]):  # random weights that the trained ones replace
        text = CLIPTextModel(clip.config.text_config)
        vision = CLIPVisionModelWithProjection(clip.config.vision_config)
    text.load_state_dict(clip.text_model.state_dict())
    vision.vision_model.load_state_dict(clip.vision_model.state_dict())
    vision.visual_projection.load_state_dict(clip.visual_projection.state_dict())
    scheduler, embedding_scheduler = create_schedulers()
    return StableUnCLIPImg2ImgPipeline(
        feature_extractor=CLIPImageProcessor(
            size={"shortest_edge": image_size},
            crop_size={"height": image_size, "width": image_size},
            resample=Image.Resampling.BILINEAR,  # the view that it was trained on: data.images'
            image_mean=[0.5, 0.5, 0.5],
            image_std=[0.5, 0.5, 0.5],
        ),
        image_encoder=vision,
        image_normalizer=normalizer,
        image_noising_scheduler=embedding_scheduler,
        tokenizer=tokenizer,
        text_encoder=text,
        unet=denoiser,
        scheduler=scheduler,
        vae=autoencoder,
    )


@torch.no_grad()
def _embed(clip: CLIPModel, images: Images, n: int) -> torch.Tensor:
    """CLIP embeddings of all images [n, D] on the CPU."""
    batches = [np.arange(start, min(start + 512, n)) for start in range(0, n, 512)]
    return torch.cat([image_embedding(clip.eval(), images(rows)).cpu() for rows in batches])


def _normalizer(embeddings: torch.Tensor) -> StableUnCLIPImageNormalizer:
    """With their mean and spread."""
    normalizer = StableUnCLIPImageNormalizer(embeddings.shape[1]).requires_grad_(False)
    normalizer.mean.copy_(embeddings.mean(0, keepdim=True))
    normalizer.std.copy_(embeddings.std(0, keepdim=True).clamp(min=1e-3))
    return normalizer
