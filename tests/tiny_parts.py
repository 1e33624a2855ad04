"""Tiny, randomly initialised parts of the pipelines in tiny_families.py."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from tailsmith.generation.fit.captions import Captions, build_tokenizer
from tiny import CLASSES, CONTEXTS, SIZE

TEXT, EMBEDDING, T5 = 12, 8, 32  # widths: CLIP text states, CLIP image embeddings, T5 states
LATENT = 8  # latents are 8x8, images 16x16


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """diffusers and transformers take no generator for their first weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def ready(pipe: Any) -> Any:
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def per_seed(seeds: Sequence[int], width: int) -> torch.Tensor:
    return torch.stack([torch.randn(width, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def unet(**special: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=LATENT,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        attention_head_dim=4,
        norm_num_groups=8,
        **special,
    )


def autoencoder(scaling_factor: float = 0.18215, shift_factor: float | None = None) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIZE,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
    )


def ddim(prediction_type: str) -> DDIMScheduler:
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )


def clip_tokenizer() -> CLIPTokenizer:
    return build_tokenizer(Captions(CLASSES, CONTEXTS).texts)


def t5_tokenizer() -> T5Tokenizer:
    pieces = ["<pad>", "</s>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz"]
    vocab = [(piece, 0.0 if piece.startswith("<") else -2.0) for piece in pieces]
    return T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=32)


def text_config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT,
        intermediate_size=4 * TEXT,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=EMBEDDING,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def t5_encoder(tokenizer: T5Tokenizer) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=T5, d_ff=32, d_kv=8, num_heads=2, num_layers=1, dropout_rate=0.0)
    )


def image_encoder() -> CLIPVisionModelWithProjection:
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=SIZE,
            patch_size=8,
            projection_dim=EMBEDDING,
        )
    )


def image_processor() -> CLIPImageProcessor:
    return CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})


def ip_adapter_weights(unet: UNet2DConditionModel) -> dict[str, dict[str, torch.Tensor]]:
    width = unet.config.cross_attention_dim
    projection = {
        "proj.weight": torch.randn(4 * width, EMBEDDING),
        "proj.bias": torch.zeros(4 * width),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }
    attention: dict[str, torch.Tensor] = {}
    crossing = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    for number, name in enumerate(crossing):
        hidden = unet.get_submodule(name.removesuffix(".processor")).to_k.out_features
        for part in ("to_k_ip", "to_v_ip"):
            attention[f"{2 * number + 1}.{part}.weight"] = torch.randn(hidden, width) / width**0.5
    return {"image_proj": projection, "ip_adapter": attention}
