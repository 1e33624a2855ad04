"""Empirical risk minimisation: cross-entropy on the images as `resampling` hands them out."""

from __future__ import annotations

from dataclasses import dataclass

from tailsmith.classification.methods.contract import Method, Stage, Task
from tailsmith.classification.methods.second_stage import first_stage, with_second_stage


@dataclass(frozen=True)
class ERM(Method):
    """With `stage_two` the last layer is trained on."""

    def stages(self, task: Task) -> list[Stage]:
        return with_second_stage(task, first_stage(task, "erm"))
