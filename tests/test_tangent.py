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


def test_afterwards_the_denoiser_is_as_before():
    pipe = FAMILIES["sd15"]()
    with feedback(pipe, TinyClassifier(), labels=LABELS, through="denoiser-forward"):
        assert pipe.unet._forward_hooks
    assert not pipe.unet._forward_hooks
