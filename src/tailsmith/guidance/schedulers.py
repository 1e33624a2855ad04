"""Which diffusers schedulers feedback understands: where a call of `step` stands, and how noisy its sample is.

Each is verified in tests/test_schedulers.py against its own step and against the closed form for Gaussian data.
"""

from collections.abc import Callable
from typing import Any

from tailsmith.errors import UserError
from tailsmith.guidance.parameterization import PREDICTION_TYPES, Noising

SignalAndNoise = tuple[float, float]


def _by_alphas(scheduler: Any, position: int) -> SignalAndNoise:
    """Variance preserving on the training timesteps."""
    alpha_bar = float(scheduler.alphas_cumprod[int(scheduler.timesteps[position])])
    return alpha_bar**0.5, (1 - alpha_bar) ** 0.5


def _exploding(scheduler: Any, position: int) -> SignalAndNoise:
    """x = x0 + sigma eps; the denoiser sees x / sqrt(sigma^2 + 1)."""
    return 1.0, float(scheduler.sigmas[position])


def _by_solver(scheduler: Any, position: int) -> SignalAndNoise:
    """DPM-Solver's own (alpha_t, sigma_t), variance preserving or flow matching."""
    signal, noise = scheduler._sigma_to_alpha_sigma_t(scheduler.sigmas[position])
    return float(signal), float(noise)


def _flow(scheduler: Any, position: int) -> SignalAndNoise:
    sigma = float(scheduler.sigmas[position])
    return 1 - sigma, sigma


SCHEDULERS: dict[str, Callable[[Any, int], SignalAndNoise]] = {
    "DDIMScheduler": _by_alphas,
    "DDPMScheduler": _by_alphas,
    "LCMScheduler": _by_alphas,
    "EulerDiscreteScheduler": _exploding,
    "EulerAncestralDiscreteScheduler": _exploding,
    "HeunDiscreteScheduler": _exploding,
    "DPMSolverMultistepScheduler": _by_solver,
    "UniPCMultistepScheduler": _by_solver,
    "FlowMatchEulerDiscreteScheduler": _flow,
}
# (scheduler, update) -> why feedback would not do there what it says
REFUSED = {
    ("PNDMScheduler", "latent"): "it extrapolates from the noise of earlier steps, so that a move is repeated with "
    "other signs in the next three steps, and its second call ignores the sample that it is given",
    ("UniPCMultistepScheduler", "latent"): "its corrector computes the sample anew from the step before, and throws a "
    "move of the sample away",
}
REFUSED["PNDMScheduler", "score"] = REFUSED["PNDMScheduler", "latent"]


def check_scheduler(scheduler: Any, update: str) -> None:
    """Raise ValueError unless feedback is known to be right with this scheduler."""
    name = type(scheduler).__name__
    instead = (
        "FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config), made for flow matching"
        if name.startswith("FlowMatch") or getattr(scheduler.config, "prediction_type", "") == "flow_prediction"
        else "DDIMScheduler.from_config(pipe.scheduler.config), as the paper does"
    )
    if (name, update) in REFUSED:
        other = "use update='score', or " if (name, "score") not in REFUSED else ""
        raise UserError(
            f"feedback can't use {name} with update={update!r}: {REFUSED[name, update]}; {other}set "
            f"pipe.scheduler = {instead}"
        )
    if name not in SCHEDULERS:
        raise UserError(
            f"feedback supports the schedulers {list(SCHEDULERS)}, got {name}; set pipe.scheduler = {instead}"
        )
    for name in ("clip_sample", "thresholding"):
        if getattr(scheduler.config, name, False):
            raise UserError(
                f"feedback can't use a scheduler that clips x0-hat, as that would undo its moves; got {name}=True; set "
                f"pipe.scheduler = {type(scheduler).__name__}.from_config(pipe.scheduler.config, {name}=False)"
            )
    if prediction_type(scheduler) not in PREDICTION_TYPES:
        raise UserError(
            f"prediction_type should be one of {list(PREDICTION_TYPES)}, got {prediction_type(scheduler)!r}"
        )


def prediction_type(scheduler: Any) -> str:
    """diffusers' name for what the denoiser predicts; flow matching's schedulers don't say, or say flow_prediction."""
    kind = str(getattr(scheduler.config, "prediction_type", "flow"))
    return "flow" if kind == "flow_prediction" else kind


def position(scheduler: Any, timestep: Any) -> int:
    """Which entry of `scheduler.timesteps` the coming call of `step` is for."""
    index = getattr(scheduler, "step_index", None)
    if index is not None:
        return int(index)
    if getattr(scheduler, "begin_index", None) is not None:
        return int(scheduler.begin_index)
    return int((scheduler.timesteps == timestep).nonzero()[0])


def begins_step(scheduler: Any) -> bool:
    """Whether the coming call of `step` begins a sampling step; Heun calls twice per step."""
    return bool(getattr(scheduler, "state_in_first_order", True))


def noising(scheduler: Any, where: int) -> Noising:
    """Signal, noise and prediction type of the sample at a position."""
    signal_and_noise = SCHEDULERS[type(scheduler).__name__]
    after = 1.0
    if where + 1 < len(scheduler.timesteps):
        signal, noise = signal_and_noise(scheduler, where + 1)
        after = signal / (signal**2 + noise**2) ** 0.5
    return Noising(*signal_and_noise(scheduler, where), prediction_type(scheduler), after)
