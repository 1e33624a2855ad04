"""A tiny, randomly initialised pipeline per family, of the real diffusers classes: no network, deterministic, quiet."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    KandinskyV22Pipeline,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    VQModel,
)
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from tiny import SIZE, tiny_pipeline
from tiny_parts import (
    EMBEDDING,
    LATENT,
    T5,
    TEXT,
    autoencoder,
    clip_tokenizer,
    ddim,
    image_encoder,
    image_processor,
    ip_adapter_weights,
    per_seed,
    ready,
    seeded,
    t5_encoder,
    t5_tokenizer,
    text_config,
    unet,
)

PROMPTS = ("sandal", "ankle boot", "bag", "sandal in rock")


def arguments(name: str, pipe: Any, n: int, seeds: Sequence[int]) -> dict[str, Any]:
    """A call of n images with conditioning computed beforehand: each image's depends on its own seed alone.

    One image embedding for all where there is an IP-Adapter: the pipelines mix what differs within a batch.
    """
    assert len(seeds) == n
    call = {
        "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
        "num_inference_steps": 4,
        "guidance_scale": 3.0,
        "output_type": "pt",
    }
    embeddings = per_seed(seeds, EMBEDDING)
    prompts = {"prompt": [PROMPTS[seed % len(PROMPTS)] for seed in seeds]}
    if name == "unclip":
        return {**call, **prompts, "image": None, "image_embeds": embeddings, "noise_level": 0}
    if name.endswith("-ip"):
        shared = torch.stack([torch.zeros(1, EMBEDDING), per_seed([99], EMBEDDING)])  # negative first, [2, 1, D]
        return {**call, **prompts, "ip_adapter_image_embeds": [shared]}
    if name == "kandinsky22":
        negative = torch.zeros_like(embeddings)
        return {**call, "image_embeds": embeddings, "negative_image_embeds": negative, "height": SIZE, "width": SIZE}
    return {**call, **prompts}


def tiny_sd15(prediction_type: str = "epsilon") -> StableDiffusionPipeline:
    with seeded(1):
        tokenizer = clip_tokenizer()
        return ready(
            StableDiffusionPipeline(
                vae=autoencoder(),
                text_encoder=CLIPTextModel(text_config(tokenizer)),
                tokenizer=tokenizer,
                unet=unet(cross_attention_dim=TEXT),
                scheduler=ddim(prediction_type),
                safety_checker=None,
                feature_extractor=image_processor(),
                image_encoder=image_encoder(),
                requires_safety_checker=False,
            )
        )


def tiny_sdxl(prediction_type: str = "epsilon") -> StableDiffusionXLPipeline:
    with seeded(2):
        tokenizer = clip_tokenizer()
        denoiser = unet(
            cross_attention_dim=2 * TEXT,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=6 * 4 + EMBEDDING,
            transformer_layers_per_block=(1, 2),
            use_linear_projection=True,
        )
        return ready(
            StableDiffusionXLPipeline(
                vae=autoencoder(scaling_factor=0.13025),
                text_encoder=CLIPTextModel(text_config(tokenizer)),
                text_encoder_2=CLIPTextModelWithProjection(text_config(tokenizer)),
                tokenizer=tokenizer,
                tokenizer_2=tokenizer,
                unet=denoiser,
                scheduler=ddim(prediction_type),
                image_encoder=image_encoder(),
                feature_extractor=image_processor(),
                add_watermarker=False,
            )
        )


def with_ip_adapter(pipe: Any) -> Any:
    """The pipeline with random IP-Adapter weights in the layout of h94/IP-Adapter's files."""
    with seeded(3):
        pipe.load_ip_adapter(ip_adapter_weights(pipe.unet), subfolder="", weight_name="")
    return ready(pipe)


def tiny_kandinsky22() -> KandinskyV22Pipeline:
    with seeded(4):
        denoiser = UNet2DConditionModel(
            sample_size=LATENT,
            in_channels=4,
            out_channels=8,  # the noise and its variance
            addition_embed_type="image",
            encoder_hid_dim=EMBEDDING,
            encoder_hid_dim_type="image_proj",
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            block_out_channels=(16, 32),
            layers_per_block=1,
            cross_attention_dim=16,
            attention_head_dim=4,
            norm_num_groups=8,
            resnet_time_scale_shift="scale_shift",
        )
        movq = VQModel(
            down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
            up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
            block_out_channels=(32, 32),  # spatial norm divides them by 32
            latent_channels=4,
            norm_num_groups=8,
            norm_type="spatial",
            num_vq_embeddings=12,
            vq_embed_dim=4,
        )
        movq.decoder.conv_out.weight.data /= 8  # else random weights give images far outside [-1, 1]
        scheduler = DDIMScheduler(
            beta_schedule="linear",
            beta_start=0.00085,
            beta_end=0.012,
            clip_sample=False,
            set_alpha_to_one=False,
            prediction_type="epsilon",
        )
        pipe = KandinskyV22Pipeline(unet=denoiser, scheduler=scheduler, movq=movq)
        # no parts of the decoder pipeline: load_generator takes them from the prior's repository
        pipe.image_encoder, pipe.feature_extractor = image_encoder().eval(), image_processor()
    return ready(pipe)


def tiny_sd3() -> StableDiffusion3Pipeline:
    with seeded(5):
        tokenizer, long_tokenizer = clip_tokenizer(), t5_tokenizer()
        transformer = SD3Transformer2DModel(
            sample_size=LATENT,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_projection_dim=32,
            joint_attention_dim=T5,
            pooled_projection_dim=2 * EMBEDDING,
            pos_embed_max_size=LATENT,
        )
        return ready(
            StableDiffusion3Pipeline(
                transformer=transformer,
                scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
                vae=autoencoder(scaling_factor=1.5305, shift_factor=0.0609),
                text_encoder=CLIPTextModelWithProjection(text_config(tokenizer)),
                tokenizer=tokenizer,
                text_encoder_2=CLIPTextModelWithProjection(text_config(tokenizer)),
                tokenizer_2=tokenizer,
                text_encoder_3=t5_encoder(long_tokenizer),
                tokenizer_3=long_tokenizer,
            )
        )


def tiny_flux(guidance_embeds: bool = True) -> FluxPipeline:
    """As FLUX.1-dev; without guidance_embeds as FLUX.1-schnell."""
    with seeded(6):
        tokenizer, long_tokenizer = clip_tokenizer(), t5_tokenizer()
        transformer = FluxTransformer2DModel(
            in_channels=16,  # 4 latent channels, packed 2x2
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=T5,
            pooled_projection_dim=TEXT,
            guidance_embeds=guidance_embeds,
            axes_dims_rope=(2, 2, 4),
        )
        pipe = FluxPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=guidance_embeds),
            vae=autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
            text_encoder=CLIPTextModel(text_config(tokenizer)),
            tokenizer=tokenizer,
            text_encoder_2=t5_encoder(long_tokenizer),
            tokenizer_2=long_tokenizer,
            transformer=transformer,
        )
    pipe.default_sample_size = LATENT  # a constant, 128, for want of a place in Flux's configuration
    return ready(pipe)


FAMILIES: dict[str, Callable[[], Any]] = {
    "unclip": tiny_pipeline,
    "sd15": tiny_sd15,
    "sd15-ip": lambda: with_ip_adapter(tiny_sd15()),
    "sdxl": tiny_sdxl,
    "sdxl-ip": lambda: with_ip_adapter(tiny_sdxl()),
    "kandinsky22": tiny_kandinsky22,
    "sd3": tiny_sd3,
    "flux": tiny_flux,
}
