"""Methods against closed forms and slow loops; the first is the loop itself, written out for one case."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from colours import colours
from tailsmith.classification.backbones import Backbone, last_layer
from tailsmith.classification.config import StageTwoConfig, TrainConfig
from tailsmith.classification.methods import METHODS, method_of
from tailsmith.classification.methods.cmo import CMO, Pasting, box
from tailsmith.classification.methods.contract import (
    Batch,
    Examples,
    Method,
    Moment,
    Stage,
    Start,
    Task,
    as_they_come,
    generator,
)
from tailsmith.classification.methods.crt import CRT
from tailsmith.classification.methods.group_dro import WorstGroups
from tailsmith.classification.methods.parts import everything, fold_scale, fresh_head, frozen, head_alone, scaled_head
from tailsmith.classification.methods.streams import passes, weighted
from tailsmith.classification.prediction import class_hits, mean_class_accuracy, predict_images
from tailsmith.classification.training import Groups, check_train_config, train_classifier, untrained_classifier

NAMES = ("red", "green", "blue")
TINY = TrainConfig(image_size=8, steps=8, batch_size=16, learning_rate=0.05, evaluate_every=3)
IMAGES, LABELS = colours((40, 20, 10))
GROUPS = LABELS * 2 + np.arange(70) % 2
NOTHING = np.zeros(70, bool)


def train(config: TrainConfig = TINY, **options):
    arguments = {
        "images": IMAGES,
        "labels": LABELS,
        "is_synthetic": NOTHING,
        "class_names": NAMES,
        "groups": Groups(GROUPS, None, 2),
    } | options
    return list(train_classifier(config, **arguments))


def with_(**changes) -> TrainConfig:
    return dataclasses.replace(TINY, **changes)


def task(config: TrainConfig = TINY, **changes) -> Task:
    return dataclasses.replace(Task(config, LABELS, GROUPS, NOTHING, NAMES), **changes)


def drawn(open_stream, steps: int) -> np.ndarray:
    classifier = untrained_classifier(TINY, NAMES)
    stream = open_stream(Start(torch.device("cpu"), classifier, classifier, pytest.fail))
    return np.concatenate([stream.next(Moment(step, 0.0, 0.0, pytest.fail)) for step in range(1, steps + 1)])


# ----------------------------------------------------------------------------------------------------------
# The loop.


def slow_training(config: TrainConfig, synthetic: np.ndarray, validation, augment) -> tuple[list[float], dict]:
    """Half and half, balanced softmax with a prior per source, SGD, an average, selection: line by line."""
    torch.manual_seed(config.seed)
    model = untrained_classifier(config, NAMES)
    average, best = copy.deepcopy(model), None
    optimizer = torch.optim.SGD(model.parameters(), lr=1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    order = torch.Generator().manual_seed(int(np.random.SeedSequence(config.seed).generate_state(1, np.uint64)[0]))
    pools = [np.flatnonzero(~synthetic), np.flatnonzero(synthetic)]
    slots: list[int] = []
    left: list[list[int]] = [[], []]
    losses = []
    for step in range(1, config.steps + 1):
        while len(slots) < config.batch_size:
            slots += torch.randperm(2, generator=order).tolist()
        now, slots = slots[: config.batch_size], slots[config.batch_size :]
        handed = {}
        for pool in (0, 1):
            while len(left[pool]) < now.count(pool):
                left[pool] += pools[pool][torch.randperm(len(pools[pool]), generator=order).numpy()].tolist()
            handed[pool], left[pool] = iter(left[pool][: now.count(pool)]), left[pool][now.count(pool) :]
        rows = np.array([next(handed[pool]) for pool in now])
        seed = np.random.SeedSequence((config.seed, step, 0)).generate_state(1, np.uint64)[0]
        batch = augment(torch.from_numpy(IMAGES[rows]).float() / 255, torch.Generator().manual_seed(int(seed)))
        warm = round(config.warmup_fraction * config.steps)
        cosine = (1 + math.cos(math.pi * (step - 1 - warm) / (config.steps - warm))) / 2
        rate = config.learning_rate * (step / warm if step <= warm else cosine)
        logits, _ = model(batch)
        per_image = []
        for z, row in zip(logits, rows, strict=True):
            counts = np.bincount(LABELS[synthetic == synthetic[row]], minlength=3)
            prior = np.where(counts > 0, counts, counts[counts > 0].min() / 2)
            z = z + torch.from_numpy(np.log(prior / prior.sum())).float()
            per_image.append(torch.logsumexp(z, 0) - z[LABELS[row]])
        loss = torch.stack(per_image).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        losses.append(loss.item())
        decay = min(config.ema_decay, step / (step + 9))
        for mean, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
            mean.copy_(decay * mean + (1 - decay) * value if mean.is_floating_point() else value)
        if step % config.evaluate_every == 0 or step == config.steps:
            predicted = predict_images(average, validation[0])[0].argmax(1).numpy()
            score = mean_class_accuracy(class_hits(predicted, validation[1], 3))
            if best is None or score >= best[0]:
                best = score, copy.deepcopy(average.state_dict())
    return losses, best[1]


def test_the_loop_is_the_one_written_out():
    synthetic = np.arange(70) % 3 == 1
    validation = colours((10, 10, 10), seed=1)

    def augment(images, draws):
        return images * torch.rand(len(images), 1, 1, 1, generator=draws)

    config = with_(
        method="balanced_softmax", resampling="half_and_half", ema_decay=0.9, warmup_fraction=0.25, steps=12, seed=3
    )
    records = train(config, is_synthetic=synthetic, validation=validation, augment=augment)
    losses, weights = slow_training(config, synthetic, validation, augment)
    assert [each.loss for each in records] == pytest.approx(losses, rel=1e-4)
    for name, value in records[-1].classifier.state_dict().items():
        torch.testing.assert_close(value, weights[name], rtol=1e-3, atol=1e-4, msg=name)


@dataclasses.dataclass(frozen=True)
class Stretched(Method):
    """Two streams, two views, targets, an objective with a parameter: what no other method has all of."""

    def stages(self, task: Task) -> list[Stage]:
        class Scaled(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = torch.nn.Parameter(torch.ones(3))

            def forward(self, logits, features, batch, progress):
                seen.append((logits.shape, features.shape, batch.images.shape, progress))
                return F.cross_entropy(logits * self.weight, batch.wanted, reduction="none")

        objective.append(Scaled())
        streams = (passes(task.pools, task.config), weighted(1.0 / (1 + task.labels), task.config))
        return [Stage(task.config, streams, objective[-1], everything, views=2)]


seen: list[tuple] = []
objective: list[torch.nn.Module] = []


def test_streams_and_views_follow_each_other_and_an_objectives_parameters_are_trained(monkeypatch):
    monkeypatch.setitem(METHODS, "stretched", Stretched)
    seen.clear()
    records = train(with_(method="stretched", steps=4), augment=lambda images, draws: 1 - images)
    assert [each[0] for each in seen] == [(64, 3)] * 4 and [each[1][1] for each in seen] == [128] * 4
    assert [each[3] for each in seen] == [0, 0.25, 0.5, 0.75]
    assert not torch.equal(objective[-1].weight, torch.ones(3))
    assert math.isfinite(records[-1].loss)
    one, two = (
        Examples(np.array(rows), torch.tensor(labels), tuple(torch.full((len(rows), 3, 1, 1), v) for v in views))
        for rows, labels, views in (([4, 5], [0, 1], (0.1, 0.2)), ([6], [2], (0.3, 0.4)))
    )
    batch = as_they_come((one, two), generator(0), 0.0)
    assert batch.rows.tolist() == [4, 5, 4, 5, 6, 6] and batch.labels.tolist() == [0, 1, 0, 1, 2, 2]
    assert batch.images[:, 0, 0, 0].tolist() == pytest.approx([0.1, 0.1, 0.2, 0.2, 0.3, 0.4])


def test_the_loss_is_the_mean_over_all_that_the_objective_returns(monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Twice(Method):
        def stages(self, task):
            (first,) = METHODS["erm"]().stages(task)
            return [dataclasses.replace(first, views=2)]

    monkeypatch.setitem(METHODS, "twice", Twice)
    config = with_(steps=1, backbone="test_convnext", image_size=32)  # no batch norm: two views are one view twice
    wide = np.random.default_rng(0).integers(0, 256, (70, 3, 32, 32), dtype=np.uint8)
    one, two = (train(dataclasses.replace(config, method=name), images=wide) for name in ("erm", "twice"))
    assert one[0].loss == pytest.approx(two[0].loss, rel=1e-5)
    for ours, theirs in zip(one[0].classifier.parameters(), two[0].classifier.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_pairs_of_rows_may_become_one_image(monkeypatch):
    """As LISA has them: a stream of two rows per image, and a transform that mixes them."""

    @dataclasses.dataclass(frozen=True)
    class Pairs(Method):
        def stages(self, task):
            def pair(streams, draws, progress):
                (each,) = streams
                images = (each.views[0][0::2] + each.views[0][1::2]) / 2
                targets = (F.one_hot(each.labels[0::2], 3) + F.one_hot(each.labels[1::2], 3)) / 2
                return Batch(images, each.labels[0::2], each.rows[0::2], targets)

            double = dataclasses.replace(task.config, batch_size=2 * task.config.batch_size)
            (first,) = METHODS["erm"]().stages(task)
            return [dataclasses.replace(first, streams=(passes(task.pools, double),), transform=pair)]

    monkeypatch.setitem(METHODS, "pairs", Pairs)
    (record,) = train(with_(method="pairs", steps=1, learning_rate=1e-30))
    # Untrained logits are near zero, so the loss of any target is near log 3; a wrong mean would halve it
    assert record.loss == pytest.approx(math.log(3), rel=0.35)


def test_a_stage_may_ask_the_classifier_of_the_one_before_what_to_draw(monkeypatch):
    """As JTT does: the second stage draws what the first got wrong more often."""
    given = []

    @dataclasses.dataclass(frozen=True)
    class JTT(Method):
        def stages(self, task):
            def mistakes(start):
                wrong = start.logits(start.selected, np.arange(70)).argmax(1).numpy() != task.labels
                given.append((wrong, start.selected.sha256(), start.classifier.sha256()))
                return weighted(1.0 + 9 * wrong, task.config)(start)

            (first,) = METHODS["erm"]().stages(task)
            return [first, dataclasses.replace(first, streams=(mistakes,), prepare=fresh_head(1))]

    monkeypatch.setitem(METHODS, "jtt", JTT)
    train(with_(method="jtt", steps=3))
    first = train(with_(method="erm", steps=3))[-1].classifier
    ((wrong, selected, begins),) = given
    assert selected == first.sha256() != begins
    assert (wrong == (predict_images(first, IMAGES)[0].argmax(1).numpy() != LABELS)).all() and wrong.any()


# ----------------------------------------------------------------------------------------------------------
# Names and settings.


def test_settings_are_typed_and_none_is_none():
    assert method_of("crt") == CRT()
    assert method_of("crt:head_steps=7,head_learning_rate=1e-2") == CRT(head_steps=7, head_learning_rate=0.01)
    assert method_of("crt:head_epochs=3").head_epochs == 3 and method_of("crt:head_epochs=None").head_epochs is None
    assert method_of("cmo: loss = balanced_softmax, start=0") == CMO(loss="balanced_softmax", start=0.0)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("cRT", "unknown method 'cRT': expected one of erm, balanced_softmax, logit_adjustment, "),
        ("crt:steps=3", r"method 'crt' has no setting 'steps=3': expected one of head_steps=\.\.\., head_epochs="),
        ("crt:head_steps", "method 'crt' has no setting 'head_steps': expected one of head_steps="),
        ("erm:tau=1", "method 'erm' has no setting 'tau=1': expected none"),
        ("crt:head_steps=few", "crt:head_steps should be int, got 'few'"),
        ("crt:head_steps=2.5", "crt:head_steps should be int, got '2.5'"),
        ("crt:head_steps=0", "crt:head_steps should be above 0, got 0"),
        ("lws:scale_learning_rate=-1", "lws:scale_learning_rate should be above 0"),
        ("cmo:loss=focal", "unknown cmo:loss 'focal': expected one of erm, balanced_softmax"),
        ("cmo:probability=2", r"cmo:probability should be in 0\.\.1, got 2"),
        ("cmo:start=0.5,end=0.2", "cmo:start and cmo:end should be 0 <= start <= end <= 1, got 0.5 and 0.2"),
        ("group_dro:eta=0", "group_dro:eta should be above 0"),
    ],
)
def test_what_a_method_can_not_be_is_refused(method, message):
    with pytest.raises(ValueError, match=message):
        check_train_config(with_(method=method))


@pytest.mark.parametrize("method", ["crt", "lws", "cmo", "group_dro"])
def test_stage_two_belongs_to_erm_and_balanced_softmax(method):
    with pytest.raises(ValueError, match=f"unknown method with a stage_two '{method}': expected one of erm, bal"):
        check_train_config(with_(method=method, stage_two=StageTwoConfig()))


@pytest.mark.parametrize("method", ["crt", "lws"])
def test_a_backbone_without_a_last_linear_layer_is_refused(method):
    config = with_(method=method, backbone="levit_128s", image_size=224)
    with pytest.raises(ValueError, match=f"method {method} trains a last linear layer, and this backbone ends"):
        untrained_classifier(config, NAMES)


# ----------------------------------------------------------------------------------------------------------
# Parts and streams.


def test_parts_copy_and_say_what_trains():
    start = untrained_classifier(TINY, NAMES)
    before = start.sha256()
    trains = {
        prepare: [name for name, each in made.named_parameters() if each.requires_grad]
        for prepare in (everything, head_alone, fresh_head(3), scaled_head, frozen)
        if (made := prepare(start)) is not start
    }
    assert [len(names) for names in trains.values()] == [len(list(start.parameters())), 2, 2, 1, 0]
    assert everything(start).training and not head_alone(start).training
    assert start.sha256() == before and start.training
    one, same, other = (last_layer(fresh_head(seed)(start).module).weight for seed in (3, 3, 4))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert one.abs().max() <= 128**-0.5 and one.std().item() == pytest.approx((3 * 128) ** -0.5, rel=0.1)


@pytest.mark.parametrize("backbone", ["resnet-small", "test_convnext"])
def test_folding_the_scales_leaves_the_logits(backbone):
    config = with_(backbone=backbone, image_size=32)
    scaled = scaled_head(untrained_classifier(config, NAMES))
    (scale,) = [each for each in scaled.parameters() if each.requires_grad]
    with torch.no_grad():
        scale.copy_(torch.tensor([0.5, -2.0, 3.0]))
    images = torch.rand(4, 3, 32, 32, generator=generator(0))
    expected, _ = scaled(images)
    folded = fold_scale(copy.deepcopy(scaled), None)
    torch.testing.assert_close(folded(images)[0], expected)
    assert folded.state_dict().keys() == untrained_classifier(config, NAMES).state_dict().keys()
    plain, _ = frozen(untrained_classifier(config, NAMES))(images)
    torch.testing.assert_close(expected, plain * torch.tensor([0.5, -2.0, 3.0]))


def test_weighted_draws_follow_the_weights_and_never_take_what_weighs_nothing():
    weights = np.where(LABELS == 2, 0.0, 1 / np.bincount(LABELS)[LABELS])
    rows = drawn(weighted(weights, TINY), 2000)
    shares = np.bincount(LABELS[rows], minlength=3) / len(rows)
    assert shares == pytest.approx([0.5, 0.5, 0], abs=0.01) and shares[2] == 0
    counts = np.bincount(rows, minlength=70)[:40]
    assert counts.min() > 0.75 * counts.mean()
    assert rows.tolist() != drawn(weighted(weights, with_(seed=1)), 2000).tolist()


# ----------------------------------------------------------------------------------------------------------
# cRT and LWS.


def stages_apart(method: str, **changes) -> tuple:
    """The classifier after the first stage, that of both, and the records."""
    config = with_(method=method, **changes)
    first = train(dataclasses.replace(config, method="erm"))[-1].classifier
    records = train(config)
    return first, records[-1].classifier, records


@pytest.mark.parametrize("method", ["crt:head_steps=6", "lws:scale_steps=6"])
@pytest.mark.parametrize("backbone", ["resnet-small", "test_convnext"])
def test_the_backbone_does_not_move_in_the_second_stage(method, backbone):
    size = 8 if backbone == "resnet-small" else 32
    first, last, records = stages_apart(method, backbone=backbone, image_size=size)
    head = {id(each) for each in last_layer(last.module).parameters()}
    for name, value in last.state_dict().items():
        same = torch.equal(value, first.state_dict()[name])
        assert same != (id(last.get_parameter(name)) in head if name in dict(last.named_parameters()) else False), name
    assert len(records) == records[0].steps == 14
    rates = [0.2 * (1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)]
    assert [each.learning_rate for each in records[8:]] == pytest.approx(rates)


def test_crt_trains_a_fresh_head_by_sgd_on_class_balanced_features():
    """Features once, then torch's SGD on a linear layer, over the batches that the training asked for."""
    asked = []

    class Watched:
        def __len__(self):
            return 70

        def __getitem__(self, rows):
            asked.append(np.asarray(rows))
            return IMAGES[rows]

    config = with_(method="crt:head_steps=9,head_learning_rate=0.5", batch_size=15)
    start = train(dataclasses.replace(config, method="erm"))[-1].classifier
    records = train(config, images=Watched())
    rows_of_steps = asked[-9:]
    assert all(np.bincount(LABELS[rows]).tolist() == [5, 5, 5] for rows in rows_of_steps)
    _, features = start(torch.from_numpy(IMAGES).float() / 255)
    features = features.detach()
    stages = method_of(config.method).stages(task(config))
    head = last_layer(stages[1].prepare(start).module)
    optimizer = torch.optim.SGD(head.parameters(), lr=1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    for rows, record in zip(rows_of_steps, records[-9:], strict=True):
        loss = F.cross_entropy(head(features[rows]), torch.from_numpy(LABELS[rows]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = record.learning_rate
        optimizer.step()
        assert record.loss == pytest.approx(loss.item(), rel=1e-4)
    ours = last_layer(records[-1].classifier.module)
    torch.testing.assert_close(ours.weight, head.weight, rtol=1e-4, atol=1e-5)


def test_lws_learns_one_factor_per_class():
    first, last, _ = stages_apart("lws:scale_steps=6")
    ratio = last_layer(last.module).weight / last_layer(first.module).weight
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(last_layer(last.module).bias / last_layer(first.module).bias, ratio[:, 0])
    assert (ratio[:, 0] - 1).abs().max() > 1e-3


def test_a_second_stage_that_is_the_method_is_kept_though_the_first_was_better_on_validation():
    held_out = colours((10, 10, 10), seed=1)
    records = train(with_(method="crt:head_steps=3,head_learning_rate=1e-9", steps=60), validation=held_out)
    first = [each for each in records[:60] if each.validation is not None]
    last = [each for each in records[60:] if each.validation is not None]
    assert max(each.validation for each in first) > max(each.validation for each in last) == records[-1].selected
    predicted = predict_images(records[-1].classifier, held_out[0])[0].argmax(1).numpy()
    assert mean_class_accuracy(class_hits(predicted, held_out[1], 3)) == pytest.approx(records[-1].selected)


# ----------------------------------------------------------------------------------------------------------
# CMO.


def examples(value: float, labels: list[int], rows: list[int], size: tuple[int, int] = (9, 7)) -> Examples:
    return Examples(np.array(rows), torch.tensor(labels), (torch.full((len(labels), 3, *size), value),))


def test_pasted_pixels_and_targets_pixel_by_pixel():
    background, minority = examples(0.0, [0, 1, 0], [5, 6, 7]), examples(1.0, [2, 2, 1], [8, 9, 9])
    pasting, draws, mixed = Pasting(0.8, 0.0, 1.0, 3), generator(0), 0
    areas = []
    for _ in range(300):
        batch = pasting((background, minority), draws, 0.5)
        assert batch.rows.tolist() == [5, 6, 7] and batch.labels.tolist() == [0, 1, 0]
        if batch.targets is None:
            assert not batch.images.any()
            continue
        mixed += 1
        area = 0
        for y in range(9):
            for x in range(7):
                area += bool(batch.images[0, 0, y, x])
        assert (batch.images == batch.images[:1]).all()  # one box for the batch
        expected = torch.zeros(3, 3)
        for image, (under, over) in enumerate([(0, 2), (1, 2), (0, 1)]):
            expected[image, under] += 1 - area / 63
            expected[image, over] += area / 63
        torch.testing.assert_close(batch.targets, expected)
        areas.append(area / 63)
    assert mixed / 300 == pytest.approx(0.8, abs=0.06)
    assert min(areas) < 0.03 and max(areas) > 0.6
    assert not background.views[0].any()  # the stream's own images stay


def test_boxes_are_those_of_cutmix_cut_off_at_the_border():
    assert box(100, 50, kept=0.75, y=0.5, x=0.5) == (25, 75, 13, 38)
    assert box(100, 50, kept=0.75, y=0.0, x=0.99) == (0, 25, 37, 50)
    assert box(10, 10, kept=1.0, y=0.3, x=0.3)[:2] == (3, 3)
    assert box(10, 10, kept=0.0, y=0.5, x=0.5) == (0, 10, 0, 10)


def test_nothing_is_pasted_before_start_and_from_end_on():
    streams = examples(0.0, [0], [5]), examples(1.0, [2], [8])
    pasting = Pasting(1.0, 0.25, 0.75, 3)
    mixed = [step / 20 for step in range(20) if pasting(streams, generator(step, 1), step / 20).targets is not None]
    assert mixed == [step / 20 for step in range(5, 15)]


@pytest.mark.parametrize("loss", ["erm", "balanced_softmax"])
def test_soft_targets_are_the_mixture_of_two_losses(loss):
    (stage,) = CMO(loss=loss).stages(task())
    logits = torch.randn(4, 3, generator=generator(1))
    under, over, kept = torch.tensor([0, 1, 0, 2]), torch.tensor([2, 2, 1, 2]), 0.3
    targets = kept * F.one_hot(under, 3).float() + (1 - kept) * F.one_hot(over, 3).float()
    batch = Batch(torch.zeros(4, 3, 8, 8), under, np.arange(4), targets)
    shift = torch.tensor([40, 20, 10]).div(70).log() if loss == "balanced_softmax" else 0
    first, second = (F.cross_entropy(logits + shift, each, reduction="none") for each in (under, over))
    torch.testing.assert_close(stage.objective(logits, logits, batch, 0.5), kept * first + (1 - kept) * second)


def test_cmo_without_pasting_is_plain_training_and_with_it_is_not():
    plain, never, always = (train(with_(method=m)) for m in ("erm", "cmo:probability=0", "cmo:start=0,end=1"))
    assert [each.loss for each in plain] == [each.loss for each in never] != [each.loss for each in always]


def test_the_minority_stream_holds_every_class_alike():
    (stage,) = CMO().stages(task())
    rows = drawn(stage.streams[1], 1000)
    assert np.bincount(LABELS[rows]) / len(rows) == pytest.approx([1 / 3] * 3, abs=0.015)


# ----------------------------------------------------------------------------------------------------------
# Group DRO.


def test_three_steps_of_group_dro_by_hand():
    groups, eta = np.array([5, 5, 7, 7, 9, 9]), 0.7
    dro, q = WorstGroups(groups, eta), {5: 1 / 3, 7: 1 / 3, 9: 1 / 3}
    rng = generator(2)
    for rows in ([0, 1, 2, 5], [0, 2, 3, 2], [1, 1, 0, 0]):  # the last two batches lack a group or two
        logits, labels = torch.randn(4, 3, generator=rng, requires_grad=True), torch.tensor([0, 1, 2, 0])
        values = dro(logits, logits, Batch(torch.zeros(4), labels, np.array(rows)), 0.0)
        each = [
            math.log(sum(math.exp(z) for z in row)) - row[y] for row, y in zip(logits.tolist(), labels, strict=True)
        ]
        means = {g: [loss for loss, row in zip(each, rows, strict=True) if groups[row] == g] for g in q}
        means = {g: sum(losses) / len(losses) if losses else 0.0 for g, losses in means.items()}
        q = {g: q[g] * math.exp(eta * means[g]) for g in q}
        q = {g: value / sum(q.values()) for g, value in q.items()}
        assert dro.q.tolist() == pytest.approx(list(q.values()), rel=1e-5)
        assert values.mean().item() == pytest.approx(sum(q[g] * means[g] for g in q), rel=1e-5)
        own = torch.autograd.grad(values.mean(), logits)[0]
        leaf = logits.detach().requires_grad_()
        losses = F.cross_entropy(leaf, labels, reduction="none")
        of = [groups[row] for row in rows]
        total = sum(q[g] * losses[[i for i in range(4) if of[i] == g]].mean() for g in set(of))
        torch.testing.assert_close(own, torch.autograd.grad(total, leaf)[0])
    absent = {g: value for g, value in q.items() if g != 5}
    assert absent[7] / absent[9] > 1  # 7 was seen in two batches; in the last their ratio stayed


class Blind(torch.nn.Module):
    """The same logits for every image."""

    def __init__(self):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(2))

    def forward(self, images):
        return self.bias.expand(len(images), 2), images.mean((2, 3))


@pytest.mark.parametrize(("method", "shares"), [("erm", [6 / 7, 1 / 7]), ("group_dro:eta=0.1", [0.5, 0.5])])
def test_blind_to_images_group_dro_makes_the_losses_of_groups_equal(method, shares, monkeypatch):
    blind = Backbone(Blind(), mean=(0, 0, 0), std=(1, 1, 1), image_size=8)
    monkeypatch.setattr("tailsmith.classification.training.create_backbone", lambda *_: blind)
    labels = np.repeat([0, 1], [60, 10])  # one group each
    config = with_(method=method, steps=400, batch_size=70, learning_rate=0.1, weight_decay=0.0)
    records = train(config, labels=labels, groups=Groups(labels), class_names=("one", "other"))
    learned = predict_images(records[-1].classifier, IMAGES[:1])[0].softmax(1)[0]
    assert learned.tolist() == pytest.approx(shares, abs=0.02)


def test_group_dro_needs_groups():
    with pytest.raises(ValueError, match="method group_dro needs a group for every training image, 70 of 70 have none"):
        train_classifier(with_(method="group_dro"), IMAGES, LABELS, NOTHING, NAMES)
