"""`reproduce gap`: where a generator's samples fall short of real photographs, one cause at a time.

Each half of the batches is as large as a plan to the target asks for: real photographs of the task's world that
training lacks; some or all of them as drawings (style); the same through the generator's autoencoder and back; and its
unguided samples (denoiser and conditioning).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tailsmith.data.dataset import Dataset
from tailsmith.data.images import Images
from tailsmith.data.sources.embedded import as_drawings
from tailsmith.experiment import World, synthesize_set, train_arm
from tailsmith.metrics.nearness import simple_statistics
from tailsmith.reproduction.retraining import Half
from tailsmith.reproduction.substitutes import lacking_photographs, partly_drawn, through_autoencoder
from tailsmith.runs.arms import ARMS, GUIDE
from tailsmith.studies.nearness import nearness
from tailsmith.studies.samples import load_judge

FACTS = ("probe_accuracy", "probe_accuracy_features", "density", "coverage")


def gap_halves(world: World, seed: int) -> Iterator[Half]:
    """From nothing and the ceiling down to the samples."""
    task, target = world.dataset, int(world.config.target)  # type: ignore[arg-type]
    photographs = lacking_photographs(task, target, seed)
    yield Half("real images only", None)
    yield _half(task, "photographs", photographs)
    yield _half(task, "photographs, half as drawings", partly_drawn(photographs, 0.5, seed))
    yield _half(task, "photographs, all as drawings", partly_drawn(photographs, 1.0, seed))
    yield _half(task, "photographs through the autoencoder", through_autoencoder(world.generator(), photographs))
    guide = train_arm(world, ARMS[GUIDE])
    for name in ("text", "image_text"):
        yield _half(task, name, synthesize_set(world, name, guide))


def _half(task: Dataset, name: str, images: Dataset) -> Half:
    found: dict[str, Any] = dict(nearness(images, task, load_judge("label", task.class_names)).overall)
    facts = {key: round(found[key], 4) for key in FACTS}
    return Half(name, images, facts={**facts, "drawings": round(drawing_share(images, task), 4)})


def drawing_share(images: Dataset, task: Dataset) -> float:
    """The share of images that are drawings, by a probe fitted to the task's validation photographs in both styles."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    photographs = task.split("val")
    size = photographs.image(0).width
    known = [simple_statistics(Images(each, size)[:].numpy()) for each in (photographs, as_drawings(photographs))]
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(np.concatenate(known), np.repeat([0, 1], [len(each) for each in known]))
    return float(model.predict(simple_statistics(Images(images, size)[:].numpy())).mean())
