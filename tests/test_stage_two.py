"""Two-stage training and epochs: what moves and what doesn't, an independent second stage, selection, refusals."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from colours import colours
from tailsmith.classification.backbones import last_layer
from tailsmith.classification.config import StageTwoConfig, TrainConfig
from tailsmith.classification.prediction import predict_images
from tailsmith.classification.training import check_train_config, train_classifier
from tailsmith.runs.config import RunConfig
from tailsmith.settings import from_dict, to_dict

NAMES = ("red", "green", "blue")
SECOND = StageTwoConfig(steps=5, batch_size=8, learning_rate=0.2, meta_batch_size=6)
TINY = TrainConfig(
    image_size=8, steps=6, batch_size=16, learning_rate=0.05, evaluate_every=2, stage_two=SECOND, weight_decay=1e-3
)


def train(config: TrainConfig = TINY, counts=(40, 20, 10), **options):
    images, labels = colours(counts)
    arguments = {"images": images, "labels": labels, "is_synthetic": labels < 0, "class_names": NAMES} | options
    return list(train_classifier(config, **arguments))


def with_second(config: TrainConfig = TINY, **changes) -> TrainConfig:
    return dataclasses.replace(config, stage_two=dataclasses.replace(config.stage_two, **changes))


class Watched:
    """The images of `train`, with every set of rows that was asked for."""

    def __init__(self):
        self.images, self.seen = colours((40, 20, 10))[0], []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, rows):
        self.seen.append(np.asarray(rows))
        return self.images[rows]


@pytest.mark.parametrize("sampler", ["uniform", "meta"])
@pytest.mark.parametrize("backbone", ["resnet-small", "test_convnext"])
def test_the_second_stage_moves_the_last_layer_alone(sampler, backbone):
    size = 8 if backbone == "resnet-small" else 32
    config = with_second(dataclasses.replace(TINY, backbone=backbone, image_size=size), sampler=sampler)
    one = train(dataclasses.replace(config, stage_two=None))[-1].classifier
    two = train(config)[-1].classifier
    moved = {name for name, value in two.state_dict().items() if not torch.equal(value, one.state_dict()[name])}
    head = last_layer(two.module)
    assert {id(two.get_parameter(name)) for name in moved} == {id(each) for each in head.parameters()}
    assert not two.training and all(each.requires_grad and each.grad is None for each in two.parameters())


def test_steps_are_counted_through_and_the_rate_falls_again_without_warmup():
    records = train()
    assert [(record.step, record.steps) for record in records] == [(step, 11) for step in range(1, 12)]
    cosine = 0.2 * (1 + np.cos(np.pi * np.arange(5) / 5)) / 2
    assert [record.learning_rate for record in records[6:]] == pytest.approx(cosine.tolist())
    assert [record.classifier is None for record in records] == [True] * 10 + [False]


def test_a_uniform_second_stage_is_sgd_on_frozen_features():
    """Features once, then torch's SGD on a linear layer, over the batches that the training asked for."""
    watched = Watched()
    config = with_second(sampler="uniform")
    start = train(dataclasses.replace(config, stage_two=None))[-1].classifier
    records = train(config, images=watched)
    _, features = predict_images(start, watched.images)
    labels = torch.from_numpy(colours((40, 20, 10))[1])
    head = last_layer(start.module)
    optimizer = torch.optim.SGD(head.parameters(), lr=1.0, momentum=0.9, weight_decay=5e-4, nesterov=True)
    log_prior = torch.tensor([40, 20, 10]).div(70).log()
    losses = []
    for rows, record in zip(watched.seen[-5:], records[-5:], strict=True):
        optimizer.param_groups[0]["lr"] = record.learning_rate
        loss = F.cross_entropy(head(features[rows]) + log_prior, labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert [record.loss for record in records[-5:]] == pytest.approx(losses, rel=1e-4)
    ours = last_layer(records[-1].classifier.module)
    torch.testing.assert_close(ours.weight, head.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.bias, head.bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "weights"),
    [
        ({"sampler": "uniform", "method": "erm"}, [100, 15, 5]),
        ({"sampler": "uniform", "method": "balanced_softmax"}, [1, 1, 1]),
        # A class is drawn with n_c * n_c ** -0.5, and balanced softmax takes n_c out
        ({"sampler": "meta", "method": "erm"}, [100**0.5, 15**0.5, 5**0.5]),
        ({"sampler": "meta", "method": "balanced_softmax"}, [100**-0.5, 15**-0.5, 5**-0.5]),
    ],
)
def test_blind_to_images_draws_and_loss_decide_what_the_second_stage_learns(changes, weights):
    labels, black = np.repeat([0, 1, 2], [100, 15, 5]), np.zeros((120, 3, 8, 8), np.uint8)
    settings = {"steps": 120, "batch_size": 120, "learning_rate": 0.1, "weight_decay": 0.0}
    held = {"init_pow": 0.5, "meta_learning_rate": 1e-12}
    config = with_second(**settings, **held, **changes)
    classifier = train(config, images=black, labels=labels, is_synthetic=labels < 0)[-1].classifier
    learned = predict_images(classifier, black[:1])[0].softmax(1)[0]
    assert learned.tolist() == pytest.approx((np.array(weights) / sum(weights)).tolist(), abs=0.02)


