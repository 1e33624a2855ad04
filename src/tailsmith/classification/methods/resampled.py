"""Square-root and progressively balanced resampling (Kang et al., 2020, section 3)."""

from __future__ import annotations

from dataclasses import dataclass

from tailsmith.classification.methods.contract import Method, Stage, Task
from tailsmith.classification.methods.objectives import softmax
from tailsmith.classification.methods.parts import everything
from tailsmith.classification.methods.streams import Counts, Shares, by_class
from tailsmith.errors import UserError


@dataclass(frozen=True)
class Resampled(Method):
    """A class is drawn with p_c ~ n_c ** power: 1 as images come, 1/2 square-root, 0 class-balanced (their Eq. 1)."""

    power: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.power <= 1:
            raise UserError(f"resampled:power should be in 0..1, got {self.power}")

    def stages(self, task: Task) -> list[Stage]:
        return [drawn_stage(task, lambda _, counts: (counts > 0) * counts**self.power)]


@dataclass(frozen=True)
class Progressive(Method):
    """From images as they come to balanced classes: p_c = (1 - t) n_c / N + t / C at share t of training (Eq. 2)."""

    def stages(self, task: Task) -> list[Stage]:
        def shares(progress: float, counts: Counts) -> Counts:
            there = counts > 0
            mixed: Counts = (1 - progress) * counts / counts.sum() + progress * there / there.sum()
            return mixed

        return [drawn_stage(task, shares)]


def drawn_stage(task: Task, shares: Shares) -> Stage:
    """All of the classifier, trained by cross-entropy on rows of classes that are drawn with these shares."""
    config = task.settled(task.config)
    stream = by_class(task.pools, task.labels, shares, config)
    return Stage(config, (stream,), softmax(task, config, "erm"), everything)
