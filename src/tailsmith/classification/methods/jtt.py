"""JTT, just train twice (Liu et al., 2021): what a first classifier gets wrong is drawn more often by a second one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tailsmith.classification.batches import Rows
from tailsmith.classification.config import TrainConfig
from tailsmith.classification.methods.contract import Method, Moment, Stage, Start, Task, seed_of_stage
from tailsmith.classification.methods.objectives import softmax
from tailsmith.classification.methods.parts import everything
from tailsmith.classification.methods.second_stage import first_stage
from tailsmith.classification.methods.streams import Weighted
from tailsmith.errors import UserError
from tailsmith.settings import check_above_zero


@dataclass(frozen=True)
class JTT(Method):
    """The second begins anew; an image that the first got wrong weighs `upweight` times another. No groups needed.

    Both together take the steps of one training, as in SubpopBench.
    """

    fraction: float = 0.5  # of the steps, for the first classifier
    upweight: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise UserError(f"jtt:fraction should be between 0 and 1, got {self.fraction}")
        check_above_zero(self, ("upweight",), "jtt:")

    def stages(self, task: Task) -> list[Stage]:
        first = first_stage(task, "erm")
        steps = max(1, round(self.fraction * first.config.steps))
        config = replace(
            first.config, steps=max(1, first.config.steps - steps), seed=seed_of_stage(task.config.seed, 2)
        )
        second = Stage(
            config,
            (lambda start: Mistakes(task, config, self.upweight, start),),
            softmax(task, config, "erm"),
            everything,
            anew=True,
        )
        return [replace(first, config=replace(first.config, steps=steps)), second]


class Mistakes:
    """The stream: rows of each pool by weight; the weights belong to its state, for the first classifier is gone."""

    runs_ahead = True

    def __init__(self, task: Task, config: TrainConfig, upweight: float, start: Start) -> None:
        predicted = start.logits(start.selected, np.arange(len(task.labels))).argmax(1).numpy()
        self._task, self._config, self._upweight = task, config, upweight
        self._draw(predicted != task.labels)

    def next(self, moment: Moment) -> Rows:
        return self._rows.next(moment)

    def state_dict(self) -> dict[str, Tensor]:
        return {"wrong": torch.from_numpy(self._wrong)} | self._rows.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._draw(state["wrong"].numpy())
        self._rows.load_state_dict(state)

    def _draw(self, wrong: np.ndarray) -> None:
        self._wrong = wrong
        weights = np.zeros(len(wrong))
        for pool in self._task.pools:  # which count alike
            of_pool = np.where(wrong[pool], self._upweight, 1.0)
            weights[pool] += of_pool / of_pool.sum()
        self._rows = Weighted(weights, self._config)
