"""What makes two plans the same one: all that their shards' contents follow from, and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pandas as pd

from tailsmith.guidance.config import PER_IMAGE
from tailsmith.settings import sha256_of
from tailsmith.synthesis.columns import Number, Whole, columns_of
from tailsmith.synthesis.config import SynthesisConfig
from tailsmith.synthesis.storage import Storage

# Raised where a version of tailsmith makes other images of the same requests. 2: all 64 bits of a seed count, and what
# has no image is zeros throughout for unCLIP.
RENDERING = 2

# Every setting of SynthesisConfig but `feedback`, and every one of FeedbackConfig, is in one of these six. A plan's
# requests hold what came of the first; the others are of a whole pipeline call, and stand in its metadata.
IN_ROWS = (
    "conditioning", "conditioning_from", "embedding_mixing", "embedding_mixing_alpha", "embedding_dropout",
    "prompt", "display_names", "guidance_scale", "num_inference_steps", "shard_size", "seed", *PER_IMAGE,
)  # fmt: skip
OF_ALL = ("dtype", "guided_by")
BY_HASH = ("decoder",)
OF_FEEDBACK = (  # they change the images of requests with feedback
    "every", "steps", "update", "prediction", "through", "decode_size", "reuse", "views",
)  # fmt: skip
UNSAID = {"dtype": "fp32", "guided_by": "image+text"}  # what plans meant before they said so
STORED = ("store_size", "store_format", "store_quality")
WITHOUT_EFFECT = ("checkpointing", "decode_batch_size")  # memory and time only

Parts = dict[str, str]  # what a user calls it -> its hash
OF_ROWS = "requests"


def per_call(config: SynthesisConfig) -> dict[str, Any]:
    """The settings that a plan's metadata hold."""
    feedback = {name: value for name, value in asdict(config.feedback).items() if name not in PER_IMAGE}
    return {**{name: getattr(config, name) for name in (*OF_ALL, *STORED)}, "feedback": feedback}


def identity_parts(table: pd.DataFrame, meta: dict[str, Any]) -> Parts:
    """The hash of each thing that shards follow from: requests and their shards, names, settings, and who makes them.

    The classifier counts wherever the plan names one, as it gives the column criterion_value. A generator counts by
    its hash, and by its name where the plan has no hash.
    """
    guided = bool((table["feedback_scale"] > 0).any())
    feedback = meta["synthesis"].get("feedback", {}) if guided else {}
    decoder = meta.get("decoder_sha256") or feedback.get("decoder")
    return {
        OF_ROWS: hash_of_rows(table),
        "class or attribute names": sha256_of([meta["class_names"], meta["attribute_names"]]),
        "precision": sha256_of({"dtype": said(meta["synthesis"], "dtype")}),
        "guided_by": sha256_of(said(meta["synthesis"], "guided_by")),
        "feedback settings": sha256_of({f"feedback_{name}": feedback.get(name) for name in OF_FEEDBACK}),
        "stored size or format": sha256_of(Storage.of(meta["synthesis"]).effect()),
        "generator": sha256_of(meta.get("generator_sha256") or meta.get("generator")),
        "decoder": sha256_of(decoder if guided else None),
        "classifier": sha256_of(meta.get("classifier_sha256")),
        "version of rendering": sha256_of(meta.get("rendering", 1)),
    }


def identity(parts: Parts) -> str:
    """What is made and stored as versions made it that knew nothing else counts as theirs."""
    return sha256_of({name: part for name, part in parts.items() if (name, part) not in _AS_EVER})


def said(settings: Mapping[str, str], name: str) -> str:
    """One of OF_ALL by a plan's metadata, synthesis; also of a plan that is older than the setting."""
    return settings.get(name, UNSAID[name])


def hash_of_rows(table: pd.DataFrame) -> str:
    """The same for the same values, in whichever types they are held."""
    digest = hashlib.sha256()
    for name, kind in columns_of(table).items():
        values = table[name]
        digest.update(name.encode())
        if isinstance(kind, Whole):
            digest.update(values.to_numpy(dtype="<i8").tobytes())
        elif isinstance(kind, Number):
            digest.update(values.to_numpy(dtype="<f8").tobytes())
        else:
            texts = values.astype(object)
            digest.update(json.dumps(texts.where(texts.notna(), None).tolist()).encode())
    return digest.hexdigest()


_AS_EVER = {("stored size or format", sha256_of(Storage().effect())), ("guided_by", sha256_of(UNSAID["guided_by"]))}
