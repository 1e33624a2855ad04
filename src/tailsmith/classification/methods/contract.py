"""What a method is: stages, each a recipe for one call of the training loop (../loop.py).

A method is a frozen dataclass in a file of its own: its fields are its settings, `stages` says how it trains. What it
is made of are functions: what trains (parts.py), what a batch is (streams.py), what the loss is (objectives.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tailsmith.classification.batches import RESAMPLING, Rows, epoch_rows
from tailsmith.classification.classifier import Classifier
from tailsmith.classification.config import TrainConfig


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The validation images that a method may fit; the others select. `Review.held_out` has their features."""

    labels: Rows  # [h]
    groups: Rows  # [h], -1 where an image has none


@dataclass(frozen=True, eq=False)
class Task:
    """All that a method may look at to make its stages; no images."""

    config: TrainConfig
    labels: Rows  # [n], of the training rows, as are the next two
    groups: Rows  # [n], -1 where an image has none
    is_synthetic: npt.NDArray[np.bool_]  # [n]
    class_names: tuple[str, ...]
    num_attributes: int = 0  # A of groups = label * A + attribute; 0 = no attributes
    has_validation: bool = True
    held_out: HeldOut | None = None  # of a method with `fits_validation`

    @cached_property
    def pools(self) -> list[Rows]:
        """Of `config.resampling`; ValueError where the data hasn't what it needs."""
        return RESAMPLING[self.config.resampling](self.labels, self.groups, self.is_synthetic)

    def counts(self, synthetic: bool) -> npt.NDArray[np.int64]:
        """Real or synthetic training images of each class, [C]."""
        chosen = self.is_synthetic if synthetic else ~self.is_synthetic
        return np.bincount(self.labels[chosen], minlength=len(self.class_names))

    @property
    def attributes(self) -> Rows:
        """[n], -1 where an image has none."""
        return np.where(self.groups < 0, -1, self.groups % max(self.num_attributes, 1))

    def settled(self, config: TrainConfig) -> TrainConfig:
        """With the steps that its epochs are here; the last batch of one may reach into the next, none is smaller."""
        if config.epochs is None:
            return config
        steps = config.epochs * -(-epoch_rows(config.resampling, self.is_synthetic) // config.batch_size)
        return replace(config, steps=steps)


# ----------------------------------------------------------------------------------------------------------
# What passes through a step.


@dataclass(frozen=True)
class Examples:
    """One stream's share of a step in this process."""

    rows: Rows  # [b]
    labels: Tensor  # [b]
    views: tuple[Tensor, ...]  # each float [b, 3, S, S] in [0, 1]: the same images, augmented anew


@dataclass(frozen=True)
class Batch:
    """What the classifier sees in a step, and what the objective knows of it."""

    images: Tensor  # float [B, 3, S, S] in [0, 1]
    labels: Tensor  # [B]
    rows: Rows  # [B], training rows; of mixed images those of the first
    targets: Tensor | None = None  # [B, C], rows that sum to 1, instead of labels
    others: Tensor | None = None  # float [b, 3, S, S] that the objective alone sees

    @property
    def wanted(self) -> Tensor:
        """What a cross-entropy takes: targets [B, C] where there are any, else labels [B]."""
        return self.labels if self.targets is None else self.targets


@dataclass(frozen=True)
class Start:
    """Given to a stream when its stage begins."""

    device: torch.device
    classifier: Classifier  # the one that this stage trains
    selected: Classifier  # the one that it was made from, of the stage before
    logits: Callable[[Classifier, Rows], Tensor]  # training rows [n] -> [n, C] on the CPU, in the test view


@dataclass(frozen=True)
class Moment:
    """Given to a stream before every step, for those that ask the classifier what to draw."""

    step: int  # 1..steps of this stage
    progress: float  # share of the stage that is done, from 0, below 1
    learning_rate: float
    # rows, a CPU generator for their augmentation -> features [b, D] of the classifier as it is now, labels [b]
    features: Callable[[Rows, torch.Generator], tuple[Tensor, Tensor]]


class Stream(Protocol):
    """Where rows come from. It owns its state: loaded into a stream of the same start, it goes on as it would have.

    One with the attribute `runs_ahead = True` looks at no more of the moment than the step: it is asked for the rows of
    later steps, so that their images are read while the model computes. Its states stay as they were given out.
    """

    def next(self, moment: Moment) -> Rows:
        """[batch size] rows for all processes together, the same in each of them."""

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


@dataclass(frozen=True)
class Review:
    """What a finish may ask. Features are on the CPU, in the test view."""

    features: Callable[[Classifier, Rows], Tensor]  # training rows [n] -> [n, D]
    held_out: Callable[[Classifier], Tensor]  # of the validation images of `Task.held_out`: [h, D]
    # last layers -> the accuracy in % that selects, of each upon the classifier's features; None without validation
    heads: Callable[[Classifier, Sequence[nn.Module]], list[float | None]]


OpenStream = Callable[[Start], Stream]
Prepare = Callable[[Classifier], Classifier]  # a copy, in the mode in which it trains; see parts.py
Transform = Callable[[tuple[Examples, ...], torch.Generator, float], Batch]  # one per stream, draws, progress
Finish = Callable[[Classifier, Review], Classifier]
Slower = Callable[[Classifier], dict[nn.Parameter, float]]


class Objective(Protocol):
    """logits [B, C], features [B, D], the batch, progress -> the loss of every image, [B]; the loop takes their mean.

    A `torch.nn.Module` has its parameters trained with the classifier, and its buffers and parameters in checkpoints.
    """

    def __call__(self, logits: Tensor, features: Tensor, batch: Batch, progress: float, /) -> Tensor: ...


class Following(nn.Module):
    """An objective that looks at the classifier which it trains, or whose parameters have the size of its features."""

    def begin(self, start: Start) -> None:
        """Called once, before the first step and before a checkpoint is loaded."""
        raise NotImplementedError


def as_they_come(streams: tuple[Examples, ...], draws: torch.Generator, progress: float) -> Batch:
    """All views of all streams, one after the other."""
    views = [(each, images) for each in streams for images in each.views]
    if len(views) == 1:
        ((only, images),) = views
        return Batch(images, only.labels, only.rows)
    return Batch(
        torch.cat([images for _, images in views]),
        torch.cat([each.labels for each, _ in views]),
        np.concatenate([each.rows for each, _ in views]),
    )


# ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """One stage of training. Each begins with the classifier selected in the one before."""

    config: TrainConfig  # steps, batch size, optimiser, schedule, averaging, precision and seed of this stage
    streams: tuple[OpenStream, ...]
    objective: Objective
    prepare: Prepare
    views: int = 1  # of every image
    transform: Transform = as_they_come
    finish: Finish | None = None  # of a copy, at every look at validation: what is selected is what it makes
    earlier_may_win: bool = False  # whether validation may prefer the classifier that this stage began with
    anew: bool = False  # begins with the untrained classifier; `Start.selected` is still that of the stage before
    slower: Slower | None = None  # parameters of the classifier that take a fraction of the learning rate
    rows_per_image: int = 1  # that a stream gives for each image of the batch, where `transform` makes one of several

    @property
    def images_seen(self) -> int:
        """Views of images that all its steps read."""
        return self.config.steps * self.config.batch_size * len(self.streams) * self.views * self.rows_per_image


class Method(ABC):
    """How a classifier is trained: a frozen dataclass, of which the fields are the settings, all with defaults.

    `__post_init__` refuses what they can't be with a ValueError; `stages` what the data can't be.
    """

    needs_last_layer: ClassVar[bool] = False  # whether the backbone has to end in a linear layer
    fits_validation: ClassVar[bool] = False  # whether it fits half of the validation images; the other half selects

    @abstractmethod
    def stages(self, task: Task) -> list[Stage]: ...

    def final(self, task: Task) -> Finish | None:
        """What is made of the classifier in the end, once, where the stages alone don't make it."""
        return None


def seed_of_stage(seed: int, number: int) -> int:
    """Of a second stage (2), a third (3) and so on: other draws than the first stage's."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


def generator(*seeds: int, device: torch.device | None = None) -> torch.Generator:
    """A stream of its own for each tuple of seeds (trailing zeros don't count).

    torch's CPU generator keeps 32 bits of a seed: of the 326,000 steps of 90 epochs of ImageNet-LT about a dozen pairs
    share their augmentation draws, for other images. Harmless, and another seeding would change every seeded result.
    """
    state = np.random.SeedSequence(seeds).generate_state(1, np.uint64)
    return torch.Generator(device or torch.device("cpu")).manual_seed(int(state[0]))


@contextmanager
def drawing_layers(*seeds: int) -> Iterator[None]:
    """Layers made in this block draw their weights as `generator(*seeds)` would; torch's own goes on as before."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(generator(*seeds).initial_seed())  # torch.manual_seed would reseed GPUs
        yield
