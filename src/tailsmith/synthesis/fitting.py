"""A generator of a dataset's own classes: a small one trained from nothing, or a pretrained one adapted to them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tailsmith.data.dataset import Dataset
from tailsmith.data.images import Images
from tailsmith.devices import chosen_device
from tailsmith.errors import UserError
from tailsmith.generation.fit.captions import CaptionedImages, Captions
from tailsmith.generation.fit.claim import claim, is_finished
from tailsmith.generation.fit.conditions import check_tunable, image_size_of
from tailsmith.generation.fit.config import LORA, STEPS, TOKENS, FineTuneConfig, FitGeneratorConfig
from tailsmith.generation.fit.finetune import Tuning, fine_tune, finish, parameters, sampled_latents
from tailsmith.generation.fit.recipe import fit
from tailsmith.generation.fit.saving import check_space
from tailsmith.generation.fit.tokens import add_class_tokens
from tailsmith.generation.generator import Generator
from tailsmith.locks import exclusive
from tailsmith.metrics.nearness import neighbours
from tailsmith.settings import to_dict

log = logging.getLogger(__name__)
LOOKED_AT = 50  # images whose size is asked
HELD_OUT = 0.1  # of the training images, where there are no validation images
MOST_HELD_OUT = 500  # images


def fit_generator(dataset: Dataset, out: str | Path, config: FitGeneratorConfig | None = None) -> Path:
    """Train on the dataset's training split, on the chosen device; write a StableUnCLIPImg2ImgPipeline folder to `out`.

    The same call resumes, and does nothing where the pipeline is already there. Raises ValueError for one class, fewer
    images than a batch, and where `out` holds another pipeline or a fit of another configuration.
    """
    training, out, settled = dataset.split("train"), Path(out), settled_for(dataset, config)
    for stage in STEPS:
        _check_images(training, getattr(settled, stage).batch_size, f"{stage}.batch_size")
    data = _captioned(training, settled.image_size, settled.caption_attribute_probability)
    with exclusive(out / "training" / "lock", "fits this generator"):
        return fit(data, _sha256(training), out, settled)


def settled_for(dataset: Dataset, config: FitGeneratorConfig | None = None) -> FitGeneratorConfig:
    """The configuration with all that follows the data: the sizes of images and models, and the steps."""
    training = dataset.split("train")
    rows = np.linspace(0, len(training) - 1, min(LOOKED_AT, len(training))).astype(int)
    side = int(np.median([min(training.image(int(row)).size) for row in rows])) if len(rows) else 0
    return (config or FitGeneratorConfig()).settled(len(training), side)


def fine_tune_generator(
    dataset: Dataset, generator: str, out: str | Path, config: FineTuneConfig | None = None
) -> Path:
    """Adapt a pretrained generator to the dataset's training split; write its whole pipeline to `out`.

    Validation images stop it, or a tenth of the training images where there are none. The same call resumes. By
    textual inversion only a token for each class is learned, and `out` remembers which: plans name classes by it.
    Raises ValueError for a pipeline that can't be tuned, data that can't tune it, a fit that diverges and one that
    copies.
    """
    config, training, out = config or FineTuneConfig(), dataset.split("train"), Path(out)
    found = Generator.find(generator)
    if found.family is not None:
        check_tunable(found.family[0])
    _check_images(training, config.batch_size, "finetune.batch_size")
    if config.method == TOKENS:
        _check_tokens(training, config)
    with exclusive(out / "training" / "lock", "fits this generator"):
        known = _captioned(training, 8, config.caption_attribute_probability)  # of any size: it is not looked at
        claim(out, config, known, f"{found.sha256()} {_sha256(training)}")
        if is_finished(out):
            return out
        pipe = found.load()
        check_tunable(type(pipe).__name__)
        check_space(out, *parameters(pipe, config))
        tokens = add_class_tokens(pipe, training.class_names) if config.method == TOKENS else {}
        tuning = _tuning(dataset, image_size_of(pipe), config, tokens)
        real = fine_tune(pipe, tuning, out / "training", config)
        _check_copies(*sampled_latents(pipe, tuning.training, real, config), config, out)
        finish(pipe, out, found, config, tokens)
    return out


def check_only(generator: str | None, fit: FitGeneratorConfig, tune: FineTuneConfig) -> None:
    """ValueError for settings of the other way to come to a generator, which would have no effect."""
    given, unused, way = (
        (fit, FitGeneratorConfig(), "with") if generator is not None else (tune, FineTuneConfig(), "without")
    )
    plain = to_dict(unused)
    changed = [name for name, value in to_dict(given).items() if value != plain[name]]
    if changed:
        where = "" if generator is not None else "finetune."
        reason = "a generator is adapted in its own size and form" if generator is not None else "nothing is adapted"
        raise UserError(f"--{where}{changed[0]} has no effect {way} --from: {reason}; leave it out")


def _tuning(dataset: Dataset, size: int, config: FineTuneConfig, words: Mapping[str, str]) -> Tuning:
    """`words`: those that captions name classes by, where they differ from their names."""
    training, held_out = dataset.split("train"), dataset.split("val")
    if not len(held_out):
        shuffled = np.random.default_rng(config.seed).permutation(len(training))
        one_each = np.unique(training.labels[shuffled], return_index=True)[1]
        order = np.concatenate([np.delete(shuffled, one_each), shuffled[one_each]])  # held out last: each class's last
        last = max(1, round(HELD_OUT * len(training)))
        training, held_out = training.select(np.sort(order[last:])), training.select(np.sort(order[:last]))
    held_out = held_out.select(np.sort(np.random.default_rng(config.seed).permutation(len(held_out))[:MOST_HELD_OUT]))
    naming = config.caption_attribute_probability
    return Tuning(_captioned(training, size, naming, words), _captioned(held_out, size, naming, words))


def _check_copies(real: torch.Tensor, made: torch.Tensor, config: FineTuneConfig, out: Path) -> None:
    found = neighbours(real.numpy(), made.numpy())
    log.info("copies: %.0f %% of %d samples", 100 * found.copies, len(made))
    if found.copies > config.most_copies:
        raise UserError(
            f"the fit copies its training images: {found.copies:.0%} of {len(made)} samples lie nearer to one of them "
            f"than 1 % of these lie to each other (at most {config.most_copies:.0%}, finetune.most_copies); lower "
            f"finetune.steps or raise finetune.prior_weight, with another --out. Its weights are kept in "
            f"{out / 'training' / 'best.pt'}"
        )


def _check_images(training: Dataset, batch_size: int, setting: str) -> None:
    classes = np.unique(training.labels)
    if len(classes) < 2:
        there = f"one class, {training.class_names[classes[0]]!r}" if len(classes) else "no image"
        raise UserError(f"fit-generator needs at least two classes to tell apart, and the training data have {there}")
    if len(training) < batch_size:
        raise UserError(
            f"fit-generator needs at least a batch of training images ({batch_size}, {setting}), got {len(training)} "
            f"in {training.name!r}; lower --{setting}, or adapt a pretrained generator with --from"
        )


def _check_tokens(training: Dataset, config: FineTuneConfig) -> None:
    if unused := config.without_effect():
        raise UserError(
            f"finetune.{unused[0]} has no effect with finetune.method={TOKENS}: nothing but tokens is trained, and "
            "from text alone; leave it out"
        )
    empty = np.setdiff1d(np.arange(len(training.class_names)), training.labels)
    if len(empty):
        more = f", nor have {len(empty) - 1} more" if len(empty) > 1 else ""
        raise UserError(
            f"textual inversion learns a token of each class from its training images, and "
            f"{training.class_names[empty[0]]!r} has none{more}; add an image, leave the class out, or use "
            f"finetune.method={LORA}"
        )


def _sha256(training: Dataset) -> str:
    contents = "".join(map(training.content_hash, range(len(training))))
    return hashlib.sha256(contents.encode()).hexdigest()


def _captioned(training: Dataset, size: int, naming: float, words: Mapping[str, str] | None = None) -> CaptionedImages:
    cached, device = Images(training, size), chosen_device()

    def images(rows: NDArray[np.int64]) -> torch.Tensor:
        return cached[rows].to(device).float() / 127.5 - 1  # uint8 -> [-1, 1]

    classes = [(words or {}).get(name, name) for name in training.class_names]
    captions = Captions(classes, training.attribute_names)
    named = naming if training.attribute_names else 0.0
    return CaptionedImages(images, training.labels, training.attributes, captions, named)
