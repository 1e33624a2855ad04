"""Generators by name: where their weights are, which revision, under which licence, and how they are called."""

from __future__ import annotations

from dataclasses import dataclass

from tailsmith.generation.families import WITH_IP_ADAPTER

SD15, SDXL = "StableDiffusionPipeline", "StableDiffusionXLPipeline"
UNCLIP, KANDINSKY = "StableUnCLIPImg2ImgPipeline", "KandinskyV22Pipeline"
SD3, FLUX = "StableDiffusion3Pipeline", "FluxPipeline"


@dataclass(frozen=True)
class Companion:
    """What a generator takes from a second repository: the encoder of its conditioning images, and its IP-Adapter.

    Beside a local folder's own parts, the same files are looked for in its subfolder `name`.
    """

    name: str
    source: str  # hub id
    revision: str | None
    image_encoder: str  # subfolder
    image_processor: str | None = None  # subfolder; None = CLIP's, at the encoder's size
    ip_adapter: tuple[str, str] | None = None  # subfolder and file
    ip_adapter_scale: float = 0.5  # 1 follows the image alone; its authors advise 0.5 beside a text


@dataclass(frozen=True)
class Preset:
    """What tailsmith knows of a generator beyond its weights."""

    source: str  # hub id, or "" for one shipped in tailsmith.assets
    family: str  # of tailsmith.generation.families: how it is conditioned, and which scheduler it has
    revision: str | None  # commit; None = unpinned, whatever the hub holds
    licence: str
    guidance_scale: float
    image_size: int
    num_inference_steps: int = 30  # the paper's
    restricted: bool = False  # not everyone may use it commercially
    companion: Companion | None = None
    tiny_decoder: str = (
        ""  # hub id of an AutoencoderTiny for its latents; in a local folder, the subfolder tiny_decoder
    )


_TAESD, _TAESDXL, _TAESD3, _TAEF1 = (f"madebyollin/{name}" for name in ("taesd", "taesdxl", "taesd3", "taef1"))  # MIT
_H94 = ("h94/IP-Adapter", "018e402774aeeddd60609b4ecdb7e298259dc729")  # Apache-2.0
_IP_SD15 = Companion("ip_adapter", *_H94, "models/image_encoder", None, ("models", "ip-adapter_sd15.safetensors"))
_IP_SDXL = Companion(
    "ip_adapter", *_H94, "sdxl_models/image_encoder", None, ("sdxl_models", "ip-adapter_sdxl.safetensors")
)
_PRIOR = Companion(
    "prior",
    "kandinsky-community/kandinsky-2-2-prior",
    "9fc51ad5732afc5d031724219d22e6c42179c5a8",
    "image_encoder",
    "image_processor",
)
_SD15 = ("stable-diffusion-v1-5/stable-diffusion-v1-5", "451f4fe16113bff5a5d2269ed5ad43b0592e9a14")
_SDXL = ("stabilityai/stable-diffusion-xl-base-1.0", "462165984030d82259a11f4367a4eed129e94a7b")
_RAIL, _RAIL_PLUS = "CreativeML Open RAIL-M", "CreativeML Open RAIL++-M"
_WITH_APACHE = "; IP-Adapter: Apache-2.0"

EMBEDDED = "mini-unclip"
PRESETS: dict[str, Preset] = {
    EMBEDDED: Preset("", UNCLIP, None, "Apache-2.0 (trained by tailsmith on Fashion-MNIST, MIT)", 5.0, 32),
    # a mirror: the original was deleted in November 2025; no revision of the mirror is known in public
    "sd2.1-unclip": Preset(
        "sd2-community/stable-diffusion-2-1-unclip", UNCLIP, None, _RAIL_PLUS, 7.5, 768, tiny_decoder=_TAESD
    ),
    "sd1.5": Preset(_SD15[0], SD15, _SD15[1], _RAIL, 7.5, 512, tiny_decoder=_TAESD),
    "sd1.5-ip-adapter": Preset(
        _SD15[0],
        SD15 + WITH_IP_ADAPTER,
        _SD15[1],
        _RAIL + _WITH_APACHE,
        7.5,
        512,
        companion=_IP_SD15,
        tiny_decoder=_TAESD,
    ),
    "sdxl": Preset(_SDXL[0], SDXL, _SDXL[1], _RAIL_PLUS, 5.0, 1024, tiny_decoder=_TAESDXL),
    "sdxl-ip-adapter": Preset(
        _SDXL[0],
        SDXL + WITH_IP_ADAPTER,
        _SDXL[1],
        _RAIL_PLUS + _WITH_APACHE,
        5.0,
        1024,
        companion=_IP_SDXL,
        tiny_decoder=_TAESDXL,
    ),
    "kandinsky-2.2": Preset(
        "kandinsky-community/kandinsky-2-2-decoder",
        KANDINSKY,
        "9ae140d347fed8ce6e8bb3005dcc1f48543bb8e3",
        "Apache-2.0",
        4.0,
        512,
        companion=_PRIOR,
    ),
    "sd3-medium": Preset(
        "stabilityai/stable-diffusion-3-medium-diffusers",
        SD3,
        "ea42f8cef0f178587cf766dc8129abd379c90671",
        "Stability AI Community License (commercial use below 1M US$ of yearly revenue only)",
        7.0,
        1024,
        28,
        restricted=True,
        tiny_decoder=_TAESD3,
    ),
    "flux-schnell": Preset(
        "black-forest-labs/FLUX.1-schnell",
        FLUX,
        "741f7c3ce8b383c54771c7003378a50191e9efe9",
        "Apache-2.0",
        0.0,  # it has none
        1024,
        4,
        tiny_decoder=_TAEF1,
    ),
    "flux-dev": Preset(
        "black-forest-labs/FLUX.1-dev",
        FLUX,
        "3de623fc3c33e44ffbe2bad470d0f45bccf2eb21",
        "FLUX.1 [dev] Non-Commercial License",
        3.5,  # distilled: an input of the denoiser
        1024,
        28,
        restricted=True,
        tiny_decoder=_TAEF1,
    ),
}
UNKNOWN = Preset("", "", None, "unknown: see the generator's own model card", 7.5, 512)


def preset(generator: str) -> Preset:
    """The preset of a generator's name, also of `PRESET=SOURCE`; UNKNOWN for a bare folder or hub id."""
    return PRESETS.get(generator.partition("=")[0], UNKNOWN)
