"""What passes between the rooms: who asks for one of these takes anything that is alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

Classifier = Callable[[Tensor], tuple[Tensor, Tensor]]  # images [N, 3, H, W] in [0, 1] -> logits, features
Criterion = Callable[[Tensor, Tensor], Tensor]  # images [N, 3, H, W], labels [N] -> [N], higher = more useful
Score = Callable[[Tensor, Tensor, Tensor], Tensor]  # logits [N, C], features [N, D], labels [N] -> [N]


class Indexable(Protocol):
    """`images[rows] -> uint8 [b, 3, S, S]`, array or tensor, for an integer array of rows.

    Those that also have `ahead(rows, seeds=None)` (see data/images.py) are decoded while the model computes.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Any: ...
