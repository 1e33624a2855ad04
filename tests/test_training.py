"""Training: what it learns, that seeds decide it, selection, averaging, two processes against one."""

import copy
import dataclasses
import math
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from colours import colours
from tailsmith.classification import selection
from tailsmith.classification.backbones import Backbone, SmallResNet
from tailsmith.classification.prediction import NotFinite, class_hits, mean_class_accuracy, predict_images
from tailsmith.classification.schedule import average_decay, learning_rate_at, update_average
from tailsmith.classification.training import (
    Diverged,
    Groups,
    StageTwoConfig,
    TrainConfig,
    check_train_config,
    train_classifier,
    untrained_classifier,
)

NAMES = ("red", "green", "blue")
MASK = torch.tensor([0.0, -math.inf, 0.0])
TINY = TrainConfig(image_size=8, steps=12, batch_size=16, learning_rate=0.05, evaluate_every=4)


def train(config: TrainConfig = TINY, counts=(40, 30, 20), **options):
    images, labels = colours(counts)
    arguments = {
        "images": images,
        "labels": labels,
        "is_synthetic": labels < 0,
        "class_names": NAMES,
    } | options
    return list(train_classifier(config, **arguments))


def with_(**changes) -> TrainConfig:
    return dataclasses.replace(TINY, **changes)


def test_it_learns_and_reports_every_step():
    held_out = colours((10, 10, 10), seed=1)
    records = train(with_(steps=30), validation=held_out)
    assert [record.step for record in records] == list(range(1, 31))
    assert np.mean([record.loss for record in records[-5:]]) < 0.5 < records[0].loss
    assert [record.step for record in records if record.validation is not None] == [
        4,
        8,
        12,
        16,
        20,
        24,
        28,
        30,
    ]
    assert all(record.classifier is None for record in records[:-1])
    classifier = records[-1].classifier
    assert not classifier.training
    assert classifier.class_names == NAMES
    predicted = predict_images(classifier, held_out[0])[0].argmax(1).numpy()
    best = max(record.validation for record in records if record.validation is not None)
    assert best > 80
    assert mean_class_accuracy(class_hits(predicted, held_out[1], 3)) == pytest.approx(best)


def test_seeds_decide_everything_and_the_global_generators_stay():
    torch.manual_seed(3)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = train()
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    torch.manual_seed(4)
    same, other = train(), train(with_(seed=1))
    assert same[-1].classifier.sha256() == first[-1].classifier.sha256()
    assert [record.loss for record in same] == [record.loss for record in first]
    assert other[0].loss != first[0].loss


def test_one_step_is_torchs_sgd_on_the_mean_loss():
    images, labels = colours((6, 6, 4))
    config = with_(steps=1, batch_size=16, warmup_fraction=0.0, backbone="test_convnext", image_size=32)
    start = train(dataclasses.replace(config, learning_rate=1e-30), counts=(6, 6, 4))[0].classifier.train()
    optimizer = torch.optim.SGD(start.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    logits, _ = start(torch.from_numpy(images).float() / 255)
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))
    loss.backward()
    optimizer.step()
    record = train(config, counts=(6, 6, 4))[0]
    assert record.loss == pytest.approx(loss.item(), rel=1e-5)
    for name, value in record.classifier.state_dict().items():
        torch.testing.assert_close(value, start.state_dict()[name], msg=name)


def test_the_classifier_is_the_best_on_validation_not_the_last():
    images, labels = colours((10, 10, 10), seed=1)
    wrong = (labels + 1) % 3  # validation that learning spoils: the earliest look is best
    records = train(with_(steps=40), validation=(images, wrong))
    scores = [record.validation for record in records if record.validation is not None]
    assert scores[0] > scores[-1]
    predicted = predict_images(records[-1].classifier, images)[0].argmax(1).numpy()
    assert mean_class_accuracy(class_hits(predicted, wrong, 3)) == pytest.approx(max(scores))


def test_selection_is_by_the_mean_over_classes_or_over_images():
    held_out = colours((30, 4, 2), seed=1)
    for select_by in ("class_mean", "image_mean"):
        records = train(with_(steps=8, evaluate_every=2, select_by=select_by), validation=held_out)
        scores = [record.validation for record in records if record.validation is not None]
        right = predict_images(records[-1].classifier, held_out[0])[0].argmax(1).numpy() == held_out[1]
        means = {"class_mean": np.mean([right[held_out[1] == c].mean() for c in range(3)]), "image_mean": right.mean()}
        assert max(scores) == pytest.approx(100 * means[select_by])
    with pytest.raises(ValueError, match="unknown select_by 'worst': expected one of class_mean, image_mean"):
        check_train_config(with_(select_by="worst"))


