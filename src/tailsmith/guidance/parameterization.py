"""What a denoiser's output means: x0-hat, and the two ways in which feedback moves a sampling step.

Notation: x_t = a x0 + s eps with a = sqrt(alpha_bar_t), s = sqrt(1 - alpha_bar_t); g = gradient of the
criterion with respect to x_t; `prediction_type` is diffusers' "epsilon", "v_prediction" (v = a eps - s x0)
or "sample" (x0).
"""

from typing import Any

import torch
from torch import Tensor

SCHEDULERS = ("DDIMScheduler", "DDPMScheduler")  # discrete, variance-preserving, one model call per step
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


def check_scheduler(scheduler: Any) -> None:
    """Raise ValueError unless this module's formulas hold for the scheduler."""
    name, prediction_type = type(scheduler).__name__, scheduler.config.prediction_type
    if name not in SCHEDULERS:
        raise ValueError(
            f"feedback supports the schedulers {list(SCHEDULERS)}, got {name}; set "
            "pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config), as the paper does"
        )
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(f"prediction_type should be one of {list(PREDICTION_TYPES)}, got {prediction_type!r}")


def signal_and_noise(scheduler: Any, timestep: Any) -> tuple[float, float]:
    """(a, s) at a timestep."""
    alpha_bar = float(scheduler.alphas_cumprod[int(timestep)])
    return alpha_bar**0.5, (1 - alpha_bar) ** 0.5


def predicted_x0(model_output: Tensor, sample: Tensor, a: float, s: float, prediction_type: str) -> Tensor:
    """x0-hat, the "predicted x0" of Eq. 1."""
    if prediction_type == "epsilon":
        return (sample - s * model_output) / a
    if prediction_type == "v_prediction":
        return a * sample - s * model_output
    return model_output


def move_latent(
    model_output: Tensor, sample: Tensor, shift: Tensor, a: float, s: float, prediction_type: str
) -> tuple[Tensor, Tensor]:
    """The official code's update: x_t += shift while eps stays, so x0-hat += shift / a. -> (model output,
    sample)
    """
    if prediction_type == "epsilon":
        return model_output, sample + shift
    if prediction_type == "v_prediction":
        return model_output - (s / a) * shift, sample + shift
    return model_output + shift / a, sample + shift


def move_score(
    model_output: Tensor, sample: Tensor, shift: Tensor, a: float, s: float, prediction_type: str
) -> tuple[Tensor, Tensor]:
    """The paper's update: score += shift, that is eps -= s shift, at an unmoved x_t (Eq. 3). -> (model
    output, sample)
    """
    if prediction_type == "epsilon":
        return model_output - s * shift, sample
    if prediction_type == "v_prediction":
        return model_output - (s / a) * shift, sample
    return model_output + (s * s / a) * shift, sample


def relative_step(gradient: Tensor, sample: Tensor, scale: Tensor) -> Tensor:
    """omega ||x_t|| g / ||g||, norms per image in fp32: omega is a fraction of the latent's length."""
    length = torch.linalg.vector_norm(sample.float().flatten(1), dim=1)  # [N]
    steepness = torch.linalg.vector_norm(gradient.float().flatten(1), dim=1)
    return over_images(scale * length, gradient) * gradient.float() / over_images(steepness, gradient)


def over_images(values: Tensor, like: Tensor) -> Tensor:
    """One value per image, [N] -> [N, 1, ...], to multiply with `like`."""
    shape = (len(values),) + (1,) * (like.ndim - 1)
    return values.reshape(shape)
