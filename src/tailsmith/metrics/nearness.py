"""How near synthetic images lie to real ones: a probe that tells them apart, and the nearest real image of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tailsmith.errors import UserError

Array = npt.NDArray[np.float64]

FOLDS = 5
STATISTICS = 24
LUMA = np.array([0.299, 0.587, 0.114])
COPY_QUANTILE = 0.01  # nearer than all but so many real images lie to others of theirs


def simple_statistics(pixels: npt.NDArray[np.uint8]) -> Array:
    """uint8 [N, 3, H, W] -> [N, 24]: what an image is like without what it shows.

    Mean and spread of each colour; saturation; brightness at five quantiles, its skewness, the share of black and of
    white pixels; and for the image, half and a quarter of it, how much neighbours differ and how much a pixel differs
    from its neighbours' mean: sharpness and noise, scale by scale.
    """
    if pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.dtype != np.uint8:
        raise UserError(f"expected images uint8 [N, 3, H, W], got {pixels.dtype} {list(pixels.shape)}")
    if not len(pixels):
        return np.empty((0, STATISTICS))
    colours = pixels.astype(np.float64) / 255
    grey = np.einsum("nchw,c->nhw", colours, LUMA)
    flat = grey.reshape(len(grey), -1)
    saturation = (colours.max(axis=1) - colours.min(axis=1)).reshape(flat.shape)
    centred = flat - flat.mean(axis=1, keepdims=True)
    spread = np.maximum(flat.std(axis=1), 1e-3)
    found = [
        *colours.mean(axis=(2, 3)).T,
        *colours.std(axis=(2, 3)).T,
        saturation.mean(axis=1),
        saturation.std(axis=1),
        *np.quantile(flat, (0.05, 0.25, 0.5, 0.75, 0.95), axis=1),
        (centred**3).mean(axis=1) / spread**3,
        (flat < 0.02).mean(axis=1),
        (flat > 0.98).mean(axis=1),
    ]
    for halvings in range(3):
        found += _roughness(_halved(grey, halvings))
    found += [_log_ratio(found[-6], found[-4]), _log_ratio(found[-5], found[-3])]
    return np.stack(found, axis=1)


def _roughness(grey: Array) -> list[Array]:
    """[N, H, W] -> mean differences of neighbours and from the mean of four neighbours, each [N]."""
    if min(grey.shape[1:]) < 3:
        return [np.zeros(len(grey)), np.zeros(len(grey))]
    steps = np.abs(np.diff(grey, axis=1)).mean(axis=(1, 2)) + np.abs(np.diff(grey, axis=2)).mean(axis=(1, 2))
    around = (grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]) / 4
    return [steps, np.abs(grey[:, 1:-1, 1:-1] - around).mean(axis=(1, 2))]


def _halved(grey: Array, times: int) -> Array:
    for _ in range(times):
        height, width = (side // 2 * 2 for side in grey.shape[1:])
        even = grey[:, :height, :width]
        grey = (even[:, ::2, ::2] + even[:, 1::2, ::2] + even[:, ::2, 1::2] + even[:, 1::2, 1::2]) / 4
    return grey


def _log_ratio(fine: Array, coarse: Array) -> Array:
    ratio: Array = np.log((fine + 1e-3) / (coarse + 1e-3))
    return ratio


@dataclass(frozen=True)
class Probe:
    """How well real and synthetic images can be told apart by a linear model of their features."""

    accuracy: float  # mean over both kinds, of images that it wasn't fitted to; .5 = not at all; NaN = too few images
    real_looking: Array  # [synthetic images]: how probably each is real, by the probe that wasn't fitted to it


def probe(real: npt.ArrayLike, synthetic: npt.ArrayLike, *, folds: int = FOLDS, seed: int = 0) -> Probe:
    """Logistic regression on standardised features [N, D], in cross-validation; both kinds weigh the same.

    Unpaired: an image and its own reconstruction shouldn't be on both sides.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    sides = [np.asarray(real, dtype=np.float64), np.asarray(synthetic, dtype=np.float64)]
    if any(each.ndim != 2 for each in sides) or sides[0].shape[1] != sides[1].shape[1]:
        shapes = " and ".join(str(list(each.shape)) for each in sides)
        raise UserError(f"expected two sets of features [N, D] of equal D, got {shapes}")
    if min(map(len, sides)) < folds:
        return Probe(float("nan"), np.full(len(sides[1]), np.nan))
    is_real = np.repeat([1, 0], [len(each) for each in sides])
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, class_weight="balanced"))
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed)
    predicted = cross_val_predict(model, np.concatenate(sides), is_real, cv=splits, method="predict_proba")[:, 1]
    right = (predicted > 0.5) == (is_real == 1)
    return Probe(float((right[is_real == 1].mean() + right[is_real == 0].mean()) / 2), predicted[is_real == 0])


@dataclass(frozen=True)
class Neighbours:
    """The real image that is nearest to each synthetic one."""

    rows: npt.NDArray[np.int64]  # [synthetic images]
    distances: Array  # [synthetic images]
    copied_below: float  # nearer than this are 1 % of real images to the nearest other real one
    real_median: float  # of real images to the nearest other one

    @property
    def copies(self) -> float:
        """The share of synthetic images that are nearer than that; of real ones it is 1 %. NaN without any."""
        return float((self.distances < self.copied_below).mean()) if len(self.distances) else float("nan")


def neighbours(real: npt.ArrayLike, synthetic: npt.ArrayLike) -> Neighbours:
    """Nearest neighbours in a feature space, [N, D] of at least two real images and [M, D]."""
    from sklearn.neighbors import NearestNeighbors

    reference, made = np.asarray(real, dtype=np.float64), np.asarray(synthetic, dtype=np.float64)
    if reference.ndim != 2 or len(reference) < 2:
        raise UserError(f"expected features [N, D] of at least two real images, got {list(reference.shape)}")
    index = NearestNeighbors(n_neighbors=1).fit(reference)
    own: Any = index.kneighbors()[0][:, 0]  # each image's nearest other one
    distances, rows = index.kneighbors(made) if len(made) else (np.empty((0, 1)), np.empty((0, 1), dtype=np.int64))
    return Neighbours(rows[:, 0], distances[:, 0], float(np.quantile(own, COPY_QUANTILE)), float(np.median(own)))