def test_averaged_weights_are_what_is_kept():
    plain, averaged = train(), train(with_(ema_decay=0.9))
    assert [record.loss for record in plain] == [record.loss for record in averaged]
    assert plain[-1].classifier.sha256() != averaged[-1].classifier.sha256()


def test_the_average_covers_weights_and_batch_norm_statistics():
    average, module = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    with torch.no_grad():
        module.weight.fill_(3.0)
        module.running_mean.fill_(8.0)
        module.num_batches_tracked.fill_(7)
    update_average(average, module, decay=0.75)
    assert average.weight.tolist() == [1.5, 1.5]
    assert average.running_mean.tolist() == [2.0, 2.0]
    assert int(average.num_batches_tracked) == 7
    assert module.weight.tolist() == [3.0, 3.0]
    assert [average_decay(step, 0.99) for step in (1, 11, 10**6)] == [0.1, 0.55, 0.99]


def test_the_learning_rate_warms_up_and_falls_as_a_cosine():
    config = with_(steps=110, learning_rate=2.0, warmup_fraction=10 / 110)
    rates = [learning_rate_at(step, config) for step in range(1, 111)]
    assert rates[:10] == pytest.approx([0.2 * step for step in range(1, 11)])
    expected = 1 + np.cos(np.pi * np.arange(100) / 100)
    assert rates[10:] == pytest.approx(expected.tolist())
    assert [record.learning_rate for record in train()] == [learning_rate_at(s, TINY) for s in range(1, 13)]
    assert learning_rate_at(5, with_(steps=5, warmup_fraction=1.0)) == TINY.learning_rate


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"method": "erm"}, [100, 15, 5]),
        ({"method": "balanced_softmax"}, [40, 40, 40]),
        ({"method": "balanced_softmax", "alpha": 0.0}, [100, 15, 5]),
        ({"method": "balanced_softmax", "resampling": "class_balanced"}, [40, 40, 40]),
        # 100 / 15 / 0 real and 0 / 0 / 5 synthetic: half of every batch is class 2
        ({"method": "balanced_softmax", "resampling": "half_and_half"}, [40, 40, 40]),
        ({"method": "erm", "resampling": "half_and_half"}, [100 / 115 * 60, 15 / 115 * 60, 60]),
    ],
)
def test_blind_to_images_the_loss_decides_what_is_learned(monkeypatch, changes, expected):
    """Cross-entropy learns the class shares of the batches, and balanced softmax takes them out."""

    class Blind(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = torch.nn.Parameter(torch.zeros(3))

        def forward(self, images):
            return self.bias.expand(len(images), 3), images.mean((2, 3))

    blind = Backbone(Blind(), mean=(0, 0, 0), std=(1, 1, 1), image_size=8)
    monkeypatch.setattr("tailsmith.classification.training.create_backbone", lambda *_: blind)
    labels = np.repeat([0, 1, 2], [100, 15, 5])
    pixels = np.zeros((120, 3, 8, 8), dtype=np.uint8)
    config = with_(steps=200, batch_size=120, learning_rate=0.5, weight_decay=0.0, prior="effective", **changes)
    classifier = train(config, images=pixels, labels=labels, is_synthetic=labels == 2)[-1].classifier
    shares = predict_images(classifier, pixels[:1])[0].softmax(1)[0]
    assert (120 * shares).tolist() == pytest.approx(expected, abs=2)


@pytest.mark.parametrize("resampling", ["uniform", "half_and_half", "class_balanced", "group_balanced"])
def test_resampling_decides_which_rows_are_seen(resampling):
    seen = []

    class Watched:
        images = colours((40, 30, 20))[0]

        def __len__(self):
            return 90

        def __getitem__(self, rows):
            seen.append(np.asarray(rows))
            return self.images[rows]

    synthetic = np.arange(90) >= 80
    config = with_(resampling=resampling, steps=6, batch_size=12)
    train(config, images=Watched(), is_synthetic=synthetic, groups=Groups(np.arange(90) // 10))
    rows = np.stack(seen[1:])  # the first look is at one image, for its type
    expected = {"uniform": None, "half_and_half": 36, "class_balanced": None, "group_balanced": 8}[resampling]
    assert rows.shape == (6, 12)
    assert expected is None or synthetic[rows].sum() == expected
    if resampling == "class_balanced":
        assert np.bincount(colours((40, 30, 20))[1][rows].ravel()).tolist() == [24, 24, 24]


def test_augmentation_gets_unit_images_and_a_reproducible_generator():
    draws = []

    def augment(images, generator):
        assert images.dtype == torch.float32
        assert 0 <= images.min() <= images.max() <= 1
        draws.append(torch.rand(1, generator=generator).item())
        return 1 - images

    plain, augmented, again = train(), train(augment=augment), train(augment=augment)
    assert draws[:12] == draws[12:]
    assert len(set(draws)) == 12
    assert plain[0].loss != augmented[0].loss == again[0].loss


def test_bf16_stays_near_fp32_and_keeps_fp32_weights():
    fp32, bf16 = train(), train(with_(precision="bf16"))
    assert bf16[0].loss == pytest.approx(fp32[0].loss, rel=0.02)
    assert bf16[0].loss != fp32[0].loss
    assert {value.dtype for value in bf16[-1].classifier.parameters()} == {torch.float32}


def test_prediction_does_not_depend_on_batches_and_leaves_the_mode():
    images, _ = colours((5, 5, 3))
    classifier = train()[-1].classifier.train()
    whole = predict_images(classifier, images)
    parts = predict_images(classifier, torch.from_numpy(images), batch_size=4)
    assert classifier.training
    assert whole[0].shape == (13, 3)
    torch.testing.assert_close(whole, parts)
    torch.testing.assert_close(predict_images(classifier, images, rows=np.array([7, 2]))[0], whole[0][[7, 2]])
    with pytest.raises(ValueError, match="no images: expected at least one"):
        predict_images(classifier, images[:0])


def test_a_training_set_smaller_than_a_batch_and_one_image_per_class_work():
    assert train(with_(steps=2, batch_size=64), counts=(1, 1, 1))[-1].classifier is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": np.full(90, 3)}, r"training labels should be in 0..2, one per class name, got 3"),
        ({"labels": np.full(90, -1)}, r"training labels should be in 0..2, .* got -1"),
        ({"labels": np.zeros(90)}, "training labels should be integers, got float64"),
        (
            {"labels": np.zeros(9, int)},
            r"training labels should have one entry per image, shape \[90\], got \[9\]",
        ),
        ({"is_synthetic": np.zeros(9, bool)}, r"is_synthetic should have one entry per image"),
        ({"groups": Groups(np.zeros(9, int))}, r"groups should have one entry per image"),
        ({"images": np.zeros((0, 3, 8, 8), np.uint8), "labels": []}, "no training images"),
        (
            {"images": np.zeros((90, 3, 8, 8), np.float32)},
            r"training images\[rows\] should be uint8 .* torch.float32",
        ),
        ({"images": np.zeros((90, 8, 8), np.uint8)}, r"uint8 \[b, 3, H, W\], got torch.uint8 \[1, 8, 8\]"),
        (
            {"validation": (np.zeros((2, 3, 8, 8), np.uint8), [0, 5])},
            "validation labels should be in 0..2, .* got 5",
        ),
        ({"validation": (np.zeros((0, 3, 8, 8), np.uint8), [])}, "no validation images"),
        ({"class_names": ("red", "green", "red")}, "each once, got red more than once"),
    ],
)
def test_bad_data_is_refused_before_the_first_step(options, message):
    images, labels = colours((40, 30, 20))
    arguments = {
        "images": images,
        "labels": labels,
        "is_synthetic": labels < 0,
        "class_names": NAMES,
    } | options
    with pytest.raises(ValueError, match=message):
        train_classifier(TINY, **arguments)  # not even iterated


def test_a_validation_class_without_training_images_is_refused():
    images, labels = colours((4, 4, 4))
    with pytest.raises(ValueError, match="classes without a training image: blue; add training images"):
        train_classifier(TINY, images[:8], labels[:8], labels[:8] < 0, NAMES, validation=(images, labels))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "mixin"}, "unknown method 'mixin': expected one of erm, balanced_softmax"),
        ({"prior": "uniform"}, "unknown prior 'uniform': expected one of real, combined, effective"),
        (
            {"resampling": "all"},
            "unknown resampling 'all': expected one of uniform, half_and_half, class_balanced",
        ),
        ({"precision": "fp8"}, "unknown precision 'fp8': expected one of fp32, bf16, fp16"),
        ({"steps": 0}, "steps should be above 0, got 0"),
        ({"alpha": 1.5}, r"alpha should be in 0..1, got 1.5"),
        ({"ema_decay": 1.0}, r"ema_decay should be at least 0 and below 1"),
        ({"weight_decay": -1.0}, "weight_decay should not be negative"),
        ({"weight_decay": math.nan}, "weight_decay should not be negative or infinite, got nan"),
        ({"learning_rate": math.inf}, "learning_rate should be above 0 and finite, got inf"),
        ({"learning_rate": math.nan}, "learning_rate should be above 0 and finite, got nan"),
        ({"steps": 1.5}, r"steps should be a whole number, got 1\.5"),
        ({"steps": 10**12}, r"steps should be 1,000,000,000 at most, got 1000000000000"),
        ({"image_size": 0}, r"image_size should be within 1\.\.4096 pixels, got 0"),
        ({"image_size": 100_000}, r"image_size should be within 1\.\.4096 pixels, got 100000"),
        ({"image_size": 4096, "batch_size": 128}, r"128 images of 4096 x 4096 pixels takes 26 GB before the first"),
        ({"batch_size": 10**9}, r"batch_size should be 65,536 at most, got 1000000000"),
        ({"seed": 2**63}, r"seed should be at most 9223372036854775807 .*, got 9223372036854775808"),
        ({"resampling": "half_and_half", "batch_size": 15}, "needs an even batch_size, got 15"),
    ],
)
def test_bad_configurations_name_what_is_allowed(changes, message):
    with pytest.raises(ValueError, match=message):
        check_train_config(with_(**changes))


