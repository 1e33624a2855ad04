"""Training views of each image by itself: what they are, that seeds alone decide, and trainings on them."""

import dataclasses
import io
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

import tailsmith
from tailsmith.classification import stage_run
from tailsmith.classification.checkpoint import discard
from tailsmith.classification.config import StageTwoConfig, TrainConfig
from tailsmith.classification.training import train_classifier
from tailsmith.data.dataset import Dataset, make_table
from tailsmith.data.images import Images
from tailsmith.data.transforms import AUGMENTATIONS, augmentation
from tailsmith.data.views import PerImage, seeded_view

PER_IMAGE = [name for name, each in AUGMENTATIONS.items() if isinstance(each, PerImage)]
SEEDS = np.arange(6, dtype=np.uint64)


def photographs(n: int = 6, width: int = 40, height: int = 30, *, broken: int | None = None) -> Dataset:
    draws = np.random.default_rng(0)
    encoded = []
    for row in range(n):
        buffer = io.BytesIO()
        pixels = draws.integers(0, 256, (height // 5, width // 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR).save(buffer, "PNG")
        encoded.append(b"nothing" if row == broken else buffer.getvalue())
    table = make_table(np.arange(n) % 2, image_ids=[f"i{row}" for row in range(n)], encoded=encoded)
    return Dataset(table, ("a", "b"))


@pytest.fixture(scope="module")
def images():
    return photographs()


@pytest.mark.parametrize("name", [*PER_IMAGE, "timm:rand-m9-mstd0.5-inc1", "timm:augmix-m5-w4-d2"])
def test_a_seed_alone_decides_a_view_and_the_global_generators_stay(name, images):
    make = augmentation(name).of_size(16)
    torch.manual_seed(3), random.seed(3), np.random.seed(3)  # noqa: NPY002
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    made = [seeded_view(images.image(0), make, seed) for seed in range(8)]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()  # noqa: NPY002
    torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
    again = [seeded_view(images.image(0), make, seed) for seed in range(8)]
    assert all(torch.equal(*pair) for pair in zip(made, again, strict=True))
    assert {(each.dtype, tuple(each.shape)) for each in made} == {(torch.uint8, (3, 16, 16))}
    assert len({each.numpy().tobytes() for each in made}) > 5


def test_a_view_is_what_torchvision_makes_of_the_image(images):
    steps = v2.Compose([v2.RandomResizedCrop(16), v2.RandomHorizontalFlip(), v2.ColorJitter(0.4, 0.4, 0.4)])
    for seed in range(4):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            expected = v2.functional.pil_to_tensor(steps(images.image(1)))
        assert torch.equal(seeded_view(images.image(1), augmentation("imagenet").of_size(16), seed), expected)


def test_any_size_of_image_has_views():
    for width, height in ((3, 50), (50, 3), (16, 16), (1, 1)):
        image = Image.new("RGB", (width, height), (200, 10, 10))
        for name in PER_IMAGE:
            assert seeded_view(image, augmentation(name).of_size(16), 0).shape == (3, 16, 16)


@pytest.mark.parametrize("name", ["timm:nonsense", "timm:"])
def test_a_policy_that_timm_does_not_know_is_refused(name):
    with pytest.raises(ValueError, match=r"is no policy of timm's; one is timm:rand-m9"):
        augmentation(name)


def test_an_unknown_name_lists_those_of_photographs_too():
    with pytest.raises(ValueError, match=r"randaugment, timm:POLICY; got 'rand'"):
        augmentation("rand")


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_make_the_views_that_one_process_makes(workers, images):
    views = augmentation("imagenet")
    expected = [
        seeded_view(images.image(row), views.of_size(16), int(seed))
        for row, seed in zip([3, 0, 3], SEEDS[:3], strict=True)
    ]
    made = Images(images, 16, views, workers=workers)
    assert made.per_image
    first, second = made.ahead([3, 0, 3], SEEDS[:3]), made.ahead([1], SEEDS[:1])
    assert second().shape == (1, 3, 16, 16)
    assert torch.equal(first(), torch.stack(expected))
    assert made.ahead([], SEEDS[:0])().shape == (0, 3, 16, 16)
    made.close()
    assert torch.equal(made[[2]], Images(images, 16)[[2]])  # the test view


def test_a_broken_photograph_is_named_as_anywhere(images):
    made = Images(photographs(broken=2), 16, PerImage(), workers=1)
    with pytest.raises(ValueError, match="image_id 'i2'"):
        made.ahead([0, 2], SEEDS[:2])()
    made.close()


def test_a_worker_that_is_killed_is_an_error_of_one_line(images):
    made = Images(images, 16, PerImage(), workers=1)
    made.ahead([0], SEEDS[:1])()
    for process in made._workers._pool._processes.values():
        process.kill()
        process.join()
    with pytest.raises(ValueError, match="a process that makes training views was killed"):
        made.ahead([0], SEEDS[:1])()
    made.close()


def test_no_worker_outlives_a_parent_that_is_killed():
    code = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from tailsmith.data import view_workers
view_workers._WATCH = 0.1
from test_views import Images, PerImage, photographs
images = Images(photographs(), 8, PerImage(), workers=2)
images.ahead([0, 1], np.arange(2, dtype=np.uint64))()
print(*images._workers._pool._processes, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent)], capture_output=True, text=True, timeout=120
    )
    workers = [int(each) for each in done.stdout.split()]
    assert len(workers) == 2, done.stderr
    until = time.monotonic() + 20
    while time.monotonic() < until and any(_running(each) for each in workers):
        time.sleep(0.1)
    assert not any(_running(each) for each in workers)


