"""Feedback-guided sampling (the paper's section 3.1) around any diffusers pipeline call, by `scheduler.step`."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tailsmith.contracts import Classifier, Criterion, Score
from tailsmith.errors import UserError
from tailsmith.guidance.config import FeedbackConfig, check_feedback
from tailsmith.guidance.criteria import Scored, criterion_of, mixture
from tailsmith.guidance.denoiser import denoiser_of
from tailsmith.guidance.guided_step import FeedbackRecord, GuidedStep, Skip
from tailsmith.guidance.hook import Hook
from tailsmith.guidance.latents import Decoder, get_decoder
from tailsmith.guidance.schedulers import check_scheduler

__all__ = ["Classifier", "FeedbackConfig", "FeedbackRecord", "Skip", "feedback"]

Asked = str | Score | Criterion  # how a caller may say what is asked of an image


@contextmanager
def feedback(
    pipe: Any,
    classifier: Classifier,
    criterion: Asked | Sequence[Asked] | None = None,
    scale: float | Sequence[float] | None = None,
    every: int | None = None,
    *,
    labels: Sequence[int],
    config: FeedbackConfig | None = None,
    decoder: torch.nn.Module | None = None,
    view_seed: int = 0,
    keep_gradients: bool = False,
    **settings: Any,
) -> Iterator[FeedbackRecord]:
    """Steer the one pipeline call inside the `with` block towards images the classifier asks for (Eq. 3).

    `labels`: the class of each image of the batch, in the pipeline's order (several per prompt included).
    `config`: all settings; the short form names fields of FeedbackConfig as keywords, which win over it.
    `criterion`: a name, a function (logits, features, labels) -> [N] of the classifier's answer, a criterion
    (images, labels) -> [N] that asks whom it likes, or a sequence with one per image.
    `scale`: omega, one number or one per image; 0 for all leaves the pipeline untouched, bit for bit.
    `decoder`: a cheaper autoencoder for the classifier's view of x0-hat, e.g. AutoencoderTiny, which the settings name
    and don't hold; the pipeline still decodes its images with its own.
    `view_seed`: of the random views. `keep_gradients`: also record dC/dx_t of each guided step.

    An image whose gradient is zero or not finite goes on unguided at that step and is listed in
    `record.skipped`. Inside the block the classifier is in eval mode and nothing collects weight gradients.
    Raises ValueError before sampling where a setting, the scheduler or the pipeline is not supported, TypeError for an
    unknown keyword; the pipeline is left as it was.
    """
    if every is not None:
        settings["every"] = every
    config = _config_of(config or FeedbackConfig(), criterion, scale, settings)
    decode = _check_pipeline(pipe, config, decoder)
    classes = _classes(labels)
    criteria = _criteria(config.criterion if criterion is None else criterion, classifier, len(classes))
    guide = GuidedStep(
        config=config,
        classifier=classifier,
        criterion=_by_rows(criteria),
        decode=decode,
        labels=classes,
        scale=_strengths(config.scale if scale is None else scale, len(classes)),
        view_seed=view_seed,
        keep_gradients=keep_gradients,
        record=FeedbackRecord(),
    )
    if not bool((guide.scale > 0).any()):
        yield guide.record
        return
    asked = [each.classifier if isinstance(each, Scored) else each for each in criteria]
    with ExitStack() as stack:
        stack.enter_context(_frozen(pipe, [classifier, *asked], decoder))
        stack.enter_context(_kept_on_device(decode))
        stack.enter_context(_checkpointed(decode if config.checkpointing else None))
        stack.enter_context(_attached(Hook(pipe, guide)))
        yield guide.record


def _config_of(config: FeedbackConfig, criterion: Any, scale: Any, settings: dict[str, Any]) -> FeedbackConfig:
    """The settings with those of the short form, checked; what differs from image to image stays outside."""
    if isinstance(criterion, str):
        settings["criterion"] = criterion
    if isinstance(scale, int | float):
        settings["scale"] = scale
    if settings.get("steps") is not None:
        settings["steps"] = tuple(int(step) for step in settings["steps"])
    config = replace(config, **settings)
    check_feedback(config)
    return config


def _classes(labels: Sequence[int]) -> Tensor:
    """[N], one per image."""
    classes = torch.as_tensor(labels)
    if classes.numel() == 0:
        raise UserError("labels should name the class of each image of the batch, got none")
    if classes.ndim != 1 or classes.is_floating_point():
        got = f"{str(classes.dtype).removeprefix('torch.')} {list(classes.shape)}"
        raise UserError(f"labels should be a list of whole numbers, one per image of the batch; got {got}")
    return classes.long()


@contextmanager
def _attached(hook: Hook) -> Iterator[None]:
    grad_mode = torch.is_grad_enabled()
    hook.attach()
    try:
        yield
    except TypeError as error:
        refused = re.search(r"(not supported between instances of|must be Number, not) '?(list|tuple)", str(error))
        if refused and hook.index < 0:  # pipelines ask whether guidance_scale > 1, or make a tensor of it, at first
            raise UserError(
                f"guidance_scale should be one number for a pipeline call, got a {refused[2]}; make one call for each"
            ) from error
        raise
    finally:
        hook.detach()
        torch.set_grad_enabled(grad_mode)


@contextmanager
def _frozen(pipe: Any, asked: Sequence[Any], decoder: torch.nn.Module | None) -> Iterator[None]:
    """No weight collects a gradient, and who is asked is in eval mode: with batch statistics, an image's
    gradient would depend on the others. Everything is as before afterwards.
    """
    classifiers = [each for each in dict.fromkeys(asked) if isinstance(each, torch.nn.Module)]
    parts = (*pipe.components.values(), *classifiers, decoder)
    modules = [each for each in parts if isinstance(each, torch.nn.Module)]
    trainable = [weight for module in modules for weight in module.parameters() if weight.requires_grad]
    training = [module for classifier in classifiers for module in classifier.modules() if module.training]
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


def _check_pipeline(pipe: Any, config: FeedbackConfig, decoder: torch.nn.Module | None) -> Decoder:
    if decoder is None and config.decoder != "own":
        raise UserError(f"the settings look through the decoder {config.decoder!r}; give that module as decoder=")
    decode = get_decoder(pipe, decoder, config.decode_size)
    check_scheduler(pipe.scheduler, config.update)
    if "step" in vars(pipe.scheduler):
        raise UserError("this pipeline is inside another feedback block; leave that one first")
    if torch.is_inference_mode_enabled():
        raise UserError("feedback needs gradients, which torch.inference_mode() forbids; use torch.no_grad()")
    if any(_offloads_weights(part) for part in pipe.components.values()):
        raise UserError(
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
        raise UserError(f"scale should be one number or one per image: {n} labels, scales {tuple(scales.shape)}")
    if not bool((torch.isfinite(scales) & (scales >= 0)).all()):
        raise UserError(f"scale should be finite and not negative, got {scale}")
    return scales.expand(n)


def _criteria(criterion: Any, classifier: Classifier, n: int) -> list[Criterion]:
    """One for all images, or one for each of n, from whatever the caller gave."""
    if isinstance(criterion, dict):
        raise UserError(
            f"a mixture of criteria is drawn from by a plan; here name one criterion per image, got {criterion}"
        )
    if isinstance(criterion, str) or callable(criterion):
        return [criterion_of(criterion, classifier)]
    if len(criterion) != n:
        raise UserError(f"a list of criteria should name one per image: {n} labels, {len(criterion)} criteria")
    of = {each: criterion_of(each, classifier) for each in dict.fromkeys(criterion)}
    return [of[each] for each in criterion]


def _by_rows(criteria: list[Criterion]) -> Callable[[slice], Criterion]:
    """Rows of the batch -> the criterion of these images."""
    return lambda rows: criteria[0] if len(criteria) == 1 else mixture(criteria[rows])
