"""How near a synthetic set lies to the real images: can a probe tell, what is covered, what is copied, what agrees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailsmith.classification.classifier import Classifier
from tailsmith.data.dataset import Dataset
from tailsmith.data.images import Images
from tailsmith.metrics.nearness import neighbours, probe, simple_statistics
from tailsmith.metrics.samples import agreement, compare, density_coverage
from tailsmith.studies.features import FeatureExtractor
from tailsmith.synthesis.prediction import predict

MOST = 4000  # images a side: all distances between them are computed
STATISTICS_SIZE = 64  # pixels: larger images are shrunk to it, as sharpness is compared at one size
SHOWN = 6  # images at either end, in a report
THUMBNAIL = 16  # pixels: what stands in for features without a judge
NEIGHBOUR = 5  # density and coverage: balls reach to so many neighbours

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Nearness:
    """What was found, and which images to look at.

    `overall` and `classes` are JSON-able: fractions, but for distances; NaN for what needs more images than there are.
    """

    overall: Mapping[str, Any]
    classes: Mapping[str, Mapping[str, Any]]
    real_looking: Rows  # rows of synthetic images, the most real-looking (by the probe of statistics) first
    nearest: tuple[tuple[int, int], ...]  # (row of a synthetic image, of its nearest training image), nearest first

    def kept(self) -> dict[str, Any]:
        """What a run keeps of it, for its report."""
        looks = self.real_looking.tolist()
        shown = {"most_real": looks[:SHOWN], "least_real": looks[::-1][:SHOWN]}
        return {"overall": dict(self.overall), "classes": dict(self.classes), **shown}


@dataclass(frozen=True)
class _Eyes:
    """What images are looked at with."""

    judge: Classifier | None
    features: FeatureExtractor | None  # None = the judge's

    @property
    def name(self) -> str:
        """Of the features."""
        if self.features is not None:
            return self.features.name
        return f"thumbnails of {THUMBNAIL} x {THUMBNAIL} pixels" if self.judge is None else "the judge's"


@dataclass(frozen=True)
class _Side:
    """Images of one kind, as they are compared."""

    images: Dataset
    rows: Rows  # where they lie in the dataset that was given
    features: NDArray[np.float64]  # [n, D]
    logits: NDArray[np.float64] | None  # [n, C], with a judge

    def of(self, label: int) -> NDArray[np.float64]:
        chosen: NDArray[np.float64] = self.features[self.images.labels == label]
        return chosen


def nearness(
    synthetic: Dataset,
    real: Dataset,
    judge: Classifier | None = None,
    *,
    features: FeatureExtractor | None = None,
    seed: int = 0,
) -> Nearness:
    """Compare a synthetic set with the training and validation images of its classes, never with test images.

    Probes and distances see as many real as synthetic images of each class, so that they measure the images and not the
    mix of classes; of each side up to 4,000 are drawn, with `seed`. `judge`: a classifier that says whether images show
    their class, and whose features distances are measured in, unless `features` gives others; without either these are
    thumbnails of 16 x 16 pixels.
    """
    rng = np.random.default_rng(seed)
    usable = (real.table["split"].to_numpy() != "test") & np.isin(real.labels, synthetic.labels)
    eyes = _Eyes(judge, features)
    made = _side(synthetic, np.arange(len(synthetic)), eyes, rng)
    known = _side(real, np.flatnonzero(usable), eyes, rng)
    left, right = _matched(known.images.labels, made.images.labels, rng)
    size = _common_size(known.images, made.images)
    by_statistics = probe(
        *(_statistics(side.images.select(rows), size) for side, rows in ((known, left), (made, right)))
    )
    overall: dict[str, Any] = {
        "images": len(synthetic),
        "real_images": int(usable.sum()),
        "compared": len(left),
        "features": eyes.name,
        "probe_accuracy": by_statistics.accuracy,
        "probe_accuracy_features": probe(known.features[left], made.features[right]).accuracy,
        **compare(known.features[left], made.features[right]),
        "judge_agreement": _agreement(made),
    }
    training = np.flatnonzero(known.images.table["split"].to_numpy() == "train")
    nearest: tuple[tuple[int, int], ...] = ()
    if len(training) > 1:
        found = neighbours(known.features[training], made.features)
        overall |= {
            "copies": found.copies,
            "nearest_distance": float(np.median(found.distances)) if len(made.rows) else float("nan"),
            "nearest_distance_real": found.real_median,
        }
        order = np.argsort(found.distances, kind="stable")
        nearest = tuple((int(made.rows[row]), int(known.rows[training[found.rows[row]]])) for row in order)
    classes = {
        name: _of_class(label, made, known)
        for label, name in enumerate(synthetic.class_names)
        if (made.images.labels == label).any()
    }
    looks = made.rows[right][np.argsort(-by_statistics.real_looking, kind="stable")]
    return Nearness(overall, classes, looks, nearest)


def _side(dataset: Dataset, rows: Rows, eyes: _Eyes, rng: np.random.Generator) -> _Side:
    rows = rows if len(rows) <= MOST else np.sort(rng.choice(rows, MOST, replace=False))
    images = dataset.select(rows)
    judged = predict(eyes.judge, images) if eyes.judge is not None and len(images) else None
    if eyes.features is not None and len(images):
        features = eyes.features(images)
    elif judged is not None:
        features = judged.features.double().numpy()
    else:
        pixels = Images(images, THUMBNAIL, cache_budget=0)[:].numpy().astype(np.float64) / 255
        features = pixels.reshape(len(images), -1)
    return _Side(images, rows, features, None if judged is None else judged.logits.double().numpy())


def _common_size(*sides: Dataset) -> int:
    """The smallest side of the images on all sides, or 64 pixels."""
    found = [min(images.image(row).size) for images in sides for row in range(min(len(images), 20))]
    return min([STATISTICS_SIZE, *found])


def _statistics(images: Dataset, size: int) -> NDArray[np.float64]:
    return simple_statistics(Images(images, size, cache_budget=0)[:].numpy())


def _matched(known: Rows, made: Rows, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Rows of both sides, so that each class has as many of the one as of the other."""
    pairs = []
    for label in np.unique(made):
        sides = [np.flatnonzero(side == label) for side in (known, made)]
        pairs.append([rng.choice(side, min(map(len, sides)), replace=False) for side in sides])
    left, right = (np.concatenate([pair[side] for pair in pairs] or [np.empty(0, np.int64)]) for side in (0, 1))
    return left.astype(np.int64), right.astype(np.int64)


def _agreement(side: _Side, label: int | None = None) -> float:
    """NaN without a judge."""
    if side.logits is None:
        return float("nan")
    chosen = np.ones(len(side.rows), dtype=bool) if label is None else side.images.labels == label
    return agreement(side.logits[chosen], side.images.labels[chosen])


def _of_class(label: int, made: _Side, known: _Side) -> dict[str, Any]:
    real, synthetic = known.of(label), made.of(label)
    enough = len(real) > NEIGHBOUR and len(synthetic) > 0
    density, coverage = density_coverage(real, synthetic, NEIGHBOUR) if enough else (float("nan"), float("nan"))
    return {
        "images": len(synthetic),
        "real_images": len(real),
        "judge_agreement": _agreement(made, label),
        "density": density,
        "coverage": coverage,
    }
