"""Feedback around a tiny pipeline of the real classes: against a plain slow DDIM loop, and what may go wrong."""

from contextlib import nullcontext

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from tailsmith.guidance import criteria
from tailsmith.guidance.class_gaussians import fit_class_gaussians
from tailsmith.guidance.config import FeedbackConfig
from tailsmith.guidance.feedback import Skip, feedback
from tailsmith.guidance.parameterization import move_latent, predicted_x0, relative_step
from tailsmith.guidance.schedulers import noising
from tiny import CLASSES, EMBEDDING, TinyClassifier, tiny_pipeline

STEPS = 6
LABELS = [0, 1, 2]
EVERY = [0, 2, 4]


def options(seeds, double=False, **changes):
    """Arguments of a pipeline call that makes image k from seed k alone."""
    embeddings = [torch.randn(EMBEDDING, generator=torch.Generator().manual_seed(1000 + seed)) for seed in seeds]
    arguments = {
        "image": None,
        "prompt": [CLASSES[seed % 3] for seed in seeds],
        "image_embeds": torch.stack(embeddings).to(torch.float64 if double else torch.float32),
        "guidance_scale": 3.0,
        "num_inference_steps": STEPS,
        "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
        "output_type": "pt",
    }
    return {**arguments, **changes}


def sample(pipe, seeds=(0, 1, 2), **changes):
    return pipe(**options(seeds, **changes)).images


def finished_values(classifier, images, criterion, labels):
    with torch.no_grad():
        return criterion(*classifier(images), torch.tensor(labels))


def largest_logit(logits, features, labels):
    """A user's criterion."""
    return logits.amax(dim=1)


@pytest.fixture(scope="module")
def gaussians(classifier):
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        _, features = classifier(torch.rand(60, 3, 16, 16, generator=generator))
    return fit_class_gaussians(features.numpy(), torch.arange(60).numpy() % 3, 3)


# ---- off, and equal to an independent computation ----


def test_scale_zero_is_the_plain_pipeline_bit_for_bit(pipe, classifier):
    plain = sample(pipe)
    with feedback(pipe, classifier, scale=0, labels=LABELS) as record:
        guided = sample(pipe)
    assert torch.equal(plain, guided)
    assert record.last is None


def test_no_guided_step_is_the_plain_pipeline(pipe, classifier):
    with feedback(pipe, classifier, scale=1, steps=[], labels=LABELS):
        assert torch.equal(sample(pipe), sample(pipe))


def slow_guided_sampling(pipe, classifier, criterion, scale, guidance_scale, prediction, seeds):
    """Sections 2 and 3.1 written out: an own loop, own classifier-free guidance, own DDIM step (eta 0).

    -> finished images, {guided step: dC/dx_t}.
    """
    call, gradients = options(seeds, double=True), {}
    labels, scheduler, unet = torch.tensor(LABELS), pipe.scheduler, pipe.unet
    with torch.no_grad():
        prompts, empty = (
            pipe.text_encoder(
                pipe.tokenizer(
                    text, padding="max_length", max_length=16, truncation=True, return_tensors="pt"
                ).input_ids
            )[0]
            for text in (call["prompt"], [""] * len(seeds))
        )
        condition = pipe.noise_image_embeddings(call["image_embeds"], 0, generator=call["generator"])
    z = torch.cat([torch.randn(1, 4, 4, 4, generator=each, dtype=torch.float64) for each in call["generator"]])
    scheduler.set_timesteps(STEPS)
    for index, t in enumerate(scheduler.timesteps):
        alpha_bar = scheduler.alphas_cumprod[t].double()
        before = t - 1000 // STEPS
        alpha_bar_before = scheduler.alphas_cumprod[before] if before >= 0 else scheduler.final_alpha_cumprod
        a, s = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        z = z.detach().requires_grad_()
        conditional = output = unet(z, t, prompts, class_labels=condition).sample
        if guidance_scale > 1:
            unconditional = unet(z, t, empty, class_labels=torch.zeros_like(condition)).sample
            output = unconditional + guidance_scale * (output - unconditional)
        seen = conditional if prediction == "conditional" else output
        if scheduler.config.prediction_type == "epsilon":
            eps, x0 = output, (z - s * seen) / a
        else:
            eps, x0 = a * output + s * z, a * z - s * seen
        g = torch.zeros_like(z)
        if index in EVERY:
            image = pipe.vae.decode(x0 / pipe.vae.config.scaling_factor).sample / 2 + 0.5
            value = criterion(*classifier(image), labels).sum()
            (gradients[index],) = torch.autograd.grad(value, z)
            for i in range(len(z)):
                g[i] = scale * z[i].detach().norm() * gradients[index][i] / gradients[index][i].norm()
        with torch.no_grad():  # z += g with the eps of before
            x0 = (z + g - s * eps) / a  # the guided one, whichever the classifier saw
            z = alpha_bar_before.sqrt() * x0 + (1 - alpha_bar_before).sqrt() * eps
    with torch.no_grad():
        image = pipe.vae.decode(z / pipe.vae.config.scaling_factor).sample
    return (image / 2 + 0.5).clamp(0, 1), gradients


