"""Feedback around every supported family of pipelines, at any precision, decoder and memory setting."""

import pytest
import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline

from tailsmith.guidance import criteria
from tailsmith.guidance.feedback import feedback
from tailsmith.guidance.latents import ADAPTERS, get_decoder
from tiny import TinyClassifier
from tiny_families import FAMILIES, arguments

LABELS = [0, 1, 2]


@pytest.fixture(scope="module")
def pipes():
    return {name: make() for name, make in FAMILIES.items()}


def sample(name, pipe, seeds=(0, 1, 2), **changes):
    images = pipe(**{**arguments(name, pipe, len(seeds), seeds), **changes}).images
    return images / 2 + 0.5 if name == "kandinsky22" else images  # its tensors come out in [-1, 1]


def entropies(images):
    with torch.no_grad():
        return criteria.entropy(*TinyClassifier()(images), torch.zeros(len(images), dtype=torch.long))


def test_every_supported_family_is_tested_here(pipes):
    assert {type(pipe).__name__ for pipe in pipes.values()} == set(ADAPTERS)


@pytest.mark.parametrize("name", FAMILIES)
def test_scale_zero_is_the_plain_pipeline_bit_for_bit(name, pipes):
    plain = sample(name, pipes[name])
    with feedback(pipes[name], TinyClassifier(), scale=0, labels=LABELS):
        assert torch.equal(sample(name, pipes[name]), plain)


@pytest.mark.parametrize(
    ("through", "prediction"),
    [
        ("denoiser", "conditional"),
        ("denoiser", "guided"),
        ("denoiser-forward", "conditional"),
        ("decoder", "conditional"),
    ],
)
@pytest.mark.parametrize("name", FAMILIES)
def test_entropy_rises_and_the_pipeline_is_left_as_it_was(name, through, prediction, pipes):
    pipe, seeds = pipes[name], tuple(range(6))
    plain = sample(name, pipe, seeds)
    options = {"steps": [2, 3], "prediction": prediction, "through": through, "labels": [0] * 6}
    with feedback(pipe, TinyClassifier(), scale=0.03, **options) as record:
        guided = sample(name, pipe, seeds)
    assert sorted(record.values) == [2, 3]
    assert record.skipped == []
    assert not guided.requires_grad
    assert entropies(guided).mean() > entropies(plain).mean() + 0.005
    assert torch.equal(sample(name, pipe, seeds), plain)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_image_of_a_batch_equals_the_same_request_alone(name, pipes):
    with feedback(pipes[name], TinyClassifier(), scale=[0.01, 0.03, 0.0], every=2, labels=LABELS):
        together = sample(name, pipes[name])
    with feedback(pipes[name], TinyClassifier(), scale=0.03, every=2, labels=[1]):
        alone = sample(name, pipes[name], seeds=(1,))
    torch.testing.assert_close(together[1], alone[0], rtol=0, atol=1e-3)


@pytest.mark.parametrize("prediction", ["conditional", "guided"])
@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "unclip"])  # that one has its own slow loop
def test_the_gradient_is_that_of_finite_differences(name, prediction, pipes):
    """Of C(x0-hat) by the first latents: packing, denoiser, guidance, decoder and classifier in one."""

    def first_step(latents):
        options = {"steps": [0], "labels": [0], "prediction": prediction, "keep_gradients": True}
        with feedback(pipes[name], TinyClassifier(), scale=1e-6, **options) as record:
            sample(name, pipes[name], seeds=(3,), latents=latents)
        return record.values[0].item(), record.gradients[0]

    shape = first_step(None)[1].shape
    latents, size = torch.randn(shape, generator=torch.Generator().manual_seed(0)), 2e-3
    _, gradient = first_step(latents)
    direction = gradient / gradient.norm()
    slope = (first_step(latents + size * direction)[0] - first_step(latents - size * direction)[0]) / (2 * size)
    assert slope == pytest.approx(gradient.norm().item(), rel=0.05)


# ---- decoders ----


