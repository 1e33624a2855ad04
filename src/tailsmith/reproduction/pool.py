"""`reproduce pool`: of a pool of unguided samples, which ones should a classifier be trained on?

What no choice among the samples brings, guidance towards it can hardly bring.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tailsmith.classification.classifier import Classifier
from tailsmith.data.dataset import Dataset
from tailsmith.data.images import Images
from tailsmith.experiment import World, train_arm
from tailsmith.guidance.criteria import score_of
from tailsmith.metrics.nearness import probe, simple_statistics
from tailsmith.reproduction.retraining import Half
from tailsmith.reproduction.rules import RULES, Candidates, choose
from tailsmith.reproduction.substitutes import half_through_autoencoder
from tailsmith.runs.arms import ARMS, GUIDE
from tailsmith.runs.config import synthesis_of
from tailsmith.studies.samples import load_judge
from tailsmith.synthesis.fulfilment import synthesize
from tailsmith.synthesis.hardness import class_gaussians
from tailsmith.synthesis.planning import checked_settings, missing
from tailsmith.synthesis.prediction import predict
from tailsmith.synthesis.provenance import planned_by
from tailsmith.synthesis.requests import make_plan

CANDIDATES = 8  # kappa: per image that is asked for
SET = "image_text"  # unguided, conditioned on text and a real image
REFERENCE = "balanced_softmax"  # trained on the same real images as the guide


def pool_halves(world: World, seed: int) -> Iterator[Half]:
    """The pool by each rule of `rules.RULES`; the whole pool; and both, with half of the real images reconstructed."""
    guide, reference = train_arm(world, ARMS[GUIDE]), train_arm(world, ARMS[REFERENCE])
    pool = _pool(world)
    known = _look(world, pool, guide, reference)
    wanted = missing(world.dataset, world.config.target, world.config.per)

    def half(name: str, rows: Any, filled: int = 0, real: Dataset | None = None) -> Half:
        facts = {"filled": filled, "entropy": round(float(known.entropy[rows].mean()), 4)}
        return Half(name, pool.select(rows), real, facts)

    chosen = {name: choose(known, rule, wanted, seed) for name, rule in RULES.items()}
    for name, (rows, filled) in chosen.items():
        yield half(name, rows, filled)
    yield half("all", np.arange(len(pool)))
    yield half("all right", np.flatnonzero(known.judged))
    mixed = half_through_autoencoder(world.generator(), world.dataset, seed)
    for name in ("random", "real-looking, right"):
        yield half(f"{name}; half of the real images reconstructed", *chosen[name], real=mixed)


def _pool(world: World) -> Dataset:
    config = checked_settings(world.dataset, synthesis_of(world.config, SET), world.config.generator)
    wanted = CANDIDATES * missing(world.dataset, world.config.target, world.config.per)
    meta = {"dataset": world.dataset.name, "per": "class", **planned_by(world.config.generator, config, None)}
    plan = make_plan(world.dataset, wanted, config, meta=meta)
    folder = world.directory.path / "pool"
    return synthesize(plan, world.dataset, folder, pipe=world.generator(), batch_size=world.config.batch_size)


def _look(world: World, pool: Dataset, guide: Classifier, reference: Classifier) -> Candidates:
    judge = load_judge("label", world.dataset.class_names)
    assert judge is not None
    judged, guided = predict(judge, pool), predict(guide, pool)
    labels = torch.tensor(pool.labels)
    gaussians = class_gaussians(world.dataset, guide)
    scores = {
        name: score_of(name, gaussians)(*guided, labels).double().numpy() for name in ("entropy", "loss", "hardness")
    }
    return Candidates(
        labels=pool.labels,
        judged=(judged.logits.argmax(1) == labels).numpy(),
        referenced=(predict(reference, pool).logits.argmax(1) == labels).numpy(),
        real_looking=_real_looking(world.dataset, pool),
        features=judged.features.double().numpy(),
        **scores,
    )


def _real_looking(task: Dataset, pool: Dataset) -> NDArray[np.float64]:
    """[n]: how probably each candidate is real, to a probe against validation images of the same mix of classes."""
    real = task.split("val")
    share = np.bincount(pool.labels, minlength=len(task.class_names)) / len(pool)
    there = np.bincount(real.labels, minlength=len(task.class_names))
    total = min(n / part for n, part in zip(there, share, strict=True) if part > 0)
    rows = np.concatenate([np.flatnonzero(real.labels == c)[: round(total * part)] for c, part in enumerate(share)])
    size = pool.image(0).width
    return probe(*(simple_statistics(Images(each, size)[:].numpy()) for each in (real.select(rows), pool))).real_looking