@pytest.mark.parametrize("prediction", ["conditional", "guided"])
@pytest.mark.parametrize("kind", ["v_prediction", "epsilon"])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_gradient_and_images_equal_a_plain_slow_loop(kind, guidance_scale, prediction, classifier):
    pipe = tiny_pipeline(kind).to(torch.float64)  # what is compared are formulas, not rounding
    expected, gradients = slow_guided_sampling(
        pipe, classifier, criteria.entropy, 0.02, guidance_scale, prediction, (0, 1, 2)
    )
    options = {"every": 2, "labels": LABELS, "prediction": prediction, "keep_gradients": True}
    with feedback(pipe, classifier, "entropy", 0.02, **options) as record:
        images = sample(pipe, double=True, guidance_scale=guidance_scale)
    assert sorted(record.gradients) == EVERY
    for step, gradient in gradients.items():
        for own, other in zip(record.gradients[step], gradient, strict=True):
            assert (own - other).norm() <= 1e-5 * other.norm(), step
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-6)


def test_score_update_is_ddim_on_a_lower_noise_prediction(classifier):
    """eps' = eps - s omega g (Eq. 3), through the real scheduler."""
    pipe = tiny_pipeline("epsilon")
    seen = []
    original = pipe.scheduler.step

    def spy(model_output, timestep, x, *arguments, **keywords):
        result = original(model_output, timestep, x, *arguments, **keywords)
        seen.append((model_output.clone(), timestep, x.clone(), result[0].clone()))
        return result

    with torch.no_grad():  # what the denoiser says at the first step, unguided
        pipe.scheduler.step = spy
        sample(pipe, num_inference_steps=STEPS)
        del pipe.scheduler.step
    eps, timestep, x, _ = seen[0]
    with feedback(pipe, classifier, scale=2.5, steps=[0], update="score", labels=LABELS, keep_gradients=True) as record:
        caught = capture_latents(pipe)
    s = noising(pipe.scheduler, 0).noise
    expected = pipe.scheduler.step(eps - s * 2.5 * record.gradients[0], timestep, x).prev_sample
    torch.testing.assert_close(caught[0], expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(caught[0], seen[0][3], atol=1e-4)


def capture_latents(pipe, seeds=(0, 1, 2), **changes):
    """The latents after each step of a call."""
    caught = []
    pipe(**options(seeds, **changes), callback=lambda i, t, latents: caught.append(latents.detach().clone()))
    return caught


def test_latent_update_is_the_helper_functions_in_a_row(pipe, classifier):
    """The first guided step of the hook, assembled by hand from parameterization.py and diffusers' own step."""
    plain = capture_latents(pipe)
    with feedback(pipe, classifier, scale=0.05, steps=[1], labels=LABELS, keep_gradients=True) as record:
        guided = capture_latents(pipe)
    torch.testing.assert_close(plain[0], guided[0], rtol=0, atol=1e-6)
    timestep, following = pipe.scheduler.timesteps[1:3]
    kick = (pipe.scheduler.alphas_cumprod[following] / pipe.scheduler.alphas_cumprod[timestep]).sqrt()
    shift = relative_step(record.gradients[1], plain[0], torch.full((3,), 0.05))
    torch.testing.assert_close(guided[1] - plain[1], kick * shift, rtol=1e-3, atol=1e-5)
    at, zero = noising(pipe.scheduler, 1), torch.zeros_like(shift)
    before, after = (predicted_x0(*move_latent(zero, zero, each, at), at) for each in (zero, shift))
    torch.testing.assert_close(after - before, shift / at.signal)


# ---- settings as one, and as keywords; criteria that ask others ----


def test_the_settings_passed_whole_are_those_of_the_short_form(pipe, classifier):
    config = FeedbackConfig("loss", 0.02, steps=(0, 3), update="latent", through="decoder", views=2)
    with feedback(pipe, classifier, config=config, labels=LABELS) as whole:
        images = sample(pipe)
    short = {"steps": [0, 3], "through": "decoder", "views": 2}
    with feedback(pipe, classifier, "loss", 0.02, labels=LABELS, **short) as spelled:
        assert torch.equal(sample(pipe), images)
    assert {step: values.tolist() for step, values in whole.values.items()} == {
        step: values.tolist() for step, values in spelled.values.items()
    }
    with feedback(pipe, classifier, config=config, scale=0, labels=LABELS) as off:  # a keyword wins
        assert not torch.equal(sample(pipe), images)
    assert off.last is None


def test_what_is_no_setting_or_belongs_to_a_plan_is_refused(pipe, classifier):
    with pytest.raises(TypeError, match="scael"), feedback(pipe, classifier, scael=1, labels=LABELS):
        pytest.fail("the block was entered")
    for config, message in (
        (FeedbackConfig(decoder="tiny"), r"look through the decoder 'tiny'; give that module as decoder="),
        (FeedbackConfig(criterion={"loss": 1.0}), "a mixture of criteria is drawn from by a plan"),
    ):
        with pytest.raises(ValueError, match=message), feedback(pipe, classifier, config=config, labels=LABELS):
            pytest.fail("the block was entered")


def test_a_criterion_of_images_asks_whom_it_likes_and_who_is_asked_is_frozen(pipe, classifier):
    other = TinyClassifier(seed=7).train()
    committee = criteria.criterion_of("entropy", other)

    def disagreement(images, labels):
        return committee(images, labels) + criteria.criterion_of("entropy", classifier)(images, labels)

    seen = []
    other.register_forward_hook(lambda module, inputs, output: seen.append((module.training, output[0].requires_grad)))
    with feedback(pipe, classifier, [committee, committee, disagreement], 0.02, labels=LABELS, steps=[2]) as record:
        sample(pipe)
    assert seen == [(False, True), (False, True)]
    assert other.training and all(weight.requires_grad for weight in other.parameters())
    assert len(record.last) == 3


# ---- it does what it is for ----


@pytest.mark.parametrize("name", ["entropy", "loss", "hardness", "users"])
def test_the_criterion_of_finished_images_rises_with_the_scale(name, pipe, classifier, gaussians):
    function = largest_logit if name == "users" else criteria.score_of(name, gaussians)
    criterion = criteria.criterion_of(name, classifier, gaussians) if name == "hardness" else function
    criterion = name if name in ("entropy", "loss") else criterion
    seeds = range(24)
    labels = [seed % 3 for seed in seeds]
    means = []
    for scale in (0.0, 0.005, 0.01, 0.02):
        with feedback(pipe, classifier, criterion, scale, 2, labels=labels):
            images = sample(pipe, seeds)
        means.append(finished_values(classifier, images, function, labels).mean().item())
    assert means == sorted(means), means
    assert means[-1] > means[0] + 0.01


@pytest.mark.parametrize("update", ["latent", "score"])
def test_through_the_decoder_alone_makes_no_denoiser_graph_and_still_raises_the_criterion(update, classifier):
    pipe = tiny_pipeline()
    graphs = []
    pipe.unet.register_forward_hook(lambda module, inputs, output: graphs.append(output[0].requires_grad))
    scale = 0.02 if update == "latent" else 0.1
    plain = finished_values(classifier, sample(pipe), criteria.entropy, LABELS)
    graphs.clear()
    with feedback(pipe, classifier, scale=scale, every=2, through="decoder", update=update, labels=LABELS):
        guided = sample(pipe)
    assert graphs == [False] * STEPS
    assert finished_values(classifier, guided, criteria.entropy, LABELS).mean() > plain.mean() + 0.01


def test_through_the_denoiser_only_guided_steps_make_a_graph(classifier):
    pipe = tiny_pipeline()
    graphs = []
    pipe.unet.register_forward_hook(lambda module, inputs, output: graphs.append(output[0].requires_grad))
    with feedback(pipe, classifier, steps=[1, 5], prediction="guided", labels=LABELS):
        sample(pipe)
    assert graphs == [False, True, False, False, False, True]


def test_of_the_conditional_prediction_only_that_branch_makes_a_graph(classifier):
    pipe, calls = tiny_pipeline(), []

    def note(module, inputs, output):
        calls.append((len(output[0]), output[0].requires_grad))

    pipe.unet.register_forward_hook(note)
    with feedback(pipe, classifier, steps=[1], labels=LABELS):
        sample(pipe, num_inference_steps=3)
    assert calls == [(6, False), (3, True), (3, False), (6, False)]


def test_views_average_the_criterion_over_shifts_and_flips(pipe, classifier):
    with feedback(pipe, classifier, scale=0.02, steps=[0], labels=LABELS) as one:
        sample(pipe)
    with feedback(pipe, classifier, scale=0.02, steps=[0], labels=LABELS, views=4) as four:
        first = sample(pipe)
    with feedback(pipe, classifier, scale=0.02, steps=[0], labels=LABELS, views=4) as again:
        second = sample(pipe)
    assert not torch.allclose(one.values[0], four.values[0], atol=1e-4)
    torch.testing.assert_close(four.values[0], again.values[0])
    assert torch.equal(first, second)


# ---- one image does not know the others ----


def test_an_image_of_a_batch_equals_the_same_request_alone(pipe, classifier):
    with feedback(pipe, classifier, scale=[0.01, 0.03, 0.02], every=2, labels=LABELS) as batched:
        together = sample(pipe)
    with feedback(pipe, classifier, scale=0.03, every=2, labels=LABELS[1:2]) as single:
        alone = sample(pipe, seeds=[1])
    torch.testing.assert_close(together[1], alone[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(batched.last[1], single.last[0], rtol=1e-3, atol=1e-4)


def test_a_scale_per_image_leaves_the_zero_ones_alone(pipe, classifier):
    plain = sample(pipe)
    with feedback(pipe, classifier, scale=[0.0, 0.05, 0.0], every=2, labels=LABELS) as record:
        guided = sample(pipe)
    torch.testing.assert_close(guided[[0, 2]], plain[[0, 2]], rtol=0, atol=1e-5)
    assert (guided[1] - plain[1]).abs().max() > 1e-2
    assert record.skipped == []


def test_a_criterion_per_image(pipe, classifier):
    with feedback(pipe, classifier, ["entropy", "loss", largest_logit], 0.02, 2, labels=LABELS) as mixed:
        together = sample(pipe)
    for image, criterion in enumerate(["entropy", "loss", largest_logit]):
        with feedback(pipe, classifier, criterion, 0.02, 2, labels=LABELS) as pure:
            alone = sample(pipe)
        torch.testing.assert_close(together[image], alone[image], rtol=0, atol=1e-5)
        torch.testing.assert_close(mixed.values[4][image], pure.values[4][image], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("through", ["denoiser", "decoder"])
def test_decoding_a_few_images_at_a_time_changes_nothing(through, pipe, classifier):
    gradients = []
    for at_once in (1, 2, None):
        with feedback(
            pipe, classifier, ["entropy", "loss", largest_logit], 0.02, 2, labels=LABELS, through=through, views=2,
            decode_batch_size=at_once, keep_gradients=True,
        ) as record:  # fmt: skip
            sample(pipe)
        gradients.append(record.gradients[0])
    torch.testing.assert_close(gradients[0], gradients[2], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(gradients[1], gradients[2], rtol=1e-3, atol=1e-4)


def test_several_images_per_prompt(pipe, classifier):
    call = {"num_images_per_prompt": 2, "generator": torch.Generator().manual_seed(3)}
    with feedback(pipe, classifier, scale=0.02, labels=[0, 0, 1, 1]) as record:
        images = pipe(**options([0, 1], **call)).images
    assert images.shape == (4, 3, 16, 16)
    assert record.last.shape == (4,)


def test_a_classifier_in_training_mode_does_not_mix_the_batch_nor_learn_from_it(pipe):
    class Normalised(TinyClassifier):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(6)
            self.quiet = torch.nn.Dropout(0.5).eval()

        def forward(self, images):
            _, features = super().forward(images)
            features = self.norm(features)
            return features @ self.head, features

    classifier = Normalised().train()
    classifier.quiet.eval()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    with feedback(pipe, classifier, scale=0.02, labels=LABELS):
        together = sample(pipe)
    with feedback(pipe, classifier, scale=0.02, labels=[0]):
        alone = sample(pipe, seeds=[0])
    torch.testing.assert_close(together[0], alone[0], rtol=0, atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
    assert classifier.training
    assert classifier.norm.training
    assert not classifier.quiet.training


# ---- which steps ----


@pytest.mark.parametrize(
    ("every", "steps", "guided"),
    [(2, None, [0, 2, 4]), (5, None, [0, 5]), (1, None, list(range(6))), (100, None, [0]),
     (1, [0], [0]), (1, [5], [5]), (5, [1, 4], [1, 4]), (1, (3,), [3])],
)  # fmt: skip
def test_guided_steps(every, steps, guided, pipe, classifier):
    with feedback(pipe, classifier, every=every, steps=steps, labels=LABELS) as record:
        caught = capture_latents(pipe)
    plain = capture_latents(pipe)
    assert sorted(record.values) == guided
    for step in range(guided[0]):
        torch.testing.assert_close(caught[step], plain[step], rtol=0, atol=1e-6)
    assert (caught[guided[0]] - plain[guided[0]]).abs().max() > 1e-3
    torch.testing.assert_close(record.last, record.values[guided[-1]])


# ---- gradients that lead nowhere ----


@pytest.mark.parametrize("update", ["latent", "score"])
@pytest.mark.parametrize("through", ["denoiser", "denoiser-forward", "decoder"])
@pytest.mark.parametrize(
    ("factor", "reason"),
    [(float("nan"), "non-finite gradient"), (float("inf"), "non-finite gradient"), (0.0, "zero gradient")],
)
def test_an_image_without_a_usable_gradient_goes_on_unguided(factor, reason, update, through, pipe, classifier):
    def criterion(logits, features, labels):
        values = criteria.entropy(logits, features, labels)
        return values * torch.where(labels == 1, factor, 1.0)

    plain = sample(pipe)
    with feedback(pipe, classifier, criterion, 0.05, 2, labels=LABELS, update=update, through=through) as record:
        guided = sample(pipe)
    assert record.skipped == [Skip(step, 1, reason) for step in EVERY]
    assert torch.isfinite(guided).all()
    torch.testing.assert_close(guided[1], plain[1], rtol=0, atol=1e-5)  # noise of the branches' separate calls
    for image in (0, 2):
        assert (guided[image] - plain[image]).abs().max() > 1e-3


def test_a_classifier_that_sees_no_difference_guides_nobody(pipe):
    blind = TinyClassifier()
    blind.body.data.zero_()
    plain = sample(pipe)
    with feedback(pipe, blind, every=5, labels=LABELS) as record:
        guided = sample(pipe)
    torch.testing.assert_close(guided, plain, rtol=0, atol=1e-5)
    assert record.skipped == [Skip(step, image, "zero gradient") for step in (0, 5) for image in range(3)]


@pytest.mark.parametrize("through", ["denoiser", "denoiser-forward", "decoder"])
def test_a_classifier_that_hides_its_gradient_is_an_error(through, pipe, classifier):
    def hidden(images):
        with torch.no_grad():
            return classifier(images)

    with (
        pytest.raises(ValueError, match=r"don't depend on the images.*torch.no_grad\(\)"),
        feedback(pipe, hidden, through=through, labels=LABELS),
    ):
        sample(pipe)


def test_a_denoiser_whose_call_can_not_be_seen(classifier):
    class Wrapped(torch.nn.Module):
        def __init__(self, own):
            super().__init__()
            self.own, self.config, self.dtype, self.device = own, own.config, own.dtype, own.device

        def __call__(self, *arguments, **options):
            return self.own(*arguments, **options)

    pipe = tiny_pipeline()
    pipe.unet = Wrapped(pipe.unet)
    with (
        pytest.raises(ValueError, match=r"didn't see the call of the denoiser.*use prediction='guided'"),
        feedback(pipe, classifier, labels=LABELS),
    ):
        sample(pipe)


# ---- everything is as before ----


def state_of(pipe, classifier):
    modules = [each for each in pipe.components.values() if isinstance(each, torch.nn.Module)]
    flags = [weight.requires_grad for module in (*modules, classifier) for weight in module.parameters()]
    flags += [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules]
    return flags, torch.is_grad_enabled(), sorted(vars(pipe)), sorted(vars(pipe.scheduler))


@pytest.mark.parametrize("grad_mode", [torch.enable_grad, torch.no_grad])
def test_after_the_block_everything_is_as_before(grad_mode, classifier):
    pipe = tiny_pipeline()
    next(pipe.unet.parameters()).requires_grad_(False)
    plain = sample(pipe)
    with grad_mode():
        before = state_of(pipe, classifier)
        with feedback(pipe, classifier, scale=0.05, every=2, labels=LABELS):
            sample(pipe)
        assert state_of(pipe, classifier) == before
    assert pipe.scheduler.step.__func__ is DDIMScheduler.step
    assert pipe.prepare_latents.__func__ is type(pipe).prepare_latents
    assert torch.equal(sample(pipe), plain)
    assert all(weight.grad is None for weight in (*pipe.unet.parameters(), *classifier.parameters()))


def test_after_an_exception_in_the_middle_of_sampling_everything_is_as_before(classifier):
    pipe = tiny_pipeline()
    plain = sample(pipe)
    before = state_of(pipe, classifier)
    calls = []

    def criterion(logits, features, labels):
        calls.append(torch.is_grad_enabled())
        if len(calls) == 2:
            raise RuntimeError("power cut")
        return criteria.entropy(logits, features, labels)

    with (
        pytest.raises(RuntimeError, match="power cut"),
        feedback(pipe, classifier, criterion, every=2, labels=LABELS),
    ):
        sample(pipe)
    assert calls == [True, True]
    assert state_of(pipe, classifier) == before
    assert torch.equal(sample(pipe), plain)


def test_what_the_user_replaced_stays_replaced(classifier):
    pipe = tiny_pipeline()
    scheduler, own = pipe.scheduler, pipe.prepare_latents
    pipe.prepare_latents = lambda *arguments, **options: own(*arguments, **options)
    replaced = pipe.prepare_latents
    with feedback(pipe, classifier, labels=LABELS):
        pipe.scheduler = DDIMScheduler.from_config(scheduler.config)
    assert pipe.prepare_latents is replaced
    assert "step" not in {**vars(scheduler), **vars(pipe.scheduler)}


def test_an_error_of_ones_own_is_not_taken_for_a_list_of_guidance_scales(pipe, classifier):
    def mistaken(logits, features, labels):
        return [1.0] > 0

    with (
        pytest.raises(TypeError, match="not supported between instances of 'list' and 'int'"),
        feedback(pipe, classifier, mistaken, labels=LABELS),
    ):
        sample(pipe)


# ---- other pipelines, schedulers, outputs ----


@pytest.mark.parametrize("return_dict", [True, False])
def test_every_output_type_and_return_form(return_dict, pipe, classifier):
    with feedback(pipe, classifier, scale=0.02, labels=LABELS):
        floats = pipe(**options([0, 1, 2], return_dict=return_dict))[0]
    with feedback(pipe, classifier, scale=0.02, labels=LABELS):
        pictures = pipe(**options([0, 1, 2], output_type="pil", return_dict=return_dict))[0]
    assert not floats.requires_grad
    for tensor, picture in zip(floats, pictures, strict=True):
        expected = (tensor.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        assert (torch.tensor(list(picture.tobytes())) == torch.tensor(list(expected.tobytes()))).all()


def test_a_stochastic_scheduler_still_draws_from_the_callers_generator(classifier):
    """Pipelines pass `generator` only to a scheduler.step whose signature has it."""
    pipe = tiny_pipeline()
    pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    images = []
    for context in (
        nullcontext(),
        *(feedback(pipe, classifier, scale=s, steps=[5], labels=LABELS) for s in (1e-7, 0.05)),
    ):
        with context:
            images.append(sample(pipe))
    torch.testing.assert_close(images[1], images[0], rtol=0, atol=1e-4)
    assert (images[2] - images[0]).abs().max() > 1e-3


def test_text_only_stable_diffusion(pipe, classifier):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=4, in_channels=4, out_channels=4, cross_attention_dim=12, block_out_channels=(16, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1, attention_head_dim=4, norm_num_groups=16,
        ).eval()  # fmt: skip
    plain = StableDiffusionPipeline(
        vae=pipe.vae, text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer, unet=unet,
        scheduler=DDIMScheduler.from_config(pipe.scheduler.config), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    plain.set_progress_bar_config(disable=True)

    def images():
        generator = torch.Generator().manual_seed(0)
        call = {"num_inference_steps": STEPS, "generator": generator, "output_type": "pt"}
        return plain(["sandal", "bag", "bag"], **call).images

    before = finished_values(classifier, images(), criteria.entropy, LABELS)
    with feedback(plain, classifier, scale=0.02, every=2, labels=LABELS):
        guided = images()
    assert finished_values(classifier, guided, criteria.entropy, LABELS).mean() > before.mean() + 0.01


# ---- what bad arguments get, before anything is sampled ----


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"criterion": "entrpy"}, r"criterion should be one of.*got 'entrpy'"),
        ({"criterion": ["loss", "entrpy", "loss"]}, r"criterion should be one of.*got 'entrpy'"),
        ({"criterion": ["loss"]}, "one per image: 3 labels, 1 criteria"),
        ({"criterion": "hardness"}, "'hardness' needs gaussians"),
        ({"update": "noise"}, r"update should be one of \['latent', 'score'\], got 'noise'"),
        ({"prediction": "both"}, r"prediction should be one of \['conditional', 'guided'\], got 'both'"),
        ({"through": "vae"}, r"through should be one of \['denoiser', 'denoiser-forward', 'decoder'\], got 'vae'"),
        ({"every": 0}, "every should be at least 1, got 0"),
        ({"steps": [2, -1]}, r"steps are counted from 0, got \[-1, 2\]"),
        ({"views": 0}, "views should be at least 1, got 0"),
        ({"decode_batch_size": 0}, "decode_batch_size should be at least 1, got 0"),
        ({"scale": -0.1}, "scale should be finite and not negative, got -0.1"),
        ({"scale": float("nan")}, "scale should be finite and not negative, got nan"),
        ({"scale": [0.1, float("inf"), 0.1]}, "scale should be finite"),
        ({"scale": [0.1, 0.1]}, r"one number or one per image: 3 labels, scales \(2,\)"),
        ({"labels": []}, "labels should name the class of each image of the batch, got none"),
        ({"labels": 2}, r"labels should be a list of whole numbers, one per image of the batch; got int64 \[\]"),
        ({"labels": [[0], [1], [2]]}, r"labels should be a list of whole numbers.*got int64 \[3, 1\]"),
        ({"labels": [0.5, 1, 2]}, r"labels should be a list of whole numbers.*got float32 \[3\]"),
    ],
)
def test_bad_arguments_are_refused_before_sampling(changes, message, pipe, classifier):
    with (
        pytest.raises(ValueError, match=message),
        feedback(pipe, classifier, **{"labels": LABELS, **changes}),
    ):
        pytest.fail("the block was entered")
    assert "step" not in vars(pipe.scheduler)


@pytest.mark.parametrize(("labels", "per_prompt"), [([0, 1], 1), (LABELS, 2)])
def test_labels_of_another_number_than_the_images(labels, per_prompt, pipe, classifier):
    calls = []
    hook = pipe.unet.register_forward_hook(lambda *arguments: calls.append(1))
    generator = torch.Generator().manual_seed(0)
    with (
        pytest.raises(ValueError, match=f"makes {3 * per_prompt} images, got {len(labels)} labels"),
        feedback(pipe, classifier, labels=labels),
    ):
        sample(pipe, num_images_per_prompt=per_prompt, generator=generator)
    hook.remove()
    assert calls == []


def test_a_step_that_never_comes(pipe, classifier):
    with (
        pytest.raises(ValueError, match=r"steps should be within 0\.\.5, this call has 6; got 99"),
        feedback(pipe, classifier, labels=LABELS, steps=(3, 99)),
    ):
        sample(pipe)


def test_a_label_that_the_classifier_does_not_know(pipe, classifier):
    with (
        pytest.raises(ValueError, match=r"labels should be within 0\.\.2, the classes of the classifier; got 0\.\.3"),
        feedback(pipe, classifier, labels=[0, 1, 3]),
    ):
        sample(pipe)


def test_a_list_of_guidance_scales(pipe, classifier):
    with (
        pytest.raises(ValueError, match=r"guidance_scale should be one number.*got a list"),
        feedback(pipe, classifier, labels=LABELS),
    ):
        sample(pipe, guidance_scale=[1.0, 2.0, 3.0])
    assert "step" not in vars(pipe.scheduler)


def test_a_classifier_on_another_device(pipe, classifier):
    elsewhere = TinyClassifier().to("meta")
    with (
        pytest.raises(ValueError, match=r"classifier is on meta, the pipeline samples on cpu; move one"),
        feedback(pipe, elsewhere, labels=LABELS),
    ):
        sample(pipe)


def test_unsupported_scheduler(classifier):
    pipe = tiny_pipeline()
    pipe.scheduler = PNDMScheduler.from_config(pipe.scheduler.config)
    with (
        pytest.raises(ValueError, match=r"can't use PNDMScheduler.*earlier steps.*set pipe.scheduler = DDIMScheduler"),
        feedback(pipe, classifier, labels=LABELS),
    ):
        pytest.fail("the block was entered")


def test_unsupported_pipeline(classifier):
    with (
        pytest.raises(ValueError, match=r"feedback supports the pipelines.*got object"),
        feedback(object(), classifier, labels=LABELS),
    ):
        pytest.fail("the block was entered")


def test_nested_feedback(pipe, classifier):
    plain = sample(pipe)
    with (
        feedback(pipe, classifier, labels=LABELS),
        pytest.raises(ValueError, match="inside another feedback block"),
        feedback(pipe, classifier, labels=LABELS),
    ):
        pytest.fail("the inner block was entered")
    assert torch.equal(sample(pipe), plain)


def test_inference_mode(pipe, classifier):
    with (
        torch.inference_mode(),
        pytest.raises(ValueError, match=r"inference_mode\(\) forbids; use torch.no_grad"),
        feedback(pipe, classifier, labels=LABELS),
    ):
        pytest.fail("the block was entered")


@pytest.mark.parametrize("in_a_mixture", [False, True])
def test_a_criterion_of_the_wrong_shape(in_a_mixture, pipe, classifier):
    def mean(logits, features, labels):
        return logits.mean()

    criterion = [mean, "loss", mean] if in_a_mixture else mean
    with (
        pytest.raises(ValueError, match=r"one value per image, shape \((2|3),\); got \(\)"),
        feedback(pipe, classifier, criterion, labels=LABELS),
    ):
        sample(pipe)
