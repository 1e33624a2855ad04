"""Every scheduler that feedback supports, by its own step, by a loop written out by hand, and in closed form."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from torch import nn

from tailsmith.guidance import criteria, latents
from tailsmith.guidance.feedback import feedback
from tailsmith.guidance.parameterization import predicted_x0
from tailsmith.guidance.schedulers import REFUSED, SCHEDULERS, check_scheduler, noising
from tiny import TinyClassifier
from tiny_families import FAMILIES, arguments

VARIANCE_PRESERVING = (DDIMScheduler, DDPMScheduler, LCMScheduler)
EXPLODING = (EulerDiscreteScheduler, EulerAncestralDiscreteScheduler, HeunDiscreteScheduler)
SOLVERS = (DPMSolverMultistepScheduler, UniPCMultistepScheduler)
DISCRETE = (*VARIANCE_PRESERVING, *EXPLODING, *SOLVERS)
LABELS = [0, 1, 2]


def make(kind, prediction_type="epsilon"):
    """With Stable Diffusion's betas and timesteps that are whole numbers."""
    options = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    spacing = {"timestep_spacing": "leading", "steps_offset": 1, "prediction_type": prediction_type}
    clipped = {"clip_sample": False} if kind in VARIANCE_PRESERVING else {}
    return kind(**options, **spacing, **clipped)


def test_every_supported_scheduler_is_tested_here():
    assert {kind.__name__ for kind in DISCRETE} | {"FlowMatchEulerDiscreteScheduler"} == set(SCHEDULERS)


# ---- x0-hat ----


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("kind", DISCRETE)
def test_x0_is_what_the_schedulers_own_step_predicts(kind, prediction_type):
    if kind is EulerAncestralDiscreteScheduler and prediction_type == "sample":
        return  # diffusers has not implemented it
    scheduler = make(kind, prediction_type)
    scheduler.set_timesteps(8)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 3, 3, generator=generator) * scheduler.init_noise_sigma
    for index, timestep in enumerate(scheduler.timesteps):
        output = torch.randn(2, 4, 3, 3, generator=generator)
        own = predicted_x0(output, x, noising(scheduler, index))
        if kind in SOLVERS:
            own_step = copy.deepcopy(scheduler)
            own_step._step_index = index
            expected = own_step.convert_model_output(output, sample=x)
        elif kind is LCMScheduler:
            alpha_bar = scheduler.alphas_cumprod[timestep]
            c_skip, c_out = scheduler.get_scalings_for_boundary_condition_discrete(timestep)
            denoised = copy.deepcopy(scheduler).step(output, timestep, x).denoised
            expected = (denoised - c_skip * x) / c_out
            assert alpha_bar < 1
        else:
            expected = copy.deepcopy(scheduler).step(output, timestep, x).pred_original_sample
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-3)
        x = scheduler.step(output, timestep, x)[0]


