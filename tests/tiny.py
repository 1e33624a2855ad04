"""Tiny, randomly initialised stand-ins of the real classes: a whole unCLIP pipeline, a classifier, a dataset."""

from io import BytesIO

import numpy as np
import torch
from diffusers import StableUnCLIPImg2ImgPipeline
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from PIL import Image
from torch import Tensor

from tailsmith.data.dataset import Dataset, make_table
from tailsmith.generation.fit.autoencoder import create_autoencoder
from tailsmith.generation.fit.captions import Captions, build_tokenizer
from tailsmith.generation.fit.clip import create_clip
from tailsmith.generation.fit.denoiser import create_denoiser
from tailsmith.generation.fit.recipe import assemble

CLASSES = ("sandal", "ankle boot", "bag")
CONTEXTS = ("rock", "water")
EMBEDDING = 8
SIZE = 16


def tiny_pipeline(prediction_type: str = "v_prediction", seed: int = 0) -> StableUnCLIPImg2ImgPipeline:
    """16x16 images, 4x4 latents, made by fit-generator's own parts; deterministic, quiet, about 0.1 s."""
    tokenizer = build_tokenizer(Captions(CLASSES, CONTEXTS).texts)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clip = create_clip(tokenizer, image_size=SIZE, width=16, embedding=EMBEDDING)
        autoencoder = create_autoencoder(image_size=SIZE, channels=(8, 8, 16), latent_channels=4)
        denoiser = create_denoiser(
            latent_size=4, latent_channels=4, channels=(16, 32), text_width=12, embedding=EMBEDDING
        )
        pipe = assemble(clip, tokenizer, autoencoder, denoiser, StableUnCLIPImageNormalizer(EMBEDDING), image_size=SIZE)
    pipe.scheduler.register_to_config(prediction_type=prediction_type)
    for module in (pipe.unet, pipe.vae, pipe.text_encoder, pipe.image_encoder, pipe.image_normalizer):
        module.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe


class TinyClassifier(torch.nn.Module):
    """images [N, 3, H, W] in [0, 1] -> logits [N, C], features [N, 6]; weights large, so that gradients matter."""

    class_names = CLASSES
    image_size = SIZE

    def __init__(self, classes: int = len(CLASSES), seed: int = 1) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.body = torch.nn.Parameter(torch.randn(3 * 8 * 8, 6, generator=generator) / 3)
        self.head = torch.nn.Parameter(torch.randn(6, classes, generator=generator) * 2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pooled = torch.nn.functional.adaptive_avg_pool2d(images.float() - 0.5, 8).flatten(1)
        features = torch.tanh(pooled @ self.body)
        return features @ self.head, features


def tiny_dataset(counts: tuple[tuple[int, int], ...] = ((5, 0), (3, 2), (1, 1)), seed: int = 0) -> Dataset:
    """Random 16x16 training images, `counts` per (class, context), then one val and one test image per class."""
    rng = np.random.default_rng(seed)
    groups = [(c, a, "train") for c, row in enumerate(counts) for a, n in enumerate(row) for _ in range(n)]
    groups += [(c, c % 2, split) for split in ("val", "test") for c in range(len(counts))]
    table = make_table(
        [label for label, _, _ in groups],
        image_ids=[f"{split}-{row}" for row, (_, _, split) in enumerate(groups)],
        splits=[split for _, _, split in groups],
        encoded=[_png(rng, label, context) for label, context, _ in groups],
        attributes=[context for _, context, _ in groups],
    )
    return Dataset(table, CLASSES[: len(counts)], CONTEXTS, "tiny")


def _png(rng: np.random.Generator, label: int, context: int) -> bytes:
    """Noise around a colour of the class and context."""
    colour = np.array([60 + 60 * label, 60 + 120 * context, 128])
    buffer = BytesIO()
    pixels = np.clip(colour + rng.normal(0, 25, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
