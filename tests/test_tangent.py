"""The denoiser's Jacobian times a vector by a forward pass, where the exact answer is known."""

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from torch import nn

from tailsmith.guidance.feedback import feedback
from tiny import TinyClassifier
from tiny_families import FAMILIES, arguments

LABELS = [0, 1, 2]


class SymmetricDenoiser(nn.Module):
    """eps = A x, A symmetric: an even kernel in space, a symmetric matrix over the channels."""

    def __init__(self, own):
        super().__init__()
        self.config, self.dtype, self.device, self.calls = own.config, own.dtype, own.device, []
        generator = torch.Generator().manual_seed(0)
        kernel, mix = torch.randn(3, 3, generator=generator), torch.randn(4, 4, generator=generator)
        even, symmetric = (kernel + kernel.flip(0, 1)) / 2, (mix + mix.T) / 2
        self.weight = nn.Parameter(0.1 * symmetric[:, :, None, None] * even)

    def forward(self, sample, timestep, **options):
        self.calls.append((len(sample), torch.is_grad_enabled()))
        return (nn.functional.conv2d(sample, self.weight, padding=1),)


@pytest.mark.parametrize("scheduler", [DDIMScheduler, EulerDiscreteScheduler])
@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
def test_a_symmetric_jacobian_gives_the_exact_gradient_without_a_graph(guidance_scale, scheduler):
    pipe = FAMILIES["sd15"]()
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    pipe.unet = SymmetricDenoiser(pipe.unet)
    gradients = {}
    for through in ("denoiser", "denoiser-forward"):
        pipe.unet.calls.clear()
        call = {**arguments("sd15", pipe, 3, (0, 1, 2)), "guidance_scale": guidance_scale}
        with feedback(
            pipe, TinyClassifier(), scale=0.01, steps=[1], labels=LABELS, through=through, keep_gradients=True
        ) as record:
            pipe(**call)
        gradients[through] = record.gradients[1]
    rows = 3 if guidance_scale == 1.0 else 6
    assert pipe.unet.calls == [(rows, False), (rows, False), (3, False), (rows, False), (rows, False)]
    torch.testing.assert_close(gradients["denoiser-forward"], gradients["denoiser"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_image_of_a_batch_equals_the_same_request_alone(name):
    pipe = FAMILIES[name]()
    options = {"through": "denoiser-forward", "every": 2}
    with feedback(pipe, TinyClassifier(), scale=[0.01, 0.03, 0.0], labels=LABELS, **options):
        together = pipe(**arguments(name, pipe, 3, (0, 1, 2))).images
    with feedback(pipe, TinyClassifier(), scale=0.03, labels=[1], **options):
        alone = pipe(**arguments(name, pipe, 1, (1,))).images
    torch.testing.assert_close(together[1], alone[0], rtol=0, atol=5e-3)


def test_an_image_that_overflows_spoils_no_other():
    pipe = FAMILIES["sd15"]()
    call = arguments("sd15", pipe, 3, (0, 1, 2))
    latents = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    latents[2] = float("nan")
    options = {"through": "denoiser-forward", "every": 2, "scale": 0.03}
    with feedback(pipe, TinyClassifier(), labels=LABELS, **options) as record:
        pipe(**call, latents=latents)
    assert {skip.image for skip in record.skipped} == {2}


def test_fluxs_patches_are_not_taken_for_images():
    pipe, n = FAMILIES["flux"](), 8  # a tiny image has 16 patches: two for each image of the batch
    call = {**arguments("flux", pipe, n, tuple(range(n))), "num_inference_steps": 1}
    with feedback(pipe, TinyClassifier(), scale=0.03, labels=[0] * n, through="denoiser-forward") as record:
        pipe(**call)
    assert record.skipped == []


@pytest.mark.parametrize("through", ["denoiser", "denoiser-forward", "decoder"])
def test_the_negative_call_of_fluxs_true_guidance_does_not_change_what_the_classifier_sees(through):
    values = []
    for negative in ({}, {"negative_prompt": ["bag"], "true_cfg_scale": 2.0}):
        pipe = FAMILIES["flux"]()
        call = {**arguments("flux", pipe, 1, (0,)), **negative}
        with feedback(
            pipe, TinyClassifier(), scale=0.03, steps=[0], labels=[0], through=through, keep_gradients=True
        ) as record:
            pipe(**call)
        values.append(record.gradients[0])
    torch.testing.assert_close(*values)


def test_of_several_calls_in_a_step_the_conditional_one_is_repeated():
    pipe, seen = FAMILIES["flux"](), []

    def texts(module, arguments, options):
        seen.append(options["encoder_hidden_states"])

    handle = pipe.transformer.register_forward_pre_hook(texts, with_kwargs=True)
    call = {**arguments("flux", pipe, 1, (0,)), "negative_prompt": ["bag"], "true_cfg_scale": 2.0}
    with feedback(pipe, TinyClassifier(), scale=0.03, steps=[1], labels=[0], through="denoiser-forward"):
        pipe(**call)
    handle.remove()
    conditional, negative, repeated = seen[2], seen[3], seen[4]  # after the first step's two
    assert not torch.equal(conditional, negative)
    assert torch.equal(repeated, conditional)


def test_afterwards_the_denoiser_is_as_before():
    pipe = FAMILIES["sd15"]()
    with feedback(pipe, TinyClassifier(), labels=LABELS, through="denoiser-forward"):
        assert pipe.unet._forward_hooks
    assert not pipe.unet._forward_hooks
