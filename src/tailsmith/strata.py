"""Shots of classes and of groups by their number of training images: the thresholds, once (Liu et al., 2019).

numpy waits until it is needed: help texts read this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt

MANY_ABOVE = 100  # many: n > 100, medium: 20 <= n <= 100, few: n < 20
FEW_BELOW = 20
SHOTS = ("many", "medium", "few")
GROUP_SHOTS = ("majority", "medium", "minority", "unseen")
SHOT_RANGES = {"many": f"> {MANY_ABOVE}", "medium": f"{FEW_BELOW}..{MANY_ABOVE}", "few": f"< {FEW_BELOW}"}


def shots(train_counts: npt.ArrayLike) -> npt.NDArray[Any]:
    """[C] training images -> "many" (> 100), "medium" (20..100) or "few" (< 20) per class."""
    import numpy as np

    counts = np.asarray(train_counts)
    return np.select([counts > MANY_ABOVE, counts >= FEW_BELOW], SHOTS[:2], SHOTS[2])


def group_shots(train_counts: npt.ArrayLike) -> npt.NDArray[Any]:
    """[G] training images -> "majority" (> 100), "medium" (20..100), "minority" (1..19) or "unseen" (0) per group."""
    import numpy as np

    counts = np.asarray(train_counts)
    return np.select([counts > MANY_ABOVE, counts >= FEW_BELOW, counts > 0], GROUP_SHOTS[:3], GROUP_SHOTS[3])
