"""Pretrained generators: a name, a folder or a hub id -> a diffusers pipeline that the worker can call."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch

from tailsmith.devices import chosen_device, is_out_of_memory
from tailsmith.errors import UserError
from tailsmith.files import sha256_folder
from tailsmith.generation.families import WITH_IP_ADAPTER, Family, family_of, get_family
from tailsmith.generation.locations import HUB_ID, Weights, find_weights
from tailsmith.generation.pipeline_folder import (
    INDEX,
    class_tokens,
    fitted_classes,
    own_parts,
    read_index,
    read_object,
    unknown_classes,
)
from tailsmith.generation.presets import EMBEDDED, PRESETS, Companion, Preset, preset

__all__ = [
    "EMBEDDED",
    "Generator",
    "PRESETS",
    "Preset",
    "decoder_hash",
    "find_decoder",
    "load_decoder",
    "load_generator",
    "located_decoder",
    "no_loading_bars",
    "preset",
]

log = logging.getLogger(__name__)
WORDS = ("sd2.1-unclip", "sd1.5-ip-adapter", "sdxl")  # presets to try first


@dataclass(frozen=True)
class Generator:
    """A pretrained pipeline that has a name: a preset, a folder, PRESET=SOURCE or a hub id, as `find` found it."""

    name: str
    preset: Preset
    weights: Weights

    @staticmethod
    def find(name: str = EMBEDDED) -> Generator:
        """ValueError for what is no preset, no folder of a pipeline and no hub id; nothing is loaded."""
        return Generator(str(name), preset(str(name)), find_weights(str(name)))

    @property
    def folder(self) -> Path | None:
        """None for one that lives on the hub."""
        return self.weights.folder

    @property
    def licence(self) -> str:
        return self.preset.licence

    @property
    def located(self) -> str:
        """The same generator, named so that it is found from any directory: a relative folder becomes absolute."""
        if self.name in PRESETS or self.folder is None:
            return self.name
        prefix, _, own = self.name.rpartition("=") if self.name.partition("=")[0] in PRESETS else ("", "", self.name)
        return f"{prefix}={os.path.abspath(own)}" if prefix else os.path.abspath(own)

    @property
    def family(self) -> tuple[str, Family] | None:
        """Name and family as far as is known before loading (None: a bare hub id); ValueError for an unknown family."""
        known = self.preset.family
        if self.folder is None:
            return (known, get_family(known)) if known else None
        name = str(read_index(self.folder)["_class_name"])
        expected = known.removesuffix(WITH_IP_ADAPTER)
        if expected and name != expected:
            raise UserError(f"generator {self.name!r} should be a {expected}, but {self.folder} is a {name}")
        return known or name, get_family(known or name)

    def sha256(self) -> str:
        """Of a folder's own parts, whatever else lies in it; a hub id at its revision is its own name."""
        parts = [f"hub:{self.weights}"]
        if self.folder is not None:
            index = read_object(self.folder / INDEX)
            own = [sha256_folder(part) for part in own_parts(self.folder, index)]
            parts = [hashlib.sha256("".join(own).encode()).hexdigest()]
        if self.preset.companion is not None:
            second = _companion_weights(self.weights, self.preset.companion)
            parts.append(sha256_folder(second.folder) if second.folder else f"hub:{second}")
        return "+".join(parts)

    def class_tokens(self, class_names: Sequence[str]) -> dict[str, str]:
        """Class -> its token in prompts, for those of these classes that it has learned one for (textual inversion)."""
        return class_tokens(self.folder, class_names) if self.folder else {}

    def class_advice(self, class_names: Sequence[str], display_names: Mapping[str, str]) -> str | None:
        """What to do where it lists the classes that it knows, and these are others; None where all is well.

        A class counts by its word in the prompt: `display_names` has those that differ from its name.
        """
        known = fitted_classes(self.folder) if self.folder else None
        if not known:
            return None
        words = [display_names.get(name, name) for name in class_names]
        unknown = unknown_classes([*known, *self.class_tokens(known).values()], words)
        if not unknown:
            return None
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        return (
            f"generator {self.name!r} knows nothing but {shorten(', '.join(known), 120, placeholder=' ...')}; the data "
            f"has {unknown[0]!r}{more}. Name a generator for this data: a preset that knows words "
            f"({', '.join(WORDS)}), a folder or a hub id with --generator, or train one with "
            "`tailsmith fit-generator`; a class that goes by another name there goes into synthesis.display_names"
        )

    def load(self, *, device: str | torch.device | None = None, dtype: torch.dtype = torch.float32) -> Any:
        """The diffusers pipeline, with its family's scheduler, silent and ready.

        DDIM as the paper uses, but for flow-matching pipelines. `device` None: the one that classifiers go to as well
        (devices.py). Weights are safetensors: no pickle is loaded. ValueError for a family that synthesis doesn't
        know, and a hub id that can't be reached.
        """
        from diffusers import DiffusionPipeline  # two seconds that a plan can do without

        _ = self.family  # ValueError
        device = device or chosen_device()
        if self.preset.restricted:
            log.warning("generator %s: %s", self.name, self.licence)
        with no_loading_bars(), _reachable(self.name, self.weights):
            pipe = DiffusionPipeline.from_pretrained(
                self.weights.source, revision=self.weights.revision, dtype=dtype, use_safetensors=True
            )
        if self.preset.companion is not None:
            second = _companion_weights(self.weights, self.preset.companion)
            with no_loading_bars(), _reachable(self.name, second):
                _add_companion(pipe, self.preset.companion, second, dtype, device)
        _set_scheduler(pipe, family_of(pipe))
        pipe.set_progress_bar_config(disable=True)
        return pipe.to(device)


