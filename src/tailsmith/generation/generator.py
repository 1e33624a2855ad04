"""Pretrained generators: a name, a folder or a hub id -> a diffusers pipeline that the worker can call."""

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch

from tailsmith.devices import chosen_device, is_out_of_memory
from tailsmith.errors import UserError
from tailsmith.files import sha256_folder
from tailsmith.generation.families import WITH_IP_ADAPTER, Family, family_of, get_family
from tailsmith.generation.locations import HUB_ID, Weights, class_advice, find_weights, generator_folder, located
from tailsmith.generation.pipeline_folder import INDEX, own_parts, read_index, read_object
from tailsmith.generation.presets import EMBEDDED, PRESETS, Companion, Preset, preset

__all__ = [
    "EMBEDDED",
    "PRESETS",
    "Preset",
    "class_advice",
    "decoder_hash",
    "find_decoder",
    "generator_family",
    "generator_folder",
    "generator_hash",
    "load_decoder",
    "load_generator",
    "located",
    "located_decoder",
    "no_loading_bars",
    "preset",
]

log = logging.getLogger(__name__)


def generator_family(generator: str) -> tuple[str, Family] | None:
    """Name and family as far as is known before loading (None: a bare hub id); ValueError for an unknown family."""
    weights, known = find_weights(generator), preset(generator)
    if weights.folder is None:
        return (known.family, get_family(known.family)) if known.family else None
    name = str(read_index(weights.folder)["_class_name"])
    expected = known.family.removesuffix(WITH_IP_ADAPTER)
    if expected and name != expected:
        raise UserError(f"generator {generator!r} should be a {expected}, but {weights.folder} is a {name}")
    return known.family or name, get_family(known.family or name)


def generator_hash(generator: str) -> str:
    """SHA-256 of a folder's own parts, whatever else lies in it; a hub id at its revision is its own name."""
    weights, companion = find_weights(generator), preset(generator).companion
    parts = [f"hub:{weights}"]
    if weights.folder is not None:
        index = read_object(weights.folder / INDEX)
        own = [sha256_folder(part) for part in own_parts(weights.folder, index)]
        parts = [hashlib.sha256("".join(own).encode()).hexdigest()]
    if companion is not None:
        second = _companion_weights(weights, companion)
        parts.append(sha256_folder(second.folder) if second.folder else f"hub:{second}")
    return "+".join(parts)


def _companion_weights(weights: Weights, companion: Companion) -> Weights:
    """A subfolder beside local weights, or the hub."""
    beside = weights.folder / companion.name if weights.folder else None
    return Weights(beside) if beside and beside.is_dir() else Weights(None, companion.source, companion.revision)


def load_generator(
    generator: str = EMBEDDED, *, device: str | torch.device | None = None, dtype: torch.dtype = torch.float32
) -> Any:
    """A diffusers pipeline by preset, folder, hub id or PRESET=SOURCE, with its family's scheduler, silent and ready.

    DDIM as the paper uses, but for flow-matching pipelines. `device` None: the one that classifiers go to as well
    (devices.py). Weights are safetensors: no pickle is loaded. Raises ValueError for a folder that is not a pipeline,
    a family that synthesis doesn't know, and a hub id that can't be reached.
    """
    from diffusers import DiffusionPipeline  # two seconds that a plan can do without

    generator = str(generator)
    generator_family(generator)
    weights, known = find_weights(generator), preset(generator)
    device = device or chosen_device()
    if known.restricted:
        log.warning("generator %s: %s", generator, known.licence)
    with no_loading_bars(), _reachable(generator, weights):
        pipe = DiffusionPipeline.from_pretrained(
            weights.source, revision=weights.revision, dtype=dtype, use_safetensors=True
        )
    if known.companion is not None:
        second = _companion_weights(weights, known.companion)
        with no_loading_bars(), _reachable(generator, second):
            _add_companion(pipe, known.companion, second, dtype, device)
    _set_scheduler(pipe, family_of(pipe))
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


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
    beside = (generator_folder(generator) or Path()) / "tiny_decoder"
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
