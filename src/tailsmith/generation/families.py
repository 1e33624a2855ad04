"""What the worker knows of each family of pipelines: how it is conditioned, and what to call it with.

Adding a family is a function and an entry of FAMILIES: docs/adding-a-family.md.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from tailsmith.errors import UserError
from tailsmith.generation.conditioning import embed_images, embedding_size

WITH_IP_ADAPTER = " with IP-Adapter"
DDIM, FLOW_MATCHING = "DDIMScheduler", "FlowMatchEulerDiscreteScheduler"

Arguments = Callable[[Any, list[str], Tensor, float], dict[str, Any]]


def no_embedding(pipe: Any) -> tuple[int, ...]:
    return (0,)


def clip_embedding(pipe: Any) -> tuple[int, ...]:
    return (embedding_size(pipe),)


@dataclass(frozen=True)
class Family:
    """How one family of pipelines is asked for images."""

    conditionings: tuple[str, ...]  # among "text", "image", "image+text"
    arguments: Arguments  # (pipe, prompts, embeddings [n, ...] fp32, guidance scale) -> keyword arguments of the call
    scheduler: str = DDIM  # the one that load_generator sets
    embed: Callable[[Any, Sequence[Image.Image]], Tensor] | None = None  # (pipe, images) -> [n, ...]
    embedding_shape: Callable[[Any], tuple[int, ...]] = no_embedding  # of one; all zeros where there is no image
    around: Callable[[Any], AbstractContextManager[Any]] = nullcontext  # what a call has to be wrapped in
    guided_by_text: Callable[[Any], AbstractContextManager[Any]] | None = None  # around a call too: the image stays
    centred: bool = False  # its "pt" images are in [-1, 1], unclamped, instead of [0, 1]
    advice: str = ""  # to those who ask for a conditioning that it can't do


def _prompts_only(pipe: Any, prompts: list[str], embeddings: Tensor, guidance_scale: float) -> dict[str, Any]:
    return {"prompt": prompts, "guidance_scale": guidance_scale}


def _unclip(pipe: Any, prompts: list[str], embeddings: Tensor, guidance_scale: float) -> dict[str, Any]:
    return {
        "image": None,
        "prompt": prompts,
        "image_embeds": embeddings.to(pipe._execution_device, pipe.unet.dtype),
        "guidance_scale": guidance_scale,
        "noise_level": 0,  # the least; the pipeline still adds a little noise to the embedding
    }


@contextmanager
def _replaced(pipe: Any, name: str, method: Callable[..., Any]) -> Iterator[None]:
    """Inside, this pipeline has another method of that name; afterwards its class's, or an outer context's, again."""
    outer = vars(pipe).get(name)
    try:
        setattr(pipe, name, method)
        yield
    finally:
        if outer is None:
            delattr(pipe, name)
        else:
            setattr(pipe, name, outer)


@contextmanager
def _no_image_is_zeros(pipe: Any) -> Iterator[None]:
    """Inside, an embedding of nothing but zeros reaches the denoiser as zeros throughout.

    That is "no image" as unCLIP is trained, and the pipeline's own negative; the pipeline would noise it and add the
    embedding of the noise level, which classifier-free guidance then amplifies.
    """
    own = pipe.noise_image_embeddings

    def noised(image_embeds: Tensor, *arguments: Any, **options: Any) -> Tensor:
        made: Tensor = own(image_embeds, *arguments, **options)  # [n, 2 D]: the embedding and its noise level
        return made.masked_fill((image_embeds == 0).all(dim=1, keepdim=True), 0)

    with _replaced(pipe, "noise_image_embeddings", noised):
        yield


@contextmanager
def _unclip_by_text(pipe: Any) -> Iterator[None]:
    """Inside, the classifier-free negative holds the image embedding, so that guidance amplifies the text alone."""
    own = pipe._encode_image

    def encode(*arguments: Any, do_classifier_free_guidance: bool, **options: Any) -> Tensor:
        made: Tensor = own(*arguments, do_classifier_free_guidance=do_classifier_free_guidance, **options)
        return _image_twice(made) if do_classifier_free_guidance else made

    with _replaced(pipe, "_encode_image", encode):
        yield


def _image_twice(negative_and_positive: Tensor) -> Tensor:
    """[2 n, ...] -> the same with the second half in place of the first."""
    image = negative_and_positive.chunk(2)[1]
    return torch.cat([image, image])


def _ip_adapter(pipe: Any, prompts: list[str], embeddings: Tensor, guidance_scale: float) -> dict[str, Any]:
    """Zeros are the adapter's "no image": what it was trained with, and its classifier-free negative."""
    wanted = embeddings[:, None].to(pipe._execution_device, pipe.unet.dtype)  # [n, one image each, D]
    stacked = torch.cat([torch.zeros_like(wanted), wanted]) if guidance_scale > 1 else wanted
    return {"prompt": prompts, "ip_adapter_image_embeds": [stacked], "guidance_scale": guidance_scale}


@contextmanager
def _an_embedding_per_image(pipe: Any) -> Iterator[None]:
    """Inside, every image of a batch sees its own `ip_adapter_image_embeds`.

    diffusers would give each image those of the whole batch (its issue 9813).
    """

    def as_given(image: Any, embeddings: list[Tensor], *_: Any) -> list[Tensor]:
        return embeddings

    with _replaced(pipe, "prepare_ip_adapter_image_embeds", as_given):
        yield