def tiny_decoder(channels=4):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8), decoder_block_out_channels=(8, 8, 8),
            num_encoder_blocks=(1, 1, 1), num_decoder_blocks=(1, 1, 1), latent_channels=channels,
            upsampling_scaling_factor=2,
        ).eval()  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_another_decoder_shows_the_classifier_x0_and_leaves_the_images_to_the_pipelines_own(name, pipes):
    seen, cheap = [], tiny_decoder()

    class Watching(TinyClassifier):
        def forward(self, images):
            seen.append(images.detach())
            return super().forward(images)

    plain = sample(name, pipes[name])
    with feedback(pipes[name], Watching(), scale=0.05, every=2, labels=LABELS, decoder=cheap) as record:
        guided = sample(name, pipes[name])
    assert len(record.values) == 2
    assert guided.shape == plain.shape
    assert not torch.allclose(guided, plain, atol=1e-3)
    assert all(weight.grad is None for weight in cheap.parameters())
    x0 = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    decode = get_decoder(pipes["sd15"], cheap)
    torch.testing.assert_close(decode(x0), cheap.decode(x0).sample / 2 + 0.5)


@pytest.mark.parametrize("size", [4, 8, 100])
def test_decode_size_is_the_short_side_that_the_classifier_sees(size, pipes):
    torch.manual_seed(0)
    decode = get_decoder(pipes["sd15"], decode_size=size)
    own = get_decoder(pipes["sd15"])
    x0 = torch.randn(2, 4, 8, 12)
    assert min(decode(x0).shape[-2:]) == min(size, min(own(x0).shape[-2:]))
    smooth = torch.nn.functional.interpolate(torch.randn(2, 4, 2, 2), (8, 8), mode="bilinear")
    half = torch.nn.functional.interpolate(own(smooth), scale_factor=0.5, mode="area")
    assert decode.decode_size != 8 or (decode(smooth) - half).abs().mean() < half.std()


def test_decode_size_changes_what_guides(pipes):
    values = []
    for size in (None, 4):
        with feedback(
            pipes["sd15"], TinyClassifier(), scale=0.01, steps=[2], labels=LABELS, decode_size=size
        ) as record:
            sample("sd15", pipes["sd15"])
        values.append(record.last)
    assert not torch.allclose(*values, atol=1e-4)


# ---- reuse, memory, precision ----