def load_generator(
    generator: str = EMBEDDED, *, device: str | torch.device | None = None, dtype: torch.dtype = torch.float32
) -> Any:
    """`Generator.find(generator).load(...)`: a diffusers pipeline by preset, folder, hub id or PRESET=SOURCE."""
    return Generator.find(generator).load(device=device, dtype=dtype)


def _companion_weights(weights: Weights, companion: Companion) -> Weights:
    """A subfolder beside local weights, or the hub."""
    beside = weights.folder / companion.name if weights.folder else None
    return Weights(beside) if beside and beside.is_dir() else Weights(None, companion.source, companion.revision)


def find_decoder(decoder: str, generator: str) -> Weights | None:
    """Where a decoder's weights are, None for "own"; ValueError for a generator without a tiny one, or a wrong name."""
    if decoder == "own":
        return None
    if decoder != "tiny":
        if Path(decoder).is_dir():
            return Weights(Path(decoder))
        hub = HUB_ID.fullmatch(decoder)
        if hub is None:
            raise UserError(f"feedback.decoder should be own, tiny, a folder or a hub id, got {decoder!r}")
        return Weights(None, hub[1], hub[2])
    beside = (Generator.find(generator).folder or Path()) / "tiny_decoder"
    known = preset(generator).tiny_decoder
    if not beside.is_dir() and not known:
        raise UserError(
            f"generator {generator!r} has no tiny decoder that tailsmith knows of; use feedback.decoder=own, or "
            "give the folder or hub id of an AutoencoderTiny for its latents"
        )
    return Weights(beside) if beside.is_dir() else Weights(None, known)


def located_decoder(decoder: str) -> str:
    """The same decoder, found from any working directory."""
    own = decoder not in ("own", "tiny") and Path(decoder).is_dir()
    return os.path.abspath(decoder) if own else decoder


def decoder_hash(decoder: str, generator: str) -> str | None:
    """SHA-256 of a decoder's folder, the name of one on the hub, None for the generator's own."""
    weights = find_decoder(decoder, generator)
    if weights is None:
        return None
    return sha256_folder(weights.folder) if weights.folder else f"hub:{weights}"


def load_decoder(
    decoder: str, generator: str, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> torch.nn.Module | None:
    """What shows the classifier x0-hat: None for "own", "tiny" for the generator's AutoencoderTiny, or one of yours.

    "tiny" is the subfolder tiny_decoder of a local generator, or the preset's; otherwise a folder or hub id. Raises
    ValueError where there is none or it can't be loaded.
    """
    from diffusers import AutoencoderTiny

    weights = find_decoder(decoder, generator)
    if weights is None:
        return None
    with no_loading_bars(), _reachable(f"decoder {decoder}", weights):
        tiny: torch.nn.Module = AutoencoderTiny.from_pretrained(
            weights.source, revision=weights.revision, dtype=dtype, use_safetensors=True
        )
    return tiny.to(device).eval()


def _add_companion(
    pipe: Any, companion: Companion, weights: Weights, dtype: torch.dtype, device: str | torch.device
) -> None:
    """Give a pipeline the encoder of its conditioning images, and its IP-Adapter.

    The encoder is loaded here because load_ip_adapter would ignore the revision.
    """
    from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

    where = {"pretrained_model_name_or_path": weights.source, "revision": weights.revision or "main"}
    encoder = CLIPVisionModelWithProjection.from_pretrained(
        **where, subfolder=companion.image_encoder, dtype=dtype, use_safetensors=True
    )
    if companion.image_processor is not None:
        processor = CLIPImageProcessor.from_pretrained(**where, subfolder=companion.image_processor)
    else:
        side = encoder.config.image_size
        processor = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    if companion.ip_adapter is None:  # parts of the prior pipeline, not of the decoder: plain attributes
        pipe.image_encoder, pipe.feature_extractor = encoder.to(device).eval(), processor
        return
    pipe.register_modules(image_encoder=encoder, feature_extractor=processor)
    subfolder, file = companion.ip_adapter
    pipe.load_ip_adapter(weights.source, subfolder=subfolder, weight_name=file, revision=weights.revision)
    pipe.set_ip_adapter_scale(companion.ip_adapter_scale)


def _set_scheduler(pipe: Any, family: Family) -> None:
    import diffusers

    if type(pipe.scheduler).__name__ != family.scheduler:
        clips = family.scheduler == "DDIMScheduler" and "clip_sample" not in pipe.scheduler.config  # its default
        unsaid = {"clip_sample": False} if clips else {}
        pipe.scheduler = getattr(diffusers, family.scheduler).from_config(pipe.scheduler.config, **unsaid)


@contextmanager
def _reachable(generator: str, weights: Weights) -> Iterator[None]:
    """Say what to do where weights can't be loaded."""
    try:
        yield
    except Exception as error:  # a malformed file of a folder has raised a dozen kinds, in three libraries
        if is_out_of_memory(error) or (weights.folder is None and not isinstance(error, OSError)):
            raise
        reason = shorten(str(error) or type(error).__name__, 200, placeholder=" ...")
        if weights.folder is not None:
            raise UserError(
                f"generator {generator!r}: {weights.folder} could not be loaded ({reason}); it should hold what "
                "pipe.save_pretrained writes, with weights as safetensors: pickled ones (.bin, .ckpt) are never loaded"
            ) from error
        pinned = f" --revision {weights.revision}" if weights.revision else ""
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else ""
        raise UserError(
            f"generator {generator!r}: {weights.hub_id} could not be loaded from the hub or its local cache{offline}: "
            f"{reason}. Accept its licence on huggingface.co and run `hf auth login` where it is gated. To work "
            f"offline, run `hf download {weights.hub_id}{pinned}` once and set HF_HUB_OFFLINE=1, or give a local folder"
        ) from error


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
