"""What a run compares: arms, each a training method and a synthetic set or none, and the sets that come with us.

An arm's name says what it is: METHOD (real images only), SET (with the run's `mixed.method`), or METHOD+SET.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tailsmith.errors import UserError, did_you_mean

GUIDE = "erm"  # the arm whose classifier gives the feedback
NAMES = re.compile(r"[\w.-]+")  # of sets: they are folders, and parts of arms' names

# Name of a synthetic set -> what it changes of the run's synthesis settings.
SETS: dict[str, Mapping[str, Any]] = {
    "text": {"conditioning": "text", "embedding_mixing": "none", "feedback": {"scale": 0.0}},  # LDM(txt)
    "image_text": {"conditioning": "image+text", "feedback": {"scale": 0.0}},  # LDM(txt and img), dropout
    # Augmented Conditioning (Chen et al., 2025)
    "image_text_mixup": {"conditioning": "image+text", "embedding_mixing": "mixup", "feedback": {"scale": 0.0}},
    "image_text_cutmix": {"conditioning": "image+text", "embedding_mixing": "cutmix", "feedback": {"scale": 0.0}},
    "feedback_entropy": {"feedback": {"criterion": "entropy"}},  # LDM-FG
    "feedback_loss": {"feedback": {"criterion": "loss"}},
    "feedback_hardness": {"feedback": {"criterion": "hardness"}},
    "feedback_combined": {"feedback": {"criterion": {"entropy": 1.0, "loss": 1.0, "hardness": 1.0}}},
}


@dataclass(frozen=True)
class Arm:
    """One way of training. `method` None is the run's `mixed.method`; `set` None means real images only."""

    name: str
    method: str | None
    set: str | None = None


# Those that need no look at the methods, which need torch; `arm_of` knows every other METHOD and METHOD+SET.
ARMS: dict[str, Arm] = {
    **{name: Arm(name, name) for name in ("erm", "balanced_softmax")},
    **{name: Arm(name, None, name) for name in SETS},
}


def arm_of(name: str, sets: Iterable[str] = ()) -> Arm:
    """The arm of a name: "crt", "image_text", "crt+image_text"; `sets` names a run's own sets beside SETS.

    A method may carry its settings, as in "cmo:probability=0.7". ValueError for a method or set that doesn't exist.
    """
    known = (*SETS, *sets)
    if name in ARMS:
        return ARMS[name]
    if name in known:
        return Arm(name, None, name)
    method, plus, synthetic = name.partition("+")
    from tailsmith.classification.methods import METHODS, method_of

    if method.partition(":")[0] not in METHODS or (plus and synthetic not in known):
        raise UserError(
            f"arms should be among the methods {list(METHODS)} and the sets {list(known)}, or METHOD+SET of these, "
            f"got {name!r}{did_you_mean(name, (*METHODS, *known))}"
        )
    method_of(method)  # its settings
    return Arm(name, method, synthetic or None)


def check_sets(sets: Iterable[str]) -> None:
    """ValueError for names of a run's own sets that can't be."""
    from tailsmith.classification.methods import METHODS

    for name in sets:
        if name in SETS or name in METHODS:
            what = "a set" if name in SETS else "a method"
            raise UserError(f"sets should not redefine {name!r}, which is {what} already; use another name")
        if not NAMES.fullmatch(name) or not name.strip("."):
            raise UserError(f"a set's name should be of letters, digits, '_', '-' and '.', got {name!r}")