def test_reuse_follows_the_last_gradient_in_between(pipes):
    """Against the move by hand: x' = x + omega ||x|| g / ||g|| at the second step, with the first step's g."""
    pipe, caught = pipes["sd15"], {}
    for reuse in (False, True):
        latents = caught[reuse] = []
        context = feedback(
            pipe, TinyClassifier(), scale=0.05, steps=[0], labels=LABELS, reuse=reuse, keep_gradients=True
        )
        with context as record:
            keep = lambda p, i, t, kept, into=latents: into.append(kept["latents"].detach()) or {}  # noqa: E731
            sample("sd15", pipe, callback_on_step_end=keep)
        assert sorted(record.gradients) == [0]
    assert torch.equal(caught[False][0], caught[True][0])
    g, x = record.gradients[0], caught[True][0]
    shift = 0.05 * (x.flatten(1).norm(dim=1) / g.flatten(1).norm(dim=1)).view(3, 1, 1, 1) * g
    alphas, (now, after) = pipe.scheduler.alphas_cumprod, pipe.scheduler.timesteps[1:3]
    kick = (alphas[after] / alphas[now]).sqrt() * shift  # DDIM, eps constant
    torch.testing.assert_close(caught[True][1] - caught[False][1], kick, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_checkpointing_changes_memory_and_nothing_else(name, pipes):
    pipe = pipes[name]
    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    images, recomputed = [], []
    for checkpointing in (False, True):
        with feedback(pipe, TinyClassifier(), scale=0.03, labels=LABELS, every=2, checkpointing=checkpointing):
            recomputed.append(denoiser.is_gradient_checkpointing)
            images.append(sample(name, pipe))
    torch.testing.assert_close(images[0], images[1], rtol=0, atol=1e-4)
    assert recomputed == [False, True]
    assert not denoiser.is_gradient_checkpointing


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3", "flux", "kandinsky22"])
def test_half_precision_pipelines_with_fp32_norms_and_criterion(name, dtype):
    pipe = FAMILIES[name]().to(dtype=dtype)
    call = {
        key: value.to(dtype) for key, value in arguments(name, pipe, 3, (0, 1, 2)).items() if torch.is_tensor(value)
    }
    classifier = TinyClassifier()
    with feedback(pipe, classifier, scale=0.03, every=2, labels=LABELS, keep_gradients=True) as record:
        guided = sample(name, pipe, **call)
    assert {value.dtype for value in (*record.values.values(), *record.gradients.values())} == {torch.float32}
    assert record.skipped == []
    assert torch.isfinite(guided).all()
    exact = FAMILIES[name]()
    with feedback(exact, classifier, scale=0.03, every=2, labels=LABELS, keep_gradients=True) as reference:
        sample(name, exact)
    if name == "kandinsky22":  # with random weights its gradient turns within a rounding error of the latents
        return
    cosine = torch.nn.functional.cosine_similarity(
        record.gradients[0].flatten(1), reference.gradients[0].flatten(1), dim=1
    )
    assert cosine.min() > 0.9


def test_fp16_gradients_that_would_vanish_are_magnified(pipes):
    pipe = FAMILIES["sd15"]().to(dtype=torch.float16)

    def faint(logits, features, labels):
        return criteria.entropy(logits, features, labels) * 1e-6

    with feedback(pipe, TinyClassifier(), faint, 0.03, every=2, labels=LABELS, keep_gradients=True) as record:
        sample("sd15", pipe)
    assert record.skipped == []
    assert 0 < record.gradients[0].abs().max() < 1e-4


def test_an_autoencoder_that_overflows_in_fp16_decodes_in_fp32_and_goes_back():
    pipe = FAMILIES["sdxl"]().to(dtype=torch.float16)
    pipe.vae.register_to_config(force_upcast=True)
    seen = []
    pipe.vae.decoder.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with feedback(pipe, TinyClassifier(), scale=0.03, every=2, labels=LABELS) as record:
        sample("sdxl", pipe)
    assert seen[:2] == [torch.float32] * 2
    assert record.skipped == []
    assert pipe.vae.dtype == torch.float16


def test_a_compiled_denoiser_gives_the_same_images(pipes):
    plain = pipes["sd15"]
    compiled = StableDiffusionPipeline(**plain.components, requires_safety_checker=False)
    compiled.set_progress_bar_config(disable=True)
    compiled.unet = torch.compile(plain.unet, backend="eager")
    images = []
    for pipe in (plain, compiled):
        with feedback(pipe, TinyClassifier(), scale=0.03, every=2, labels=LABELS):
            images.append(sample("sd15", pipe))
    torch.testing.assert_close(images[0], images[1], rtol=0, atol=1e-4)


def test_a_call_that_ends_early_ends_without_a_graph(pipes):
    with feedback(pipes["sdxl"], TinyClassifier(), scale=0.03, every=1, labels=LABELS) as record:
        images = sample("sdxl", pipes["sdxl"], denoising_end=0.5)
    assert sorted(record.values) == [0, 1]
    assert not images.requires_grad


# ---- what is refused, before sampling ----


@pytest.mark.parametrize("through", ["denoiser", "denoiser-forward"])
def test_a_pipeline_without_a_known_denoiser(through, pipes, monkeypatch):
    monkeypatch.setattr("tailsmith.guidance.denoiser.DENOISERS", ("prior",))
    with (
        pytest.raises(ValueError, match=r"no denoiser in StableDiffusionPipeline \(prior\); use prediction='guided'"),
        feedback(pipes["sd15"], TinyClassifier(), labels=LABELS, through=through),
    ):
        pytest.fail("the block was entered")


class Recording:
    """Counts the denoiser's calls."""

    def __init__(self, pipe):
        self.calls = 0
        self.hook = pipe.unet.register_forward_hook(lambda *_: setattr(self, "calls", self.calls + 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder": torch.nn.Linear(1, 1)}, r"decoder should be a diffusers autoencoder.*got Linear"),
        ({"decoder": tiny_decoder(8)}, "decoder should take the pipeline's 4 latent channels, got one that takes 8"),
        ({"decode_size": 0}, "decode_size should be at least 1 pixel, got 0"),
    ],
)
def test_bad_decoders(changes, message, pipes):
    with pytest.raises(ValueError, match=message), feedback(pipes["sd15"], TinyClassifier(), labels=LABELS, **changes):
        pytest.fail("the block was entered")


def test_a_decoder_on_another_device(pipes):
    with (
        pytest.raises(ValueError, match=r"the decoder is on meta, the pipeline samples on cpu; move one"),
        feedback(pipes["sd15"], TinyClassifier(), labels=LABELS, decoder=tiny_decoder().to("meta")),
    ):
        sample("sd15", pipes["sd15"])


def test_a_list_of_guidance_scales_where_it_is_an_input_of_the_denoiser(pipes):
    with (
        pytest.raises(ValueError, match=r"guidance_scale should be one number.*got a list"),
        feedback(pipes["flux"], TinyClassifier(), labels=LABELS),
    ):
        sample("flux", pipes["flux"], guidance_scale=[1.0, 2.0, 3.0])


@pytest.mark.parametrize("through", ["denoiser", "decoder"])
def test_a_callback_that_replaces_the_latents(through, pipes):
    def replace(pipe, step, timestep, kept):
        return {"latents": kept["latents"].detach().clone()}

    context = feedback(pipes["sd15"], TinyClassifier(), labels=LABELS, every=2, through=through)
    if through == "denoiser":
        with pytest.raises(ValueError, match=r"replaced since the step before.*callback_on_step_end"), context:
            sample("sd15", pipes["sd15"], callback_on_step_end=replace)
    else:
        with context as record:
            sample("sd15", pipes["sd15"], callback_on_step_end=replace)
        assert sorted(record.values) == [0, 2]


def test_latents_of_unknown_shape(pipes, monkeypatch):
    pipe = FAMILIES["sd15"]()
    own, recording = pipe.prepare_latents, Recording(pipe)
    packed = lambda *arguments, **options: own(*arguments, **options).flatten(2)  # noqa: E731
    monkeypatch.setattr(type(pipe), "prepare_latents", lambda self, *a, **o: packed(*a, **o))
    with (
        pytest.raises(ValueError, match=r"latents should be \[N, 4, h, w\].*got \(3, 4, \d+\).*adding-a-family"),
        feedback(pipe, TinyClassifier(), labels=LABELS),
    ):
        sample("sd15", pipe)
    assert recording.calls == 0


def test_latents_given_to_a_pipeline_that_then_prepares_none(pipes):
    with (
        pytest.raises(ValueError, match=r"StableUnCLIPImg2ImgPipeline prepares no latents when it is given latents="),
        feedback(pipes["unclip"], TinyClassifier(), labels=LABELS),
    ):
        sample("unclip", pipes["unclip"], latents=torch.randn(3, 4, 4, 4))


def test_weights_that_are_taken_away_layer_by_layer():
    from accelerate import cpu_offload

    pipe = FAMILIES["sd15"]()
    cpu_offload(pipe.unet, execution_device=torch.device("cpu"))
    with (
        pytest.raises(ValueError, match=r"sequential or group offloading.*enable_model_cpu_offload"),
        feedback(pipe, TinyClassifier(), labels=LABELS),
    ):
        pytest.fail("the block was entered")


def test_offloading_whole_models_works(pipes):
    from accelerate import cpu_offload_with_hook

    plain = sample("sd15", pipes["sd15"])
    with feedback(pipes["sd15"], TinyClassifier(), scale=0.03, every=2, labels=LABELS):
        expected = sample("sd15", pipes["sd15"])
    pipe, hook = FAMILIES["sd15"](), None
    for part in (pipe.text_encoder, pipe.unet, pipe.vae):
        _, hook = cpu_offload_with_hook(part, torch.device("cpu"), prev_module_hook=hook)
    sends_away = pipe.vae._hf_hook.prev_module_hook
    assert sends_away is not None
    with feedback(pipe, TinyClassifier(), scale=0.03, every=2, labels=LABELS):
        assert pipe.vae._hf_hook.prev_module_hook is None  # the denoiser stays for its backward pass
        torch.testing.assert_close(sample("sd15", pipe), expected, rtol=0, atol=1e-4)
    assert pipe.vae._hf_hook.prev_module_hook is sends_away
    assert not torch.allclose(plain, expected, atol=1e-3)
