"""Every setting of feedback, said once. Nothing heavy is imported: help texts read this."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tailsmith.errors import UserError

UPDATES = ("latent", "score")
PREDICTIONS = ("conditional", "guided")
THROUGH = ("denoiser", "denoiser-forward", "decoder")
CRITERION_NAMES = ("entropy", "loss", "hardness")
PER_IMAGE = ("criterion", "scale")  # settings that each request has for itself; the others are a pipeline call's


@dataclass(frozen=True)
class FeedbackConfig:
    """How the classifier steers sampling (section 3.1); docs/feedback.md says what each choice costs.

    Each request of a plan has its own criterion and scale; all else is the same for a whole pipeline call.
    """

    criterion: str | dict[str, float] = "entropy"  # a dict draws one per image, e.g. {"entropy": .5, "loss": .5}
    scale: float = 0.03  # omega; 0 = no feedback
    every: int = 5  # guide the steps 0, every, 2 every, ...
    steps: tuple[int, ...] | None = None  # explicit steps, from 0, instead of every n-th
    update: str = "latent"  # latent: x_t by scale ||x_t|| g / ||g||, as the official code | score: by scale g (Eq. 3)
    prediction: str = "conditional"  # whose x0-hat the classifier sees: conditional (branch) | guided (both)
    through: str = "denoiser"  # denoiser (exact) | denoiser-forward (one more forward pass) | decoder
    decoder: str = "own"  # own | tiny | an AutoencoderTiny's folder or hub id: shows x0-hat to the classifier
    decode_size: int | None = None  # pixels of that view's short side, by resizing the latents
    decode_batch_size: int | None = None  # images decoded at a time, for memory; None = by their pixels
    reuse: bool = False  # follow the last gradient between guided steps too (appendix G.1)
    checkpointing: bool = False  # less memory for the backward pass, more time
    views: int = 1  # average the criterion over this many random views of x0-hat


def check_feedback(config: FeedbackConfig, where: str = "") -> None:
    """Raise ValueError for settings that mean nothing, whatever the pipeline; `where` begins their names."""
    _check_criterion(config.criterion, where)
    if not math.isfinite(config.scale) or config.scale < 0:
        raise UserError(f"{where}scale should be finite and not negative, got {config.scale}")
    if config.steps is not None and any(step < 0 for step in config.steps):
        raise UserError(f"{where}steps are counted from 0, got {sorted(config.steps)}")
    for name, known in (("update", UPDATES), ("prediction", PREDICTIONS), ("through", THROUGH)):
        if (given := getattr(config, name)) not in known:
            raise UserError(f"{where}{name} should be one of {list(known)}, got {given!r}")
    for name, unit in (("every", ""), ("views", ""), ("decode_size", " pixel"), ("decode_batch_size", "")):
        given = getattr(config, name)
        if given is not None and given < 1:
            raise UserError(f"{where}{name} should be at least 1{unit}, got {given}")


def _check_criterion(criterion: str | dict[str, float], where: str) -> None:
    for name in [criterion] if isinstance(criterion, str) else criterion:
        if name not in CRITERION_NAMES:
            raise UserError(f"{where}criterion should be one of {list(CRITERION_NAMES)}, got {name!r}")
    if not isinstance(criterion, str):
        weights = list(criterion.values())
        if not all(weight >= 0 for weight in weights) or not 0 < sum(weights) < math.inf:
            raise UserError(f"weights of a {where}criterion mixture should be positive, got {criterion}")
