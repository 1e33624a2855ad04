"""Losses against slow loops and closed forms; the prior against counts of what mini-batches really hold."""

import math

import numpy as np
import pytest
import torch

from tailsmith.classification.losses import (
    LOSSES,
    PRIORS,
    balanced_softmax,
    class_prior,
    cross_entropy,
    mixture,
    source_priors,
)

REAL, SYNTHETIC = np.array([500, 50, 5]), np.array([0, 450, 495])


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (7,), generator=generator)
    return logits, labels, torch.tensor([0.7, 0.25, 0.05], dtype=torch.float64)


def test_balanced_softmax_equals_its_definition(batch):
    logits, labels, prior = batch
    expected = []
    for z, y in zip(logits.tolist(), labels.tolist(), strict=True):
        weights = [p * math.exp(value) for p, value in zip(prior.tolist(), z, strict=True)]
        expected.append(-math.log(weights[y] / sum(weights)))
    assert balanced_softmax(logits, labels, prior).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_return_one_value_per_image_and_are_differentiable(batch, name):
    logits, labels, prior = batch
    logits.requires_grad_()
    values = LOSSES[name](logits, labels, prior, label_smoothing=0.1)
    values.sum().backward()
    assert values.shape == (7,)
    assert (logits.grad.abs().sum(1) > 0).all()


def test_balanced_softmax_with_a_uniform_prior_is_cross_entropy(batch):
    logits, labels, _ = batch
    uniform = torch.full((3,), 1 / 3, dtype=torch.float64)
    torch.testing.assert_close(balanced_softmax(logits, labels, uniform), cross_entropy(logits, labels, uniform))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_mixture_is_the_weighted_average_of_appendix_f(batch, alpha):
    logits, labels, prior = batch
    expected = alpha * balanced_softmax(*batch) + (1 - alpha) * torch.nn.functional.cross_entropy(
        logits, labels, reduction="none"
    )
    torch.testing.assert_close(mixture(balanced_softmax, alpha)(logits, labels, prior), expected)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_both_parts_of_a_mixture_are_smoothed(batch, alpha):
    """Smoothed cross-entropy is (1 - e) of the label's -log p plus e of the mean over classes."""
    logits, labels, prior = batch
    expected = []
    for row, label in zip(logits, labels, strict=True):
        parts = []
        for shifted in (row + prior.log(), row):
            surprise = [math.log(sum(math.exp(z) for z in shifted.tolist())) - z for z in shifted.tolist()]
            parts.append(0.9 * surprise[label] + 0.1 * sum(surprise) / 3)
        expected.append(alpha * parts[0] + (1 - alpha) * parts[1])
    mixed = mixture(balanced_softmax, alpha, label_smoothing=0.1)
    assert mixed(logits, labels, prior).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("real", REAL / 555),
        ("combined", (REAL + SYNTHETIC) / 1500),
        ("effective", 0.5 * REAL / 555 + 0.5 * SYNTHETIC / 945),
    ],
)
def test_priors_of_half_and_half_batches(kind, expected):
    shares = 0.5 * REAL / 555 + 0.5 * SYNTHETIC / 945
    np.testing.assert_allclose(class_prior(REAL, SYNTHETIC, kind, shares), expected)


@pytest.mark.parametrize("kind", PRIORS)
def test_a_class_without_images_gets_half_of_the_rarest(kind):
    counts = np.array([30, 10, 0])
    prior = class_prior(counts, np.zeros(3, int), kind, counts / 40)
    np.testing.assert_allclose(prior, np.array([30, 10, 5]) / 45)
    assert np.isfinite(np.log(prior)).all()


def test_unknown_prior_lists_the_known():
    with pytest.raises(ValueError, match=r"unknown prior 'balanced': expected one of real, combined, effective"):
        class_prior(REAL, SYNTHETIC, "balanced", REAL / 555)


def test_a_prior_of_nothing_is_refused():
    with pytest.raises(ValueError, match="prior 'real' needs at least one image"):
        class_prior(np.zeros(3, int), SYNTHETIC, "real", SYNTHETIC / 945)


def test_each_source_has_its_own_prior():
    shares = 0.5 * REAL / 555 + 0.5 * SYNTHETIC / 945
    real, synthetic = source_priors(REAL, SYNTHETIC, "per_source", shares)
    np.testing.assert_allclose(real, class_prior(REAL, SYNTHETIC, "real", shares))
    np.testing.assert_allclose(synthetic, class_prior(SYNTHETIC, SYNTHETIC, "real", shares))


@pytest.mark.parametrize("kind", PRIORS)
def test_other_priors_are_the_same_for_both_sources(kind):
    shares = 0.5 * REAL / 555 + 0.5 * SYNTHETIC / 945
    real, synthetic = source_priors(REAL, SYNTHETIC, kind, shares)
    np.testing.assert_array_equal(real, synthetic)
    np.testing.assert_allclose(real, class_prior(REAL, SYNTHETIC, kind, shares))


def test_without_synthetic_images_only_the_real_prior_counts():
    real, synthetic = source_priors(REAL, np.zeros_like(REAL), "per_source", REAL / 555)
    np.testing.assert_allclose(real, REAL / 555)
    assert np.isfinite(np.log(synthetic)).all()


def test_a_prior_per_image_is_the_loss_of_each_image_alone():
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    priors = torch.rand(4, 3).softmax(1)
    alone = [balanced_softmax(logits[[i]], labels[[i]], priors[i])[0] for i in range(4)]
    torch.testing.assert_close(balanced_softmax(logits, labels, priors), torch.stack(alone))
