"""Named tensors as files and hashes have them: on the CPU, in their plain layout, sharing no memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies (channels-last is a matter of speed, not of the model)."""
    on_cpu = {name: value.detach().cpu() for name, value in tensors.items()}
    return {name: value.clone(memory_format=torch.contiguous_format) for name, value in on_cpu.items()}


def sha256(tensors: Mapping[str, Tensor], prefix: str = "") -> str:
    """Of plain tensors, their names, types and shapes, behind `prefix`."""
    digest = hashlib.sha256(prefix.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\0{name} {tensor.dtype} {list(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
