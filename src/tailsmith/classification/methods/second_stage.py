"""Plain training, and after it `stage_two`: the last layer alone, on uniform draws or on BALMS' Meta Sampler's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from tailsmith.classification import processes
from tailsmith.classification.backbones import last_layer
from tailsmith.classification.batches import PooledPasses, Rows, class_shares
from tailsmith.classification.config import StageTwoConfig, TrainConfig
from tailsmith.classification.meta_sampler import MetaSampler, initial_scores, meta_gradient
from tailsmith.classification.methods.contract import (
    Batch,
    Moment,
    Objective,
    OpenStream,
    Stage,
    Start,
    Task,
    generator,
    seed_of_stage,
)
from tailsmith.classification.methods.objectives import softmax
from tailsmith.classification.methods.parts import everything, head_alone
from tailsmith.classification.methods.streams import passes


def first_stage(task: Task, loss: str) -> Stage:
    """The whole classifier, with a loss of LOSSES, on the pools of `config.resampling`."""
    config = task.settled(task.config)
    return Stage(config, (passes(task.pools, config),), softmax(task, config, loss), everything)


def with_second_stage(task: Task, first: Stage) -> list[Stage]:
    """Validation selects among the classifiers of both."""
    second = task.config.stage_two
    if second is None:
        return [first]
    config = task.settled(_second(task.config, second))
    objective = softmax(task, config, second.method)
    stream = passes(task.pools, config)
    if second.sampler == "meta":
        stream = meta_sampled(task, config, second, objective)
    return [first, Stage(config, (stream,), objective, head_alone, earlier_may_win=True)]


def balanced_config(task: Task, steps: int, epochs: int | None, learning_rate: float) -> TrainConfig:
    """Of a class-balanced second stage: the first one's without warm-up and averaging, and with other draws."""
    config = replace(
        task.config,
        resampling="class_balanced",
        steps=steps,
        epochs=epochs,
        learning_rate=learning_rate,
        warmup_fraction=0.0,
        ema_decay=0.0,
        seed=seed_of_stage(task.config.seed, 2),
    )
    return task.settled(config)


def meta_sampled(task: Task, config: TrainConfig, settings: StageTwoConfig, objective: Objective) -> OpenStream:
    """Batches whose class shares are learned: see `MetaStream`."""
    return lambda start: MetaStream(task, config, settings, objective, start)


class MetaStream:
    """Batches of the meta sampler, which makes a meta step before each (Ren et al., 2020, Algorithm 1).

    Features are computed anew at every step, with the augmentation of training: a cache of them would hold one view per
    image, and gigabytes with a million synthetic images. All processes make the same meta step.
    """

    def __init__(
        self, task: Task, config: TrainConfig, settings: StageTwoConfig, objective: Objective, start: Start
    ) -> None:
        self._config, self._settings, self._objective = config, settings, objective
        self._head = last_layer(start.classifier.module)
        shares = class_shares(task.pools, task.labels, len(task.class_names))
        self._sampler = MetaSampler(
            task.pools,
            task.labels,
            initial_scores(shares, settings.init_pow).to(start.device),
            settings.meta_learning_rate,
            generator(config.seed),
            generator(config.seed, 0, 0, 1, device=start.device),
        )
        self._judging = PooledPasses(_judges(task), generator(config.seed, 0, 0, 2))

    def next(self, moment: Moment) -> Rows:
        meta_rows = self._judging.take(self._settings.meta_batch_size)
        self._sampler.update(self._meta_step(moment, meta_rows))
        processes.from_first(self._sampler.scores.data)
        return self._sampler.draw(self._config.batch_size)

    def state_dict(self) -> dict[str, Tensor]:
        parts = {"sampler": self._sampler.state_dict(), "judging": self._judging.state_dict()}
        return {f"{part}.{name}": value for part, state in parts.items() for name, value in state.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for part, owner in (("sampler.", self._sampler), ("judging.", self._judging)):
            owner.load_state_dict({n.removeprefix(part): value for n, value in state.items() if n.startswith(part)})

    def _meta_step(self, moment: Moment, meta_rows: Rows) -> Tensor:
        """The gradient of the sampler's scores: draw, step the head in thought, judge it on the class-balanced rows."""
        draws = generator(self._config.seed, moment.step, 0, 1)
        rows, weights = self._sampler.relaxed_draw(self._config.batch_size)
        features, labels = moment.features(rows, draws)
        meta_features, meta_labels = moment.features(meta_rows, draws)
        nothing = torch.empty(0)  # the head's losses look at no image

        def losses(logits: Tensor) -> Tensor:
            return self._objective(logits, features, Batch(nothing, labels, rows), moment.progress)

        return meta_gradient(
            self._sampler.scores,
            weights,
            self._head,
            features,
            losses,
            meta_features,
            meta_labels,
            moment.learning_rate,
        )


def _second(config: TrainConfig, second: StageTwoConfig) -> TrainConfig:
    """The first stage's configuration with what the second has of its own, and other draws."""
    return replace(
        config,
        steps=second.steps,
        epochs=second.epochs,
        batch_size=second.batch_size,
        learning_rate=second.learning_rate,
        warmup_fraction=0.0,
        weight_decay=second.weight_decay,
        ema_decay=0.0,
        seed=seed_of_stage(config.seed, 2),
    )


def _judges(task: Task) -> list[Rows]:
    """Per class its real training rows, or its synthetic ones where it has no real: the meta sampler's meta set.

    Ren et al. took the validation images of Places-LT. Validation selects the classifier here, and what the draws were
    fitted to could no longer do that.
    """
    judges = []
    for label in np.unique(task.labels):
        rows = np.flatnonzero(task.labels == label)
        real = rows[~task.is_synthetic[rows]]
        judges.append(real if len(real) else rows)
    return judges