def test_resampling_that_needs_synthetic_images_says_so():
    with pytest.raises(ValueError, match="no synthetic ones among 90; use resampling 'uniform'"):
        train(with_(resampling="half_and_half"))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_last_step_that_breaks_the_weights_is_an_error(value, monkeypatch):
    """Its loss was still finite, and without validation nobody looks at the classifier again."""
    step = torch.optim.SGD.step

    def broken(optimizer, *arguments, **options):
        step(optimizer, *arguments, **options)
        optimizer.param_groups[0]["params"][0].data[0, 0, 0, 0] = value

    monkeypatch.setattr(torch.optim.SGD, "step", broken)
    with pytest.raises(Diverged, match=r"NaN or infinite weights after step 1 \(module\.stem.*; lower learning_rate"):
        train(with_(steps=1))


def test_logits_that_are_no_numbers_are_divergence_in_validation_and_an_error_after(monkeypatch):
    monkeypatch.setattr(SmallResNet, "forward", lambda self, x: (x.mean((2, 3)) / 0, x.mean((2, 3))))
    with torch.no_grad(), pytest.raises(ValueError, match=r"logits are NaN or infinite for 3 of 3 images: its train"):
        predict_images(untrained_classifier(TINY, NAMES), colours((1, 1, 1))[0])
    monkeypatch.undo()
    raising = Mock(side_effect=NotFinite("logits"))
    monkeypatch.setattr(selection, "predict_images", raising)
    with pytest.raises(Diverged, match="NaN or infinite logits after step 4; lower learning_rate"):
        train(validation=colours((1, 1, 1)))


