"""One guided sampling step: x0-hat, its image, the criterion's gradient, and the move along it (Eq. 3)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tailsmith.guidance.criteria import Criterion, per_image
from tailsmith.guidance.parameterization import (
    move_latent,
    move_score,
    over_images,
    predicted_x0,
    relative_step,
    signal_and_noise,
)

Classifier = Callable[[Tensor], tuple[Tensor, Tensor]]  # images [N, 3, H, W] in [0, 1] -> logits, features


@dataclass(frozen=True)
class Skip:
    """One image that one guided step left unguided, and why."""

    step: int
    image: int
    reason: str  # "zero gradient" or "non-finite gradient"


@dataclass
class FeedbackRecord:
    """What feedback saw and did during the pipeline call, by guided step."""

    values: dict[int, Tensor] = field(default_factory=dict)  # criterion of x0-hat before the move, [N]
    gradients: dict[int, Tensor] = field(default_factory=dict)  # dC/dx_t [N, ...], if asked for
    skipped: list[Skip] = field(default_factory=list)

    @property
    def last(self) -> Tensor | None:
        """Criterion values [N] at the last guided step, None before the first."""
        return self.values[max(self.values)] if self.values else None


@dataclass(frozen=True)
class GuidedStep:
    """Everything one guided step needs beside the step itself; fixed for a pipeline call."""

    classifier: Classifier
    criterion: Criterion
    decode: Callable[[Tensor], Tensor]
    labels: Tensor  # [N]
    scale: Tensor  # [N]
    update: str  # "latent" or "score"
    through: str  # "denoiser" or "decoder"
    views: int
    view_seed: int
    keep_gradients: bool
    record: FeedbackRecord

    def move(
        self, step: int, model_output: Tensor, sample: Tensor, scheduler: Any, timestep: Any
    ) -> tuple[Tensor, Tensor]:
        """The moved model output and sample, detached; through the denoiser, `sample` requires grad."""
        a, s = signal_and_noise(scheduler, timestep)
        kind = scheduler.config.prediction_type
        gradient = self._gradient(step, model_output, sample, a, s, kind)
        model_output, sample = model_output.detach(), sample.detach()
        if self.keep_gradients:
            self.record.gradients[step] = gradient
        usable = self._usable(step, gradient)
        gradient = torch.where(usable, gradient, torch.ones_like(gradient))  # never divide by a zero norm
        scale = self.scale * usable.flatten()
        if self.update == "latent":
            shift, move = relative_step(gradient, sample, scale), move_latent
        else:
            shift, move = gradient * over_images(scale, gradient), move_score
        return move(model_output, sample, shift.to(sample.dtype), a, s, kind)

    def _gradient(self, step: int, model_output: Tensor, sample: Tensor, a: float, s: float, kind: str) -> Tensor:
        """dC/dx_t [N, ...] in fp32."""
        with torch.enable_grad():
            x0 = predicted_x0(model_output, sample, a, s, kind)
            if self.through == "decoder":
                x0 = x0.detach().requires_grad_()
            values = self._criterion_values(step, self.decode(x0).float())
            source = sample if self.through == "denoiser" else x0
            gradient = _differentiate(values, source)
        self.record.values[step] = values.detach()
        # without the denoiser's backward, x0-hat moves as if eps were constant: dx0/dx_t = 1 / a
        return gradient.float() if self.through == "denoiser" else gradient.float() / a

    def _criterion_values(self, step: int, images: Tensor) -> Tensor:
        """The criterion of each image [N, 3, H, W] -> [N], averaged over the views."""
        total = torch.zeros(len(self.labels), device=images.device)
        for view in range(self.views):
            seed = (self.view_seed * 1009 + step) * 97 + view
            logits, features = self.classifier(images if self.views == 1 else _random_view(images, seed))
            total = total + per_image(self.criterion, logits, features, self.labels) / self.views
        return total

    def _usable(self, step: int, gradient: Tensor) -> Tensor:
        """[N, 1, ...]: who has a gradient to follow; the others go on unguided, and are recorded."""
        norms = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
        finite, positive = torch.isfinite(norms), norms > 0
        usable = finite & positive
        for image in torch.nonzero(~usable & (self.scale > 0)).flatten().tolist():
            reason = "zero gradient" if bool(finite[image]) else "non-finite gradient"
            self.record.skipped.append(Skip(step, image, reason))
        return over_images(usable, gradient)


def _differentiate(values: Tensor, source: Tensor) -> Tensor:
    """Gradient of each image's value [N] with respect to its own latents; images are independent."""
    gradient = None
    if values.requires_grad:
        (gradient,) = torch.autograd.grad(values.sum(), source, allow_unused=True)
    if gradient is None:
        raise ValueError(
            "the criterion's values don't depend on the images, so there is no gradient to follow; "
            "the classifier or criterion should not use torch.no_grad(), detach() or argmax"
        )
    return gradient


def _random_view(images: Tensor, seed: int) -> Tensor:
    """The images moved by up to an eighth of their size, edges wrapped, and flipped at random, all alike."""
    generator = torch.Generator().manual_seed(seed)
    reach = max(1, images.shape[-1] // 8)
    dy, dx = torch.randint(-reach, reach + 1, (2,), generator=generator).tolist()
    moved = torch.roll(images, (dy, dx), dims=(-2, -1))
    return moved.flip(-1) if torch.rand((), generator=generator) < 0.5 else moved
