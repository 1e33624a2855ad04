"""Sample metrics against scipy, prdc, closed forms and slow loops."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from tailsmith.metrics import samples
from tailsmith.metrics.samples import (
    agreement,
    compare,
    density_coverage,
    frechet_distance,
    kernel_distance,
    precision_recall,
)


def features(n: int, d: int = 6, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(shift, 1, (n, d)) @ rng.normal(size=(d, d))


def test_agreement_counts_the_images_that_show_their_label():
    logits = np.array([[2.0, 1, 0], [0, 1, 5], [1, 3, 2], [9, 0, 0]])
    assert agreement(logits, [0, 2, 0, 0]) == 0.75
    assert math.isnan(agreement(np.empty((0, 3)), np.empty(0)))
    with pytest.raises(ValueError, match=r"logits \[N, C\] and labels \[N\], got \[4, 3\] and \[3\]"):
        agreement(logits, [0, 2, 0])


def test_frechet_distance_equals_the_formula_with_a_matrix_root():
    a, b = features(80), features(90, seed=1, shift=0.3)
    covariance_a, covariance_b = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(covariance_a @ covariance_b).real
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(covariance_a + covariance_b - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_gaussians_on_axes_in_closed_form():
    rng = np.random.default_rng(0)
    white = rng.normal(size=(500, 3))
    white = np.linalg.qr(white - white.mean(0))[0] * math.sqrt(499)  # mean 0, covariance exactly 1
    a, b = white * [1, 2, 3], white * [2, 2, 1] + [1, 0, -1]
    assert frechet_distance(a, b) == pytest.approx(2 + (1 + 0 + 4))  # shifts, and (sigma_a - sigma_b)^2


def test_frechet_distance_to_itself_is_zero_even_with_fewer_images_than_features():
    a = features(5, d=20)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a[:, :1], a[:, :1] + 2) == pytest.approx(4)


class Pixels(torch.nn.Module):
    """Images are their own features, for torchmetrics."""

    num_features = 12

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


def test_frechet_distance_equals_torchmetrics():
    fid = pytest.importorskip("torchmetrics.image.fid")
    a, b = (torch.rand(n, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in (80, 70))
    metric = fid.FrechetInceptionDistance(Pixels(), input_img_size=(3, 2, 2)).set_dtype(torch.float64)
    metric.update(a, real=True)
    metric.update(b**2, real=False)
    found = frechet_distance(a.flatten(1).numpy(), (b**2).flatten(1).numpy())
    assert found == pytest.approx(metric.compute().item(), abs=1e-6) and found > 0.4
    wide, other = features(300, 64), features(200, 64, seed=1, shift=0.2)
    moments = [torch.tensor(each) for x in (wide, other) for each in (x.mean(0), np.cov(x.T))]
    assert frechet_distance(wide, other) == pytest.approx(fid._compute_fid(*moments).item(), rel=1e-6)


def test_kernel_distance_equals_torchmetrics():
    kid = pytest.importorskip("torchmetrics.image.kid")
    a, b = features(40), features(40, seed=1, shift=0.3)  # it takes sets of one size only
    assert kernel_distance(a, b) == pytest.approx(kid.poly_mmd(torch.tensor(a), torch.tensor(b)).item(), rel=1e-9)


def test_kernel_distance_equals_a_slow_loop():
    a, b = features(12), features(9, seed=1)

    def kernel(x, y):
        return (sum(p * q for p, q in zip(x, y, strict=True)) / 6 + 1) ** 3

    within_a = np.mean([kernel(a[i], a[j]) for i in range(12) for j in range(12) if i != j])
    within_b = np.mean([kernel(b[i], b[j]) for i in range(9) for j in range(9) if i != j])
    between = np.mean([kernel(x, y) for x in a for y in b])
    assert kernel_distance(a, b) == pytest.approx(within_a + within_b - 2 * between)


def test_kernel_distance_is_unbiased():
    rng = np.random.default_rng(0)
    values = [kernel_distance(rng.normal(size=(10, 3)), rng.normal(size=(10, 3))) for _ in range(400)]
    assert abs(np.mean(values)) < 3 * np.std(values) / 20
    assert min(values) < 0


@pytest.mark.parametrize("k", [1, 5])
def test_density_and_coverage_equal_a_slow_loop(k):
    real, fake = features(30), features(25, shift=0.2)
    radii = [sorted(np.linalg.norm(real - x, axis=1))[k] for x in real]
    inside = [[np.linalg.norm(x - y) < radius for y in fake] for x, radius in zip(real, radii, strict=True)]
    density, coverage = density_coverage(real, fake, k)
    assert density == pytest.approx(np.sum(inside) / (k * 25))
    assert coverage == pytest.approx(np.mean([any(row) for row in inside]))


@pytest.mark.parametrize("k", [1, 5])
def test_precision_and_recall_equal_a_slow_loop(k):
    real, fake = features(30), features(25, seed=0, shift=0.4)

    def radius(x, others):
        return sorted(np.linalg.norm(others - x, axis=1))[k]

    def share(points, centres):
        return np.mean([any(np.linalg.norm(p - c) < radius(c, centres) for c in centres) for p in points])

    assert precision_recall(real, fake, k) == pytest.approx((share(fake, real), share(real, fake)))
    assert precision_recall(fake, real, k) == pytest.approx(precision_recall(real, fake, k)[::-1])


@pytest.mark.parametrize(("d", "shift", "k"), [(6, 0.3, 5), (6, 1.0, 1), (64, 0.1, 5), (2, 0.5, 3)])
def test_manifold_metrics_equal_prdc(d, shift, k):
    prdc = pytest.importorskip("prdc")
    real, fake = features(300, d), features(250, d, seed=0, shift=shift)[:, ::-1] * 0.8
    expected = prdc.compute_prdc(real, fake, nearest_k=k)
    assert precision_recall(real, fake, k) == pytest.approx((expected["precision"], expected["recall"]), abs=1e-5)
    assert density_coverage(real, fake, k) == pytest.approx((expected["density"], expected["coverage"]), abs=1e-5)
    assert min(expected.values()) > 0 and min(expected.values()) < 1


def test_blocks_of_rows_change_nothing(monkeypatch):
    real, fake = features(53), features(41, seed=1, shift=0.3)
    whole = compare(real, fake)
    for entries in (1, 100, 41 * 7):  # one row, a few, and a last block that is shorter
        monkeypatch.setattr(samples, "BLOCK", entries)
        assert compare(real, fake) == pytest.approx(whole, rel=1e-12)


def test_density_and_coverage_of_a_copy_and_of_something_far():
    real = features(40)
    assert density_coverage(real, real)[1] == 1
    assert density_coverage(real, real + 1000) == (0, 0)
    assert density_coverage(real, real[:1])[1] < 1  # one fake, as when a class got a single image


def test_precision_and_recall_of_a_copy_of_a_part_and_of_something_far():
    real = features(60, 2)
    assert precision_recall(real, real) == (1, 1)
    assert precision_recall(real, real + 1000) == (0, 0)
    precision, recall = precision_recall(real, real[real[:, 0] > 0])  # right as far as it goes
    assert precision == 1 and recall < 0.9


@pytest.mark.parametrize("metric", [frechet_distance, kernel_distance, density_coverage, precision_recall, compare])
def test_features_of_different_size_are_refused(metric):
    with pytest.raises(ValueError, match=r"two sets of features \[N, D\] of equal D, got \[9, 4\] and \[9, 5\]"):
        metric(features(9, 4), features(9, 5))


@pytest.mark.parametrize("metric", [frechet_distance, kernel_distance])
def test_one_image_has_no_spread(metric):
    with pytest.raises(ValueError, match="at least 2 images on each side, got 9 and 1"):
        metric(features(9), features(1))


def test_too_few_images_for_k_neighbours_are_refused():
    expected = r"k=5 neighbours need at least 6 images on a side, got 5; give more, or a smaller k"
    for metric, real, fake in ((density_coverage, 5, 9), (precision_recall, 5, 9), (precision_recall, 9, 5)):
        with pytest.raises(ValueError, match=expected):
            metric(features(real), features(fake))
        with pytest.raises(ValueError, match="k should be at least 1, got 0"):
            metric(features(real), features(fake), 0)


def test_compare_has_every_distance_and_nan_for_what_needs_more_images():
    real, fake = features(9), features(7, seed=1)
    density, coverage = density_coverage(real, fake, 5)
    precision, recall = precision_recall(real, fake, 5)
    assert compare(real, fake) == {
        "frechet_distance": frechet_distance(real, fake),
        "kernel_distance": kernel_distance(real, fake),
        "precision": precision,
        "recall": recall,
        "density": density,
        "coverage": coverage,
    }
    missing = {
        (5, 7): {"density", "coverage", "precision", "recall"},
        (9, 5): {"precision", "recall"},
        (9, 1): {"frechet_distance", "kernel_distance", "precision", "recall"},
        (9, 0): set(compare(real, fake)),
    }
    for (reals, fakes), names in missing.items():
        found = compare(real[:reals], fake[:fakes])
        assert {name for name, value in found.items() if math.isnan(value)} == names
