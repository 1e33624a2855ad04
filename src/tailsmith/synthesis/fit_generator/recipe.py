"""Train a small unCLIP latent diffusion model from a dataset and save it as an ordinary diffusers pipeline."""

import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableUnCLIPImg2ImgPipeline
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from numpy.typing import NDArray
from transformers import CLIPImageProcessor, CLIPModel, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

from tailsmith.data.dataset import Dataset
from tailsmith.data.images import ImageArray
from tailsmith.files import read_json, write_json
from tailsmith.synthesis.fit_generator.autoencoder import autoencoder_loss, create_autoencoder, encode_all
from tailsmith.synthesis.fit_generator.captions import Captions, build_tokenizer
from tailsmith.synthesis.fit_generator.clip import clip_loss, create_clip, image_embedding, tokenize
from tailsmith.synthesis.fit_generator.denoiser import create_denoiser, create_schedulers, denoiser_loss
from tailsmith.synthesis.fit_generator.stage import StageConfig, run_stage


@dataclass(frozen=True)
class FitGeneratorConfig:
    """Sizes and durations; the defaults are those of mini-unclip (32x32 images, 2 CPU cores, about 75 minutes)."""

    image_size: int = 32
    latent_channels: int = 8
    autoencoder_channels: tuple[int, ...] = (16, 32, 64)  # each entry after the first halves the resolution
    denoiser_channels: tuple[int, ...] = (64, 128)
    clip_width: int = 128
    clip_embedding: int = 64
    clip: StageConfig = field(default_factory=lambda: StageConfig(1000, batch_size=128, learning_rate=1e-3))
    autoencoder: StageConfig = field(
        default_factory=lambda: StageConfig(4500, batch_size=32, learning_rate=2e-3, ema_decay=0.999)
    )
    denoiser: StageConfig = field(
        default_factory=lambda: StageConfig(7000, batch_size=128, learning_rate=1e-3, ema_decay=0.999)
    )
    caption_attribute_probability: float = 0.5  # how often a caption names the attribute
    text_dropout: float = 0.1
    embedding_dropout: float = 0.5  # share of images denoised without their image embedding
    kl_weight: float = 1e-3
    bf16: bool = True
    seed: int = 0