def _running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


# ----------------------------------------------------------------------------------------------------------
# Trainings.

TINY = TrainConfig(image_size=8, steps=6, batch_size=8, learning_rate=0.05, evaluate_every=3, checkpoint_every=1)
META = StageTwoConfig(steps=4, batch_size=4, learning_rate=0.2, meta_batch_size=4, meta_learning_rate=0.1)


def training(made, config):
    labels = made.dataset.labels
    synthetic = np.zeros(len(labels), dtype=bool)
    return train_classifier(config, made, labels, synthetic, ("a", "b"), validation=(made, labels))


@pytest.mark.parametrize("config", [TINY, dataclasses.replace(TINY, steps=3, stage_two=META)], ids=["plain", "meta"])
def test_it_goes_on_bit_for_bit_and_workers_change_nothing(config, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    dataset = photographs(12)
    made = Images(dataset, 8, AUGMENTATIONS["imagenet"], workers=2)
    whole = list(training(made, config))
    assert len({each.loss for each in whole}) == len(whole)
    for step in range(1, whole[-1].steps):
        records = training(made, config).resumable(path, "")
        while next(records).step < step:
            pass
        records.close()
        fewer = dataclasses.replace(config, workers=1)
        with_one = Images(dataset, 8, AUGMENTATIONS["imagenet"], workers=1)
        *_, last = training(with_one, fewer).resumable(path, "")
        with_one.close()
        assert last.classifier.sha256() == whole[-1].classifier.sha256()
        assert last.loss == whole[-1].loss
        discard(path)
    made.close()


def test_views_of_a_step_do_not_depend_on_how_many_processes_share_it(monkeypatch):
    """Each process' slice of the seeds is that of the rows."""
    from tailsmith.classification import processes, sources
    from tailsmith.classification.methods.contract import Moment

    class Fixed:
        def next(self, moment):
            return np.arange(7)

    class Echo:
        per_image = True

        def __len__(self):
            return 7

        def ahead(self, rows, seeds):
            return lambda: list(zip(rows.tolist(), seeds.tolist(), strict=True))

    def shares(count):
        found = []
        for index in range(count):
            monkeypatch.setattr(processes, "count", lambda: count)
            monkeypatch.setattr(processes, "index", lambda index=index: index)
            drawn = sources.Source(Fixed(), Echo(), 0, 5, 10, 2).take(Moment(1, 0.0, 0.1, lambda *_: None))
            found.append([view() for view in drawn.views])
        return [[pair for each in found for pair in each[view]] for view in range(2)]

    alone = shares(1)
    assert shares(3) == alone
    assert len({seed for view in alone for _, seed in view}) == 14


def test_the_state_of_a_source_is_that_of_its_step(monkeypatch):
    from tailsmith.classification import sources
    from tailsmith.classification.methods.contract import Moment
    from tailsmith.classification.methods.streams import passes

    config = dataclasses.replace(TINY, steps=9)
    pixels = np.zeros((5, 3, 8, 8), dtype=np.uint8)

    def source():
        return sources.Source(passes([np.arange(5)], config)(None), pixels, 0, 0, config.steps, 1)

    def moment(step):
        return Moment(step, 0.0, 0.1, lambda *_: None)

    plain = passes([np.arange(5)], config)(None)
    expected = [plain.next(moment(step)).tolist() for step in range(1, 10)]
    first = source()
    assert [first.take(moment(step)).rows.tolist() for step in range(1, 10)] == expected
    for stop in range(1, 9):
        begun, resumed = source(), source()
        for step in range(1, stop + 1):
            begun.take(moment(step))
        resumed.load_state_dict(begun.state_dict())
        assert [resumed.take(moment(step)).rows.tolist() for step in range(stop + 1, 10)] == expected[stop:]


def test_train_by_name_ends_its_workers(images, monkeypatch):
    seen = []
    taken = stage_run.StageRun.step

    def step(self, *arguments):
        seen.append(self._data.train.images)
        return taken(self, *arguments)

    monkeypatch.setattr(stage_run.StageRun, "step", step)
    first = tailsmith.train(images, config=TINY, augmentation="randaugment")
    second = tailsmith.train(images, config=dataclasses.replace(TINY, workers=1), augmentation="randaugment")
    assert first.sha256() == second.sha256()
    assert seen[0].per_image
    with pytest.raises(RuntimeError, match="shutdown"):
        seen[0].ahead([0], SEEDS[:1])


def test_workers_should_be_at_least_one():
    with pytest.raises(ValueError, match="workers should be at least 1, got 0"):
        TrainConfig(workers=0)
