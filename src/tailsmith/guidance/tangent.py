"""The denoiser's Jacobian times a vector by one more forward pass, in place of a backward pass.

x0-hat of a perfect denoiser is E[x0 | x], whose Jacobian is Cov[x0 | x] a / s^2: symmetric. So the gradient J^T g of
the criterion is also J g, the change of x0-hat when x moves along g, which a finite difference gives: no graph is kept.
A trained denoiser is only nearly symmetric; benchmarks/gradient_agreement.py measures how nearly.
"""

import torch
from torch import Tensor

from tailsmith.guidance.denoiser import Call
from tailsmith.guidance.parameterization import Noising, over_images, predicted_x0

DISTANCE = 0.05  # of the finite difference, as a share of the latents' length: far above rounding in fp16


@torch.no_grad()
def tangent(call: Call, direction: Tensor, sample: Tensor, at: Noising) -> Tensor:
    """J direction [N, ...] in fp32, J the Jacobian of the conditional x0-hat at `sample`.

    Under classifier-free guidance the conditional branch stands for both where x0-hat is the guided one: their
    Jacobians are alike, and half a pass is enough.
    """
    length = torch.linalg.vector_norm(sample.float().flatten(1), dim=1)
    steepness = torch.linalg.vector_norm(direction.flatten(1), dim=1)
    unit = over_images(DISTANCE * length / steepness.clamp_min(1e-30), direction)  # [N, 1, ...]
    offset = (direction * unit).to(sample.dtype)
    seen = call.latents
    overlap = (seen.float() * sample.float()).flatten(1).sum(1)  # per image: one that overflowed spoils no other
    scaling = over_images(overlap / length.square(), sample)  # by scale_model_input
    there = call.again(seen + (scaling * offset).to(seen.dtype))
    channels = slice(None, sample.shape[1])  # without a learned variance
    before = predicted_x0(call.output[:, channels].float(), sample.float(), at)
    after = predicted_x0(there[:, channels].float(), (sample + offset).float(), at)
    return (after - before) / unit
