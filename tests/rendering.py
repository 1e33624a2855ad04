"""Tiny plans, rendered without shards, and their images compared."""

import io

import numpy as np
import pandas as pd
from PIL import Image

from tailsmith.data.packed import read_packed
from tailsmith.settings import from_dict
from tailsmith.synthesis.config import SynthesisConfig
from tailsmith.synthesis.requests import make_plan
from tiny import tiny_dataset

DATASET = tiny_dataset()


def tiny_plan(missing=(4, 2, 4), **settings):
    """Ten guided requests unless asked otherwise; feedback_X is a setting of feedback."""
    defaults = {"num_inference_steps": 4, "feedback_scale": 0.02, "feedback_every": 2, "shard_size": 4}
    config = from_dict(SynthesisConfig, {"guidance_scale": 2.0, **defaults, **settings})
    return make_plan(DATASET, np.asarray(missing), config, meta={"generator": "tiny"})


def render(worker, plan, requests=None):
    requests = plan.table if requests is None else requests
    return pd.concat(list(worker.render(requests, plan.feedback)), ignore_index=True)


def encoded_images(results):
    """The PNGs of results in memory, or of shards."""
    return results["image"].tolist() if "image" in results else [read_packed(where) for where in results["path"]]


def pixels(results):
    """request_id -> int array [H, W, 3]."""
    decoded = [np.asarray(Image.open(io.BytesIO(encoded))).astype(int) for encoded in encoded_images(results)]
    return dict(zip(results["request_id"], decoded, strict=True))


def largest_difference(results, others):
    one, other = pixels(results), pixels(others)
    assert one.keys() == other.keys()
    return max(np.abs(one[request] - other[request]).max() for request in one)
