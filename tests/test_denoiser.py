"""Which rows of a denoiser's call are the conditional ones, for every family."""

import pytest
import torch

from tailsmith.guidance.denoiser import Watch
from tiny_families import FAMILIES, arguments


def called(name, records, **changes):
    """The denoiser's call of one step of three images, watched, and the images."""
    pipe = FAMILIES[name]()
    watch = Watch(pipe)
    watch.attach()
    watch.expect(3, records)
    images = pipe(**{**arguments(name, pipe, 3, (0, 1, 2)), "num_inference_steps": 1, **changes}).images
    call = watch.call
    watch.detach()
    assert call is not None
    return call, images, pipe


@pytest.mark.parametrize("name", FAMILIES)
def test_the_conditional_branch_called_alone_says_what_it_said_beside_the_other(name):
    call, _, _ = called(name, records=False)
    assert len(call.latents) == len(call.output) == 3
    with torch.no_grad():
        torch.testing.assert_close(call.again(call.latents), call.output, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_branches_called_one_by_one_change_nothing(name):
    whole, plain, _ = called(name, records=False)
    halves, images, _ = called(name, records=True)
    torch.testing.assert_close(halves.output, whole.output, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(images, plain, rtol=0, atol=1e-4)


def test_an_output_that_is_no_tuple_keeps_its_kind():
    pipe, kinds = FAMILIES["sd15"](), []
    watch = Watch(pipe)
    watch.attach()
    watch.expect(3, True)
    latents, text = torch.randn(6, 4, 8, 8), torch.randn(6, 5, pipe.unet.config.cross_attention_dim)
    with torch.no_grad():
        output = pipe.unet(latents, 1, text)
        watch.detach()
        expected = pipe.unet(latents, 1, text)
        kinds = [type(output), type(expected)]
    assert kinds[0] is kinds[1]
    torch.testing.assert_close(output.sample, expected.sample, rtol=1e-4, atol=1e-5)


def test_afterwards_the_denoiser_is_as_before():
    _, _, pipe = called("sd15", records=True)
    assert not pipe.unet._forward_hooks
    assert not pipe.unet._forward_pre_hooks
