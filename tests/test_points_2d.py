"""Figure 5: the package's feedback on points in the plane, against the exact denoiser of their mixture of Gaussians."""

import json
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from torch import nn

from tailsmith.files import to_json
from tailsmith.generation.points import (
    PointsDenoiser,
    PointsPipeline,
    PointsTraining,
    points_scheduler,
    train_points_denoiser,
)
from tailsmith.guidance.config import FeedbackConfig
from tailsmith.guidance.latents import ADAPTERS
from tailsmith.randomness import noise_generator
from tailsmith.studies.points_2d import (
    ARMS,
    ENTROPY,
    LONGER,
    PLAIN,
    REAL,
    accuracies,
    figure_5,
    markdown,
    where_points_lie,
)
from tailsmith.studies.points_picture import draw_figure_5
from tailsmith.studies.points_sampling import (
    CENTRES,
    LABELS,
    MODES,
    SPREAD,
    Points,
    Steered,
    draw_points,
    points_criterion,
    sample_points,
    train_linear,
)

ALPHA_BAR = points_scheduler().alphas_cumprod.double()
CRITERIA = ("entropy", "loss", "hardness")
SHARES = torch.tensor([mode.share for mode in MODES], dtype=torch.float64)


def exact_x0(noisy, alpha_bar, labels):
    """E[x0 | x_t, y] of the mixture, in closed form; [n, 2] in float64."""
    a, s2 = alpha_bar.sqrt()[..., None], (1 - alpha_bar)[..., None]
    variance = a**2 * SPREAD**2 + s2
    centres = CENTRES.double()
    offset = noisy[:, None] - a[..., None] * centres  # [n, modes, 2]
    logits = SHARES.log() - offset.square().sum(2) / (2 * variance)
    of_mode = logits.masked_fill(labels[:, None] != LABELS, -torch.inf).softmax(1)
    means = centres + (a * SPREAD**2 / variance)[..., None] * offset
    return (of_mode[..., None] * means).sum(1)


class ExactDenoiser(nn.Module):
    def forward(self, sample, timestep, class_labels):
        alpha_bar = ALPHA_BAR[timestep.expand(len(sample))]
        noisy = sample.flatten(1).double()
        x0 = exact_x0(noisy, alpha_bar, class_labels)
        eps = (noisy - alpha_bar.sqrt()[:, None] * x0) / (1 - alpha_bar).sqrt()[:, None]
        return (eps.float()[:, :, None, None],)


@pytest.fixture(scope="module")
def real():
    return draw_points([900, 100, 900, 100], noise_generator(5))


@pytest.fixture(scope="module")
def guide(real):
    return train_linear([real], 20, 0.5)


@pytest.fixture
def exact():
    return PointsPipeline(ExactDenoiser(), points_scheduler())


def steered(guide, real, criterion="entropy", **settings):
    config = FeedbackConfig(criterion=criterion, **{"every": 1, **settings})
    return Steered(guide, points_criterion(criterion, guide, real), config)


def labels_and_seeds(n):
    return torch.arange(2).repeat_interleave(n), list(range(2 * n))


def by_hand(criterion, guide, real, at, labels):
    """The criteria once more, in float64, of points [n, 2]."""
    logits = at @ guide.linear.weight.double().T + guide.linear.bias.double()
    log_p = logits.log_softmax(1)
    if criterion == "entropy":
        return -(log_p.exp() * log_p).sum(1)
    if criterion == "loss":
        return -log_p.gather(1, labels[:, None])[:, 0]
    from sklearn.covariance import ledoit_wolf

    values = torch.zeros(len(at), dtype=torch.float64)
    for label in (0, 1):
        points = real.at[real.labels == label].double().numpy()
        density = torch.distributions.MultivariateNormal(
            torch.from_numpy(points.mean(0)), torch.from_numpy(ledoit_wolf(points)[0])
        )
        values = torch.where(labels == label, -density.log_prob(at), values)
    return values


# ---- the denoiser ----