def fit_generator(dataset: Dataset, out: Path, config: FitGeneratorConfig | None = None) -> Path:
    """Train on the dataset's training split and write a StableUnCLIPImg2ImgPipeline folder to `out`.

    Each stage (clip, autoencoder, denoiser) goes on from its own checkpoint in `out/training`; the same command resumes.
    Raises ValueError where there are fewer than 2 images or `out` holds a fit of another configuration.
    """
    config = config or FitGeneratorConfig()
    training = dataset.split("train")
    if len(training) < 2:
        raise ValueError(f"fit-generator needs at least 2 training images, got {len(training)} in {dataset.name!r}")
    work = out / "training"
    _claim(work / "config.json", config, training)
    cached = ImageArray(training, config.image_size)

    def images(rows: NDArray[np.int64]) -> torch.Tensor:
        return cached[rows].float() / 127.5 - 1  # uint8 -> [-1, 1]

    n, labels, attributes = len(training), training.labels, training.attributes
    captions = Captions(training.class_names, training.attribute_names)
    tokenizer = build_tokenizer(captions.texts)
    tokens = tokenize(tokenizer, captions.texts)
    naming = config.caption_attribute_probability if training.attribute_names else 0.0

    torch_state = torch.random.get_rng_state()
    torch.manual_seed(config.seed)  # initial weights; diffusers and transformers take no generator
    clip = create_clip(
        tokenizer, image_size=config.image_size, width=config.clip_width, embedding=config.clip_embedding
    )
    autoencoder = create_autoencoder(
        image_size=config.image_size, channels=config.autoencoder_channels, latent_channels=config.latent_channels
    )
    denoiser = create_denoiser(
        latent_size=config.image_size // 2 ** (len(config.autoencoder_channels) - 1),
        latent_channels=config.latent_channels,
        channels=config.denoiser_channels,
        text_width=clip.config.text_config.hidden_size,
        embedding=config.clip_embedding,
    )
    torch.random.set_rng_state(torch_state)

    shared = {"n": n, "folder": work, "bf16": config.bf16}
    contrast = clip_loss(images, labels, attributes, captions, tokens, attribute_probability=naming)
    clip = run_stage("clip", clip, contrast, config.clip, seed=config.seed, **shared)  # type: ignore[arg-type]
    reconstruct = autoencoder_loss(images, kl_weight=config.kl_weight)
    autoencoder = run_stage(
        "autoencoder", autoencoder, reconstruct, config.autoencoder, seed=config.seed + 1, **shared  # type: ignore[arg-type]
    )
    latents = encode_all(autoencoder, images, n)
    autoencoder.register_to_config(scaling_factor=float(1 / latents.std()))
    embeddings, normalizer = _embed_images(clip, images, n)
    with torch.no_grad():
        text_states = clip.text_model(input_ids=tokens).last_hidden_state  # [captions, tokens, width]
    denoise = denoiser_loss(
        latents * autoencoder.config.scaling_factor,
        embeddings,
        text_states,
        captions,
        labels,
        attributes,
        normalizer,
        attribute_probability=naming,
        text_dropout=config.text_dropout,
        embedding_dropout=config.embedding_dropout,
    )
    denoiser = run_stage("denoiser", denoiser, denoise, config.denoiser, seed=config.seed + 2, **shared)  # type: ignore[arg-type]
    pipeline = assemble(clip, tokenizer, autoencoder, denoiser, normalizer, image_size=config.image_size)
    pipeline.save_pretrained(out, safe_serialization=True)
    for checkpoint in work.glob("*.pt"):
        checkpoint.unlink()
    return out


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
    text = CLIPTextModel(clip.config.text_config)
    text.load_state_dict(clip.text_model.state_dict())
    vision = CLIPVisionModelWithProjection(clip.config.vision_config)
    vision.vision_model.load_state_dict(clip.vision_model.state_dict())
    vision.visual_projection.load_state_dict(clip.visual_projection.state_dict())
    scheduler, embedding_scheduler = create_schedulers()
    return StableUnCLIPImg2ImgPipeline(
        feature_extractor=CLIPImageProcessor(
            size={"shortest_edge": image_size},
            crop_size={"height": image_size, "width": image_size},
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
def _embed_images(
    clip: CLIPModel, images: object, n: int
) -> tuple[torch.Tensor, StableUnCLIPImageNormalizer]:
    """CLIP embeddings of all images [n, D], and the normaliser with their mean and spread."""
    assert callable(images)
    batches = [np.arange(start, min(start + 512, n)) for start in range(0, n, 512)]
    embeddings = torch.cat([image_embedding(clip, images(rows)) for rows in batches])
    normalizer = StableUnCLIPImageNormalizer(embeddings.shape[1])
    normalizer.mean.data.copy_(embeddings.mean(0, keepdim=True))
    normalizer.std.data.copy_(embeddings.std(0, keepdim=True).clamp(min=1e-3))
    return embeddings, normalizer.requires_grad_(False)


def _claim(path: Path, config: FitGeneratorConfig, training: Dataset) -> None:
    """Write what is being fitted, or refuse a folder that holds a fit of something else."""
    fitted = {
        "config": asdict(config),
        "images": len(training),
        "class_names": list(training.class_names),
        "attribute_names": list(training.attribute_names),
    }
    fitted["config"]["autoencoder_channels"] = list(config.autoencoder_channels)
    fitted["config"]["denoiser_channels"] = list(config.denoiser_channels)
    if path.exists() and read_json(path) != fitted:
        raise ValueError(
            f"{path.parent.parent} holds a generator fitted with another configuration or dataset; "
            "use another --out, or delete that folder"
        )
    write_json(path, fitted)
