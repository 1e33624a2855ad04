"""The calibration error against torchmetrics, a slow loop and hand-worked cases."""

import math

import numpy as np
import pytest
import torch

from tailsmith.metrics.calibration import expected_calibration_error


def drawn(n: int, classes: int, sharpness: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [n, C] that are right in about half of the cases, and labels [n]."""
    rng = np.random.default_rng(seed)
    scores = np.exp(sharpness * rng.normal(size=(n, classes)))
    probabilities = scores / scores.sum(axis=1, keepdims=True)
    labels = np.where(rng.random(n) < 0.5, probabilities.argmax(1), rng.integers(0, classes, n))
    return probabilities, labels


@pytest.mark.parametrize(("n", "classes", "sharpness"), [(1, 2, 1.0), (40, 3, 0.3), (2000, 10, 2.0), (500, 100, 4.0)])
@pytest.mark.parametrize("bins", [1, 10, 15])
def test_it_equals_torchmetrics(n, classes, sharpness, bins):
    classification = pytest.importorskip("torchmetrics.classification")
    probabilities, labels = drawn(n, classes, sharpness)
    metric = classification.MulticlassCalibrationError(classes, n_bins=bins, norm="l1")
    expected = metric(torch.tensor(probabilities, dtype=torch.float64), torch.tensor(labels)).item()
    assert expected_calibration_error(probabilities, labels, bins) == pytest.approx(expected, abs=1e-5)


def test_it_equals_a_slow_loop_on_the_edges_of_bins_too():
    """Bins are (lower, upper] and the last one holds 1, as in the paper."""
    confidence = np.array([0.5, 0.5, 0.75, 0.75, 0.8, 1, 1, 1])
    right = np.array([1, 0, 1, 0, 1, 1, 1, 0])
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    total = 0.0
    for m in range(4):
        members = [i for i in range(8) if m / 4 < confidence[i] <= (m + 1) / 4]
        if members:
            total += len(members) / 8 * abs(right[members].mean() - confidence[members].mean())
    assert expected_calibration_error(probabilities, 1 - right, bins=4) == pytest.approx(total)
    # by hand: (.25, .5] is right; (.5, .75] by .5 - .75; (.75, 1] by 3/4 - 3.8/4
    assert total == pytest.approx((0 + 2 * 0.25 + 4 * 0.2) / 8)


def test_who_is_as_sure_as_right_has_none_and_who_is_always_sure_has_the_share_of_errors():
    fair = np.tile([0.75, 0.25], (4, 1))
    assert expected_calibration_error(fair, [0, 0, 0, 1]) == pytest.approx(0)
    sure = np.tile([1.0, 0.0], (4, 1))
    assert expected_calibration_error(sure, [0, 1, 1, 1]) == pytest.approx(0.75)
    assert math.isnan(expected_calibration_error(np.empty((0, 3)), np.empty(0)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_softmax_of_any_precision_sums_to_one(dtype):
    logits = torch.randn(50, 1000, generator=torch.Generator().manual_seed(0)) * 3
    expected_calibration_error(torch.softmax(logits.to(dtype), dim=1).float().numpy(), np.zeros(50, dtype=int))


def test_what_is_no_probability_or_no_label_is_refused():
    fair = np.full((3, 2), 0.5)
    for probabilities, labels, bins, message in (
        (fair, [0, 1], 15, r"probabilities \[N, C\] and labels \[N\], got \[3, 2\] and \[2\]"),
        (fair[0], [0, 1], 15, r"probabilities \[N, C\] and labels \[N\], got \[2\] and \[2\]"),
        (fair, [0, 1, 2], 15, r"labels should be integers 0\.\.1, got int64 from 0 to 2"),
        (fair, [0, 1, -1], 15, r"labels should be integers 0\.\.1, got int64 from -1 to 1"),
        (fair, [0.0, 1, 0.5], 15, r"labels should be integers 0\.\.1, got float64"),
        (fair * 3, [0, 1, 1], 15, r"sum to 1 in each row, got 1.5 to 1.5 and sums of 3 to 3; apply a softmax"),
        ([[2.0, -1.0]], [0], 15, "probabilities should be at least 0 and sum to 1"),
        ([[np.nan, 1.0]], [0], 15, "probabilities should be at least 0 and sum to 1"),
        (fair, [0, 1, 1], 0, "bins should be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            expected_calibration_error(probabilities, labels, bins)
