"""Feedback-guided sampling (the paper's section 3.1) around any diffusers pipeline call, by `scheduler.step`."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from tailsmith.guidance.class_gaussians import ClassGaussians
from tailsmith.guidance.criteria import Criterion, get_criterion, mixture
from tailsmith.guidance.denoiser import denoiser_of
from tailsmith.guidance.guided_step import Classifier, FeedbackRecord, GuidedStep, Skip
from tailsmith.guidance.hook import Hook
from tailsmith.guidance.latents import Decoder, get_decoder
from tailsmith.guidance.schedulers import check_scheduler

__all__ = ["Classifier", "FeedbackRecord", "Skip", "check_options", "feedback"]

UPDATES = ("latent", "score")
PREDICTIONS = ("conditional", "guided")
THROUGH = ("denoiser", "denoiser-forward", "decoder")


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
    prediction: str = "conditional",
    through: str = "denoiser",
    decoder: torch.nn.Module | None = None,
    decode_size: int | None = None,
    decode_batch_size: int | None = None,
    reuse: bool = False,
    checkpointing: bool = False,
    gaussians: ClassGaussians | None = None,
    views: int = 1,
    view_seed: int = 0,
    keep_gradients: bool = False,
) -> Iterator[FeedbackRecord]:
    """Steer the one pipeline call inside the `with` block towards images the classifier asks for (Eq. 3).

    `criterion`: a name, a function (logits, features, labels) -> [N], or a sequence with one per image.
    `scale`: omega, one number or one per image; 0 for all leaves the pipeline untouched, bit for bit.
    `every`: guide the steps 0, every, 2 every, ... (the paper: 5), or give `steps` explicitly (0-based).
    `labels`: the class of each image of the batch, in the pipeline's order (several per prompt included).
    `update`: "latent" moves x_t by scale * ||x_t|| * g / ||g|| as the official code does; "score" adds
    scale * g to the score (Eq. 3, unnormalised).
    `prediction`: whose x0-hat the classifier sees. "conditional": the conditional branch's, as the official code does;
    the other branch of classifier-free guidance needs no gradient. "guided": that of both after guidance.
    `through`: "denoiser" is the exact gradient, by a backward pass; "denoiser-forward" approximates it by one more
    forward pass of the conditional branch, and keeps no graph (tangent.py); "decoder" stops at x0-hat (as MPGD).
    `decoder`: a cheaper autoencoder for the classifier's view of x0-hat, e.g. AutoencoderTiny; the pipeline still
    decodes its images with its own. `decode_size`: pixels of that view's short side, by resizing the latents.
    `decode_batch_size`: how many images are decoded and differentiated at a time; fewer take less memory. None: as
    many as make up 512x512 pixels.
    `reuse`: follow the last gradient at the steps in between as well (appendix G.1).
    `checkpointing`: less memory for the denoiser's and decoder's backward pass, for one more forward pass.
    `views` > 1 averages the criterion over random shifts and flips of x0-hat.

    An image whose gradient is zero or not finite goes on unguided at that step and is listed in
    `record.skipped`. Inside the block the classifier is in eval mode and nothing collects weight gradients.
    Raises ValueError before sampling where an argument, the scheduler or the pipeline is not supported; the pipeline
    is left as it was.
    """
    decode = _check_pipeline(pipe, update, decoder, decode_size)
    check_options(every=every, steps=steps, update=update, prediction=prediction, through=through, views=views)
    if decode_batch_size is not None and decode_batch_size < 1:
        raise ValueError(f"decode_batch_size should be at least 1, got {decode_batch_size}")
    classes = torch.as_tensor(labels)
    if classes.numel() == 0:
        raise ValueError("labels should name the class of each image of the batch, got none")
    if classes.ndim != 1 or classes.is_floating_point():
        got = f"{str(classes.dtype).removeprefix('torch.')} {list(classes.shape)}"
        raise ValueError(f"labels should be a list of whole numbers, one per image of the batch; got {got}")
    guide = GuidedStep(
        classifier=classifier,
        criterion=_criterion_of(criterion, len(labels), gaussians),
        decode=decode,
        decode_batch_size=decode_batch_size,
        labels=classes.long(),
        scale=_strengths(scale, len(labels)),
        update=update,
        prediction=prediction,
        through=through,
        views=views,
        view_seed=view_seed,
        keep_gradients=keep_gradients,
        record=FeedbackRecord(),
    )
    if not bool((guide.scale > 0).any()):
        yield guide.record
        return
    hook = Hook(pipe, guide, _guided_steps(every, steps), reuse, max(steps) if steps else None)
    with ExitStack() as stack:
        stack.enter_context(_frozen(pipe, classifier, decoder))
        stack.enter_context(_kept_on_device(decode))
        stack.enter_context(_checkpointed(decode if checkpointing else None))
        stack.enter_context(_attached(hook))
        yield guide.record


@contextmanager
def _attached(hook: Hook) -> Iterator[None]:
    grad_mode = torch.is_grad_enabled()
    hook.attach()
    try:
        yield
    except TypeError as error:
        refused = re.search(r"(not supported between instances of|must be Number, not) '?(list|tuple)", str(error))
        if refused and hook.index < 0:  # pipelines ask whether guidance_scale > 1, or make a tensor of it, at first
            raise ValueError(
                f"guidance_scale should be one number for a pipeline call, got a {refused[2]}; make one call for each"
            ) from error
        raise
    finally:
        hook.detach()
        torch.set_grad_enabled(grad_mode)


@contextmanager
def _frozen(pipe: Any, classifier: Classifier, decoder: torch.nn.Module | None) -> Iterator[None]:
    """No weight collects a gradient, and the classifier is in eval mode: with batch statistics, an image's
    gradient would depend on the others. Everything is as before afterwards.
    """
    parts = (*pipe.components.values(), classifier, decoder)
    modules = [each for each in parts if isinstance(each, torch.nn.Module)]
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


@contextmanager
def _kept_on_device(decode: Decoder) -> Iterator[None]:
    """Under model offloading the autoencoder's call sends the denoiser away, which the backward pass still needs."""
    offloading = getattr(decode.autoencoder, "_hf_hook", None)
    before = getattr(offloading, "prev_module_hook", None)
    if offloading is None or before is None:
        yield
        return
    try:
        offloading.prev_module_hook = None
        yield
    finally:
        offloading.prev_module_hook = before


