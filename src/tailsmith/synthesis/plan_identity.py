"""What makes two plans the same one: all that their shards' contents follow from, and nothing else."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pandas as pd

from tailsmith.synthesis.plan_checks import Number, Whole, request_columns
from tailsmith.synthesis.storage import Storage

# Raised where a version of tailsmith makes other images of the same requests. 2: all 64 bits of a seed count, and what
# has no image is zeros throughout for unCLIP.
RENDERING = 2

# Every setting of SynthesisConfig is in one of these six.
IN_ROWS = (  # the requests hold what came of them
    "conditioning", "conditioning_from", "embedding_dropout", "prompt", "display_names", "guidance_scale",
    "num_inference_steps", "criterion", "feedback_scale", "shard_size", "seed",
)  # fmt: skip
BY_HASH = ("feedback_decoder",)
OF_ALL = ("dtype",)
OF_FEEDBACK = (  # they change the images of requests with feedback
    "feedback_every", "feedback_steps", "feedback_update", "feedback_prediction", "feedback_through",
    "feedback_decode_size", "feedback_reuse", "feedback_views",
)  # fmt: skip
UNSAID = {"dtype": "fp32"}  # what plans meant before they said so
STORED = ("store_size", "store_format", "store_quality")
WITHOUT_EFFECT = ("feedback_checkpointing", "feedback_decode_batch_size")  # memory and time only

Parts = dict[str, str]  # what a user calls it -> its hash
OF_ROWS = "requests"


def identity_parts(table: pd.DataFrame, meta: dict[str, Any]) -> Parts:
    """The hash of each thing that shards follow from: requests and their shards, names, settings, and who makes them.

    The classifier counts wherever the plan names one, as it gives the column criterion_value. A generator counts by
    its hash, and by its name where the plan has no hash.
    """
    guided = bool((table["feedback_scale"] > 0).any())
    settings = meta["synthesis"] if guided else {}
    decoder = meta.get("decoder_sha256") or settings.get("feedback_decoder")
    return {
        OF_ROWS: hash_of_rows(table),
        "class or attribute names": _hash([meta["class_names"], meta["attribute_names"]]),
        "precision": _hash({name: meta["synthesis"].get(name, UNSAID.get(name)) for name in OF_ALL}),
        "feedback settings": _hash({name: settings.get(name) for name in OF_FEEDBACK}),
        "stored size or format": _hash(Storage.of(meta["synthesis"]).effect()),
        "generator": _hash(meta.get("generator_sha256") or meta.get("generator")),
        "decoder": _hash(decoder if guided else None),
        "classifier": _hash(meta.get("classifier_sha256")),
        "version of rendering": _hash(meta.get("rendering", 1)),
    }


def identity(parts: Parts) -> str:
    """Images that are stored as they are made count as those of versions that knew nothing else."""
    return _hash({name: part for name, part in parts.items() if (name, part) != _AS_MADE})


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def hash_of_rows(table: pd.DataFrame) -> str:
    """The same for the same values, in whichever types they are held."""
    digest = hashlib.sha256()
    for name, kind in request_columns().items():
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


_AS_MADE = ("stored size or format", _hash(Storage().effect()))
