"""The denoiser's Jacobian times a vector by one more forward pass, in place of a backward pass.

x0-hat of a perfect denoiser is E[x0 | x], whose Jacobian is Cov[x0 | x] a / s^2: symmetric. So the gradient J^T g of
the criterion is also J g, the change of x0-hat when x moves along g, which a finite difference gives: no graph is kept.
A trained denoiser is only nearly symmetric; benchmarks/gradient_agreement.py measures how nearly.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from tailsmith.guidance.parameterization import Noising, over_images, predicted_x0

DENOISERS = ("unet", "transformer")
DISTANCE = 0.05  # of the finite difference, as a share of the latents' length: far above rounding in fp16


def denoiser_of(pipe: Any) -> torch.nn.Module:
    """The pipeline's denoiser."""
    found: torch.nn.Module = next(
        each for each in (getattr(pipe, name, None) for name in DENOISERS) if each is not None
    )
    return found


class Tangent:
    """Remembers the first denoiser call of a step, and repeats it a little way along a direction.

    The first is the conditional one where a pipeline makes several (Flux's true guidance, SD3's skipped layers).
    """

    def __init__(self, pipe: Any) -> None:
        self.denoiser = denoiser_of(pipe)
        self.call: tuple[tuple[Any, ...], dict[str, Any], Tensor] | None = None
        self.handle: Any = None

    def attach(self) -> None:
        self.handle = self.denoiser.register_forward_hook(self._remember, with_kwargs=True)

    def detach(self) -> None:
        self.handle.remove()
        self.forget()

    def forget(self) -> None:
        """The step is over."""
        self.call = None

    def _remember(self, module: Any, arguments: tuple[Any, ...], options: dict[str, Any], output: Any) -> None:
        if self.call is None:
            self.call = (arguments, options, output[0])

    @torch.no_grad()
    def product(self, direction: Tensor, sample: Tensor, at: Noising) -> Tensor:
        """J direction [N, ...] in fp32, J the Jacobian of the conditional x0-hat at `sample`.

        Under classifier-free guidance the conditional half of the batch stands for both: the Jacobians of the two
        branches are much alike, and half a pass is enough.
        """
        assert self.call is not None
        arguments, options, output = self.call
        if len(output) == 2 * len(sample):
            arguments, options, output = _last(len(sample), self.call)
        seen = arguments[0] if arguments else options[name_of_input(options)]
        length = torch.linalg.vector_norm(sample.float().flatten(1), dim=1)
        steepness = torch.linalg.vector_norm(direction.flatten(1), dim=1)
        unit = over_images(DISTANCE * length / steepness.clamp_min(1e-30), direction)  # [N, 1, ...]
        offset = (direction * unit).to(sample.dtype)
        overlap = (seen.float() * sample.float()).flatten(1).sum(1)  # per image: one that overflowed spoils no other
        scaling = over_images(overlap / length.square(), sample)  # by scale_model_input
        moved = seen + (scaling * offset).to(seen.dtype)
        if arguments:
            there = self.denoiser(moved, *arguments[1:], **options)[0]
        else:
            there = self.denoiser(**{**options, name_of_input(options): moved})[0]
        channels = slice(None, sample.shape[1])  # without a learned variance
        before = predicted_x0(output[:, channels].float(), sample.float(), at)
        after = predicted_x0(there[:, channels].float(), (sample + offset).float(), at)
        return (after - before) / unit


def name_of_input(options: dict[str, Any]) -> str:
    """Which keyword a pipeline gives its latents to the denoiser by."""
    return "sample" if "sample" in options else "hidden_states"


def _last(n: int, call: Any) -> Any:
    """The last n of what has 2 n rows: under classifier-free guidance, the conditional ones after the others."""

    def rows(value: Any) -> Any:
        whole = isinstance(value, Tensor) and value.ndim > 0 and len(value) == 2 * n
        return value[n:] if whole else value

    return tree_map(rows, call)
