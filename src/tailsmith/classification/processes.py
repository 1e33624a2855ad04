"""What the processes of one training (torchrun's) say to each other; with a single process all of it is nothing."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch.distributed as distributed
from torch import Tensor

Number = TypeVar("Number", bound=np.integer[Any])


def count() -> int:
    return distributed.get_world_size() if _together() else 1


def index() -> int:
    """0 is the process that writes files and whose batch norm statistics are kept."""
    return distributed.get_rank() if _together() else 0


def own(rows: npt.NDArray[Number]) -> npt.NDArray[Number]:
    """This process' contiguous slice of what all have together."""
    mine: npt.NDArray[Number] = np.array_split(rows, count())[index()]
    return mine


def from_first(value: Tensor) -> Tensor:
    """`value`, overwritten in place by that of process 0."""
    if _together():
        distributed.broadcast(value, src=0)
    return value


def summed(value: Tensor) -> Tensor:
    """The sum over all processes, without a gradient."""
    total = value.detach().clone()
    if _together():
        distributed.all_reduce(total)
    return total


def wait() -> None:
    """Until all processes are here."""
    if _together():
        distributed.barrier()


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
