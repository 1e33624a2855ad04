"""x0-hat and both updates against diffusers' own DDIM step, the official procedure, and sigma space."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from tailsmith.guidance.parameterization import (
    Noising,
    move_latent,
    move_score,
    over_images,
    predicted_x0,
    relative_step,
)
from tailsmith.guidance.schedulers import noising

KINDS = ("epsilon", "v_prediction", "sample")


def make_scheduler(kind, steps=10):
    scheduler = DDIMScheduler(prediction_type=kind, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    scheduler.set_timesteps(steps)
    return scheduler


def as_output(kind, x0, eps, a, s):
    """What a denoiser of this kind would say about x = a x0 + s eps."""
    return {"epsilon": eps, "v_prediction": a * eps - s * x0, "sample": x0}[kind]


@pytest.fixture
def state():
    """x_t, eps-hat and a shift, each [3, 4, 4, 4] in double precision."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, 4, 4, 4, generator=generator, dtype=torch.float64) for _ in range(3)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("index", [0, 4, 9])
def test_x0_is_ddims_pred_original_sample(kind, index, state):
    x, output, _ = state
    scheduler = make_scheduler(kind)
    expected = scheduler.step(output, scheduler.timesteps[index], x).pred_original_sample
    x0 = predicted_x0(output, x, noising(scheduler, index))
    torch.testing.assert_close(x0, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("index", [0, 4, 8])
def test_move_latent_is_the_official_procedure(kind, index, state):
    """z += g with eps computed before, then DDIM: adds sqrt(abar_prev / abar_t) g to z_{t-1}."""
    x, eps, shift = state
    reference, scheduler = make_scheduler("epsilon"), make_scheduler(kind)
    timestep, following = scheduler.timesteps[index], scheduler.timesteps[index + 1]
    expected = reference.step(eps, timestep, x + shift).prev_sample

    at = noising(scheduler, index)
    output = as_output(kind, (x - at.noise * eps) / at.signal, eps, at.signal, at.noise)
    moved = scheduler.step(*insert(timestep, move_latent(output, x, shift, at))).prev_sample
    unmoved = scheduler.step(output, timestep, x).prev_sample

    torch.testing.assert_close(moved, expected, rtol=1e-5, atol=1e-5)
    kick = (scheduler.alphas_cumprod[following] / scheduler.alphas_cumprod[timestep]).sqrt()
    torch.testing.assert_close(moved - unmoved, kick * shift, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("index", [0, 4, 9])
def test_move_score_is_a_lower_noise_prediction(kind, index, state):
    """score += shift is eps' = eps - s shift (Eq. 3)."""
    x, eps, shift = state
    reference, scheduler = make_scheduler("epsilon"), make_scheduler(kind)
    timestep = scheduler.timesteps[index]
    at = noising(scheduler, index)
    expected = reference.step(eps - at.noise * shift, timestep, x).prev_sample
    output = as_output(kind, (x - at.noise * eps) / at.signal, eps, at.signal, at.noise)
    moved = scheduler.step(*insert(timestep, move_score(output, x, shift, at))).prev_sample
    torch.testing.assert_close(moved, expected, rtol=1e-5, atol=1e-5)


def insert(timestep, output_and_sample):
    """scheduler.step's positional arguments."""
    output, sample = output_and_sample
    return output, timestep, sample


def test_moving_the_latent_is_moving_x_and_denoised_alike_in_sigma_space(state):
    """X = x / a, denoised' = denoised + G, X' = X + G with G = shift / a, then the ordinary Euler step."""
    x, eps, shift = state
    scheduler = make_scheduler("epsilon")
    at, after = noising(scheduler, 4), noising(scheduler, 5)
    (a, s), (a_next, s_next) = (at.signal, at.noise), (after.signal, after.noise)
    output, sample = move_latent(eps, x, shift, at)
    ddim = scheduler.step(output, scheduler.timesteps[4], sample).prev_sample

    sigma, sigma_next, moved = s / a, s_next / a_next, shift / a
    scaled, denoised = x / a + moved, (x - s * eps) / a + moved
    euler = scaled + (scaled - denoised) / sigma * (sigma_next - sigma)
    torch.testing.assert_close(ddim / a_next, euler, rtol=1e-4, atol=1e-4)


def test_relative_step_is_a_fraction_of_each_images_own_length():
    generator = torch.Generator().manual_seed(0)
    gradient, sample = (torch.randn(3, 4, 2, 2, generator=generator) for _ in range(2))
    gradient *= torch.tensor([1e-12, 1.0, 1e12]).view(3, 1, 1, 1)
    scale = torch.tensor([0.0, 0.03, 0.5])
    step = relative_step(gradient, sample, scale)
    for i in range(3):  # the slow loop, in double precision
        g, z = (tensor[i].double().flatten().numpy() for tensor in (gradient, sample))
        expected = scale[i].item() * np.linalg.norm(z) * g / np.linalg.norm(g)
        np.testing.assert_allclose(step[i].flatten(), expected, rtol=1e-5)


def test_relative_step_of_half_precision_tensors_has_fp32_norms():
    gradient = torch.full((1, 4, 8, 8), 1e-7, dtype=torch.float16)  # whose square is 0 in fp16
    sample = torch.full((1, 4, 8, 8), 60.0, dtype=torch.float16)  # whose length would overflow at 65504
    step = relative_step(gradient, sample * 1000, torch.tensor([0.1]))
    assert step.dtype == torch.float32
    torch.testing.assert_close(step, torch.full_like(step, 6000.0), rtol=1e-2, atol=1.0)


def test_over_images_broadcasts_over_any_shape():
    assert over_images(torch.arange(3), torch.zeros(3, 4, 5, 6)).shape == (3, 1, 1, 1)
    assert over_images(torch.arange(2), torch.zeros(2, 7)).shape == (2, 1)


@pytest.mark.parametrize("kind", ["v_prediction", "sample", "flow"])
def test_without_any_signal_x0_moves_as_after_the_step(kind, state):
    """Flow matching begins at a = 0, where a constant eps would send x0-hat to infinity."""
    x, output, shift = state
    at = Noising(0.0, 1.0, kind, signal_after=0.04)
    before, after = predicted_x0(output, x, at), predicted_x0(*move_latent(output, x, shift, at), at)
    torch.testing.assert_close(after - before, shift / 0.04)


@pytest.mark.parametrize("kind", [*KINDS, "flow"])
@pytest.mark.parametrize("move", [move_latent, move_score])
def test_where_nothing_shifts_nothing_changes_a_bit(kind, move, state):
    x, output, shift = state
    moved_output, moved = move(output, x, torch.zeros_like(shift), Noising(0.6, 0.4, kind))
    assert torch.equal(moved_output, output)
    assert torch.equal(moved, x)
