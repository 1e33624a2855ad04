"""Fill-Up's training (Shin et al., 2023): real and synthetic images alike, then real ones by balanced softmax."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from tailsmith.classification.methods.contract import Method, Stage, Task, seed_of_stage
from tailsmith.classification.methods.objectives import softmax
from tailsmith.classification.methods.parts import everything
from tailsmith.classification.methods.second_stage import first_stage
from tailsmith.classification.methods.streams import passes
from tailsmith.errors import UserError


@dataclass(frozen=True)
class FillUp(Method):
    """Cross-entropy on all images; for the last share of the steps real images alone, at a lower learning rate."""

    real_share: float = 0.2
    learning_rate_factor: float = 0.1

    def __post_init__(self) -> None:
        for name in ("real_share", "learning_rate_factor"):
            if not 0 < getattr(self, name) < 1:
                raise UserError(f"fill_up:{name} should be between 0 and 1, got {getattr(self, name)}")

    def stages(self, task: Task) -> list[Stage]:
        first = first_stage(task, "erm")
        steps = max(1, round(self.real_share * first.config.steps))
        config = replace(
            first.config,
            resampling="uniform",
            steps=steps,
            learning_rate=self.learning_rate_factor * first.config.learning_rate,
            warmup_fraction=0.0,
            seed=seed_of_stage(task.config.seed, 2),
        )
        real = np.flatnonzero(~task.is_synthetic)
        if not len(real):
            raise UserError("method fill_up ends on real images, and there are none; use another method")
        second = Stage(config, (passes([real], config),), softmax(task, config, "balanced_softmax"), everything)
        return [replace(first, config=replace(first.config, steps=max(1, first.config.steps - steps))), second]
