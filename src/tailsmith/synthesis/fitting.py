"""A small generator of a dataset's own classes: its training images with captions, and generation.fit."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tailsmith.data.dataset import Dataset
from tailsmith.data.images import Images
from tailsmith.devices import chosen_device
from tailsmith.errors import UserError
from tailsmith.generation.fit.captions import CaptionedImages, Captions
from tailsmith.generation.fit.config import FitGeneratorConfig
from tailsmith.generation.fit.recipe import fit


def fit_generator(dataset: Dataset, out: str | Path, config: FitGeneratorConfig | None = None) -> Path:
    """Train on the dataset's training split, on the chosen device; write a StableUnCLIPImg2ImgPipeline folder to `out`.

    The same call resumes, and does nothing where the pipeline is already there. Raises ValueError for fewer than 2
    images, and where `out` holds another pipeline or a fit of another configuration.
    """
    config, training = config or FitGeneratorConfig(), dataset.split("train")
    if len(training) < 2:
        raise UserError(f"fit-generator needs at least 2 training images, got {len(training)} in {dataset.name!r}")
    contents = hashlib.sha256("".join(map(training.content_hash, range(len(training)))).encode())
    return fit(_captioned(training, config, chosen_device()), contents.hexdigest(), Path(out), config)


def _captioned(training: Dataset, config: FitGeneratorConfig, device: torch.device) -> CaptionedImages:
    cached = Images(training, config.image_size)

    def images(rows: NDArray[np.int64]) -> torch.Tensor:
        return cached[rows].to(device).float() / 127.5 - 1  # uint8 -> [-1, 1]

    captions = Captions(training.class_names, training.attribute_names)
    naming = config.caption_attribute_probability if training.attribute_names else 0.0
    return CaptionedImages(images, training.labels, training.attributes, captions, naming)
