"""What a denoiser's output means: x0-hat, and the two ways in which feedback moves a sampling step.

Notation: the scheduler's sample is x = a x0 + s eps. Variance preserving: a^2 + s^2 = 1; variance exploding
(Euler, Heun): a = 1; flow matching: a = 1 - s. n = sqrt(a^2 + s^2). The output is diffusers' "epsilon",
"v_prediction" (v = (a eps - s x0) / n), "sample" (x0) or "flow" (eps - x0). g = gradient of the criterion with
respect to x.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample", "flow")
# Stable Diffusion's noisiest step has a / n = 0.068, linear betas end at 0.006. Flow matching and zero-terminal-SNR
# schedules begin with no signal at all, where a constant eps would send x0-hat to infinity.
VANISHING_SIGNAL = 1e-3


@dataclass(frozen=True)
class Noising:
    """How much of the scheduler's sample is signal and noise at one step, and what the denoiser predicts."""

    signal: float  # a
    noise: float  # s
    prediction_type: str
    signal_after: float = 1.0  # a / n after this step

    @property
    def length(self) -> float:  # n
        return math.hypot(self.signal, self.noise)

    @property
    def reach(self) -> float:
        """How far x0-hat moves per unit of x when eps stays: 1 / a, or where that vanishes, as after this step."""
        vanishes = self.signal < VANISHING_SIGNAL * self.length
        return 1 / (self.signal_after * self.length if vanishes else self.signal)


def predicted_x0(model_output: Tensor, sample: Tensor, at: Noising) -> Tensor:
    """x0-hat, the "predicted x0" of Eq. 1."""
    if at.prediction_type == "epsilon":
        return (sample - at.noise * model_output) / at.signal
    if at.prediction_type == "v_prediction":
        return (at.signal / at.length**2) * sample - (at.noise / at.length) * model_output
    if at.prediction_type == "flow":
        return sample - at.noise * model_output
    return model_output


def move_latent(model_output: Tensor, sample: Tensor, shift: Tensor, at: Noising) -> tuple[Tensor, Tensor]:
    """The official code's update: x += shift while eps stays, so x0-hat += shift / a. -> (model output, sample)"""
    return _moved(model_output, sample, at, shift, shift * at.reach)


def move_score(model_output: Tensor, sample: Tensor, shift: Tensor, at: Noising) -> tuple[Tensor, Tensor]:
    """The paper's update: score += shift, that is eps -= s shift, at an unmoved x (Eq. 3). -> (model output,
    sample)
    """
    return _moved(model_output, sample, at, None, shift * (at.noise**2 * at.reach))


def _moved(
    model_output: Tensor, sample: Tensor, at: Noising, of_sample: Tensor | None, of_x0: Tensor
) -> tuple[Tensor, Tensor]:
    """Sample and x0-hat moved by so much; the output is what then predicts that x0-hat."""
    still = torch.zeros((), device=sample.device)
    dx = of_sample if of_sample is not None else still
    if at.prediction_type == "epsilon":
        change = (dx - at.signal * of_x0) / at.noise
    elif at.prediction_type == "v_prediction":
        change = ((at.signal / at.length**2) * dx - of_x0) * (at.length / at.noise)
    elif at.prediction_type == "flow":
        change = (dx - of_x0) / at.noise
    else:
        change = of_x0
    moved = sample if of_sample is None else sample + of_sample.to(sample.dtype)
    return model_output + change.to(model_output.dtype), moved


def relative_step(gradient: Tensor, sample: Tensor, scale: Tensor) -> Tensor:
    """omega ||x|| g / ||g||, norms per image in fp32: omega is a fraction of the latent's length."""
    length = torch.linalg.vector_norm(sample.float().flatten(1), dim=1)  # [N]
    steepness = torch.linalg.vector_norm(gradient.float().flatten(1), dim=1)
    return over_images(scale * length, gradient) * gradient.float() / over_images(steepness, gradient)


def over_images(values: Tensor, like: Tensor) -> Tensor:
    """One value per image, [N] -> [N, 1, ...], to multiply with `like`."""
    shape = (len(values),) + (1,) * (like.ndim - 1)
    return values.reshape(shape)
