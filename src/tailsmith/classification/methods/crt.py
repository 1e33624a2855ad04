"""cRT, classifier re-training (Kang et al., 2020): features from all images alike, a new head from balanced ones."""

from __future__ import annotations

from dataclasses import dataclass

from tailsmith.classification.batches import Rows, class_balanced, group_balanced
from tailsmith.classification.methods.contract import Method, Stage, Task
from tailsmith.classification.methods.objectives import softmax
from tailsmith.classification.methods.parts import fresh_head
from tailsmith.classification.methods.reweighting import strata_of
from tailsmith.classification.methods.second_stage import balanced_config, first_stage
from tailsmith.classification.methods.streams import passes
from tailsmith.settings import check_above_zero, check_whole


@dataclass(frozen=True)
class CRT(Method):
    """Cross-entropy in both stages; the backbone is frozen in the second, batch norm's statistics too."""

    head_steps: int = 500
    head_epochs: int | None = None  # instead of steps; 10 in the paper
    head_learning_rate: float = 0.2  # falls as a cosine, without warm-up

    needs_last_layer = True

    def __post_init__(self) -> None:
        check_whole(self, ("head_steps", "head_epochs"), "crt:")
        check_above_zero(self, ("head_learning_rate",), "crt:")

    def stages(self, task: Task) -> list[Stage]:
        return self._retrained(task, class_balanced(task.labels, task.groups, task.is_synthetic))

    def _retrained(self, task: Task, balanced: list[Rows]) -> list[Stage]:
        config = balanced_config(task, self.head_steps, self.head_epochs, self.head_learning_rate)
        objective = softmax(task, config, "erm")
        retrained = Stage(config, (passes(balanced, config),), objective, fresh_head(config.seed))
        return [first_stage(task, "erm"), retrained]


@dataclass(frozen=True)
class CRTGroup(CRT):
    """With batches in which every group, not class, is as frequent (SubpopBench's CRT)."""

    def stages(self, task: Task) -> list[Stage]:
        strata_of(task, "group", "crt_group")
        return self._retrained(task, group_balanced(task.labels, task.groups, task.is_synthetic))
