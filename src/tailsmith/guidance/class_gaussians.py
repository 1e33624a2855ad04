"""One Gaussian of the classifier's features per class, in low rank: what hardness (Eq. 7) needs beside the image.

A Ledoit-Wolf covariance of n images is their scatter, of rank n - 1, and the same variance in every direction on top:
S = V diag(v) V' + s I. V and v are what is kept, so that a long tail's thousand classes take what their features take.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tailsmith.errors import UserError

Features = NDArray[np.floating]
LEAST = 3  # images of a covariance of its own
FLOOR = 1e-4  # of the mean variance within classes: two equal images, or features that never fire
NEGLIGIBLE = 1e-12  # of the largest variance: rounding


@dataclass(frozen=True)
class ClassGaussians:
    """Means and covariances S = V diag(v) V' + s I of C classes; classes may share rows of `directions`."""

    means: Tensor  # [C, D]
    starts: Tensor  # [C], of a class's rows of `directions`
    stops: Tensor  # [C]
    directions: Tensor  # [R, D], the V': orthonormal within a class
    variances: Tensor  # [R], the v: what a direction has beyond the other ones
    isotropic: Tensor  # [C], the s
    log_determinants: Tensor  # [C], of S

    def mahalanobis(self, label: int, features: Tensor) -> Tensor:
        """(x - mu)' S^-1 (x - mu) of features [n, D] under one class, [n], on the features' device.

        The part along V is taken off before anything is squared: the difference of two squares, as Woodbury's formula
        has it, loses all digits where v is large.
        """
        device, rows = features.device, slice(int(self.starts[label]), int(self.stops[label]))
        directions, isotropic = self.directions[rows].to(device), self.isotropic[label].to(device)
        offset = features - self.means[label].to(device)
        along = offset @ directions.T  # [n, r]
        across = offset - along @ directions
        scaled = along.square() / (self.variances[rows].to(device) + isotropic)
        return scaled.sum(dim=1) + across.square().sum(dim=1) / isotropic


def fit_class_gaussians(features: Features, labels: NDArray[np.int64], num_classes: int) -> ClassGaussians:
    """Class means and Ledoit-Wolf covariances of real features [n, D].

    A class with one or two images has a mean but no covariance of its own, a class with none has neither:
    they take the covariance pooled within classes, and the mean of all images. Raises ValueError for fewer
    than two images.
    """
    counts = np.bincount(labels, minlength=num_classes)
    return fit_class_by_class((features[labels == label] for label in range(num_classes)), counts)


def fit_class_by_class(classes: Iterable[Features], counts: NDArray[np.int64]) -> ClassGaussians:
    """The same from the features [n_c, D] of one class after the other, of which there are `counts` [C].

    No two classes' features need to be in memory together. An empty class may have any width.
    """
    if counts.sum() < 2:
        raise UserError(f"hardness needs features of at least 2 real images, got {counts.sum()}")
    fit: _Fit | None = None
    for label, features in enumerate(classes):
        if fit is None and not counts[label]:
            continue
        fit = fit or _Fit(counts, features.shape[1])
        if counts[label]:
            fit.add(label, np.asarray(features, dtype=np.float64))
    assert fit is not None  # some class has images
    return fit.finished()


class _Fit:
    """What is gathered class by class."""

    def __init__(self, counts: NDArray[np.int64], width: int) -> None:
        self.counts, self.width = counts, width
        self.own = counts >= LEAST
        ranks = np.where(self.own, np.minimum(counts - 1, width), 0)
        self.stops = np.cumsum(ranks)
        self.starts = self.stops - ranks
        pooled = 0 if self.own.all() else width  # rows that the other classes share, after all others
        self.directions = np.zeros((int(ranks.sum()) + pooled, width), dtype=np.float32)
        self.variances = np.zeros(len(self.directions))
        self.isotropic = np.zeros(len(counts))
        self.means = np.zeros((len(counts), width))
        self.scatter = np.zeros((width, width)) if pooled else None  # within classes
        self.squares, self.fourths = 0.0, 0.0  # sums of |x - mu|^2 and |x - mu|^4 over all images

    def add(self, label: int, features: Features) -> None:
        """One class's features [n, D] in fp64."""
        self.means[label] = features.mean(axis=0)
        offset = features - self.means[label]
        lengths = np.square(offset).sum(axis=1)
        self.squares += float(lengths.sum())
        self.fourths += float(np.square(lengths).sum())
        if self.scatter is not None:
            self.scatter += offset.T @ offset
        if self.own[label]:
            rows = slice(self.starts[label], self.stops[label])
            _, singular, directions = np.linalg.svd(offset, full_matrices=False)
            spectrum = np.square(singular) / len(offset)
            self.isotropic[label] = self._shrink(rows, spectrum, directions, len(offset), np.square(lengths).sum())

    def _shrink(self, rows: slice, spectrum: Features, directions: Features, n: int, fourths: float) -> float:
        """Fill in the rows of a covariance, given its eigenvalues and vectors before shrinkage; its isotropic part."""
        shrinkage, mean = _ledoit_wolf(spectrum, n, self.width, fourths)
        keep = slice(0, rows.stop - rows.start)  # the last one is zero: offsets sum to zero
        there = spectrum[keep] > NEGLIGIBLE * spectrum.max(initial=0.0)
        self.directions[rows] = directions[keep] * there[:, None]
        self.variances[rows] = (1 - shrinkage) * spectrum[keep] * there
        return shrinkage * mean

    def finished(self) -> ClassGaussians:
        n, others = int(self.counts.sum()), ~self.own
        starts, stops = self.starts.copy(), self.stops.copy()
        if self.scatter is not None:
            spectrum, vectors = np.linalg.eigh(self.scatter / n)
            rows = slice(len(self.directions) - self.width, len(self.directions))
            spectrum = spectrum[::-1].clip(min=0)
            self.isotropic[others] = self._shrink(rows, spectrum, vectors.T[::-1], n, self.fourths)
            starts[others], stops[others] = rows.start, rows.stop
        overall = (self.counts @ self.means) / n
        self.means[self.counts == 0] = overall
        self.isotropic += FLOOR * self.squares / n / self.width + 1e-12
        logs = np.array(
            [
                np.log1p(self.variances[start:stop] / least).sum() + self.width * np.log(least)
                for start, stop, least in zip(starts, stops, self.isotropic, strict=True)
            ]
        )
        return ClassGaussians(
            means=torch.from_numpy(self.means).float(),
            starts=torch.from_numpy(starts),
            stops=torch.from_numpy(stops),
            directions=torch.from_numpy(self.directions),
            variances=torch.from_numpy(self.variances).float(),
            isotropic=torch.from_numpy(self.isotropic).float(),
            log_determinants=torch.from_numpy(logs).float(),
        )


def _ledoit_wolf(spectrum: Features, n: int, width: int, fourths: float) -> tuple[float, float]:
    """(shrinkage, mean variance) of Ledoit and Wolf (2004), from the eigenvalues of the covariance of n images.

    `fourths`: the sum of |x - mu|^4. The same as scikit-learn's, without a matrix [D, D].
    """
    trace = float(spectrum.sum())
    mean, squared = trace / width, float(np.square(spectrum).sum())
    beta = (fourths / n - squared) / (width * n)
    delta = squared / width - mean**2
    beta = min(beta, delta)
    return (0.0 if beta <= 0 else beta / delta), mean
