"""The Meta Sampler against closed forms, torch's softmax, finite differences of a slow loop, and counting."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tailsmith.classification import meta_sampler
from tailsmith.classification.losses import balanced_softmax
from tailsmith.classification.meta_sampler import MetaSampler, initial_scores, meta_gradient, straight_through

LABELS = np.repeat([0, 1, 2], [60, 9, 1])  # class 2 has a single image, class 3 of the four has none


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sampler(pools=None, scores=(-1.0, 0.5, 2.0, 0.0)) -> MetaSampler:
    pools = [np.arange(70)] if pools is None else pools
    return MetaSampler(pools, LABELS, torch.tensor(scores), 0.1, generator(1), generator(2))


def shares(rows: np.ndarray) -> np.ndarray:
    return np.bincount(LABELS[rows], minlength=4) / len(rows)


def test_scores_start_at_the_closed_form():
    r = initial_scores(np.array([0.7, 0.2, 0.1]), init_pow=0.3).double().sigmoid()
    raw = np.array([0.7, 0.2, 0.1]) ** -0.3
    assert r.tolist() == pytest.approx((raw / (raw[0] + raw[2])).tolist(), rel=1e-6)
    assert float(r[0] + r[2]) == pytest.approx(1)  # the most frequent and the rarest class add up to one
    assert float(r[2] / r[0]) == pytest.approx(7**0.3)


@pytest.mark.parametrize(("present", "init_pow"), [([0.7, 0.2, 0.1], 0.0), ([1 / 3] * 3, 0.3), ([1.0, 0.0, 0.0], 0.3)])
def test_without_anything_to_balance_all_weights_are_a_half(present, init_pow):
    assert initial_scores(np.array(present), init_pow).tolist() == pytest.approx([0, 0, 0], abs=1e-6)


def test_a_class_without_images_changes_nothing_for_the_others():
    with_absent = initial_scores(np.array([0.7, 0.0, 0.3]), 0.3)
    assert with_absent[1] == 0
    assert with_absent[[0, 2]].tolist() == initial_scores(np.array([0.7, 0.3]), 0.3).tolist()


def test_a_straight_through_draw_is_torchs_softmax_of_logits_with_gumbel_noise():
    rng = generator(3)
    scores = torch.randn(4, generator=rng, dtype=torch.float64).requires_grad_()
    labels = torch.from_numpy(LABELS)
    exponential = torch.empty(32, 70, dtype=torch.float64).exponential_(generator=rng)
    toward = torch.randn(32, generator=rng, dtype=torch.float64)
    chosen, weights = straight_through(scores, labels, exponential)
    soft = F.softmax(F.logsigmoid(scores)[labels] - exponential.log(), dim=1)
    hard = F.one_hot(soft.argmax(1), 70)
    oracle = ((hard - soft.detach() + soft) * hard).sum(1)  # Jang et al. (2017): hard forward, soft backward
    assert torch.equal(chosen, hard.argmax(1))
    assert torch.equal(weights.detach(), torch.ones(32, dtype=torch.float64))
    ours, theirs = (torch.autograd.grad((each * toward).sum(), scores)[0] for each in (weights, oracle))
    assert theirs.abs().max() > 1e-3
    torch.testing.assert_close(ours, theirs)


def test_the_meta_gradient_is_that_of_finite_differences_of_a_slow_loop():
    rng = generator(4)
    rate, prior = 0.7, torch.tensor([0.6, 0.25, 0.1, 0.05], dtype=torch.float64)
    head = torch.nn.Linear(5, 4).double()
    scores = torch.randn(4, generator=rng, dtype=torch.float64).requires_grad_()
    exponential = torch.empty(12, 70, dtype=torch.float64).exponential_(generator=rng)
    chosen, weights = straight_through(scores, torch.from_numpy(LABELS), exponential)
    features = torch.randn(12, 5, generator=rng, dtype=torch.float64)
    labels = torch.from_numpy(LABELS)[chosen]
    meta_features = torch.randn(9, 5, generator=rng, dtype=torch.float64)
    meta_labels = torch.arange(9) % 3
    ours = meta_gradient(
        scores,
        weights,
        head,
        features,
        lambda logits: balanced_softmax(logits, labels, prior),
        meta_features,
        meta_labels,
        rate,
    )

    def relaxed(w: np.ndarray) -> np.ndarray:
        """The softmax weight of each drawn instance, the noise and the draw kept."""
        p = 1 / (1 + np.exp(-w))
        mass = p[LABELS] / exponential.numpy()
        return mass[np.arange(12), chosen.numpy()] / mass.sum(1)

    base = relaxed(scores.detach().numpy())

    def meta_loss(w: np.ndarray) -> float:
        theta, bias = (each.detach().numpy().copy() for each in head.parameters())
        slope, slope_bias = np.zeros_like(theta), np.zeros_like(bias)
        for row, weight in enumerate(1 + relaxed(w) - base):
            z = theta @ features[row].numpy() + bias + np.log(prior.numpy())
            error = np.exp(z) / np.exp(z).sum()
            error[labels[row]] -= 1
            slope += weight * np.outer(error, features[row].numpy()) / 12
            slope_bias += weight * error / 12
        total = 0.0
        for row in range(9):
            z = (theta - rate * slope) @ meta_features[row].numpy() + bias - rate * slope_bias
            total += np.log(np.exp(z).sum()) - z[meta_labels[row]]
        return total / 9

    at, step = scores.detach().numpy(), 1e-5
    numeric = [(meta_loss(at + step * e) - meta_loss(at - step * e)) / (2 * step) for e in np.eye(4)]
    assert np.abs(numeric).max() > 1e-4
    assert ours.tolist() == pytest.approx(numeric, rel=1e-5, abs=1e-9)
    assert ours[3] == 0  # no image, no gradient


@pytest.mark.parametrize("relaxed", [False, True])
def test_draws_follow_the_scores_and_images_of_a_class_are_alike(relaxed):
    drawing = sampler()
    draw = (lambda n: drawing.relaxed_draw(n)[0]) if relaxed else drawing.draw
    rows = np.concatenate([draw(1000) for _ in range(20)])
    mass = np.array([60, 9, 1, 0]) / (1 + np.exp([1.0, -0.5, -2.0, 0.0]))
    assert shares(rows) == pytest.approx(mass / mass.sum(), abs=0.012)
    of_class_1 = np.bincount(rows[LABELS[rows] == 1] - 60, minlength=9)
    assert of_class_1.max() < 1.25 * of_class_1.min()


def test_each_pool_keeps_its_half_and_has_draws_of_its_own():
    pools = [np.arange(0, 70, 2), np.arange(69, 0, -2)]  # even rows, odd rows in any order
    drawing = sampler(pools)
    for rows in (drawing.draw(100), drawing.relaxed_draw(100)[0]):
        assert (rows % 2 == 0).sum() == 50
    rows = np.concatenate([drawing.draw(1000) for _ in range(20)])
    odd = rows[rows % 2 == 1]
    mass = np.bincount(LABELS[1::2], minlength=4) / (1 + np.exp([1.0, -0.5, -2.0, 0.0]))
    assert shares(odd) == pytest.approx(mass / mass.sum(), abs=0.015)


def test_noise_in_many_pieces_gives_draws_and_weights_for_every_slot(monkeypatch):
    monkeypatch.setattr(meta_sampler, "NOISE_BUDGET", 150)  # two slots at a time
    drawing = sampler()
    rows, weights = drawing.relaxed_draw(33)
    slopes = torch.stack([torch.autograd.grad(weight, drawing.scores, retain_graph=True)[0] for weight in weights])
    assert rows.shape == weights.shape == (33,)
    assert (slopes.abs().sum(1) > 0).all() and (slopes[:, 3] == 0).all()


def test_the_same_generators_give_the_same_draws():
    one, two = sampler(), sampler()
    for _ in range(2):
        assert (one.draw(50) == two.draw(50)).all()
        assert (one.relaxed_draw(50)[0] == two.relaxed_draw(50)[0]).all()


@pytest.mark.parametrize("updates", [0, 3])
def test_a_sampler_goes_on_from_its_state(updates):
    whole, other = sampler(), MetaSampler([np.arange(70)], LABELS, torch.zeros(4), 0.1, generator(8), generator(9))

    def step(drawing):
        rows, weights = drawing.relaxed_draw(20)
        drawing.update(torch.autograd.grad((weights * torch.arange(20.0)).sum(), drawing.scores)[0])
        return rows.tolist() + drawing.draw(15).tolist() + drawing.scores.tolist()

    for _ in range(updates):
        step(whole)
    other.load_state_dict(whole.state_dict())
    assert [step(whole) for _ in range(5)] == [step(other) for _ in range(5)]


def test_a_class_whose_images_teach_the_wrong_thing_is_drawn_less():
    """Images of class 1 look like class 0; on the meta set they don't: each step with one of them does harm."""
    directions = torch.eye(3)
    looks = torch.tensor([0, 0, 2])
    labels = np.repeat([0, 1, 2], 20)
    drawing = MetaSampler([np.arange(60)], labels, torch.zeros(3), 0.05, generator(1), generator(2))
    head, meta_labels = torch.nn.Linear(3, 3), torch.arange(30) % 3
    torch.nn.init.zeros_(head.weight)
    for _ in range(100):
        rows, weights = drawing.relaxed_draw(16)
        own = torch.from_numpy(labels[rows])
        gradient = meta_gradient(
            drawing.scores,
            weights,
            head,
            directions[looks[own]],
            lambda logits, own=own: F.cross_entropy(logits, own, reduction="none"),
            directions[meta_labels],
            meta_labels,
            1.0,
        )
        drawing.update(gradient)
    _, harmful, useful = drawing.scores.tolist()
    assert harmful < useful - 0.2
    assert np.mean(labels[drawing.draw(3000)] == 1) < 0.3
