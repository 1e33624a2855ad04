"""One stage in progress: what a step does, and all that it changes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from tailsmith.classification import processes
from tailsmith.classification.batches import Rows
from tailsmith.classification.checkpoint import part, parts
from tailsmith.classification.classifier import Classifier
from tailsmith.classification.methods.contract import (
    Batch,
    Examples,
    Following,
    Moment,
    Review,
    Stage,
    Start,
    generator,
)
from tailsmith.classification.precision import LossScale, autocast, laid_out
from tailsmith.classification.prediction import NotFinite, ahead, makes_views, predict_images, to_unit_range
from tailsmith.classification.saved import not_finite
from tailsmith.classification.schedule import average_decay, learning_rate_at, sgd, update_average
from tailsmith.classification.selection import Labelled, score, score_heads
from tailsmith.classification.sources import Drawn, Source, drawn_seeds
from tailsmith.contracts import Indexable
from tailsmith.devices import chosen_device
from tailsmith.errors import UserError

Augment = Callable[[Tensor, torch.Generator], Tensor]  # float [B, 3, H, W] in [0, 1] -> the same


class Diverged(UserError):
    """The loss or the weights are no longer finite."""


@dataclass(frozen=True)
class Data:
    """The images of a training, the same in all stages."""

    train: Labelled
    validation: Labelled | None
    augment: Augment | None
    held_out: Indexable | None = None  # validation images that a method fits, rather than being selected by them


def review(data: Data, select_by: str, device: torch.device) -> Review:
    """What a finish may ask of these images."""

    def features(classifier: Classifier, rows: Rows) -> Tensor:
        return predict_images(classifier, data.train.images, rows=rows)[1]

    def held_out(classifier: Classifier) -> Tensor:
        assert data.held_out is not None  # as `fits_validation` has it
        return predict_images(classifier, data.held_out)[1]

    def heads(classifier: Classifier, layers: Sequence[nn.Module]) -> list[float | None]:
        return score_heads(classifier, layers, data.validation, select_by, device)

    return Review(features, held_out, heads)


class StageRun:
    """A stage that begins with `start`; `state_dict` and `load_state_dict` hold all that its steps change.

    `selected` is what the stage before ended with: where a stage begins anew, another classifier.
    """

    def __init__(self, stage: Stage, start: Classifier, selected: Classifier, data: Data) -> None:
        self.stage, self._data = stage, data
        self._accelerator = accelerator = new_accelerator()
        self.classifier = stage.prepare(start)
        laid_out(self.classifier, accelerator.device)
        begin = Start(accelerator.device, self.classifier, selected, self._logits)
        if isinstance(stage.objective, Following):
            stage.objective.begin(begin)
        self._loss_scale = LossScale(stage.config, accelerator.device)
        self._objective = stage.objective if isinstance(stage.objective, nn.Module) else None
        trained = nn.ModuleList([self.classifier, *([self._objective] if self._objective else [])])
        slower = stage.slower(self.classifier) if stage.slower else {}
        self._model, self._optimizer = accelerator.prepare(self.classifier, sgd(stage.config, trained, slower))
        self._losses: Any = stage.objective
        if self._objective is not None:
            self._objective.to(accelerator.device)
            if any(each.requires_grad for each in self._objective.parameters()):
                self._losses = accelerator.prepare(self._objective)
        self._average = copy.deepcopy(self.classifier) if stage.config.ema_decay else self.classifier
        settings = stage.config.seed, stage.config.steps, stage.views
        self._sources = [
            Source(stream(begin), data.train.images, number, *settings) for number, stream in enumerate(stage.streams)
        ]
        self.learning_rate, self._at = 0.0, 0

    def step(self, step: int, before: int, stop: bool) -> tuple[float, bool]:
        """The mean loss of step 1..steps of this stage, and whether any process wants to stop."""
        config, device = self.stage.config, self._accelerator.device
        self.learning_rate, self._at = learning_rate_at(step, config), before + step
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate * group["pace"]
        progress = (step - 1) / config.steps
        batch, own, everyones = self._batch(step, progress)
        with _drawing_from(config.seed, step, device), autocast(config, device):
            logits, features = self._model(batch.images)
        losses = self._losses(logits.float(), features.float(), batch, progress)
        # Processes average their gradients, so each scales its sum: their slices may differ by one image
        size = len(losses) * everyones / own if own else everyones
        value = losses.sum() * self._accelerator.num_processes / size
        self._optimizer.zero_grad()
        self._accelerator.backward(self._loss_scale.scale(value))
        self._loss_scale.step(self._optimizer)
        self._loss_scale.update()
        together = self._accelerator.reduce(torch.stack([value.detach(), value.new_tensor(float(stop))]), "mean")
        mean, stopping = together.tolist()
        if not math.isfinite(mean):
            raise Diverged(
                f"training diverged: loss {mean} at step {self._at}; lower learning_rate, now {config.learning_rate}"
            )
        if config.ema_decay:
            update_average(self._average, self.classifier, average_decay(step, config.ema_decay))
        return mean, stopping > 0

    def candidate(self) -> Classifier:
        """What would be kept if the stage ended here; Diverged where weights are no numbers, as no loss shows yet."""
        if broken := not_finite(self._average.state_dict().items()):
            raise Diverged(
                f"training diverged: NaN or infinite weights after step {self._at} ({broken[0]}); lower learning_rate"
            )
        for buffer in self._average.buffers():
            processes.from_first(buffer)
        if self.stage.finish is None:
            return self._average
        asked = review(self._data, self.stage.config.select_by, self._accelerator.device)
        return self.stage.finish(copy.deepcopy(self._average), asked)

    def score(self, classifier: Classifier) -> float | None:
        """On validation; Diverged where the classifier's answers are no numbers."""
        try:
            return score(classifier, self._data.validation, self.stage.config.select_by, self._accelerator.device)
        except NotFinite as error:
            raise Diverged(
                f"training diverged: NaN or infinite logits after step {self._at}; lower learning_rate"
            ) from error

    # ------------------------------------------------------------------------------------------------------

    def _batch(self, step: int, progress: float) -> tuple[Batch, int, int]:
        """What the classifier gets to see; how many rows it is made from, here and in all processes together."""
        config, process = self.stage.config, processes.index()
        moment = Moment(step, progress, self.learning_rate, self._features)
        draws = generator(config.seed, step, process)
        drawn = [each.take(moment) for each in self._sources]
        streams = tuple(self._examples(each, draws) for each in drawn)
        batch = self.stage.transform(streams, generator(config.seed, step, process, 2), progress)
        return batch, len(streams[0].rows), drawn[0].everyones

    def _examples(self, drawn: Drawn, draws: torch.Generator) -> Examples:
        stored = [self._unit_range(each()) for each in drawn.views]
        if len(stored) < self.stage.views:  # the test view, from which the batch is augmented
            stored *= self.stage.views
        return Examples(drawn.rows, self._labels(drawn.rows), tuple(self._augmented(each, draws) for each in stored))

    def _features(self, rows: Rows, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """Features [b, D] of the classifier as it is, of augmented images; labels [b]."""
        images = self._data.train.images
        stored = self._unit_range(ahead(images, rows, drawn_seeds(len(rows), draws) if makes_views(images) else None)())
        with torch.no_grad(), autocast(self.stage.config, self._accelerator.device):
            _, features = self.classifier(self._augmented(stored, draws))
        return features.float(), self._labels(rows)

    def _logits(self, classifier: Classifier, rows: Rows) -> Tensor:
        return predict_images(classifier, self._data.train.images, rows=rows)[0]

    def _labels(self, rows: Rows) -> Tensor:
        return torch.from_numpy(self._data.train.labels[rows]).to(self._accelerator.device)

    def _unit_range(self, pixels: Any) -> Tensor:
        return to_unit_range(pixels, self._accelerator.device)

    def _augmented(self, images: Tensor, draws: torch.Generator) -> Tensor:
        return self._data.augment(images, draws) if self._data.augment else images

    # ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        state: dict[str, Mapping[str, Tensor]] = {"model": self.classifier.module.state_dict()}
        if self.stage.config.ema_decay:
            state["average"] = self._average.module.state_dict()
        if self._objective is not None:
            state["objective"] = self._objective.state_dict()
        for number, buffers in self._optimizer.state_dict()["state"].items():
            state[f"optimizer.{number}"] = {name: value for name, value in buffers.items() if value is not None}
        state["loss_scale"] = self._loss_scale.tensors()
        for number, source in enumerate(self._sources):
            state[f"stream.{number}"] = source.state_dict()
        return parts(state)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.classifier.module.load_state_dict(part(state, "model"))
        if self.stage.config.ema_decay:
            self._average.module.load_state_dict(part(state, "average"))
        if self._objective is not None:
            self._objective.load_state_dict(part(state, "objective"))
        parameters = [each for group in self._optimizer.param_groups for each in group["params"]]
        for number, parameter in enumerate(parameters):
            for name, value in part(state, f"optimizer.{number}").items():
                # In the parameter's own memory layout, as the buffer was: another one rounds differently
                self._optimizer.state[parameter][name] = torch.empty_like(parameter).copy_(value)
        self._loss_scale.load_tensors(part(state, "loss_scale"))
        for number, source in enumerate(self._sources):
            source.load_state_dict(part(state, f"stream.{number}"))


def new_accelerator() -> Accelerator:
    """One per stage, for it holds on to what it prepares; the first one joins torchrun's processes."""
    return Accelerator(cpu=chosen_device().type == "cpu")


@contextmanager
def _drawing_from(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Layers that draw (dropout) do so from the global generators: for a step these are the training's own."""
    module = None if device.type == "cpu" else torch.get_device_module(device)
    earlier = torch.get_rng_state(), module.get_rng_state() if module else None
    state = int(np.random.SeedSequence((seed, step, processes.index(), 3)).generate_state(1)[0])
    torch.default_generator.manual_seed(state)  # torch.manual_seed would reseed all devices
    if module:
        module.manual_seed(state)
    try:
        yield
    finally:
        torch.set_rng_state(earlier[0])
        if module:
            module.set_rng_state(earlier[1])
