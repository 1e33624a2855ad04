"""Criteria against SciPy, scikit-learn and PyTorch's own loss; what classes with one or no image get."""

import numpy as np
import pytest
import torch
from scipy.stats import entropy as scipy_entropy
from scipy.stats import multivariate_normal
from sklearn.covariance import LedoitWolf
from torch.utils._python_dispatch import TorchDispatchMode

from tailsmith.guidance import criteria
from tailsmith.guidance.criteria import fit_class_gaussians, get_criterion, hardness, mixture

NUM_CLASSES, DIMENSIONS = 4, 5


@pytest.fixture
def batch():
    """logits [7, C], features [7, D], labels [7]."""
    generator = torch.Generator().manual_seed(0)
    return (
        3 * torch.randn(7, NUM_CLASSES, generator=generator),
        torch.randn(7, DIMENSIONS, generator=generator),
        torch.tensor([0, 1, 2, 3, 0, 1, 2]),
    )


def real_features(counts, seed=0):
    """Correlated features [n, D] with the given number of images per class."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    mixing = rng.normal(size=(DIMENSIONS, DIMENSIONS))
    features = rng.normal(size=(len(labels), DIMENSIONS)) @ mixing + labels[:, None]
    return features.astype(np.float32), labels.astype(np.int64)


def test_entropy_is_scipys(batch):
    logits, features, labels = batch
    expected = scipy_entropy(logits.double().softmax(1).numpy(), axis=1)
    np.testing.assert_allclose(criteria.entropy(logits, features, labels), expected, rtol=1e-5)


def test_entropy_of_a_certain_classifier_is_zero_with_a_finite_gradient():
    logits = torch.tensor([[200.0, -200.0, 0.0]], requires_grad=True)
    value = criteria.entropy(logits, torch.zeros(1, 2), torch.tensor([0]))
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert value.item() == 0
    assert torch.isfinite(gradient).all()


def test_loss_is_cross_entropy_per_image(batch):
    logits, features, labels = batch
    expected = [-logits[i].double().softmax(0)[labels[i]].log().item() for i in range(len(labels))]
    np.testing.assert_allclose(criteria.loss(logits, features, labels), expected, rtol=1e-5)


def test_gaussians_are_ledoit_wolf_per_class():
    features, labels = real_features([30, 12, 6, 3])
    gaussians = fit_class_gaussians(features, labels, NUM_CLASSES)
    for label in range(NUM_CLASSES):
        own = features[labels == label].astype(np.float64)
        covariance = LedoitWolf().fit(own).covariance_
        fitted = np.linalg.inv(gaussians.precisions[label].double().numpy())
        np.testing.assert_allclose(gaussians.means[label], own.mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(fitted, covariance, rtol=2e-3, atol=2e-3 * np.trace(covariance))
        expected = np.linalg.slogdet(covariance)[1]
        assert gaussians.log_determinants[label] == pytest.approx(expected, abs=0.05)


def test_hardness_is_the_negative_log_density_of_the_class_gaussian(batch):
    logits, features, labels = batch
    gaussians = fit_class_gaussians(*real_features([30, 12, 6, 1]), NUM_CLASSES)
    values = hardness(gaussians)(logits, features, labels)
    for image, label in enumerate(labels.tolist()):
        covariance = np.linalg.inv(gaussians.precisions[label].double().numpy())
        density = multivariate_normal(gaussians.means[label].double().numpy(), covariance)
        assert values[image].item() == pytest.approx(-density.logpdf(features[image].numpy()), rel=1e-3)


@pytest.mark.parametrize("images", [1, 2])
def test_a_class_with_one_or_two_images_takes_the_pooled_covariance_around_their_mean(images):
    features, labels = real_features([30, 12, images, 0])
    gaussians = fit_class_gaussians(features, labels, NUM_CLASSES)
    means = np.stack([features[labels == c].mean(0) for c in range(3)])
    pooled = LedoitWolf(assume_centered=True).fit((features - means[labels]).astype(np.float64)).covariance_
    fitted = np.linalg.inv(gaussians.precisions[2].double().numpy())
    np.testing.assert_allclose(gaussians.means[2], features[labels == 2].mean(0), rtol=1e-5)
    np.testing.assert_allclose(fitted, pooled, rtol=2e-3, atol=2e-3 * np.trace(pooled))


def test_only_the_batchs_own_gaussians_go_to_the_classifiers_device():
    copied = []

    class Copies(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten._to_copy.default:
                copied.append(len(args[0]))
            return function(*args, **(kwargs or {}))

    gaussians = criteria.ClassGaussians(torch.zeros(50, 4), torch.zeros(50, 4, 4), torch.zeros(50))
    with Copies():
        hardness(gaussians)(torch.zeros(2, 50), torch.zeros(2, 4, device="meta"), torch.tensor([7, 9]))
    assert copied == [2, 2, 2]


def test_a_class_with_no_image_takes_the_mean_of_all():
    features, labels = real_features([30, 12, 1, 0])
    gaussians = fit_class_gaussians(features, labels, NUM_CLASSES)
    np.testing.assert_allclose(gaussians.means[3], features.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gaussians.precisions[3], gaussians.precisions[2])


@pytest.mark.parametrize("counts", [[6, 6, 2, 2], [1, 1, 1, 1]])
def test_identical_images_and_dead_features_leave_finite_values_and_gradients(counts, batch):
    logits, features, labels = batch
    own = np.repeat(np.arange(NUM_CLASSES), counts)
    same = np.zeros((len(own), DIMENSIONS), dtype=np.float32)
    same[:, 0] = own
    gaussians = fit_class_gaussians(same, own, NUM_CLASSES)
    features = features.requires_grad_()
    values = hardness(gaussians)(logits, features, labels)
    (gradient,) = torch.autograd.grad(values.sum(), features)
    assert torch.isfinite(values).all()
    assert torch.isfinite(gradient).all()


def test_gaussians_need_two_images():
    with pytest.raises(ValueError, match="at least 2 real images, got 1"):
        fit_class_gaussians(np.zeros((1, 3), np.float32), np.zeros(1, np.int64), 2)


def test_a_mixture_gives_each_image_its_own_criterion(batch):
    logits, features, labels = batch
    gaussians = fit_class_gaussians(*real_features([9, 9, 9, 9]), NUM_CLASSES)
    names = ["entropy", "loss", "hardness", "loss", "entropy", "hardness", "entropy"]
    values = mixture(names, gaussians)(logits, features, labels)
    for image, name in enumerate(names):
        alone = get_criterion(name, gaussians)(logits, features, labels)[image]
        torch.testing.assert_close(values[image], alone)


def test_in_a_mixture_one_criterions_infinite_slope_does_not_reach_the_others_images(batch):
    logits, features, labels = batch
    features = features.clone().requires_grad_()

    def root(logits, features, labels):
        return (features * 0).sum(1).sqrt()  # slope 0 * inf = NaN at zero

    values = mixture(["loss", root, "entropy"] + ["loss"] * 4)(logits + features[:, :1], features, labels)
    (gradient,) = torch.autograd.grad(values.sum(), features)
    assert torch.isfinite(gradient).all(dim=1).tolist() == [True, False] + [True] * 5


def test_a_mixture_of_another_length_than_the_batch(batch):
    with pytest.raises(ValueError, match="mixture of 2 criteria was given 7 images"):
        mixture(["loss", "entropy"])(*batch)


def test_unknown_criterion_names_the_known_ones():
    with pytest.raises(ValueError, match=r"one of \['entropy', 'loss', 'hardness'\].*got 'entrpoy'"):
        get_criterion("entrpoy")


def test_hardness_needs_gaussians():
    with pytest.raises(ValueError, match="'hardness' needs gaussians=fit_class_gaussians"):
        get_criterion("hardness")


def test_a_users_function_is_used_as_it_is():
    def mine(logits, features, labels):
        return logits[:, 0]

    assert get_criterion(mine) is mine