def test_the_trained_denoiser_points_where_the_exact_one_does(real):
    pipe = train_points_denoiser(real.at, real.labels, PointsTraining(steps=600, batch_size=256))
    test = draw_points([450, 50, 450, 50], noise_generator(6))
    noise = torch.randn(test.at.shape, generator=noise_generator(7))
    for level in (20, 50, 80):
        time = torch.tensor(level)
        noisy = pipe.scheduler.add_noise(test.at, noise, time)[:, :, None, None]
        ours = pipe.unet(noisy, time, test.labels)[0].flatten(1)
        theirs = ExactDenoiser()(noisy, time, test.labels)[0].flatten(1)
        unexplained = (ours - theirs).square().mean() / theirs.square().mean()
        assert unexplained < 0.05
        assert nn.functional.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.97


def test_exact_sampling_keeps_the_imbalance_of_the_data(exact):
    """Panel (b)."""
    points, record = sample_points(exact, *labels_and_seeds(1000), 50)
    lie = where_points_lie(points)
    assert lie["minority_share"] == pytest.approx(0.1, abs=0.02)  # 3 standard deviations of 2,000 draws
    assert lie["strays"] < 0.02 and lie["label_agreement"] > 0.995
    assert not record.values


def test_training_is_of_its_seed(real):
    trained = [train_points_denoiser(real.at, real.labels, PointsTraining(5, 32, seed=seed)) for seed in (3, 3, 4)]
    one, same, other = (each.unet.layers[1].weight for each in trained)
    assert torch.equal(one, same) and not torch.equal(one, other)