def test_validation_chooses_among_the_steps_of_both_stages():
    images, labels = held_out = colours((10, 10, 10), seed=1)
    spoiling = with_second(dataclasses.replace(TINY, steps=30), learning_rate=50.0)
    records = train(spoiling, validation=held_out)
    scores = {record.step: record.validation for record in records if record.validation is not None}
    assert max(scores, key=lambda step: scores[step]) <= 30 < max(scores)
    predicted = predict_images(records[-1].classifier, images)[0].argmax(1).numpy()
    assert 100 * np.mean(predicted == labels) == pytest.approx(max(scores.values()))


@pytest.mark.parametrize("resampling", ["uniform", "half_and_half"])
def test_the_meta_sampler_is_reproducible_and_not_the_uniform_one(resampling):
    config = dataclasses.replace(TINY, resampling=resampling)
    options = {"is_synthetic": np.arange(70) % 3 == 0}
    one, two = train(config, **options), train(config, **options)
    uniform = train(with_second(config, sampler="uniform"), **options)
    assert one[-1].classifier.sha256() == two[-1].classifier.sha256() != uniform[-1].classifier.sha256()


def test_batches_of_the_meta_sampler_stay_half_synthetic_and_its_judges_real():
    watched = Watched()
    labels, synthetic = colours((40, 20, 10))[1], np.arange(70) % 2 == 0
    synthetic[60:] = True  # of class 2 there are synthetic images only
    config = dataclasses.replace(TINY, resampling="half_and_half")
    train(config, images=watched, is_synthetic=synthetic)
    drawn, judged, batch = (watched.seen[-15:][first::3] for first in range(3))
    assert all(synthetic[rows].sum() == 4 for rows in [*drawn, *batch])
    for rows in judged:
        assert np.bincount(labels[rows]).tolist() == [2, 2, 2]
        assert not synthetic[rows[labels[rows] < 2]].any()


@pytest.mark.parametrize("sampler", ["uniform", "meta"])
def test_a_class_with_one_image_and_one_without_any_work(sampler):
    names = (*NAMES, "infrared")
    for counts in ((20, 1, 1), (30, 0, 2)):
        classifier = train(with_second(sampler=sampler), counts=counts, class_names=names)[-1].classifier
        assert all(torch.isfinite(each).all() for each in classifier.parameters())


def test_every_image_of_the_second_stage_is_augmented_with_draws_of_its_own():
    draws = []

    def augment(images, generator):
        draws.append((len(images), torch.rand(1, generator=generator).item()))
        return images

    train(augment=augment)
    assert [size for size, _ in draws] == [16] * 6 + [8, 6, 8] * 5  # drawn, judging, trained on
    assert len({value for _, value in draws}) == len(draws)


