"""One stage of training: mini-batches, SGD, looks at the validation images; a generator of step records."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from tailsmith.classification.backbones import last_layer
from tailsmith.classification.classifier import Classifier
from tailsmith.classification.meta_sampler import MetaSampler, initial_scores, meta_gradient
from tailsmith.classification.optimization import average_decay, learning_rate_at, sgd, update_average
from tailsmith.classification.prediction import SELECT_BY, Indexable, NotFinite, class_hits, predict, to_unit_range
from tailsmith.classification.resampling import Rows, batches, class_shares
from tailsmith.classification.saved import not_finite
from tailsmith.classification.train_config import StageTwoConfig, TrainConfig
from tailsmith.devices import chosen_device

Augment = Callable[[Tensor, torch.Generator], Tensor]  # float [B, 3, H, W] in [0, 1] -> the same
BatchLoss = Callable[[Tensor, Tensor, Rows], Tensor]  # logits [B, C], labels [B], training rows [B] -> [B]


class Diverged(ValueError):
    """The loss or the weights are no longer finite."""


@dataclass(frozen=True)
class StepRecord:
    """One step; the last record carries the classifier."""

    step: int  # 1..steps, over both stages where there are two
    steps: int
    loss: float  # mean over the global batch
    learning_rate: float
    validation: float | None  # accuracy in % that selects, where the step was evaluated
    classifier: Classifier | None  # on the last step: the one selected on validation, in evaluation mode


@dataclass(frozen=True)
class Examples:
    """Images and their labels, checked."""

    images: Indexable
    labels: Rows  # [n]


@dataclass(frozen=True)
class LearnedDraws:
    """A stage's batches come from the meta sampler."""

    settings: StageTwoConfig
    judges: list[Rows]  # per class, the rows that make the class-balanced batch


@dataclass(frozen=True)
class Stage:
    """All that one stage of training is given, but the classifier."""

    config: TrainConfig
    train: Examples
    pools: list[Rows]
    loss: BatchLoss
    validation: Examples | None
    augment: Augment | None
    learned_draws: LearnedDraws | None = None  # None: each pool hands out its rows uniformly


