"""Parts of fit-generator: half batches, the spread embedding, the critic's pull, what a checkpoint holds."""

import threading

import numpy as np
import pytest
import torch
from torch.nn import functional

from tailsmith.generation.fit.autoencoder import create_autoencoder
from tailsmith.generation.fit.captions import Captions, build_tokenizer
from tailsmith.generation.fit.clip import create_clip, image_embedding, keep_entries, spread_embedding
from tailsmith.generation.fit.config import FitGeneratorConfig, StageConfig
from tailsmith.generation.fit.cost import hours_on_two_cores
from tailsmith.generation.fit.decoder import create_criticised, decoder_loss
from tailsmith.generation.fit.halves import backward, lanes
from tailsmith.generation.fit.stage import Draw, Fitting, run_stage
from tailsmith.generation.fit.trained import put_back, trained_state
from tailsmith.randomness import noise_generator
from tiny import CLASSES, CONTEXTS

CPU = torch.device("cpu")


def test_the_gradient_of_the_halves_is_that_of_the_batch():
    torch.manual_seed(0)
    model, x, y = torch.nn.Linear(4, 3), torch.randn(10, 4), torch.randn(10, 3)
    loss = lambda model, rows: {"loss": functional.mse_loss(model(x[rows]), y[rows]), "n": torch.tensor(1.0)}  # noqa: E731
    with lanes(CPU, bf16=False) as run:
        found = backward(model, loss, [(0.7, slice(0, 7)), (0.3, slice(7, 10))], run, autocast=False)
    halves = [each.grad.clone() for each in model.parameters()]
    model.zero_grad()
    whole = functional.mse_loss(model(x), y)
    whole.backward()
    assert all(torch.allclose(a, b.grad, atol=1e-6) for a, b in zip(halves, model.parameters(), strict=True))
    assert found["loss"].item() == pytest.approx(whole.item(), abs=1e-6) and found["n"].item() == pytest.approx(1)


def test_a_weight_that_no_half_uses_has_no_gradient():
    model = torch.nn.ModuleDict({"used": torch.nn.Linear(1, 1), "idle": torch.nn.Linear(1, 1)})
    with lanes(CPU, bf16=False) as run:
        backward(model, lambda m, d: {"loss": m["used"](torch.ones(1, 1)).sum()}, [(1.0, None)], run, autocast=False)
    assert model["idle"].weight.grad is None and model["used"].weight.grad is not None


def test_a_gradient_is_laid_out_as_its_weight_is():
    """Convolutions on a GPU give channels-last ones to weights that aren't, and a fused optimizer refuses these."""
    model = torch.nn.Conv2d(3, 4, 3)

    class ChannelsLast(torch.autograd.Function):
        @staticmethod
        def forward(ctx, weight):
            return weight.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient.contiguous(memory_format=torch.channels_last)

    def loss(m, images):
        return {"loss": functional.conv2d(images, ChannelsLast.apply(m.weight), m.bias).square().sum()}

    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with lanes(torch.device("cpu"), bf16=False) as run:
        backward(model, loss, [(1.0, images)], run, autocast=False)
    assert model.weight.grad.stride() == model.weight.stride()
    (expected,) = torch.autograd.grad(model(images).square().sum(), [model.weight])
    torch.testing.assert_close(model.weight.grad, expected)