def test_a_class_masked_by_minus_infinity_is_no_error(monkeypatch):
    monkeypatch.setattr(SmallResNet, "forward", lambda self, x: (x.mean((2, 3)) + MASK, x.mean((2, 3))))
    logits = predict_images(untrained_classifier(TINY, NAMES), colours((1, 1, 1))[0])[0]
    assert logits.isneginf().sum() == 3


def test_divergence_is_an_error_with_the_remedy():
    with pytest.raises(ValueError, match=r"training diverged: loss (nan|inf) at step \d+; lower learning_rate"):
        train(with_(learning_rate=1e20, warmup_fraction=0.0))


def train_twice(folder: str) -> list[float]:
    """Two trainings in a row of two stages, of a backbone without batch norm, on batches that two can't halve."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (21, 3, 32, 32), dtype=np.uint8), np.repeat([0, 1, 2], 7)
    held_out = images[::3], labels[::3]
    second = StageTwoConfig(steps=2, batch_size=7, meta_batch_size=5, meta_learning_rate=0.1)
    config = with_(backbone="test_convnext", image_size=32, steps=3, batch_size=7, evaluate_every=2, stage_two=second)
    for _ in range(2):
        *_, last = train_classifier(config, images, labels, labels < 0, NAMES, validation=held_out)
    if int(os.environ.get("RANK", "0")) == 0:
        last.classifier.save(folder)
    return [last.loss, last.validation]


SCRIPT = """
import sys, torch
from test_training import train_twice
results = train_twice(sys.argv[1])
assert torch.distributed.get_world_size() == 2
print(*results)
torch.distributed.destroy_process_group()
"""


def test_two_processes_under_torchrun_train_the_classifier_of_one(tmp_path: Path):
    (tmp_path / "script.py").write_text(SCRIPT)
    arguments = [str(tmp_path / "script.py"), str(tmp_path / "two")]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    expected = train_twice(str(tmp_path / "one"))
    assert len(done.stdout.splitlines()) == 2
    for line in done.stdout.splitlines():  # both processes know the same
        assert [float(value) for value in line.split()] == pytest.approx(expected, rel=1e-4)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=1e-5, rtol=1e-3, msg=name)


def test_records_do_not_share_the_classifier_with_the_loop():
    held_out = colours((10, 10, 10), seed=1)
    records = train(validation=held_out)
    classifier = records[-1].classifier
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert copy.deepcopy(classifier).sha256() == classifier.sha256()
