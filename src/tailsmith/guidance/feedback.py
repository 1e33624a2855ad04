"""Feedback-guided sampling (the paper's section 3.1) around any diffusers pipeline call, by `scheduler.step`.

The pipeline's own denoiser call, classifier-free guidance included, is recorded by autograd at the guided
steps, so nothing is evaluated twice: the step before a guided one returns latents that require grad, and the
guided step forms x0-hat, decodes it, asks the classifier, and moves the step by the criterion's gradient.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tailsmith.guidance.criteria import ClassGaussians, Criterion, get_criterion, mixture
from tailsmith.guidance.guided_step import Classifier, FeedbackRecord, GuidedStep, Skip
from tailsmith.guidance.latents import get_decoder
from tailsmith.guidance.parameterization import check_scheduler

__all__ = ["Classifier", "FeedbackRecord", "Skip", "check_options", "feedback"]

UPDATES = ("latent", "score")
THROUGH = ("denoiser", "decoder")


@contextmanager
def feedback(
    pipe: Any,
    classifier: Classifier,
    criterion: str | Criterion | Sequence[str | Criterion] = "entropy",
    scale: float | Sequence[float] = 0.03,
    every: int = 5,
    *,
    labels: Sequence[int],
    steps: Sequence[int] | None = None,
    update: str = "latent",
    through: str = "denoiser",
    gaussians: ClassGaussians | None = None,
    views: int = 1,
    view_seed: int = 0,
    keep_gradients: bool = False,
) -> Iterator[FeedbackRecord]:
    """Steer the one pipeline call inside the `with` block towards images the classifier asks for (Eq. 3).

    `criterion`: a name, a function (logits, features, labels) -> [N], or a sequence with one per image.
    `scale`: omega, one number or one per image; 0 leaves the pipeline untouched, bit for bit.
    `every`: guide the steps 0, every, 2 every, ... (the paper: 5), or give `steps` explicitly (0-based).
    `labels`: the class of each image of the batch, in the pipeline's order (several per prompt included).
    `update`: "latent" moves x_t by scale * ||x_t|| * g / ||g|| as the official code does; "score" adds
    scale * g to the score (Eq. 3, unnormalised).
    `through`: "denoiser" is the exact gradient; "decoder" stops at x0-hat and saves the denoiser's backward
    pass (as MPGD).
    `views` > 1 averages the criterion over random shifts and flips of x0-hat.

    An image whose gradient is zero or not finite goes on unguided at that step and is listed in
    `record.skipped`. Inside the block the classifier is in eval mode and nothing collects weight gradients.
    Raises ValueError before sampling where an argument, the scheduler or the pipeline is not supported.
    """
    _check_pipeline(pipe)
    check_options(every=every, steps=steps, update=update, through=through, views=views)
    if len(labels) == 0:
        raise ValueError("labels should name the class of each image of the batch, got none")
    guide = GuidedStep(
        classifier=classifier,
        criterion=_one_criterion(criterion, len(labels), gaussians),
        decode=get_decoder(pipe),
        labels=torch.as_tensor(labels, dtype=torch.long, device=pipe.device),
        scale=_strengths(scale, len(labels)).to(pipe.device),
        update=update,
        through=through,
        views=views,
        view_seed=view_seed,
        keep_gradients=keep_gradients,
        record=FeedbackRecord(),
    )
    if not bool((guide.scale > 0).any()):
        yield guide.record
        return
    with _frozen(pipe, classifier), _hooked(pipe, guide, _guided_steps(every, steps)):
        yield guide.record


@contextmanager
def _hooked(pipe: Any, guide: GuidedStep, guided: Callable[[int], bool]) -> Iterator[None]:
    """Put `guide` between the pipeline and its scheduler; the class's own methods show again afterwards."""
    scheduler, grad_mode = pipe.scheduler, torch.is_grad_enabled()
    original_step, original_prepare = scheduler.step, pipe.prepare_latents

    def arm(latents: Tensor, next_step: int) -> Tensor:
        """Have autograd record the coming denoiser call if its step is to be guided through it."""
        coming = next_step < len(scheduler.timesteps) and guided(next_step)
        armed = coming and guide.through == "denoiser"
        torch.set_grad_enabled(armed)
        return latents.detach().requires_grad_(armed)

    def prepare_latents(*arguments: Any, **options: Any) -> Tensor:
        latents: Tensor = original_prepare(*arguments, **options)
        if len(latents) != len(guide.labels):
            raise ValueError(
                f"labels should name one class per image: the pipeline makes {len(latents)} images, "
                f"got {len(guide.labels)} labels"
            )
        return arm(latents, 0)

    @functools.wraps(original_step)  # pipelines read its signature to know whether to pass eta and generator
    def step(model_output: Tensor, timestep: Any, sample: Tensor, *arguments: Any, **options: Any) -> Any:
        index = int((scheduler.timesteps == timestep).nonzero()[0])
        if guided(index):
            model_output, sample = guide.move(index, model_output, sample, scheduler, timestep)
        with torch.no_grad():
            result = original_step(model_output, timestep, sample, *arguments, **options)
        if isinstance(result, tuple):
            return (arm(result[0], index + 1), *result[1:])
        result.prev_sample = arm(result.prev_sample, index + 1)
        return result

    try:
        scheduler.step, pipe.prepare_latents = step, prepare_latents
        yield
    finally:
        del scheduler.step, pipe.prepare_latents
        torch.set_grad_enabled(grad_mode)


