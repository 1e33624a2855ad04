"""Pretrained generators: a name, a folder or a hub id -> a diffusers pipeline with its DDIM scheduler set."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from tailsmith.files import read_json, sha256_folder


@dataclass(frozen=True)
class Preset:
    """What tailsmith knows of a generator beyond its weights."""

    source: str  # hub id, or "" for one shipped in tailsmith.assets
    guidance_scale: float
    image_size: int
    licence: str


EMBEDDED = "mini-unclip"
PRESETS: dict[str, Preset] = {
    EMBEDDED: Preset("", 5.0, 32, "Apache-2.0 (trained by tailsmith on Fashion-MNIST, MIT)"),
    "sd2.1-unclip": Preset("sd2-community/stable-diffusion-2-1-unclip", 7.5, 768, "CreativeML Open RAIL++-M"),
}
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
DEFAULT_PRESET = Preset("", 7.5, 512, "unknown: see the generator's own model card")


def preset(generator: str) -> Preset:
    return PRESETS.get(generator, DEFAULT_PRESET)


def generator_folder(generator: str) -> Path | None:
    """The local folder of a generator, None for one that lives on the hub; ValueError where it can be neither."""
    if generator == EMBEDDED:
        return _embedded_folder()
    folder = Path(generator)
    if folder.exists() and not (folder / "model_index.json").is_file():
        raise ValueError(
            f"{folder} is not a diffusers pipeline: it has no model_index.json; give a folder written by "
            "`tailsmith fit-generator` or by pipe.save_pretrained"
        )
    if not folder.exists() and generator not in PRESETS and not HUB_ID.fullmatch(generator):
        raise ValueError(
            f"generator {generator!r} is no preset ({', '.join(PRESETS)}), no folder here, and no hub id "
            "(owner/name); give one of these"
        )
    return folder if folder.exists() else None


def _embedded_folder() -> Path:
    folder = Path(str(files("tailsmith").joinpath("assets", EMBEDDED)))  # assets is no package of its own
    if not (folder / "model_index.json").is_file():
        raise ValueError(
            f"{EMBEDDED} is missing from this installation (expected in {folder}); install tailsmith again, or "
            "give another generator"
        )
    return folder


def generator_hash(generator: str) -> str:
    """SHA-256 of the pipeline's own parts, whatever else lies in its folder; a hub id is its own name."""
    folder = generator_folder(generator)
    if folder is None:
        return f"hub:{preset(generator).source or generator}"
    index = read_json(folder / "model_index.json")
    parts = [sha256_folder(folder / part) for part in sorted(index) if (folder / part).is_dir()]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def load_generator(
    generator: str = EMBEDDED, *, device: str | torch.device | None = None, dtype: torch.dtype = torch.float32
) -> Any:
    """A diffusers pipeline by preset name, folder or hub id, with DDIM as the paper uses, silent and ready.

    Raises ValueError for a folder that is not a pipeline, and for a hub id that can't be reached.
    """
    from diffusers import DDIMScheduler, DiffusionPipeline  # two seconds that a plan can do without

    generator = str(generator)
    folder = generator_folder(generator)
    source = str(folder) if folder else preset(generator).source or generator
    try:
        with no_loading_bars():
            pipe = DiffusionPipeline.from_pretrained(source, dtype=dtype)
    except OSError as error:
        raise ValueError(
            f"generator {generator!r} is no preset ({', '.join(PRESETS)}), no folder here, and could not be "
            f"loaded from the hub ({str(error).splitlines()[0][:160]}); give a local folder to work offline"
        ) from error
    if not isinstance(pipe.scheduler, DDIMScheduler):
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


@contextmanager
def no_loading_bars() -> Iterator[None]:
    """Hide the bars that diffusers and transformers draw per file they load or save; downloads keep theirs."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    shown = [each for each in (diffusers_logging, transformers_logging) if each.is_progress_bar_enabled()]
    for each in shown:
        each.disable_progress_bar()
    try:
        yield
    finally:
        for each in shown:
            each.enable_progress_bar()