@contextmanager
def _ip_adapter_by_text(pipe: Any) -> Iterator[None]:
    """Within `_an_embedding_per_image`: see `_unclip_by_text`."""
    own = pipe.prepare_ip_adapter_image_embeds

    def prepare(image: Any, embeddings: list[Tensor], device: Any, count: int, guided: bool) -> list[Tensor]:
        made: list[Tensor] = own(image, embeddings, device, count, guided)
        return [_image_twice(each) for each in made] if guided else made

    with _replaced(pipe, "prepare_ip_adapter_image_embeds", prepare):
        yield


def _kandinsky(pipe: Any, prompts: list[str], embeddings: Tensor, guidance_scale: float) -> dict[str, Any]:
    """The negative is the embedding of an empty image, as the prior pipeline makes it."""
    side = int(pipe.unet.config.sample_size) * pipe.movq_scale_factor  # else 512, whatever the denoiser's size
    device, dtype = pipe._execution_device, pipe.unet.dtype
    return {
        "image_embeds": embeddings.to(device, dtype),
        "negative_image_embeds": _empty_image(pipe).to(device, dtype).expand(len(embeddings), -1),
        "guidance_scale": guidance_scale,
        "height": side,
        "width": side,
    }


@torch.no_grad()
def _empty_image(pipe: Any) -> Tensor:
    """[1, D]"""
    encoder = pipe.image_encoder
    side = int(encoder.config.image_size)
    embedding: Tensor = encoder(torch.zeros(1, 3, side, side, dtype=encoder.dtype, device=encoder.device)).image_embeds
    return embedding


def _flux(pipe: Any, prompts: list[str], embeddings: Tensor, guidance_scale: float) -> dict[str, Any]:
    """FLUX.1-dev has classifier-free guidance distilled into it: the scale is one of its inputs, and costs nothing.

    FLUX.1-schnell, which has no such input, ignores the scale; it was trained on texts of 256 tokens.
    """
    length = 512 if pipe.transformer.config.guidance_embeds else 256
    return {"prompt": prompts, "guidance_scale": guidance_scale, "max_sequence_length": length}


ANY = ("text", "image", "image+text")
_IP_ADAPTER = Family(ANY, _ip_adapter, DDIM, embed_images, clip_embedding, _an_embedding_per_image, _ip_adapter_by_text)
_ADAPT = "With an IP-Adapter it takes images too: the presets sd1.5-ip-adapter and sdxl-ip-adapter."
_USE_ANOTHER = "The unCLIP, IP-Adapter and Kandinsky 2.2 generators take images."
_DECODER = "The other generators take text."

FAMILIES: dict[str, Family] = {
    "StableUnCLIPImg2ImgPipeline": Family(
        ANY, _unclip, DDIM, embed_images, clip_embedding, _no_image_is_zeros, _unclip_by_text
    ),
    "StableDiffusionPipeline": Family(("text",), _prompts_only, advice=_ADAPT),
    "StableDiffusionPipeline" + WITH_IP_ADAPTER: _IP_ADAPTER,
    "StableDiffusionXLPipeline": Family(("text",), _prompts_only, advice=_ADAPT),
    "StableDiffusionXLPipeline" + WITH_IP_ADAPTER: _IP_ADAPTER,
    "KandinskyV22Pipeline": Family(
        ("image",), _kandinsky, DDIM, embed_images, clip_embedding, centred=True, advice=_DECODER
    ),
    "StableDiffusion3Pipeline": Family(("text",), _prompts_only, FLOW_MATCHING, advice=_USE_ANOTHER),
    "FluxPipeline": Family(("text",), _flux, FLOW_MATCHING, advice=_USE_ANOTHER),
}


def get_family(name: str) -> Family:
    """By the name of a pipeline class; ValueError for one that synthesis doesn't know."""
    if name not in FAMILIES:
        raise UserError(
            f"synthesis knows the pipelines {', '.join(FAMILIES)}; got {name}. docs/adding-a-family.md shows how "
            "to add one; tailsmith.feedback works around a pipeline call of your own"
        )
    return FAMILIES[name]


def family_of(pipe: Any) -> Family:
    """The family of a loaded pipeline; ValueError for one that synthesis can't call."""
    name = type(pipe).__name__
    projection = getattr(getattr(pipe, "unet", None), "encoder_hid_proj", None)
    adapters = getattr(projection, "image_projection_layers", None)
    if adapters is not None:
        _check_ip_adapter(pipe, adapters)
        name += WITH_IP_ADAPTER
    family = get_family(name)
    if family.embed is not None and getattr(pipe, "image_encoder", None) is None:
        raise UserError(
            f"{name} needs the encoder of its conditioning images; load the generator with "
            "tailsmith.load_generator, or set pipe.image_encoder and pipe.feature_extractor"
        )
    return family


def _check_ip_adapter(pipe: Any, adapters: Sequence[Any]) -> None:
    kinds = [type(adapter).__name__ for adapter in adapters]
    if kinds != ["ImageProjection"]:
        raise UserError(
            f"synthesis works with one plain IP-Adapter, conditioned on one CLIP embedding (ip-adapter_sd15, "
            f"ip-adapter_sdxl); got {kinds}; load one of these"
        )


def check_conditioning(name: str, family: Family, wanted: Sequence[str]) -> None:
    """Raise ValueError where a plan asks for a conditioning that the family can't do."""
    for each in wanted:
        if each not in family.conditionings:
            raise UserError(
                f"{name} can't be conditioned on {each!r}, only on {', '.join(family.conditionings)}; plan with "
                f"conditioning={family.conditionings[0]!r}. {family.advice}"
            )
