"""LWS, learnable weight scaling (Kang et al., 2020): a scale for the logits of every class, from balanced images."""

from __future__ import annotations

from dataclasses import dataclass

from tailsmith.classification.batches import class_balanced
from tailsmith.classification.methods.contract import Method, Stage, Task
from tailsmith.classification.methods.objectives import softmax
from tailsmith.classification.methods.parts import fold_scale, scaled_head
from tailsmith.classification.methods.second_stage import balanced_config, first_stage
from tailsmith.classification.methods.streams import passes
from tailsmith.settings import check_above_zero, check_whole


@dataclass(frozen=True)
class LWS(Method):
    """Cross-entropy in both stages; in the second z_c = s_c (w_c f + b_c), with s alone trained and then folded in."""

    scale_steps: int = 250
    scale_epochs: int | None = None  # instead of steps; 5 in the paper
    scale_learning_rate: float = 0.2  # falls as a cosine, without warm-up

    needs_last_layer = True

    def __post_init__(self) -> None:
        check_whole(self, ("scale_steps", "scale_epochs"), "lws:")
        check_above_zero(self, ("scale_learning_rate",), "lws:")

    def stages(self, task: Task) -> list[Stage]:
        config = balanced_config(task, self.scale_steps, self.scale_epochs, self.scale_learning_rate)
        balanced = class_balanced(task.labels, task.groups, task.is_synthetic)
        objective = softmax(task, config, "erm")
        scaled = Stage(config, (passes(balanced, config),), objective, scaled_head, finish=fold_scale)
        return [first_stage(task, "erm"), scaled]
