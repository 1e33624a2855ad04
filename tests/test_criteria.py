"""Criteria against SciPy, scikit-learn and PyTorch's own loss; what classes with one or no image get."""

import weakref

import numpy as np
import pytest
import torch
from scipy.stats import entropy as scipy_entropy
from scipy.stats import multivariate_normal
from sklearn.covariance import LedoitWolf
from torch.utils._python_dispatch import TorchDispatchMode

from tailsmith.guidance import criteria
from tailsmith.guidance.class_gaussians import fit_class_by_class, fit_class_gaussians
from tailsmith.guidance.criteria import Scored, criterion_of, hardness, mixture, score_of

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


def real_features(counts, seed=0, width=DIMENSIONS, spread=1.0):
    """Correlated features [n, D] with the given number of images per class; one direction varies more."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    mixing = rng.normal(size=(width, width))
    mixing[0] *= spread**0.5
    features = rng.normal(size=(len(labels), width)) @ mixing + labels[:, None]
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


def dense(features, labels, num_classes):
    """The oracle: means [C, D] and whole covariances [C, D, D] by scikit-learn, in fp64."""
    wide, counts = features.astype(np.float64), np.bincount(labels, minlength=num_classes)
    overall = wide.mean(axis=0)
    means = np.stack([wide[labels == c].mean(axis=0) if counts[c] else overall for c in range(num_classes)])
    pooled = LedoitWolf(assume_centered=True).fit(wide - means[labels]).covariance_
    own = [LedoitWolf().fit(wide[labels == c]).covariance_ if counts[c] > 2 else pooled for c in range(num_classes)]
    return means, np.stack(own) + (1e-4 * np.trace(pooled) / len(pooled) + 1e-12) * np.eye(wide.shape[1])


def covariance(gaussians, label):
    """[D, D] as the low rank says it is."""
    rows = slice(int(gaussians.starts[label]), int(gaussians.stops[label]))
    directions, width = gaussians.directions[rows].double().numpy(), gaussians.means.shape[1]
    scatter = directions.T @ (gaussians.variances[rows].double().numpy()[:, None] * directions)
    return scatter + float(gaussians.isotropic[label]) * np.eye(width)


SHAPES = [
    ([30, 12, 6, 3], 5),
    ([30, 12, 2, 1], 5),  # two classes share the pooled covariance
    ([200, 41, 40, 0], 40),  # more images than features, one more, as many, none
    ([0, 7, 5, 3], 40),
    ([9, 3, 5, 4], 1),
]


@pytest.mark.parametrize(("counts", "width"), SHAPES)
def test_the_low_rank_is_scikit_learns_ledoit_wolf_per_class(counts, width):
    features, labels = real_features(counts, width=width)
    gaussians = fit_class_gaussians(features, labels, NUM_CLASSES)
    means, covariances = dense(features, labels, NUM_CLASSES)
    np.testing.assert_allclose(gaussians.means, means, rtol=1e-4, atol=1e-5)
    for label in range(NUM_CLASSES):
        scale = np.trace(covariances[label]) / width
        np.testing.assert_allclose(covariance(gaussians, label), covariances[label], rtol=1e-4, atol=1e-5 * scale)
    expected = np.linalg.slogdet(covariances)[1]
    np.testing.assert_allclose(gaussians.log_determinants, expected, rtol=1e-4, atol=1e-3)
    pooled = width if min(counts) < 3 else 0
    assert len(gaussians.directions) == sum(min(n - 1, width) for n in counts if n > 2) + pooled


@pytest.mark.parametrize("spread", [1.0, 1e4])
@pytest.mark.parametrize(("counts", "width"), SHAPES)
def test_hardness_and_its_gradient_are_those_of_the_whole_covariances(counts, width, spread):
    """The negative log-density by SciPy. `spread`: one direction's variance among the others'."""
    features, labels = real_features(counts, width=width, spread=spread)
    gaussians, (means, covariances) = fit_class_gaussians(features, labels, NUM_CLASSES), dense(features, labels, 4)
    asked = torch.tensor([0, 1, 2, 3, 0, 1, 2])
    generator = torch.Generator().manual_seed(0)
    images = torch.tensor(means)[asked] + torch.randn(7, width, generator=generator, dtype=torch.float64)
    given = images.float().requires_grad_()
    values = hardness(gaussians)(torch.zeros(7, 4), given, asked)
    (gradient,) = torch.autograd.grad(values.sum(), given)
    for image, label in enumerate(asked.tolist()):
        x = given[image].detach().double().numpy()
        density = multivariate_normal(means[label], covariances[label])
        assert values[image].item() == pytest.approx(-density.logpdf(x), rel=1e-4, abs=1e-3)
        slope = np.linalg.solve(covariances[label], x - means[label])
        assert np.linalg.norm(gradient[image].numpy() - slope) <= 1e-3 * np.linalg.norm(slope)


@pytest.mark.parametrize("images", [1, 2])
def test_a_class_with_one_or_two_images_takes_the_pooled_covariance_around_their_mean(images):
    features, labels = real_features([30, 12, images, 0])
    gaussians = fit_class_gaussians(features, labels, NUM_CLASSES)
    pooled = LedoitWolf(assume_centered=True).fit(features - gaussians.means.numpy()[labels]).covariance_
    np.testing.assert_allclose(gaussians.means[2], features[labels == 2].mean(0), rtol=1e-5)
    np.testing.assert_allclose(covariance(gaussians, 2), pooled, rtol=2e-3, atol=2e-3 * np.trace(pooled))
    np.testing.assert_array_equal(covariance(gaussians, 2), covariance(gaussians, 3))


def test_classes_may_come_one_after_the_other():
    """No two classes' features are ever asked for together."""
    features, labels = real_features([9, 0, 2, 7])
    alive = []

    def one_by_one():
        for label in range(NUM_CLASSES):
            own = features[labels == label].copy()
            alive.append(weakref.ref(own))
            assert sum(each() is not None for each in alive) <= 2  # this one, and the loop's last
            yield own
            del own

    together = fit_class_gaussians(features, labels, NUM_CLASSES)
    apart = fit_class_by_class(one_by_one(), np.array([9, 0, 2, 7]))
    for one, other in zip(vars(together).values(), vars(apart).values(), strict=True):
        torch.testing.assert_close(one, other)