@pytest.mark.parametrize(
    ("changes", "synthetic", "steps"),
    [
        ({"epochs": 2, "batch_size": 16}, 0, 10),  # 70 images: 5 batches, the last of an epoch not whole
        ({"epochs": 1, "batch_size": 70}, 0, 1),
        ({"epochs": 1, "batch_size": 69}, 0, 2),
        ({"epochs": 3, "batch_size": 512}, 0, 3),
        ({"epochs": 2, "batch_size": 16}, 30, 10),  # uniform: real and synthetic images count alike
        ({"epochs": 2, "batch_size": 16, "resampling": "half_and_half"}, 30, 10),  # 40 real images at 8 a batch
        ({"epochs": 2, "batch_size": 16, "resampling": "half_and_half"}, 62, 2),  # 8 real images at 8 a batch
        ({"epochs": 1, "batch_size": 10, "resampling": "class_balanced"}, 0, 7),
        ({"epochs": None, "steps": 4}, 0, 4),
    ],
)
def test_epochs_decide_the_steps(changes, synthetic, steps):
    config = dataclasses.replace(TINY, stage_two=None, **changes)
    records = train(config, is_synthetic=np.arange(70) < synthetic)
    assert len(records) == records[0].steps == steps


def test_each_stage_has_its_own_epochs_and_batch_size():
    records = train(with_second(dataclasses.replace(TINY, epochs=2), epochs=1, batch_size=20))
    assert len(records) == records[0].steps == 2 * 5 + 4


@pytest.mark.parametrize(
    ("second", "first", "message"),
    [
        ({"epochs": 0}, {}, "stage_two.epochs should be above 0, got 0"),
        ({"steps": -1}, {}, "stage_two.steps should be above 0, got -1"),
        ({"meta_learning_rate": 0.0}, {}, "stage_two.meta_learning_rate should be above 0"),
        ({"init_pow": -0.3}, {}, "stage_two.init_pow should not be negative"),
        ({"sampler": "gumbel"}, {}, "unknown stage_two.sampler 'gumbel': expected one of uniform, meta"),
        ({"method": "mixup"}, {}, "unknown stage_two.method 'mixup': expected one of erm, balanced_softmax"),
        ({}, {"epochs": 0}, "epochs should be above 0, got 0"),
        ({"batch_size": 9}, {"resampling": "half_and_half"}, "needs an even stage_two.batch_size, got 9"),
        ({}, {"resampling": "class_balanced"}, "resampling 'class_balanced' settles it; use resampling 'uniform'"),
        ({}, {"prior": "effective"}, "prior 'effective' is what batches hold, which stage_two.sampler 'meta' changes"),
    ],
)
def test_what_a_second_stage_can_not_be_is_refused(second, first, message):
    with pytest.raises(ValueError, match=message):
        check_train_config(dataclasses.replace(with_second(**second), **first))


def test_what_only_the_meta_sampler_can_not_go_with_is_fine_without_it():
    uniform = dataclasses.replace(SECOND, sampler="uniform")
    check_train_config(dataclasses.replace(TINY, stage_two=uniform, resampling="class_balanced"))
    check_train_config(dataclasses.replace(TINY, stage_two=uniform, prior="effective"))
    erm = dataclasses.replace(SECOND, method="erm")
    check_train_config(dataclasses.replace(TINY, stage_two=erm, prior="effective"))


def test_a_backbone_without_a_last_linear_layer_is_refused_before_the_first_step():
    images, labels = np.zeros((3, 3, 32, 32), np.uint8), np.arange(3)
    config = dataclasses.replace(TINY, backbone="levit_128s", image_size=224)
    with pytest.raises(ValueError, match="stage_two trains a last linear layer, and this backbone ends in tuple"):
        train_classifier(config, images, labels, labels < 0, NAMES)


def test_a_configuration_with_a_second_stage_survives_yaml_and_refuses_unknown_keys():
    config = RunConfig(real=TINY)
    assert from_dict(RunConfig, to_dict(config)) == config
    assert from_dict(TrainConfig, {"stage_two": None}).stage_two is None
    with pytest.raises(ValueError, match=r"configuration\.real\.stage_two has an unknown key 'epoch'; expected one of"):
        from_dict(RunConfig, {"real": {"stage_two": {"epoch": 10}}})
