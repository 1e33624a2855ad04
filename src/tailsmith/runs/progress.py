"""A training as its user sees it: a bar while it runs, the history of its looks at validation afterwards."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import numpy as np

from tailsmith.classification.classifier import Classifier
from tailsmith.classification.training import StepRecord
from tailsmith.data.dataset import Dataset
from tailsmith.data.fingerprint import content_keys
from tailsmith.data.packed import images_key, shard_of
from tailsmith.terminal import progress_bar


def followed(records: Iterable[StepRecord], description: str) -> Classifier:
    """The classifier of the last record, with `history`: a dict per evaluated step."""
    history: list[dict[str, float]] = []
    bar = progress_bar(records, desc=description, leave=False)
    classifier: Classifier | None = None
    for record in bar:
        bar.total, bar.n = record.steps, record.step - 1  # of a training that goes on not all steps are seen
        if record.validation is not None and record.selected is not None:
            seen = {"step": record.step, "loss": record.loss}
            history.append({**seen, "validation": record.validation, "selected": record.selected})
            bar.set_postfix(loss=f"{record.loss:.3f}", validation=f"{record.validation:.1f}%")
        classifier = record.classifier
    assert classifier is not None  # the last record carries it
    classifier.history = history
    return classifier


def identity(training: Dataset, validation: Dataset, size: int, augmentation: str) -> str:
    """What tells a training apart beside its settings and labels, for its checkpoint.

    Of synthetic images in shards the hashes count that lie beside them: a million images would take long to read, and
    their ids are those of another plan's as well.
    """
    known = sha256(f"{size} {augmentation}".encode())
    for each in (training, validation):
        known.update("\0".join(["", *each.table["image_id"].astype(str)]).encode())
        shards = _shards(each)
        known.update(content_keys(each.select(np.array([shard is None for shard in shards], dtype=bool))).tobytes())
        for shard in dict.fromkeys(filter(None, shards)):
            known.update(images_key(shard).encode())
    return known.hexdigest()


def _shards(dataset: Dataset) -> list[Path | None]:
    """[n]: where a synthetic image is in a shard, that; None for all others."""
    table = dataset.table
    return [
        shard_of(path) if source == "synthetic" and path is not None else None
        for path, source in zip(table["path"], table["source"], strict=True)
    ]
