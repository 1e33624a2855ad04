"""Methods against group imbalance, and those that fit validation images, against slow loops and cases by hand."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from colours import colours
from tailsmith.classification import processes
from tailsmith.classification.backbones import last_layer
from tailsmith.classification.config import TrainConfig
from tailsmith.classification.loop import run_stages
from tailsmith.classification.methods import method_of
from tailsmith.classification.methods.contract import Batch, Examples, Moment, Start, Task, generator
from tailsmith.classification.methods.dfr import balanced_rows, regression
from tailsmith.classification.methods.dpe import similarity
from tailsmith.classification.methods.irm import invariance, scale_slopes
from tailsmith.classification.methods.lisa import PairMixing
from tailsmith.classification.prediction import class_hits, mean_class_accuracy, predict_images
from tailsmith.classification.selection import Labelled, held_out_half
from tailsmith.classification.stage_run import Data
from tailsmith.classification.training import Groups, train_classifier, untrained_classifier

NAMES = ("red", "green", "blue")
TINY = TrainConfig(image_size=8, steps=6, batch_size=16, learning_rate=0.05, evaluate_every=3)
IMAGES, LABELS = colours((40, 20, 10))
GROUPS = LABELS * 2 + (np.arange(70) % 3 == 0)
NOTHING = np.zeros(70, bool)
VALIDATION = colours((12, 12, 12), seed=1)
VALIDATION_GROUPS = VALIDATION[1] * 2 + np.arange(36) % 2
LOGITS = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
OWN = torch.tensor([0, 1, 2, 2, 0, 1, 0, 2])


def with_(**changes) -> TrainConfig:
    return dataclasses.replace(TINY, **changes)


def task(**changes) -> Task:
    return dataclasses.replace(Task(TINY, LABELS, GROUPS, NOTHING, NAMES, num_attributes=2), **changes)


def train(method: str, **options):
    arguments = {
        "images": IMAGES,
        "labels": LABELS,
        "is_synthetic": NOTHING,
        "class_names": NAMES,
        "validation": VALIDATION,
        "groups": Groups(GROUPS, VALIDATION_GROUPS, 2),
    } | options
    return list(train_classifier(with_(method=method), **arguments))


def start(**answers) -> Start:
    classifier = untrained_classifier(TINY, NAMES)
    return Start(torch.device("cpu"), classifier, classifier, answers.get("logits", pytest.fail))


# ----------------------------------------------------------------------------------------------------------
# IRM.


def test_the_slope_along_a_factor_of_the_logits_is_autograds():
    for z, y, slope in zip(LOGITS, OWN, scale_slopes(LOGITS, OWN), strict=True):
        factor = torch.ones((), dtype=torch.float64, requires_grad=True)
        (expected,) = torch.autograd.grad(F.cross_entropy(factor * z[None], y[None]), factor)
        torch.testing.assert_close(slope, expected)


def test_irm_environment_by_environment():
    environments = np.array([0, 1, 0, 0, 2, 1, 0, 2, 9])
    batch = Batch(torch.zeros(8), OWN, np.arange(8))
    for progress, strength in ((0.2, 1.0), (0.3, 30.0)):
        loss, penalty = [], []
        for environment in (0, 1, 2):
            rows = np.flatnonzero(environments[:8] == environment)
            loss.append(F.cross_entropy(LOGITS[rows], OWN[rows]))
            slopes = scale_slopes(LOGITS[rows], OWN[rows])
            penalty.append(slopes[0::2].mean() * slopes[1::2].mean())
        expected = (sum(loss) / 3 + strength * sum(penalty) / 3) / max(strength, 1)
        found = invariance(environments, 30.0, 0.3)(LOGITS, LOGITS, batch, progress).mean()
        torch.testing.assert_close(found, expected)


def test_a_single_image_of_an_environment_has_no_penalty():
    batch = Batch(torch.zeros(1), OWN[:1], np.array([0]))
    found = invariance(np.array([3]), 0.5, 0.0)(LOGITS[:1], LOGITS[:1], batch, 1.0)
    torch.testing.assert_close(found, F.cross_entropy(LOGITS[:1], OWN[:1], reduction="none"))


# ----------------------------------------------------------------------------------------------------------
# LISA.


def pairs(method: str, steps: int) -> np.ndarray:
    (stage,) = method_of(method).stages(task())
    stream = stage.streams[0](start())
    return np.stack([stream.next(Moment(step, 0.0, 0.0, pytest.fail)) for step in range(1, steps + 1)]).reshape(-1, 2)


def test_pairs_share_their_label_or_their_attribute_but_not_both():
    attributes = GROUPS % 2
    for method, same, other in (
        ("lisa:same_label=1", LABELS, attributes),
        ("lisa:same_label=0", attributes, LABELS),
    ):
        found = pairs(method, 30)
        assert (same[found[:, 0]] == same[found[:, 1]]).all()
        assert (other[found[:, 0]] != other[found[:, 1]]).all()
        partners = np.bincount(found[:, 1], minlength=70)
        assert (partners > 0).sum() > 50


def test_an_image_without_such_a_partner_gets_one_that_is_alike():
    alone = LABELS * 2  # one attribute
    (stage,) = method_of("lisa:same_label=1").stages(task(groups=alone))
    rows = stage.streams[0](start()).next(Moment(1, 0.0, 0.0, pytest.fail)).reshape(-1, 2)
    assert (LABELS[rows[:, 0]] == LABELS[rows[:, 1]]).all()


def test_processes_never_split_a_pair(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 3)
    with pytest.raises(ValueError, match="lisa needs a batch_size that 3 processes can share evenly, got 16"):
        pairs("lisa", 1)


def test_each_pair_is_mixed_with_a_share_of_its_own():
    images = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    batch = PairMixing(2.0, 3)((Examples(np.arange(6), labels, (images,)),), generator(3), 0.0)
    shares = [batch.targets[k, labels[2 * k]].item() for k in range(3)]
    assert len(set(shares)) == 3 and batch.rows.tolist() == [0, 2, 4]
    for k, share in enumerate(shares):
        torch.testing.assert_close(batch.images[k], share * images[2 * k] + (1 - share) * images[2 * k + 1])
        assert batch.targets[k].sum().item() == pytest.approx(1)


# ----------------------------------------------------------------------------------------------------------
# JTT.


def test_jtts_second_classifier_begins_anew_and_draws_the_mistakes_of_the_first():
    first, second = method_of("jtt:fraction=0.25,upweight=5").stages(task(config=with_(steps=40)))
    assert (first.config.steps, second.config.steps) == (10, 30) and second.anew
    wrong = np.arange(70) % 10 == 0

    def logits(classifier, rows):
        answers = F.one_hot(torch.from_numpy(LABELS), 3).float()
        answers[wrong] = answers[wrong].roll(1, 1)
        return answers[rows]

    stream = second.streams[0](start(logits=logits))
    rows = np.concatenate([stream.next(Moment(step, 0.0, 0.0, pytest.fail)) for step in range(1, 1000)])
    share = wrong[rows].mean()
    assert share == pytest.approx(5 * 7 / (5 * 7 + 63), abs=0.02)
    state = stream.state_dict()
    other = second.streams[0](start(logits=lambda *_: torch.zeros(70, 3)))
    other.load_state_dict(state)
    after = Moment(1000, 0.0, 0.0, pytest.fail)
    assert other.next(after).tolist() == stream.next(after).tolist()


def test_a_stage_that_begins_anew_does_so_with_the_untrained_weights():
    first, second = method_of("jtt").stages(task(config=with_(steps=2)))
    still = dataclasses.replace(second.config, learning_rate=1e-30, weight_decay=0.0)
    untrained = untrained_classifier(TINY, NAMES)
    data = Data(Labelled(IMAGES, LABELS), None, None)
    *_, last = run_stages([first, dataclasses.replace(second, config=still)], untrained, data)
    torch.testing.assert_close(last_layer(last.classifier.module).weight, last_layer(untrained.module).weight)


# ----------------------------------------------------------------------------------------------------------
# Half of the validation images.


def test_halves_split_every_group_alike():
    labels = np.repeat([0, 1, 2], [7, 6, 1])
    groups = labels * 2 + np.arange(14) % 2
    fitted, selecting = held_out_half(labels, groups, seed=4)
    assert sorted([*fitted, *selecting]) == list(range(14)) and len(fitted) == len(selecting) == 7
    for group in np.unique(groups):
        assert abs((groups[fitted] == group).sum() - (groups[selecting] == group).sum()) <= 1
    assert fitted.tolist() != held_out_half(labels, groups, seed=5)[0].tolist()


def test_what_selects_is_what_is_not_fitted():
    training = train_classifier(
        with_(method="dfr"), IMAGES, LABELS, NOTHING, NAMES,
        validation=VALIDATION, groups=Groups(GROUPS, VALIDATION_GROUPS, 2),
    )  # fmt: skip
    fitted, selecting = held_out_half(VALIDATION[1], VALIDATION_GROUPS, TINY.seed)
    assert training.task.held_out.labels.tolist() == VALIDATION[1][fitted].tolist()
    assert training.task.held_out.groups.tolist() == VALIDATION_GROUPS[fitted].tolist()
    assert (training.data.held_out[np.arange(18)] == VALIDATION[0][fitted]).all()
    assert (training.data.validation.images[np.arange(18)] == VALIDATION[0][selecting]).all()
    *_, last = training
    hits = class_hits(predict_images(last.classifier, VALIDATION[0][selecting])[0].argmax(1).numpy(),
                      VALIDATION[1][selecting], 3)  # fmt: skip
    assert last.selected == pytest.approx(mean_class_accuracy(hits))


@pytest.mark.parametrize("method", ["dfr", "dpe"])
def test_a_method_that_fits_validation_images_needs_some_of_every_class(method):
    with pytest.raises(ValueError, match=f"method {method} fits half of the validation images, and there are none"):
        train(method, validation=None)
    few = VALIDATION[1] < 2
    with pytest.raises(ValueError, match=r"which has none of blue; give the data at least two validation images"):
        train(method, validation=(VALIDATION[0][few], VALIDATION[1][few]), groups=Groups(GROUPS))


def test_balanced_rows_are_as_many_of_every_stratum():
    strata = np.repeat([0, 1, 5], [9, 4, 6])
    rows = balanced_rows(strata, 0, 1)
    assert np.bincount(strata[rows]).tolist() == [4, 4, 0, 0, 0, 4] and len(set(rows)) == 12
    assert rows.tolist() != balanced_rows(strata, 0, 2).tolist()


def test_the_regression_is_scikit_learns_on_standardised_features():
    draws = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 30)
    features = draws.normal(size=(90, 5)) * [1, 2, 0.5, 1, 3] + 4 + labels[:, None] * [1, 0, 1, 0, 0]
    weight, bias = regression(features, labels, 0.5)
    standard = (features - features.mean(0)) / features.std(0)
    model = LogisticRegression(l1_ratio=1, solver="saga", C=2, max_iter=5000, tol=1e-6).fit(standard, labels)
    ours = features @ weight.T + bias
    assert np.abs(ours - model.decision_function(standard)).max() < 0.1
    two = labels < 2
    weight, bias = regression(features[two], labels[two], 0.5)
    p = torch.from_numpy(features[two] @ weight.T + bias).softmax(1).numpy()
    model = LogisticRegression(l1_ratio=1, solver="saga", C=2, max_iter=5000, tol=1e-6)
    standard = (features[two] - features[two].mean(0)) / features[two].std(0)
    assert np.abs(p - model.fit(standard, labels[two]).predict_proba(standard)).max() < 0.02


def test_dfr_averages_its_fits_of_frozen_features():
    fitted, _ = held_out_half(VALIDATION[1], VALIDATION_GROUPS, TINY.seed)
    # The classifier of erm was selected by all validation images; with one look at the end both select the last
    config = with_(evaluate_every=6)
    groups = Groups(GROUPS, VALIDATION_GROUPS, 2)
    arguments = (IMAGES, LABELS, NOTHING, NAMES)
    *_, plain = train_classifier(config, *arguments, validation=VALIDATION, groups=groups)
    method = dataclasses.replace(config, method="dfr:fits=3,strength=0.2")
    *_, ours = train_classifier(method, *arguments, validation=VALIDATION, groups=groups)
    features = predict_images(plain.classifier, VALIDATION[0][fitted])[1].double().numpy()
    weights = []
    for number in range(3):
        rows = balanced_rows(VALIDATION_GROUPS[fitted], TINY.seed, number)
        weights.append(regression(features[rows], VALIDATION[1][fitted][rows], 0.2)[0])
    expected = torch.from_numpy(np.mean(weights, axis=0)).float()
    torch.testing.assert_close(last_layer(ours.classifier.module).weight, expected, rtol=1e-3, atol=1e-4)


def test_prototypes_are_alike_by_their_inner_products():
    own = F.normalize(torch.randn(3, 7, generator=torch.Generator().manual_seed(0)), dim=1)
    before = F.normalize(torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(1)), dim=2)
    expected = sum(abs(float(own[c] @ before[m, c])) for m in range(2) for c in range(3)) / (2 * 7)
    assert similarity(own, before).item() == pytest.approx(expected, rel=1e-5)
    assert similarity(own, before[:0]) == 0


def test_dpes_members_learn_what_they_are_fitted_to():
    *_, last = train("dpe:members=3,epochs=200,learning_rate=0.05,diversity=0")
    assert last.classifier.head == "prototypes:3"
    hits = class_hits(predict_images(last.classifier, VALIDATION[0])[0].argmax(1).numpy(), VALIDATION[1], 3)
    assert mean_class_accuracy(hits) > 80


# ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    ["group_dro", "irm", "lisa", "crt_group", "reweight:by=group", "cb_loss:by=group", "logit_adjustment:by=group"],
)
def test_a_method_of_groups_refuses_images_without_one(method):
    name = method.partition(":")[0]
    with pytest.raises(ValueError, match=rf"method {name} needs a group for every training image, 70 of 70 have none"):
        train(method, groups=None)


def test_crt_by_group_draws_every_group_alike():
    stage = method_of("crt_group").stages(task())[1]
    stream = stage.streams[0](start())
    rows = np.concatenate([stream.next(Moment(step, 0.0, 0.0, pytest.fail)) for step in range(1, 31)])
    assert np.bincount(GROUPS[rows]).tolist() == [80] * 6