# ---- feedback ----


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("update", ["latent", "score"])
def test_one_step_moves_x0_along_the_gradient_by_finite_differences(criterion, update, exact, guide, real):
    """A DDPM of one step ends at x0-hat: the whole chain from x_t to the criterion, without the package."""
    labels, seeds = labels_and_seeds(40)
    scale = 0.03 if update == "latent" else 0.002
    moved, record = sample_points(exact, labels, seeds, 1, steered(guide, real, criterion, scale=scale, update=update))
    noisy = exact.prepare_latents([noise_generator(seed) for seed in seeds]).flatten(1).double()
    alpha_bar = ALPHA_BAR[-1].expand(len(noisy))

    def value(x):
        return by_hand(criterion, guide, real, exact_x0(x, alpha_bar, labels), labels)

    steps = 1e-5 * torch.eye(2, dtype=torch.float64)
    gradient = torch.stack([(value(noisy + step) - value(noisy - step)) / 2e-5 for step in steps], dim=1)
    a, s2 = ALPHA_BAR[-1].sqrt(), 1 - ALPHA_BAR[-1]
    if update == "latent":
        shift = scale * noisy.norm(dim=1, keepdim=True) * nn.functional.normalize(gradient) / a
    else:
        shift = scale * s2 / a * gradient
    expected = exact_x0(noisy, alpha_bar, labels) + shift
    torch.testing.assert_close(moved.at.double(), expected, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(record.values[0].double(), value(noisy), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_criterion_rises(criterion, exact, guide, real):
    labels, seeds = labels_and_seeds(300)
    plain, _ = sample_points(exact, labels, seeds, 25)
    guided, record = sample_points(exact, labels, seeds, 25, steered(guide, real, criterion, scale=0.03))
    before, after = (by_hand(criterion, guide, real, each.at.double(), labels) for each in (plain, guided))
    assert after.mean() > 1.2 * before.mean()
    assert (after > before).float().mean() > 0.8
    assert sorted(record.values) == list(range(25)) and not record.skipped


def test_feedback_brings_points_to_the_minority_modes_and_the_line_past_them(exact, guide, real):
    """Panel (c), with a perfect denoiser."""
    test = draw_points([500] * 4, noise_generator(8))
    labels, seeds = labels_and_seeds(500)
    plain, _ = sample_points(exact, labels, seeds, 50)
    guided, _ = sample_points(exact, labels, seeds, 50, steered(guide, real, scale=0.03))
    shares = [where_points_lie(each)["minority_share"] for each in (plain, guided)]
    accuracy = [accuracies(train_linear([real, each], 20, 0.5), test)["minority"] for each in (plain, guided)]
    assert shares[1] > shares[0] + 0.06
    assert accuracy[1] > accuracy[0] + 5


def test_without_strength_bits_stay(exact, guide, real):
    labels, seeds = labels_and_seeds(20)
    plain, _ = sample_points(exact, labels, seeds, 10)
    off, record = sample_points(exact, labels, seeds, 10, steered(guide, real, scale=0.0))
    assert torch.equal(plain.at, off.at) and not record.values


@pytest.mark.parametrize("scale", [0.0, 0.03])
def test_a_point_is_of_its_seed_whatever_the_batch(scale, guide, real):
    pipe = PointsPipeline(PointsDenoiser(2, noise_generator(1)), points_scheduler())
    labels, seeds = labels_and_seeds(8)
    by = steered(guide, real, "hardness", scale=scale)
    together, _ = sample_points(pipe, labels, seeds, 6, by)
    for rows in ([5], [15, 0, 7]):
        some, _ = sample_points(pipe, labels[rows], [seeds[row] for row in rows], 6, by)
        torch.testing.assert_close(some.at, together.at[rows], rtol=1e-4, atol=1e-4)
    other, _ = sample_points(pipe, labels, [seed + 100 for seed in seeds], 6, by)
    assert (other.at - together.at).abs().amax(1).min() > 1e-3


def test_feedback_forgets_the_family_of_points(exact, guide, real):
    known = dict(ADAPTERS)
    labels, seeds = labels_and_seeds(2)
    with pytest.raises(ValueError, match="one generator per point, got 3 for 4 labels"):
        sample_points(exact, labels, seeds[:3], 2, steered(guide, real))
    sample_points(exact, labels, seeds, 2, steered(guide, real))
    assert known == ADAPTERS and "step" not in vars(exact.scheduler)


# ---- the classifier, and what is measured ----


def test_the_linear_classifier_descends_the_mean_of_its_sources(real):
    """Against gradients written out; a small source weighs as much as a large one."""
    few = Points(real.at[880:920:2], real.labels[880:920:2])
    weight, bias = np.zeros((2, 2)), np.zeros(2)
    for _ in range(7):
        slopes = []
        for source in (real, few):
            x, y = source.at.double().numpy(), np.eye(2)[source.labels.numpy()]
            scores = np.exp(x @ weight.T + bias)
            error = (scores / scores.sum(1, keepdims=True) - y) / len(x)
            slopes.append((error.T @ x, error.sum(0)))
        weight = weight - 0.5 * (slopes[0][0] + slopes[1][0]) / 2
        bias = bias - 0.5 * (slopes[0][1] + slopes[1][1]) / 2
    found = train_linear([real, few], 7, 0.5).linear
    np.testing.assert_allclose(found.weight.numpy(), weight, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.bias.numpy(), bias, rtol=1e-4, atol=1e-6)


def test_a_classifier_sees_a_point_as_a_pixel(guide, real):
    logits, features = guide(real.images)
    assert real.images.shape == (2000, 3, 1, 1) and real.images.min() >= 0 and real.images.max() <= 1
    torch.testing.assert_close(features, real.at, rtol=1e-5, atol=1e-5)
    assert torch.equal(logits.argmax(1), guide.classes(real.at))


def test_the_guide_is_right_of_majorities_and_its_line_cuts_minorities(guide):
    found = accuracies(guide, draw_points([1000] * 4, noise_generator(9)))
    assert min(found["majority of blue"], found["majority of red"]) > 99
    assert 60 < found["minority"] < 95
    assert found["overall"] == pytest.approx(np.mean([found[mode.name] for mode in MODES]))


def test_where_points_lie_by_hand():
    centres = CENTRES[[0, 0, 1, 2, 3, 3]]
    at = centres + torch.tensor([[0.0, 0], [0.1, 0], [0, 0.7], [0, 0.8], [0, 0], [0, -0.1]])  # 0.75 is three sigma
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    lie = where_points_lie(Points(at, labels))
    assert lie["minority of blue"] == pytest.approx(1 / 3) and lie["minority of red"] == pytest.approx(2 / 3)
    assert lie["minority_share"] == pytest.approx(1 / 2) and lie["strays"] == pytest.approx(1 / 6)
    assert lie["label_agreement"] == 1
    assert where_points_lie(Points(at, 1 - labels))["label_agreement"] == 0


# ---- the figure ----


@pytest.fixture(scope="module")
def tiny():
    return figure_5((0, 3), "tiny")


def test_the_figure_has_a_row_per_arm_and_seed(tiny):
    names = [REAL, LONGER, PLAIN, *ARMS]
    assert [(row.row, row.seed) for row in tiny.rows] == [(name, seed) for seed in (0, 3) for name in names]
    assert all(0 <= value <= 100 for row in tiny.rows for value in row.test.values())
    real = tiny.rows[0]
    assert real.value("samples.minority_share") == pytest.approx(0.1)
    assert np.isnan(real.value("samples.nothing")) and real.value("overall") == real.test["overall"]
    gain = tiny.difference(ENTROPY, PLAIN, "overall")
    assert gain.n == 2 and gain.mean == pytest.approx(
        np.mean(tiny.values(ENTROPY, "overall")) - np.mean(tiny.values(PLAIN, "overall"))
    )


def test_a_seeds_rows_are_the_same_again_and_alone(tiny):
    assert figure_5((3,), "tiny").rows == tuple(row for row in tiny.rows if row.seed == 3)


def test_the_figure_as_json_text_and_picture(tiny):
    written = json.loads(to_json(tiny.as_json()))
    assert len(written["rows"]) == 2 * (3 + len(ARMS)) and written["settings"]["arms"][ENTROPY]["scale"] == 0.03
    assert f"{ENTROPY} - {PLAIN}" in written["differences"]
    assert markdown(tiny).count("\n|") == 2 + 3 + len(ARMS)
    picture = draw_figure_5(tiny)
    root = ElementTree.fromstring(picture)
    text = " ".join(root.itertext())
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and "--card:" in text
    assert all(name in text for name in (REAL, PLAIN, *ARMS)) and LONGER not in text
    assert picture == draw_figure_5(tiny)


# ---- errors ----


@pytest.mark.parametrize(
    ("seeds", "scale", "said"),
    [
        ((0,), "full", "scale should be one of tiny, embedded, got 'full'"),
        ((), "tiny", r"seeds should be different whole numbers from 0.*got \[\]"),
        ((1, 1), "tiny", r"got \[1, 1\]"),
        ((-1,), "tiny", r"got \[-1\]"),
    ],
)
def test_what_the_figure_refuses(seeds, scale, said):
    with pytest.raises(ValueError, match=said):
        figure_5(seeds, scale)


@pytest.mark.parametrize(
    ("points", "labels", "said"),
    [
        (torch.zeros(4, 3), torch.zeros(4).long(), r"points should be \[n, 2\].*got \[4, 3\]"),
        (torch.zeros(0, 2), torch.zeros(0).long(), r"n at least 1, got \[0, 2\]"),
        (torch.zeros(4, 2), torch.zeros(3).long(), r"one for each of 4 points; got int64 \[3\]"),
        (torch.zeros(4, 2), torch.zeros(4), r"whole numbers from 0.*got float32"),
        (torch.zeros(4, 2), torch.tensor([0, 1, -1, 0]), "from -1"),
        (torch.tensor([[0.0, torch.nan], [0, 0]]), torch.zeros(2).long(), "finite numbers; 1 are not"),
    ],
)
def test_points_that_can_not_be_learnt(points, labels, said):
    with pytest.raises(ValueError, match=said):
        train_points_denoiser(points, labels, PointsTraining(steps=1))


def test_points_of_no_modes_and_classifiers_of_no_points():
    with pytest.raises(ValueError, match=r"4 whole numbers from 0, one per mode; got \[1, 2\]"):
        draw_points([1, 2], noise_generator(0))
    nothing = draw_points([0] * 4, noise_generator(0))
    with pytest.raises(ValueError, match="needs points, got none"):
        train_linear([nothing], 1, 0.5)


def test_what_feedback_refuses_of_points(exact, guide, real):
    labels, seeds = labels_and_seeds(2)
    by = steered(guide, real)
    with pytest.raises(ValueError, match=r"labels should be within 0\.\.1"):
        sample_points(exact, labels + 1, seeds, 2, by)
    with pytest.raises(ValueError, match="scale should be finite and not negative"):
        sample_points(exact, labels, seeds, 2, replace(by, config=replace(by.config, scale=-1.0)))
