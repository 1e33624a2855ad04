"""What stands between a diffusers pipeline and its scheduler while feedback is on.

The pipeline's own denoiser call is recorded by autograd at the guided steps (only its conditional half, unless the
guided x0-hat is asked for: denoiser.py), so nothing is evaluated twice: the step before a guided one returns latents
that require grad, and the guided step forms x0-hat, decodes it, asks the classifier, and moves the step by the
criterion's gradient.
"""

import functools
import inspect
from typing import Any

import torch
from torch import Tensor

from tailsmith.errors import UserError
from tailsmith.guidance.denoiser import Watch
from tailsmith.guidance.guided_step import HIDDEN_GRADIENT, GuidedStep
from tailsmith.guidance.latents import Size
from tailsmith.guidance.schedulers import begins_step, noising, position


class Hook:
    """`prepare_latents` and `step` for one pipeline call, in place of the pipeline's and its scheduler's own."""

    def __init__(self, pipe: Any, guide: GuidedStep) -> None:
        self.pipe, self.guide, self.config = pipe, guide, guide.config
        conditional = self.config.prediction == "conditional"
        self.watch = Watch(pipe) if conditional or self.config.through == "denoiser-forward" else None
        self.size: Size = None
        self.prepared = False  # whether the call's first latents went through here
        self.index = -1  # of the sampling step; Heun calls `step` twice for each
        self.gradient: Tensor | None = None  # the last one

    def attach(self) -> None:
        self._scheduler = scheduler = self.pipe.scheduler  # the block may put another in its place
        self._own_step, self._own_prepare = scheduler.step, self.pipe.prepare_latents
        self._patched = "prepare_latents" in vars(self.pipe)  # by the user
        # pipelines read the signature of `step` to know whether to pass eta and generator
        scheduler.step = functools.update_wrapper(functools.partial(self.step), self._own_step)
        self.pipe.prepare_latents = self.prepare_latents
        if self.watch is not None:
            self.watch.attach()

    def detach(self) -> None:
        """The pipeline's and its scheduler's own methods show again."""
        del self._scheduler.step, self.pipe.prepare_latents
        if self._patched:
            self.pipe.prepare_latents = self._own_prepare
        if self.watch is not None:
            self.watch.detach()

    def prepare_latents(self, *arguments: Any, **options: Any) -> Any:
        """The pipeline's first latents, checked, and recorded from here on if the first step is guided."""
        given = inspect.signature(self._own_prepare).bind(*arguments, **options).arguments
        self.size = (int(given["height"]), int(given["width"])) if given.get("height") and given.get("width") else None
        self.index, self.gradient, self.prepared = -1, None, True
        prepared = self._own_prepare(*arguments, **options)
        latents = prepared[0] if isinstance(prepared, tuple) else prepared
        self._check(latents)
        latents = self._record(latents, self._guides(0))
        return (latents, *prepared[1:]) if isinstance(prepared, tuple) else latents

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, *arguments: Any, **options: Any) -> Any:
        """The scheduler's step, moved where this one is guided."""
        scheduler = self.pipe.scheduler
        where, begins = position(scheduler, timestep), begins_step(scheduler)
        self.index += int(begins)
        if begins and self.index == 0:
            self._check_call()
        if self._moves(self.index, begins):
            model_output, sample = self._move(where, model_output, sample)
        with torch.no_grad():
            result = self._own_step(model_output.detach(), timestep, sample.detach(), *arguments, **options)
        begins = begins_step(scheduler)  # whether the call after this one will begin a step
        follows = where + 1 < self._calls_of_step()
        record = follows and self._asks(self.index + int(begins), begins)
        if not follows:  # another call may come inside the same block
            self.index, self.gradient, self.prepared = -1, None, False
        if isinstance(result, tuple):
            return (self._record(result[0], record), *result[1:])
        result.prev_sample = self._record(result.prev_sample, record)
        return result

    def _guides(self, index: int) -> bool:
        """Whether a sampling step is a guided one."""
        return index % self.config.every == 0 if self.config.steps is None else index in self.config.steps

    def _asks(self, index: int, begins: bool) -> bool:
        """Whether the classifier is asked in a call; a second call of the same step has the latents moved already."""
        return self._guides(index) and (begins or self.config.update == "score")

    def _moves(self, index: int, begins: bool) -> bool:
        between = self.config.reuse and self.gradient is not None and (begins or self.config.update == "score")
        return self._asks(index, begins) or between

    def _move(self, where: int, model_output: Tensor, sample: Tensor) -> tuple[Tensor, Tensor]:
        at = noising(self.pipe.scheduler, where)
        output, variance = _without_variance(model_output, sample)
        if self._guides(self.index):
            if self.config.through == "denoiser" and not sample.requires_grad:
                raise UserError(
                    "the latents of a guided step were replaced since the step before, so that feedback can't "
                    "differentiate through the denoiser; have callback_on_step_end leave latents alone, or use "
                    "through='decoder'"
                )
            call = None if self.watch is None else self.watch.call
            self.gradient = self.guide.gradient(self.index, output, sample, at, self.size, call)
        assert self.gradient is not None
        output, sample = self.guide.move(self.gradient, output, sample, at)
        return (output if variance is None else torch.cat([output, variance.detach()], dim=1)), sample

    def _record(self, latents: Tensor, asks: bool) -> Tensor:
        """Have autograd record the coming denoiser call if the classifier is asked there, through the denoiser."""
        through = asks and self.config.through == "denoiser"
        if self.watch is not None:
            self.watch.expect(len(latents) if asks else 0, through and self.config.prediction == "conditional")
        torch.set_grad_enabled(through)
        return latents.detach().requires_grad_(through)

    def _calls_of_step(self) -> int:
        """How often the pipeline will call `step`: SDXL's denoising_end stops before the scheduler does."""
        timesteps = len(self.pipe.scheduler.timesteps)
        return min(timesteps, int(getattr(self.pipe, "_num_timesteps", timesteps)))

    def _check(self, latents: Tensor) -> None:
        """Raise ValueError, before anything is sampled, for what would fail at the first guided step."""
        classifier, labels = self.guide.classifier, self.guide.labels
        if len(latents) != len(labels):
            raise UserError(
                f"labels should name one class per image: the pipeline makes {len(latents)} images, "
                f"got {len(labels)} labels"
            )
        height, width = self.guide.decode.image_size(latents, self.size)
        for name, module in (("classifier", classifier), ("decoder", self.guide.decode.cheap)):
            weights = list(module.parameters()) if isinstance(module, torch.nn.Module) else []
            if weights and weights[0].device != latents.device:
                raise UserError(
                    f"the {name} is on {weights[0].device}, the pipeline samples on {latents.device}; move one of "
                    f'them, e.g. {name}.to("{latents.device}")'
                )
        with torch.enable_grad():
            image = torch.full((1, 3, height, width), 0.5, device=latents.device, requires_grad=True)
            logits, _ = classifier(image)
        if not logits.requires_grad:
            raise UserError(HIDDEN_GRADIENT)
        if int(labels.max()) >= logits.shape[-1] or int(labels.min()) < 0:
            raise UserError(
                f"labels should be within 0..{logits.shape[-1] - 1}, the classes of the classifier; got "
                f"{int(labels.min())}..{int(labels.max())}"
            )

    def _check_call(self) -> None:
        """Raise ValueError at the first step for what pipelines decide only after they prepared their latents."""
        if not self.prepared:
            raise UserError(
                f"{type(self.pipe).__name__} prepares no latents when it is given latents=, so that feedback can't "
                "record its first step; give generator= instead"
            )
        steps = -(-self._calls_of_step() // self.pipe.scheduler.order)
        if self.config.steps and (last := max(self.config.steps)) >= steps:
            raise UserError(f"steps should be within 0..{steps - 1}, this call has {steps}; got {last}")


def _without_variance(model_output: Tensor, sample: Tensor) -> tuple[Tensor, Tensor | None]:
    """A denoiser with learned variance predicts twice as many channels: (the prediction, the variance)."""
    if model_output.ndim == 4 and model_output.shape[1] == 2 * sample.shape[1]:
        output, variance = model_output.chunk(2, dim=1)
        return output, variance
    return model_output, None
