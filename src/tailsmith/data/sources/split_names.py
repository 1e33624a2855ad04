"""How folders and columns spell train, val and test."""

from __future__ import annotations

import re

_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_FILLERS = frozenset(("set", "data", "dataset", "split", "seg", "images", "image", "imgs", "img"))
_LIKE_SPLITS = frozenset(
    (*_SPLITS, "dev", "eval", "evaluation", "holdout", "heldout", "pred", "unlabelled", "unlabeled")
)


def split_name(name: str) -> str | None:
    """train, val or test for their usual spellings ("Training", "test_set", "seg_train", "valset"), else None."""
    words = [word for word in _words(name) if word not in _FILLERS]
    return _SPLITS.get(words[0].removesuffix("set")) if len(words) == 1 else None


def may_be_split(name: str) -> bool:
    """Whether a name has a word of a split in it ("train2017", "dev"), as a class may have too."""
    return not _LIKE_SPLITS.isdisjoint(re.split(r"[\W\d_]+", name.lower()))


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[\W_]+", name.lower()) if word]