class Selection:
    """The classifier that validation likes best so far: of equals, and without validation, the later."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self._best = -math.inf

    def offer(self, classifier: Classifier, score: float | None) -> None:
        if score is None or score >= self._best:
            self.classifier = copy.deepcopy(classifier)
            self._best = -math.inf if score is None else score

    def finished(self) -> Classifier:
        self.classifier.zero_grad()
        return self.classifier.requires_grad_(True).eval()


def run_stage(
    stage: Stage, classifier: Classifier, selection: Selection, done: int, total: int
) -> Iterator[StepRecord]:
    """Train what of the classifier requires gradients; `done` of `total` steps lie behind this stage."""
    config = stage.config
    accelerator = Accelerator(cpu=chosen_device().type == "cpu")
    model, optimizer = accelerator.prepare(classifier, sgd(config, classifier))
    average = copy.deepcopy(classifier) if config.ema_decay else classifier
    for step, rows in enumerate(_order(stage, classifier, accelerator), start=1):
        rate = optimizer.param_groups[0]["lr"] = learning_rate_at(step, config)
        draws = generator(config.seed, step, accelerator.process_index)
        mine = _own(rows, accelerator)
        batch, labels = _batch(stage, mine, draws, accelerator.device)
        with _precision(config, accelerator.device):
            logits, _ = model(batch)
        # Processes average their gradients, so each scales its sum: their slices may differ by one image
        value = stage.loss(logits.float(), labels, mine).sum() * accelerator.num_processes / config.batch_size
        optimizer.zero_grad()
        accelerator.backward(value)
        optimizer.step()
        mean = _finite(float(accelerator.reduce(value.detach(), reduction="mean")), done + step, config)
        if config.ema_decay:
            update_average(average, classifier, average_decay(step, config.ema_decay))
        score = None
        if step == config.steps or step % config.evaluate_every == 0:
            score = _validate(average, stage, accelerator, done + step)
            selection.offer(average, score)
        kept = selection.finished() if done + step == total else None
        yield StepRecord(done + step, total, mean, rate, score, kept)


def head_alone(classifier: Classifier) -> Classifier:
    """A copy that trains its last layer only, with batch norm and dropout as at test time."""
    copied = copy.deepcopy(classifier).requires_grad_(False).eval()
    last_layer(copied.module).requires_grad_(True)
    return copied


def generator(*seeds: int, device: torch.device | None = None) -> torch.Generator:
    """A stream of its own for each tuple of seeds (trailing zeros don't count).

    torch's CPU generator keeps 32 bits of a seed: of the 326,000 steps of 90 epochs of ImageNet-LT about a dozen pairs
    share their augmentation draws, for other images. Harmless, and another seeding would change every seeded result.
    """
    state = np.random.SeedSequence(seeds).generate_state(1, np.uint64)
    return torch.Generator(device or torch.device("cpu")).manual_seed(int(state[0]))


# ----------------------------------------------------------------------------------------------------------
# Which rows a batch holds.


def _order(stage: Stage, classifier: Classifier, accelerator: Accelerator) -> Iterator[Rows]:
    if stage.learned_draws is not None:
        return _learned_order(stage, stage.learned_draws, classifier, accelerator)
    return batches(stage.pools, stage.config.batch_size, stage.config.steps, generator(stage.config.seed))


def _learned_order(
    stage: Stage, learned: LearnedDraws, classifier: Classifier, accelerator: Accelerator
) -> Iterator[Rows]:
    """Batches of the meta sampler, which makes a meta step before each (Ren et al., 2020, Algorithm 1).

    Features are computed anew at every step, with the augmentation of training: a cache of them would hold one view per
    image, and gigabytes with a million synthetic images. All processes make the same meta step.
    """
    config, settings, device = stage.config, learned.settings, accelerator.device
    labels = stage.train.labels
    shares = class_shares(stage.pools, labels, len(classifier.class_names))
    sampler = MetaSampler(
        stage.pools,
        labels,
        initial_scores(shares, settings.init_pow).to(device),
        settings.meta_learning_rate,
        generator(config.seed),
        generator(config.seed, 0, 0, 1, device=device),
    )
    judging = batches(learned.judges, settings.meta_batch_size, config.steps, generator(config.seed, 0, 0, 2))
    for step, meta_rows in enumerate(judging, start=1):
        draws = generator(config.seed, step, 0, 1)
        sampler.update(_meta_step(stage, classifier, sampler, meta_rows, learning_rate_at(step, config), draws, device))
        if accelerator.num_processes > 1:
            torch.distributed.broadcast(sampler.scores.data, src=0)
        yield sampler.draw(config.batch_size)


def _meta_step(
    stage: Stage,
    classifier: Classifier,
    sampler: MetaSampler,
    meta_rows: Rows,
    learning_rate: float,
    draws: torch.Generator,
    device: torch.device,
) -> Tensor:
    """The gradient of the sampler's scores: draw, step the head in thought, judge it on the class-balanced rows."""
    rows, weights = sampler.relaxed_draw(stage.config.batch_size)
    features, labels = _features(stage, classifier, rows, draws, device)
    meta_features, meta_labels = _features(stage, classifier, meta_rows, draws, device)

    def losses(logits: Tensor) -> Tensor:
        return stage.loss(logits, labels, rows)

    head = last_layer(classifier.module)
    return meta_gradient(sampler.scores, weights, head, features, losses, meta_features, meta_labels, learning_rate)


def _features(
    stage: Stage, classifier: Classifier, rows: Rows, draws: torch.Generator, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Features [b, D] of the frozen backbone, labels [b]."""
    batch, labels = _batch(stage, rows, draws, device)
    with torch.no_grad(), _precision(stage.config, device):
        _, features = classifier(batch)
    return features.float(), labels


def _batch(stage: Stage, rows: Rows, draws: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images float [b, 3, S, S] in [0, 1] and labels [b], on `device`."""
    images = to_unit_range(stage.train.images[rows], device)
    labels = torch.from_numpy(stage.train.labels[rows]).to(device)
    return (stage.augment(images, draws) if stage.augment else images), labels


def _own(rows: Rows, accelerator: Accelerator) -> Rows:
    """This process' contiguous slice."""
    mine: Rows = np.array_split(rows, accelerator.num_processes)[accelerator.process_index]
    return mine


# ----------------------------------------------------------------------------------------------------------


def _precision(config: TrainConfig, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")


def _validate(classifier: Classifier, stage: Stage, accelerator: Accelerator, step: int) -> float | None:
    """Accuracy in % as `select_by` has it, each process predicting its part; None without validation images.

    Diverged where this step left weights, or makes logits, that are no numbers: no loss has shown it yet.
    """
    if broken := not_finite(classifier.state_dict().items()):
        raise Diverged(
            f"training diverged: NaN or infinite weights after step {step} ({broken[0]}); lower learning_rate"
        )
    if accelerator.num_processes > 1:
        for buffer in classifier.buffers():
            torch.distributed.broadcast(buffer, src=0)
    validation = stage.validation
    if validation is None:
        return None
    rows = _own(np.arange(len(validation.labels)), accelerator)
    try:
        logits = predict(classifier, validation.images, rows=rows)
    except NotFinite as error:
        raise Diverged(f"training diverged: NaN or infinite logits after step {step}; lower learning_rate") from error
    predicted = logits.argmax(1).numpy()
    hits = torch.from_numpy(class_hits(predicted, validation.labels[rows], len(classifier.class_names)))
    everyones = accelerator.reduce(hits.to(accelerator.device), reduction="sum").cpu().numpy()
    return SELECT_BY[stage.config.select_by](everyones)


def _finite(loss: float, step: int, config: TrainConfig) -> float:
    if not math.isfinite(loss):
        raise Diverged(
            f"training diverged: loss {loss} at step {step}; lower learning_rate, now {config.learning_rate}"
        )
    return loss
