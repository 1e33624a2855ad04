"""In which numbers a training computes: autocast to half precision, and the loss scaling that fp16 needs."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tailsmith.classification.config import TrainConfig
from tailsmith.devices import chosen_device, has_bf16_arithmetic
from tailsmith.errors import UserError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_CHANNELS_LAST = ("cuda", "xpu")  # where convolutions in half precision are faster so
log = logging.getLogger(__name__)


def check_precision(name: str) -> None:
    """ValueError for one that doesn't exist or that the chosen device can't train in."""
    if name not in PRECISIONS:
        raise UserError(f"unknown precision {name!r}: expected one of {', '.join(PRECISIONS)}")
    if name == "fp16" and chosen_device().type == "cpu":
        raise UserError("precision fp16 needs an accelerator, and this trains on the CPU; use fp32")


def warn_of_emulation(name: str) -> None:
    """Of bf16 where the device only emulates it."""
    if name == "bf16" and not has_bf16_arithmetic(device := chosen_device()):
        log.warning(
            "precision bf16 is emulated on this %s, and up to fourteen times slower than fp32; use fp32", device.type
        )


def autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, PRECISIONS[config.precision], enabled=config.precision != "fp32")


def laid_out(module: nn.Module, device: torch.device) -> None:
    """Weights as the device's convolutions like them, in place; a matter of speed alone."""
    if device.type in _CHANNELS_LAST:
        module.to(memory_format=torch.channels_last)


class LossScale(torch.amp.GradScaler):
    """Keeps fp16's small gradients above zero; in other precisions it does nothing."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        super().__init__(device.type, enabled=config.precision == "fp16")

    def tensors(self) -> dict[str, Tensor]:
        """All that its steps change."""
        state = self.state_dict()
        numbers = {name: state[name] for name in ("scale", "_growth_tracker") if name in state}
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in numbers.items()}

    def load_tensors(self, state: Mapping[str, Tensor]) -> None:
        if self.is_enabled():
            scale, tracker = float(state["scale"]), int(state["_growth_tracker"])
            self.load_state_dict({**self.state_dict(), "scale": scale, "_growth_tracker": tracker})
