"""The gradient of a batch as that of its two halves: side by side on a CPU, one after the other elsewhere.

Small convolutions don't fill two cores: two lanes of half the threads train 1.1 to 1.4 times as fast as one lane of all
(LOG.md, 2026-11-26). A batch is two draws everywhere, so that what is drawn doesn't depend on the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

Losses = dict[str, torch.Tensor]  # the entry "loss" is minimised, all are logged
Lanes = Callable[[Callable[[Any], Any], Sequence[Any]], list[Any]]
Model = TypeVar("Model", bound=torch.nn.Module)
Drawn = TypeVar("Drawn")


@contextmanager
def lanes(device: torch.device, *, bf16: bool) -> Iterator[Lanes]:
    """What runs a function on each half: in two threads of half the CPU's threads each, or in this one."""
    threads = torch.get_num_threads()
    if device.type != "cpu":
        yield lambda function, halves: list(map(function, halves))
        return
    # torch's fused attention on a CPU takes ten times as long in bf16 as three plain operations do
    attention = sdpa_kernel(SDPBackend.MATH) if bf16 else nullcontext()
    try:
        with (
            attention,
            ThreadPoolExecutor(min(2, threads), "half", torch.set_num_threads, (max(1, threads // 2),)) as pool,
        ):
            yield lambda function, halves: list(pool.map(function, halves))
    finally:
        torch.set_num_threads(threads)  # part of the setting is the process's


def backward(
    model: Model,
    loss_function: Callable[[Model, Drawn], Losses],
    halves: Sequence[tuple[float, Drawn]],
    run: Lanes,
    *,
    autocast: bool,
) -> Losses:
    """Set the gradients to those of the batch and return its losses; a half comes with its share of the batch."""
    parameters = [each for each in model.parameters() if each.requires_grad]

    def one(half: tuple[float, Drawn]) -> tuple[Losses, tuple[torch.Tensor | None, ...]]:
        share, draw = half
        with torch.autocast(parameters[0].device.type, torch.bfloat16, enabled=autocast):  # a thread's own setting
            losses = {key: share * value for key, value in loss_function(model, draw).items()}
        gradients = torch.autograd.grad(losses["loss"], parameters, allow_unused=True)
        return {key: value.detach() for key, value in losses.items()}, gradients

    losses, gradients = zip(*run(one, halves), strict=True)
    for parameter, *parts in zip(parameters, *gradients, strict=True):
        used = [part for part in parts if part is not None]
        parameter.grad = _laid_out_as(parameter, sum(used[1:], start=used[0])) if used else None
    return {key: torch.stack([each[key] for each in losses]).sum() for key in losses[0]}


def _laid_out_as(parameter: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Convolutions may give another order in memory than their weights have, which a fused optimizer refuses."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)
