"""Who makes a plan's images: what is written into the plan, and what really made each shard, held to it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from tailsmith import __version__
from tailsmith.classification.classifier import Classifier
from tailsmith.devices import chosen_dtype, dtype_name
from tailsmith.errors import UserError
from tailsmith.generation.generator import Generator, decoder_hash, load_generator
from tailsmith.synthesis.config import SynthesisConfig
from tailsmith.synthesis.plan import Plan
from tailsmith.synthesis.plan_identity import RENDERING, per_call

log = logging.getLogger(__name__)
UNKNOWN = "unknown: given by the caller"
NEW_PLAN = "make a new plan, and synthesize it into another folder"

State = tuple[tuple[str, int, int, int], ...]  # name, size, time and number of each file


def planned_by(generator: str, config: SynthesisConfig, classifier: Any) -> dict[str, Any]:
    """What a plan's metadata says of who is to make its images."""
    guided = config.feedback.scale > 0
    return {
        "version": __version__,
        "generator": Generator.find(generator).located,
        "generator_sha256": hash_of(generator),
        "decoder_sha256": decoder_hash(config.feedback.decoder, generator) if guided else None,
        "classifier_sha256": classifier.sha256() if isinstance(classifier, Classifier) else None,
    }


@dataclass(frozen=True)
class Weights:
    """What a pipeline was loaded from, as hashed then."""

    generator: str
    sha256: str
    files: State


def load_hashed(generator: str, planned: str | None = None, **options: Any) -> Any:
    """`load_generator`, remembering the hash of what was loaded; ValueError where it is not the planned one."""
    before = file_state(generator)
    sha256 = hash_of(generator)
    _check_generator(generator, sha256, planned)
    pipe = load_generator(generator, **options)
    if file_state(generator) != before:
        raise UserError(f"generator {generator!r} was written while it was loaded; run the same command again")
    pipe.hashed_weights = Weights(generator, sha256, before)
    return pipe


def planned_pipe(plan: Plan, pipe: Any = None) -> Any:
    """The generator of a plan in the plan's precision, or the caller's own pipe; ValueError where that has another."""
    dtype = plan.meta["synthesis"]["dtype"]
    if pipe is None:
        return load_hashed(plan.meta["generator"], plan.meta.get("generator_sha256"), dtype=chosen_dtype(dtype))
    if (own := dtype_name(pipe.dtype)) != dtype:
        raise UserError(f"the plan is for a generator in {dtype}, this pipe is in {own}; plan with dtype={own!r}")
    return pipe


def hash_of(generator: str) -> str:
    """`Generator.sha256`, computed anew only where the files have changed."""
    return _hash_of(generator, file_state(generator))


@lru_cache(maxsize=8)
def _hash_of(generator: str, files: State) -> str:
    return Generator.find(generator).sha256()


def weights_of(pipe: Any) -> Weights | None:
    """What `load_hashed` found; None for a pipeline that the caller made."""
    found: Weights | None = getattr(pipe, "hashed_weights", None)
    return found


def warn_of_change(pipe: Any) -> None:
    """Say so where a generator's files are others than were loaded: this process goes on with what it has in memory."""
    weights = weights_of(pipe)
    if weights is not None and file_state(weights.generator) != weights.files:
        log.warning(
            "the files of generator %s have changed since it was loaded; this process still makes images by what it "
            "loaded (%s)",
            *(weights.generator, weights.sha256[:12]),
        )


def file_state(generator: str) -> State:
    """What tells cheaply that some file of a local generator is another one; empty for one on the hub."""
    folder = Generator.find(generator).folder
    if folder is None:
        return ()
    return tuple(sorted(_file_state(path) for path in folder.rglob("*") if path.is_file()))


def _file_state(path: Path) -> tuple[str, int, int, int]:
    state = path.stat()
    return str(path), state.st_size, state.st_mtime_ns, state.st_ino


def check_renderable(plan: Plan) -> None:
    """Raise ValueError for a plan that this version can't render as it was meant."""
    settings, needed = plan.meta["synthesis"], per_call(SynthesisConfig())
    lacks = needed.keys() - settings.keys()
    lacks |= {f"feedback.{name}" for name in needed["feedback"].keys() - settings.get("feedback", {}).keys()}
    if lacks:
        raise UserError(f"this plan is of another version of tailsmith, it lacks {min(lacks)}; {NEW_PLAN}")
    if plan.meta.get("rendering", 1) != RENDERING:
        raise UserError(
            "this plan is of another version of tailsmith, which makes other images of the same requests (from their "
            f"seeds); {NEW_PLAN}"
        )
    if plan.meta.get("generator") is None:
        raise UserError("the plan names no generator; make it with `tailsmith plan`")


def check_finite(pipe: Any, classifier: Any) -> None:
    """Raise ValueError for weights that are not finite: all images would show nothing, or none be guided."""
    parts = {f"the generator's {name}": part for name, part in pipe.components.items()}
    for what, part in {**parts, "the classifier": classifier}.items():
        for name, weight in part.named_parameters() if isinstance(part, torch.nn.Module) else ():
            if not weight.is_meta and not bool(torch.isfinite(weight).all()):  # meta: it waits elsewhere
                raise UserError(
                    f"{what} has weights that are not finite ({name}): its training diverged, or its files are "
                    "damaged; use a sound copy"
                )


def really_by(plan: Plan, pipe: Any, classifier: Any) -> dict[str, str]:
    """What a shard's metadata says of who made it; ValueError where that is not who was planned."""
    weights = weights_of(pipe)
    if weights is not None:
        _check_generator(weights.generator, weights.sha256, plan.meta.get("generator_sha256"))
    decoder = None
    if plan.has_feedback:
        name = plan.feedback.decoder
        decoder = decoder_hash(name, plan.meta["generator"]) if name != "own" else None
        if (wanted := plan.meta.get("decoder_sha256")) is not None and decoder != wanted:
            raise UserError(f"the decoder {name!r} is not the one the plan was made for (its hash differs); {NEW_PLAN}")
    return {
        "generator": plan.meta["generator"],
        "generator_sha256": weights.sha256 if weights is not None else UNKNOWN,
        "decoder_sha256": str(decoder),
        "classifier_sha256": guide_hash(classifier),
        "version": __version__,
        "plan": plan.identity,
        "common": plan.common,
    }


def guide_hash(classifier: Any) -> str:
    """As shards have it: "None" where nothing guided."""
    if classifier is None:
        return str(None)
    return classifier.sha256() if isinstance(classifier, Classifier) else UNKNOWN


def _check_generator(generator: str, sha256: str, planned: str | None) -> None:
    if planned is not None and sha256 != planned:
        raise UserError(
            f"the generator {generator!r} is not the one the plan was made for (its hash differs); bring that one "
            f"back, or {NEW_PLAN}"
        )