@contextmanager
def _checkpointed(decode: Decoder | None) -> Iterator[None]:
    """Gradient checkpointing of the denoiser and the decoder where they have it and it was off."""
    parts = [] if decode is None else [denoiser_of(decode.pipe), decode.autoencoder]
    able = [each for each in parts if getattr(each, "_supports_gradient_checkpointing", False)]
    switched = [each for each in able if not each.is_gradient_checkpointing]
    try:
        for module in switched:
            module.enable_gradient_checkpointing()
        yield
    finally:
        for module in switched:
            module.disable_gradient_checkpointing()


def check_options(
    *, every: int, steps: Sequence[int] | None, update: str, prediction: str, through: str, views: int
) -> None:
    """Raise ValueError for settings of `feedback` that mean nothing, whatever the pipeline."""
    if every < 1:
        raise ValueError(f"every should be at least 1, got {every}")
    if steps is not None and any(step < 0 for step in steps):
        raise ValueError(f"steps are counted from 0, got {sorted(steps)}")
    if update not in UPDATES:
        raise ValueError(f"update should be one of {list(UPDATES)}, got {update!r}")
    if prediction not in PREDICTIONS:
        raise ValueError(f"prediction should be one of {list(PREDICTIONS)}, got {prediction!r}")
    if through not in THROUGH:
        raise ValueError(f"through should be one of {list(THROUGH)}, got {through!r}")
    if views < 1:
        raise ValueError(f"views should be at least 1, got {views}")


def _check_pipeline(pipe: Any, update: str, decoder: torch.nn.Module | None, decode_size: int | None) -> Decoder:
    decode = get_decoder(pipe, decoder, decode_size)
    if update in UPDATES:
        check_scheduler(pipe.scheduler, update)
    if "step" in vars(pipe.scheduler):
        raise ValueError("this pipeline is inside another feedback block; leave that one first")
    if torch.is_inference_mode_enabled():
        raise ValueError("feedback needs gradients, which torch.inference_mode() forbids; use torch.no_grad()")
    if any(_offloads_weights(part) for part in pipe.components.values()):
        raise ValueError(
            "feedback can't differentiate through weights that sequential or group offloading takes away; use "
            "pipe.enable_model_cpu_offload() instead"
        )
    return decode


def _offloads_weights(part: Any) -> bool:
    """Whether accelerate or diffusers takes a module's weights off the device layer by layer."""
    if not isinstance(part, torch.nn.Module):
        return False
    for module in part.modules():
        if getattr(getattr(module, "_hf_hook", None), "offload", False) is True:
            return True
        hooks: Any = getattr(module, "_diffusers_hook", None)
        if hooks is not None and hooks.get_hook("group_offloading") is not None:
            return True
    return False


def _strengths(scale: float | Sequence[float], n: int) -> Tensor:
    """One scale per image, [n]."""
    scales = torch.as_tensor(scale, dtype=torch.float32)
    if scales.ndim and scales.shape != (n,):
        raise ValueError(f"scale should be one number or one per image: {n} labels, scales {tuple(scales.shape)}")
    if not bool((torch.isfinite(scales) & (scales >= 0)).all()):
        raise ValueError(f"scale should be finite and not negative, got {scale}")
    return scales.expand(n)


def _criterion_of(
    criterion: str | Criterion | Sequence[str | Criterion], n: int, gaussians: ClassGaussians | None
) -> Callable[[slice], Criterion]:
    """Rows of the batch -> the criterion of these images, from whatever the caller gave."""
    if isinstance(criterion, str) or callable(criterion):
        one = get_criterion(criterion, gaussians)
        return lambda rows: one
    if len(criterion) != n:
        raise ValueError(f"a list of criteria should name one per image: {n} labels, {len(criterion)} criteria")
    mixture(criterion, gaussians)  # complains of an unknown name now
    return lambda rows: mixture(criterion[rows], gaussians)


def _guided_steps(every: int, steps: Sequence[int] | None) -> Callable[[int], bool]:
    if steps is not None:
        return frozenset(int(step) for step in steps).__contains__
    return lambda step: step % every == 0
