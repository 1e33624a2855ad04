"""One guided sampling step: x0-hat, its image, the criterion's gradient, and the move along it (Eq. 3)."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tailsmith.contracts import Classifier, Criterion
from tailsmith.errors import UserError
from tailsmith.guidance.config import FeedbackConfig
from tailsmith.guidance.criteria import per_image
from tailsmith.guidance.denoiser import Call
from tailsmith.guidance.latents import Decoder, Size
from tailsmith.guidance.parameterization import (
    Noising,
    move_latent,
    move_score,
    over_images,
    predicted_x0,
    relative_step,
)
from tailsmith.guidance.tangent import tangent

MAGNIFICATIONS = (2.0**12, 2.0**4, 1.0)  # tried in turn where latents are fp16, whose smallest number is 6e-8
PIXELS_AT_ONCE = 512 * 512  # decoded with a graph: one image of a large generator, a whole batch of a small one


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

    config: FeedbackConfig
    classifier: Classifier  # the guide
    criterion: Callable[[slice], Criterion]  # of these images of the batch
    decode: Decoder
    labels: Tensor  # [N]
    scale: Tensor  # [N], omega of each image
    view_seed: int
    keep_gradients: bool
    record: FeedbackRecord

    def gradient(
        self, step: int, model_output: Tensor, sample: Tensor, at: Noising, size: Size, call: Call | None
    ) -> Tensor:
        """dC/dx [N, ...] in fp32; through the denoiser, `sample` is what its graph begins with."""
        if call is None and (self.config.prediction == "conditional" or self.config.through == "denoiser-forward"):
            raise UserError(UNSEEN_CALL)
        with torch.set_grad_enabled(self.config.through == "denoiser"):
            if self.config.prediction == "conditional":
                assert call is not None
                model_output = call.output[:, : sample.shape[1]]  # without a learned variance
            x0 = predicted_x0(model_output, sample, at)
        with torch.enable_grad(), self.decode.at_safe_precision():
            values, gradient = self._by_x0(step, x0.detach(), size)
        if self.config.through == "denoiser":
            gradient = _pulled_back(gradient, x0, sample)
        elif self.config.through == "denoiser-forward":
            assert call is not None
            gradient = tangent(call, gradient, sample, at)
        else:  # x0-hat moves as if eps were constant: dx0/dx = 1 / a
            gradient = gradient * at.reach
        self.record.values[step] = values
        self._note_skipped(step, gradient)
        if self.keep_gradients:
            self.record.gradients[step] = gradient
        return gradient

    def move(self, gradient: Tensor, model_output: Tensor, sample: Tensor, at: Noising) -> tuple[Tensor, Tensor]:
        """The model output and sample moved along the gradient, detached; images without a usable one stay."""
        model_output, sample = model_output.detach(), sample.detach()
        usable = over_images(_usable(gradient), gradient)
        gradient = torch.where(usable, gradient, torch.ones_like(gradient))  # never divide by a zero norm
        scale = self.scale.to(gradient.device) * usable.flatten()
        if self.config.update == "latent":
            return move_latent(model_output, sample, relative_step(gradient, sample, scale), at)
        return move_score(model_output, sample, gradient * over_images(scale, gradient), at)

    def _by_x0(self, step: int, x0: Tensor, size: Size) -> tuple[Tensor, Tensor]:
        """Criterion [N] and dC/dx0 [N, ...] in fp32, a few images at a time: their pixels are what takes memory."""
        height, width = self.decode.image_size(x0, size)
        at_once = self.config.decode_batch_size or max(1, PIXELS_AT_ONCE // (height * width))
        values, gradients = [], []
        for start in range(0, len(x0), at_once):
            rows = slice(start, start + at_once)
            some = x0[rows].detach().requires_grad_()
            value = self._criterion_values(step, self.decode(some, size), rows)
            gradients.append(_differentiate(value, some))
            values.append(value.detach())
        return torch.cat(values), torch.cat(gradients)

    def _criterion_values(self, step: int, images: Tensor, rows: slice) -> Tensor:
        """The criterion of each image [n, 3, H, W] -> [n], averaged over the views."""
        labels, criterion = self.labels[rows].to(images.device), self.criterion(rows)
        total, views = torch.zeros(len(labels), device=images.device), self.config.views
        for view in range(views):
            shown = images if views == 1 else _random_view(images, (self.view_seed * 1009 + step) * 97 + view)
            total = total + per_image(criterion(shown, labels), labels) / views
        return total

    def _note_skipped(self, step: int, gradient: Tensor) -> None:
        """Record who has no gradient to follow and goes on unguided."""
        lost = ~_usable(gradient) & (self.scale.to(gradient.device) > 0)
        finite = torch.isfinite(_norms(gradient))
        for image in torch.nonzero(lost).flatten().tolist():
            reason = "zero gradient" if bool(finite[image]) else "non-finite gradient"
            self.record.skipped.append(Skip(step, image, reason))


def _usable(gradient: Tensor) -> Tensor:
    """Which images have a gradient to follow, [N] bool: finite and not zero."""
    norms = _norms(gradient)
    return torch.isfinite(norms) & (norms > 0)


def _norms(gradient: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    return norms  # [N]


def _differentiate(values: Tensor, source: Tensor) -> Tensor:
    """Gradient in fp32 of each image's value [N] with respect to its own latents; images are independent."""
    if not values.requires_grad:
        raise UserError(HIDDEN_GRADIENT)
    magnifications = MAGNIFICATIONS if source.dtype == torch.float16 else (1.0,)
    result = torch.full(source.shape, float("nan"), device=source.device)
    for factor in magnifications:
        again = factor != magnifications[-1]
        (gradient,) = torch.autograd.grad(values.sum() * factor, source, retain_graph=again, allow_unused=True)
        if gradient is None:
            raise UserError(HIDDEN_GRADIENT)
        overflowed = over_images(~torch.isfinite(_norms(result)), result)
        result = torch.where(overflowed, gradient.float() / factor, result)
        if bool(torch.isfinite(result).all()):
            break
    return result


def _pulled_back(gradient: Tensor, x0: Tensor, sample: Tensor) -> Tensor:
    """dC/dx0 -> dC/dx in fp32 through the graph of x0-hat, of length 1 per entry on the way lest fp16 loses it."""
    length = over_images(_norms(gradient) / gradient[0].numel() ** 0.5, gradient)
    unit = (gradient / length.clamp_min(torch.finfo(torch.float32).tiny)).to(x0.dtype)
    (pulled,) = torch.autograd.grad(x0, sample, unit)
    return pulled.float() * length


UNSEEN_CALL = (
    "feedback didn't see the call of the denoiser, which has to be a torch.nn.Module that is called as one; use "
    "prediction='guided' and through='denoiser' or 'decoder'"
)
HIDDEN_GRADIENT = (
    "the criterion's values don't depend on the images, so there is no gradient to follow; the classifier or criterion "
    "should not use torch.no_grad(), detach() or argmax"
)


def _random_view(images: Tensor, seed: int) -> Tensor:
    """The images moved by up to an eighth of their size, edges wrapped, and flipped at random, all alike."""
    generator = torch.Generator().manual_seed(seed)
    reach = max(1, images.shape[-1] // 8)
    dy, dx = torch.randint(-reach, reach + 1, (2,), generator=generator).tolist()
    moved = torch.roll(images, (dy, dx), dims=(-2, -1))
    return moved.flip(-1) if torch.rand((), generator=generator) < 0.5 else moved