def test_only_the_batchs_own_gaussians_go_to_the_classifiers_device():
    copied = []

    class Copies(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten._to_copy.default and (kwargs or {}).get("device") == torch.device("meta"):
                copied.append(tuple(args[0].shape))
            return function(*args, **(kwargs or {}))

    gaussians = fit_class_gaussians(*real_features([6] * 50), 50)
    with Copies():
        hardness(gaussians)(torch.zeros(2, 50), torch.zeros(2, DIMENSIONS, device="meta"), torch.tensor([7, 9]))
    whole = {tuple(each.shape) for each in vars(gaussians).values()}
    assert copied.count((5, DIMENSIONS)) == 2
    assert not whole & set(copied)


def test_a_class_with_no_image_takes_the_mean_of_all():
    features, labels = real_features([30, 12, 1, 0])
    gaussians = fit_class_gaussians(features, labels, NUM_CLASSES)
    np.testing.assert_allclose(gaussians.means[3], features.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(covariance(gaussians, 3), covariance(gaussians, 2))


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
    asked = []

    def classifier(images):
        asked.append(len(images))
        return images, features

    of = {name: criterion_of(name, classifier, gaussians) for name in set(names)}
    values = mixture([of[name] for name in names])(logits, labels)
    assert asked == [7]  # once, about all
    for image, name in enumerate(names):
        alone = score_of(name, gaussians)(logits, features, labels)[image]
        torch.testing.assert_close(values[image], alone)


def test_a_mixture_of_criteria_that_ask_others_asks_each_about_its_own_images(batch):
    logits, _, labels = batch
    asked = []

    def answering(which):
        def classifier(images):
            asked.append((which, images[:, 0].tolist()))
            return images * which, images

        return classifier

    def brightness(images, labels):
        asked.append((0, images[:, 0].tolist()))
        return images.mean(dim=1) + labels

    criteria_of = [criterion_of("loss", answering(1)), criterion_of("loss", answering(2)), brightness]
    which = [0, 1, 2, 2, 1, 0, 1]
    values = mixture([criteria_of[each] for each in which])(logits, labels)
    own = {number: [row for row in range(7) if which[row] == number] for number in range(3)}
    assert asked == [(k, logits[own[n], 0].tolist()) for n, k in ((0, 1), (1, 2), (2, 0))]
    for image, number in enumerate(which):
        alone = criteria_of[number](logits[image : image + 1], labels[image : image + 1])
        torch.testing.assert_close(values[image], alone[0])


def test_in_a_mixture_one_criterions_infinite_slope_does_not_reach_the_others_images(batch):
    logits, features, labels = batch
    features = features.clone().requires_grad_()

    def root(logits, features, labels):
        return (features * 0).sum(1).sqrt()  # slope 0 * inf = NaN at zero

    of = {each: criterion_of(each, lambda images: (images, features)) for each in ("loss", root, "entropy")}
    same = Scored(of["loss"].classifier, criteria.entropy)  # whom "loss" asks
    chosen = [of["loss"], Scored(same.classifier, root), same] + [of["loss"]] * 4
    values = mixture(chosen)(logits + features[:, :1], labels)
    (gradient,) = torch.autograd.grad(values.sum(), features)
    assert torch.isfinite(gradient).all(dim=1).tolist() == [True, False] + [True] * 5


def test_a_mixture_of_another_length_than_the_batch(batch):
    with pytest.raises(ValueError, match="mixture of 2 criteria was given 7 images"):
        mixture([criterion_of(name, lambda images: batch[:2]) for name in ("loss", "entropy")])(batch[0], batch[2])


def test_unknown_criterion_names_the_known_ones():
    with pytest.raises(ValueError, match=r"one of \['entropy', 'loss', 'hardness'\].*got 'entrpoy'"):
        score_of("entrpoy")


def test_hardness_needs_gaussians():
    with pytest.raises(ValueError, match="'hardness' needs gaussians=fit_class_gaussians"):
        criterion_of("hardness", lambda images: (images, images))


def test_a_users_function_of_an_answer_or_of_images_is_used_as_it_is(batch):
    logits, features, labels = batch

    def classifier(images):
        return images, features

    def mine(logits, features, labels):
        return logits[:, 0] + features[:, 0] + labels

    class Module(torch.nn.Module):
        def forward(self, images, labels):
            return images[:, 0] * labels

    def closed_over(images, labels, temperature=2.0):
        return images[:, 0] / temperature

    assert criterion_of(closed_over, classifier) is closed_over
    torch.testing.assert_close(criterion_of(mine, classifier)(logits, labels), mine(logits, features, labels))
    any_number = criterion_of(lambda *answer: answer[0][:, 0] + answer[1][:, 0] + answer[2], classifier)
    torch.testing.assert_close(any_number(logits, labels), mine(logits, features, labels))
    assert isinstance(criterion_of(Module(), classifier), Module)
