"""Where this process computes, and in which precision: one place decides, so that all parts meet on one device."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from tailsmith.errors import UserError

AUTO = "auto"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # x86, x86 with tiles, Arm
_wanted = AUTO


def use(name: str = AUTO) -> torch.device:
    """Have this process compute on a device from now on: classifiers, generators and fit-generator alike.

    ValueError for a name that is none, and for a device that isn't here.
    """
    global _wanted
    device = chosen_device(name)
    if device.index is not None:
        torch.accelerator.set_device_index(device.index)
    _wanted = name
    return device


def chosen_device(name: str | None = None) -> torch.device:
    """Of auto, cpu, cuda, cuda:1, mps, xpu ...; None = what `use` was told. "auto" is the accelerator if there is one.

    ValueError for a name that is none, and for a device that isn't here.
    """
    name = _wanted if name is None else str(name)
    here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == AUTO:
        return here or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type == "meta":
        raise UserError(f"device should be auto, cpu, or an accelerator such as cuda, cuda:1, mps or xpu; got {name!r}")
    if device.type == "cpu":
        return torch.device("cpu")
    if here is None or here.type != device.type:
        there = f"its accelerator is {here.type!r}" if here else "it has no accelerator that PyTorch can use"
        raise UserError(f"device {name!r} is not on this machine: {there}; use {here.type if here else 'cpu'} or auto")
    if device.index is not None and device.index >= (count := torch.accelerator.device_count()):
        raise UserError(f"device {name!r} is not on this machine: it has {count} of {device.type}, counted from 0")
    return device


def chosen_dtype(name: str, device: torch.device | None = None) -> torch.dtype:
    """Of fp32, fp16, bf16, for a device (None = the chosen one); ValueError for another, and for fp16 on a CPU."""
    if name not in DTYPES:
        raise UserError(f"dtype should be one of {', '.join(DTYPES)}, got {name!r}")
    if name == "fp16" and (device or chosen_device()).type == "cpu":
        raise UserError("dtype fp16 needs an accelerator, and this runs on the CPU; use fp32 or bf16")
    return DTYPES[name]


def dtype_name(dtype: torch.dtype) -> str:
    """ "fp16" for torch.float16; PyTorch's own name for one that isn't in DTYPES."""
    return next((name for name, each in DTYPES.items() if each == dtype), str(dtype).removeprefix("torch."))


def has_bf16_arithmetic(device: torch.device) -> bool:
    """Whether bf16 is fast there. A CPU that emulates it trains up to fourteen times slower under autocast."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type != "cpu" or not _CPU_FLAGS.isdisjoint(_cpu_flags())


def empty_cache() -> None:
    """Give the accelerator's unused memory back; nothing where there is none."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is not None:
        getattr(torch, accelerator.type).empty_cache()  # torch.cuda, torch.mps, torch.xpu


def _cpu_flags(path: Path = Path("/proc/cpuinfo")) -> set[str]:
    """What the CPU can do, as Linux lists it; nothing on other systems."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return set()
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return set(line[1].split()) if line else set()


# Devices whose "out of memory" is a bare RuntimeError: the CPU's allocator, Apple's, CUDA's libraries.
MESSAGES = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return known or any(message in str(error) for message in MESSAGES)