@pytest.mark.parametrize("kind", SOLVERS)
def test_solvers_of_flow_models(kind):
    scheduler = kind(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
    scheduler.set_timesteps(5)
    x, output = torch.ones(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.25)
    for index in range(5):
        scheduler._step_index = index
        expected = scheduler.convert_model_output(output, sample=x)
        torch.testing.assert_close(predicted_x0(output, x, noising(scheduler, index)), expected)


# ---- the whole guided call, written out by hand ----


def slow_guided_sampling(pipe, classifier, call, update, prediction, scale, every):
    """An own loop over an eps-predicting pipeline: own guidance, own gradient, and eps or x moved by hand."""
    scheduler = pipe.scheduler
    prompts, empty = (pipe.encode_prompt(call["prompt"], "cpu", 1, True)[which] for which in (0, 1))
    x = torch.cat([torch.randn(1, 4, *pipe_size(pipe), generator=each) for each in call["generator"]])
    scheduler.set_timesteps(call["num_inference_steps"])
    x, step = x * scheduler.init_noise_sigma, -1
    takes_generator = type(scheduler) not in (DDIMScheduler, HeunDiscreteScheduler, UniPCMultistepScheduler)
    for t in scheduler.timesteps:
        first = not isinstance(scheduler, HeunDiscreteScheduler) or scheduler.state_in_first_order
        step += first
        x = x.detach().requires_grad_()
        scaled = scheduler.scale_model_input(x, t)
        unconditional, conditional = pipe.unet(scaled, t, empty).sample, pipe.unet(scaled, t, prompts).sample
        eps = unconditional + call["guidance_scale"] * (conditional - unconditional)
        seen = conditional if prediction == "conditional" else eps
        signal, noise = (
            float(scheduler.add_noise(*pair, t.reshape(1)))
            for pair in ((torch.ones(1), torch.zeros(1)), (torch.zeros(1), torch.ones(1)))
        )
        shift = torch.zeros_like(x)
        if step % every == 0 and (first or update == "score"):
            image = pipe.vae.decode((x - noise * seen) / signal / pipe.vae.config.scaling_factor).sample / 2 + 0.5
            (g,) = torch.autograd.grad(criteria.entropy(*classifier(image), torch.tensor(LABELS)).sum(), x)
            for i in range(len(x)):
                shift[i] = scale * (x[i].norm() / g[i].norm() if update == "latent" else 1) * g[i]
        with torch.no_grad():
            options = {"generator": call["generator"]} if takes_generator else {}
            if update == "latent":
                x = scheduler.step(eps, t, x + shift, **options).prev_sample
            else:
                x = scheduler.step(eps - noise * shift, t, x, **options).prev_sample
    with torch.no_grad():
        return (pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)


def pipe_size(pipe):
    return (pipe.unet.config.sample_size,) * 2


@pytest.mark.parametrize("prediction", ["conditional", "guided"])
@pytest.mark.parametrize("update", ["latent", "score"])
@pytest.mark.parametrize("kind", DISCRETE)
def test_a_guided_call_equals_the_loop_by_hand(kind, update, prediction):
    if (kind.__name__, update) in REFUSED or (prediction == "guided" and kind is not DDIMScheduler):
        return  # whose x0-hat is seen is no matter of the scheduler
    pipe, classifier = FAMILIES["sd15"](), TinyClassifier()
    pipe.scheduler = make(kind)
    scale = 0.03 if update == "latent" else 0.5
    call = {"num_inference_steps": 6}
    with torch.enable_grad():
        expected = slow_guided_sampling(
            pipe, classifier, {**arguments("sd15", pipe, 3, (0, 1, 2)), **call}, update, prediction, scale, every=2
        )
    plain = pipe(**{**arguments("sd15", pipe, 3, (0, 1, 2)), **call}).images
    options = {"every": 2, "update": update, "prediction": prediction, "labels": LABELS}
    with feedback(pipe, classifier, scale=scale, **options) as record:
        images = pipe(**{**arguments("sd15", pipe, 3, (0, 1, 2)), **call}).images
    assert sorted(record.values) == [0, 2, 4]
    torch.testing.assert_close(images, expected, rtol=0, atol=2e-4)
    assert (images - plain).abs().max() > 1e-2


# ---- Gaussian data and a linear criterion: the closed form ----

MEAN, VARIANCE, SLOPE, OMEGA = 0.7, 0.25, 1.5, 0.8


class GaussianPipeline:
    """diffusers' loop around the exact denoiser of data ~ N(MEAN, VARIANCE), every element alike."""

    device = torch.device("cpu")
    components: dict[str, nn.Module] = {}  # noqa: RUF012

    def __init__(self, scheduler):
        self.scheduler = scheduler
        self.vae = Identity()

    def prepare_latents(self, n, generator):
        noise = torch.randn(n, 1, 4, 4, generator=generator, dtype=torch.float64)
        return noise - noise.mean()

    @torch.no_grad()
    def __call__(self, n, steps):
        scheduler, generator = self.scheduler, torch.Generator().manual_seed(0)
        flow = isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
        x = self.prepare_latents(n, generator) * (1.0 if flow else scheduler.init_noise_sigma)
        scheduler.set_timesteps(steps)
        for t in scheduler.timesteps:
            scaled = x if flow else scheduler.scale_model_input(x, t)
            s = float(t) / 1000 if flow else float((1 - scheduler.alphas_cumprod[int(t)]).sqrt())
            a = 1 - s if flow else math.sqrt(1 - s * s)
            x0 = MEAN + VARIANCE * a / (a * a * VARIANCE + s * s) * (scaled - a * MEAN)
            eps = (scaled - a * x0) / s
            output = {"epsilon": eps, "v_prediction": a * eps - s * x0}
            x = scheduler.step(eps - x0 if flow else output[scheduler.config.prediction_type], t, x)[0]
        return x


class Identity(nn.Module):
    """An autoencoder that does nothing."""

    config = SimpleNamespace(scaling_factor=1.0, latent_channels=1, block_out_channels=(1,))

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def decode(self, latents, return_dict):
        return (latents,)


def linear(logits, features, labels):
    """C = SLOPE * sum of the latents (the decoder halves them)."""
    return 2 * SLOPE * features.flatten(1).sum(1)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    ("kind", "steps"),
    [
        (kind, 40 if kind in (*SOLVERS, HeunDiscreteScheduler) else 250)
        for kind in (*DISCRETE,)
        if kind is not LCMScheduler
    ]
    + [(FlowMatchEulerDiscreteScheduler, 250)],
)
def test_the_score_update_samples_the_tilted_gaussian(kind, steps, prediction_type, monkeypatch):
    """With p'(x) ~ p(x) exp(omega C(x)) and C linear, N(mu, v) becomes N(mu + omega v slope, v) (Eq. 3 exactly)."""
    monkeypatch.setitem(latents.ADAPTERS, "GaussianPipeline", latents.LatentsAdapter("vae", latents._decode_kl))
    flow = kind is FlowMatchEulerDiscreteScheduler
    if flow and prediction_type == "v_prediction":
        return
    means = []
    for omega in (0.0, OMEGA):
        pipe = GaussianPipeline(kind() if flow else make(kind, prediction_type))
        classifier = lambda images: (images.flatten(1)[:, :2], images)  # noqa: E731
        options = {"every": 1, "update": "score", "prediction": "guided", "labels": [0] * 256}
        with feedback(pipe, classifier, linear, omega, **options):
            torch.manual_seed(1)  # for schedulers that draw noise: the same twice, and it cancels
            means.append(pipe(256, steps).mean().item())
    tilted = MEAN + OMEGA * VARIANCE * SLOPE
    start = 0.0 if flow else float(DDIM_ALPHA_BAR[1 + 1000 // steps * (steps - 1)]) ** 0.5
    if kind in (DDPMScheduler, EulerAncestralDiscreteScheduler):  # noise forgets where it began, but for the step size
        assert means == [pytest.approx(MEAN, abs=0.02), pytest.approx(tilted, abs=0.02)]
    else:
        assert means == [pytest.approx(flowed(mean, start), abs=0.01) for mean in (MEAN, tilted)]


DDIM_ALPHA_BAR = make(DDIMScheduler).alphas_cumprod


def flowed(mean, start):
    """Where the probability flow takes the mean 0 of the first latents, which should be start * mean."""
    return mean - start * mean * (VARIANCE / (start**2 * VARIANCE + 1 - start**2)) ** 0.5


# ---- what is refused ----


@pytest.mark.parametrize("update", ["latent", "score"])
def test_pndm_is_refused_with_the_reason(update):
    with pytest.raises(ValueError, match=r"can't use PNDMScheduler.*next three steps.*DDIMScheduler.from_config"):
        check_scheduler(PNDMScheduler(), update)


def test_unipc_is_refused_for_moves_of_the_latent_only():
    with pytest.raises(ValueError, match=r"can't use UniPC.*corrector.*use update='score', or set"):
        check_scheduler(UniPCMultistepScheduler(), "latent")
    check_scheduler(UniPCMultistepScheduler(), "score")


def test_the_advice_for_flow_models_is_a_flow_scheduler():
    unipc = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
    for scheduler in (FlowMatchHeunDiscreteScheduler(), unipc):
        with pytest.raises(ValueError, match=r"set pipe.scheduler = FlowMatchEulerDiscreteScheduler\.from_config"):
            check_scheduler(scheduler, "latent")


def test_unknown_schedulers_and_prediction_types_are_refused():
    with pytest.raises(ValueError, match=r"supports the schedulers.*got SimpleNamespace"):
        check_scheduler(SimpleNamespace(config=SimpleNamespace()), "latent")
    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.register_to_config(prediction_type="noise")
    with pytest.raises(ValueError, match=r"prediction_type should be one of.*got 'noise'"):
        check_scheduler(scheduler, "latent")


def test_schedulers_that_clip_x0_are_refused():
    with pytest.raises(ValueError, match=r"clips x0-hat.*clip_sample=True; set pipe.scheduler = DDIMScheduler"):
        check_scheduler(DDIMScheduler(), "latent")