@contextmanager
def _frozen(pipe: Any, classifier: Classifier) -> Iterator[None]:
    """No weight collects a gradient, and the classifier is in eval mode: with batch statistics, an image's
    gradient would depend on the others. Everything is as before afterwards.
    """
    modules = [each for each in (*pipe.components.values(), classifier) if isinstance(each, torch.nn.Module)]
    trainable = [weight for module in modules for weight in module.parameters() if weight.requires_grad]
    inside = classifier.modules() if isinstance(classifier, torch.nn.Module) else ()
    training = [module for module in inside if module.training]
    try:
        for weight in trainable:
            weight.requires_grad_(False)
        for module in training:
            module.training = False
        yield
    finally:
        for weight in trainable:
            weight.requires_grad_(True)
        for module in training:
            module.training = True


def check_options(*, every: int, steps: Sequence[int] | None, update: str, through: str, views: int) -> None:
    """Raise ValueError for settings of `feedback` that mean nothing, whatever the pipeline."""
    if every < 1:
        raise ValueError(f"every should be at least 1, got {every}")
    if steps is not None and any(step < 0 for step in steps):
        raise ValueError(f"steps are counted from 0, got {sorted(steps)}")
    if update not in UPDATES:
        raise ValueError(f"update should be one of {list(UPDATES)}, got {update!r}")
    if through not in THROUGH:
        raise ValueError(f"through should be one of {list(THROUGH)}, got {through!r}")
    if views < 1:
        raise ValueError(f"views should be at least 1, got {views}")


def _check_pipeline(pipe: Any) -> None:
    get_decoder(pipe)
    check_scheduler(pipe.scheduler)
    if "step" in vars(pipe.scheduler):
        raise ValueError("this pipeline is inside another feedback block; leave that one first")
    if torch.is_inference_mode_enabled():
        raise ValueError("feedback needs gradients, which torch.inference_mode() forbids; use torch.no_grad()")


def _strengths(scale: float | Sequence[float], n: int) -> Tensor:
    """One scale per image, [n]."""
    scales = torch.as_tensor(scale, dtype=torch.float32)
    if scales.ndim and scales.shape != (n,):
        raise ValueError(f"scale should be one number or one per image: {n} labels, scales {tuple(scales.shape)}")
    if not bool((torch.isfinite(scales) & (scales >= 0)).all()):
        raise ValueError(f"scale should be finite and not negative, got {scale}")
    return scales.expand(n)


def _one_criterion(
    criterion: str | Criterion | Sequence[str | Criterion], n: int, gaussians: ClassGaussians | None
) -> Criterion:
    """Whatever the caller gave as one function of the batch."""
    if isinstance(criterion, str) or callable(criterion):
        return get_criterion(criterion, gaussians)
    if len(criterion) != n:
        raise ValueError(f"a list of criteria should name one per image: {n} labels, {len(criterion)} criteria")
    return mixture(criterion, gaussians)


def _guided_steps(every: int, steps: Sequence[int] | None) -> Callable[[int], bool]:
    if steps is not None:
        return frozenset(int(step) for step in steps).__contains__
    return lambda step: step % every == 0