def test_halves_run_side_by_side_and_the_threads_of_torch_are_given_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        both = threading.Barrier(2, timeout=20)
        with lanes(CPU, bf16=True) as run:
            assert run(lambda _: (both.wait(), torch.get_num_threads())[1], [0, 1]) == [1, 1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_fit_that_diverges_says_so_and_keeps_the_last_good_state(tmp_path):
    model = torch.nn.Linear(1, 1, bias=False)
    steps = iter(range(10_000))

    def loss(model, draw):
        return {"loss": model.weight.square().sum() * 0 + (1.0 if next(steps) < 110 else float("nan"))}

    with pytest.raises(
        ValueError, match=r"the fit diverges: the loss of the part was 1 in its first 50 steps and is nan"
    ):
        run_stage(
            Fitting(tmp_path, 1), "part", model, loss, StageConfig(500, batch_size=1), seed=0, checkpoint_seconds=0.0
        )
    kept = torch.load(tmp_path / "part.pt", weights_only=True)
    assert kept["step"] == 110 and torch.isfinite(kept["model"]["weight"]).all()


def test_only_what_is_trained_is_kept_and_put_back():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    model[0].requires_grad_(False)
    state = {name: weight.clone() for name, weight in trained_state(model).items()}
    assert set(state) == {"1.weight", "1.bias"}
    with torch.no_grad():
        model[1].weight.zero_()
    put_back(model, state)
    assert torch.equal(model[1].weight, state["1.weight"])
    with pytest.raises(KeyError):
        put_back(model, {})


# ---- CLIP's embedding, spread over more entries


@pytest.fixture
def clip():
    torch.manual_seed(0)
    tokenizer = build_tokenizer(Captions(CLASSES, CONTEXTS).texts)
    return create_clip(tokenizer, image_size=16, width=16, embedding=8).eval()


def test_a_spread_embedding_says_the_same_in_every_part_of_it(clip):
    images = torch.randn(200, 3, 16, 16, generator=noise_generator(0))
    with torch.no_grad():
        before = image_embedding(clip, images)
        state = torch.random.get_rng_state()
        spread_embedding(clip, before, 64, seed=1)
        assert torch.equal(torch.random.get_rng_state(), state)
        after = image_embedding(clip, images)
    assert after.shape == (200, 64) and clip.config.vision_config.projection_dim == 64
    # any 8 of the 64 entries give the old embedding back, by least squares
    for entries in (slice(0, 8), slice(50, 58)):
        solved = torch.linalg.lstsq(after[:, entries].double(), before.double()).solution
        assert torch.allclose(after[:, entries].double() @ solved, before.double(), atol=1e-3)
    # spreads along the principal axes are the square roots of what they were
    old = torch.linalg.eigvalsh(torch.cov(before.double().T))
    new = torch.linalg.eigvalsh(torch.cov(after.double().T))[-8:]
    assert torch.allclose(new, old.sqrt(), rtol=1e-3)


def test_each_row_loses_a_share_of_its_entries_of_its_own():
    kept = keep_entries(torch.Size([4000, 50]), 0.8, noise_generator(0)).float().mean(dim=1)
    assert kept.mean().item() == pytest.approx(0.6, abs=0.01)
    assert kept.min() < 0.3 and kept.max() > 0.95
    assert keep_entries(torch.Size([3, 5]), 0.0, noise_generator(0)).all()


# ---- the decoder against its critic


def test_the_critic_pulls_at_the_image_and_the_image_not_at_the_critic():
    torch.manual_seed(0)
    autoencoder = create_autoencoder(image_size=16, channels=(8, 16), latent_channels=4)
    latents, pixels = torch.randn(2, 4, 8, 8), torch.rand(2, 3, 16, 16) * 2 - 1
    model = create_criticised(autoencoder, 8, 0)
    draw = Draw(np.arange(2), np.random.default_rng(0), noise_generator(0))
    parameters = [each for each in model.parameters() if each.requires_grad]
    found = decoder_loss(lambda rows: pixels[rows], latents, critic_weight=0.5)(model, draw)
    gradients = dict(zip(map(id, parameters), torch.autograd.grad(found["loss"], parameters), strict=True))

    decoded = autoencoder.decode(latents).sample
    error, critic = decoded - pixels, model["critic"]
    faithful, fooled = error.abs().mean() + error.square().mean(), 0.5 * (critic(decoded) - 1).square().mean()
    lengths = [torch.autograd.grad(each, decoded, retain_graph=True)[0].norm() for each in (faithful, fooled)]
    own = faithful + 0.5 * (lengths[0] / lengths[1]).detach() * fooled
    for each in autoencoder.decoder.parameters():
        assert torch.allclose(gradients[id(each)], torch.autograd.grad(own, each, retain_graph=True)[0], atol=1e-5)
    caught = 0.5 * ((critic(pixels) - 1).square().mean() + (critic(decoded.detach()) + 1).square().mean())
    for each in critic.parameters():
        assert torch.allclose(gradients[id(each)], torch.autograd.grad(caught, each, retain_graph=True)[0], atol=1e-5)
    assert not any(each.requires_grad for each in autoencoder.encoder.parameters())


# ---- sizes and steps that follow the data


def test_sizes_and_steps_follow_the_data():
    mini = FitGeneratorConfig().settled(52_800, 32)
    assert (mini.image_size, mini.denoiser_channels) == (32, (64, 128))
    assert (mini.clip.steps, mini.autoencoder.steps, mini.denoiser.steps) == (9000, 12_000, 10_000)
    few = FitGeneratorConfig(denoiser=StageConfig(7)).settled(300, 500)
    assert (few.image_size, few.denoiser_channels) == (64, (64, 128, 192))
    assert (few.clip.steps, few.autoencoder.steps, few.denoiser.steps) == (500, 4000, 7)
    assert FitGeneratorConfig(preset="small").settled(300, 500).image_size == 32
    assert FitGeneratorConfig(image_size=48).settled(300, 20).image_size == 48
    assert few.settled(300, 20) == few
    assert 2 < sum(hours_on_two_cores(mini).values()) < 3
