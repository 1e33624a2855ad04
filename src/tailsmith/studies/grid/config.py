"""What a grid varies and what it holds. No torch here: the command line reads it to print its help."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tailsmith.errors import UserError
from tailsmith.synthesis.config import SynthesisConfig


@dataclass(frozen=True)
class GridConfig:
    """The steps of each axis, every combination of which is a cell, and how all cells are made.

    Where an axis has to stand still, it stands at its step nearest to what `synthesis` says.
    """

    classes: tuple[str, ...] | None = None  # names of classes (of groups with --per group); None = the two rarest
    per: str = "class"  # class | group
    guidance_scales: tuple[float, ...] = (1.0, 3.0, 5.0)  # gammas, classifier-free
    feedback_scales: tuple[float, ...] = (0.0, 0.01, 0.02, 0.04)  # omegas; 0 = no feedback
    dropouts: tuple[float, ...] = (0.0, 0.3, 0.7, 0.9)  # shares of the image embedding's entries set to zero
    conditionings: tuple[str, ...] = ("text", "image", "image+text")  # among text | image | image+text
    criteria: tuple[str, ...] = ("entropy", "loss", "hardness")  # among entropy | loss | hardness
    seeds: tuple[int, ...] = (0,)  # one image per cell each, all of one conditioning image
    num_inference_steps: int | None = None  # None = synthesis.num_inference_steps
    batch_size: int = 64  # images at a time
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)  # all that is no axis

    def __post_init__(self) -> None:
        if self.per not in ("class", "group"):
            raise UserError(f"per should be 'class' or 'group', got {self.per!r}")
        if self.batch_size < 1:
            raise UserError(f"batch_size should be at least 1, got {self.batch_size}")
        if self.synthesis.seed not in (0, *self.seeds):
            raise UserError(
                f"synthesis.seed is {self.synthesis.seed}, but seeds are an axis of the grid, {list(self.seeds)}; give "
                "it with --seeds"
            )
        if self.num_inference_steps and self.synthesis.num_inference_steps not in (None, self.num_inference_steps):
            raise UserError(
                f"num_inference_steps is {self.num_inference_steps} and synthesis.num_inference_steps "
                f"{self.synthesis.num_inference_steps}; give one of them"
            )

    @property
    def base(self) -> SynthesisConfig:
        """What the requests of all cells have in common."""
        if self.num_inference_steps is None:
            return self.synthesis
        return replace(self.synthesis, num_inference_steps=self.num_inference_steps)
