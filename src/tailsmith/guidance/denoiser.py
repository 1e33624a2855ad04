"""The denoiser's call of a guided step: what it said of the conditional branch, recorded by autograd or not."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from tailsmith.errors import UserError

DENOISERS = ("unet", "transformer")
GIVEN_PER_BRANCH = "added_cond_kwargs"  # half of each belongs to a branch, also where all images share one


def denoiser_of(pipe: Any) -> torch.nn.Module:
    """The pipeline's denoiser; ValueError where it has none by a name that diffusers uses."""
    for name in DENOISERS:
        denoiser = getattr(pipe, name, None)
        if isinstance(denoiser, torch.nn.Module):
            return denoiser
    raise UserError(
        f"feedback finds no denoiser in {type(pipe).__name__} ({' or '.join(DENOISERS)}); use prediction='guided' and "
        "through='denoiser' or 'decoder', without checkpointing, which need none"
    )


@dataclass(frozen=True)
class Call:
    """One call of the denoiser for the conditional branch of n images, and its output [n, ...]."""

    denoiser: torch.nn.Module
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    output: Tensor

    @property
    def latents(self) -> Tensor:
        """What the denoiser was shown, [n, ...]."""
        return _latents_of(self.arguments, self.options)

    def again(self, latents: Tensor) -> Tensor:
        """Its output for other latents, all else equal."""
        if self.arguments:
            output: Tensor = self.denoiser(latents, *self.arguments[1:], **self.options)[0]
        else:
            output = self.denoiser(**{**self.options, _name_of_input(self.options): latents})[0]
        return output


class Watch:
    """Keeps the conditional call of the steps that are asked for.

    Under classifier-free guidance pipelines call the denoiser once for both branches, the unconditional one first;
    those that call it twice (Flux's true guidance, SD3's skipped layers) begin with the conditional one.
    """

    def __init__(self, pipe: Any) -> None:
        self.denoiser = denoiser_of(pipe)
        self.call: Call | None = None
        self.images = 0  # of the coming step; 0 = it is not asked for
        self.records = False  # only the conditional branch, in place of what the pipeline records
        self.unconditional: tuple[tuple[Any, ...], dict[str, Any]] | None = None  # set aside
        self.handles: list[Any] = []

    def attach(self) -> None:
        self.handles = [
            self.denoiser.register_forward_pre_hook(self._before, with_kwargs=True),
            self.denoiser.register_forward_hook(self._after, with_kwargs=True),
        ]

    def detach(self) -> None:
        for handle in self.handles:
            handle.remove()
        self.expect(0, False)

    def expect(self, images: int, records: bool) -> None:
        """A step of so many images is coming, 0 for one that isn't asked for; the last call is forgotten."""
        self.images, self.records, self.call, self.unconditional = images, records, None, None

    def _before(self, module: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Where the call is to be recorded, its unconditional half is set aside: no graph is wanted of that."""
        if not self.images or self.call is not None or not self.records:
            return None
        if len(_latents_of(arguments, options)) != 2 * self.images:
            return None
        self.unconditional = _half(0, self.images, arguments, options)
        return _half(1, self.images, arguments, options)

    def _after(self, module: Any, arguments: tuple[Any, ...], options: dict[str, Any], output: Any) -> Any:
        if not self.images or self.call is not None:
            return None
        conditional: Tensor = output[0]
        if len(conditional) == 2 * self.images:
            arguments, options = _half(1, self.images, arguments, options)
            conditional = conditional[self.images :]
        self.call = Call(self.denoiser, arguments, options, conditional)
        if not self.records:
            return None
        torch.set_grad_enabled(False)  # the rest of the step, the other branch included, needs no graph
        if self.unconditional is None:
            return None
        (arguments, options), self.unconditional = self.unconditional, None
        both = torch.cat([self.denoiser(*arguments, **options)[0], conditional.detach()])
        return (both, *output[1:]) if isinstance(output, tuple) else type(output)(both)


def _name_of_input(options: dict[str, Any]) -> str:
    """Which keyword a pipeline gives its latents to the denoiser by."""
    return "sample" if "sample" in options else "hidden_states"


def _latents_of(arguments: tuple[Any, ...], options: dict[str, Any]) -> Tensor:
    latents: Tensor = arguments[0] if arguments else options[_name_of_input(options)]
    return latents


def _half(
    which: int, n: int, arguments: tuple[Any, ...], options: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The first (0) or second (1) n of whatever has 2 n rows: under classifier-free guidance, one branch."""

    def rows(value: Any) -> Any:
        whole = isinstance(value, Tensor) and value.ndim > 0 and len(value) == 2 * n
        return value[which * n :][:n] if whole else value

    def branch(value: Any) -> Any:
        return value.chunk(2)[which] if isinstance(value, Tensor) else value

    halved = {name: tree_map(branch if name == GIVEN_PER_BRANCH else rows, value) for name, value in options.items()}
    return tuple(tree_map(rows, value) for value in arguments), halved
