"""Interrupted trainings: what they go on to, bit for bit; signals; what is refused and what is set aside."""

import dataclasses
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from colours import colours
from tailsmith.classification import processes, stage_run
from tailsmith.classification.checkpoint import discard
from tailsmith.classification.config import StageTwoConfig, TrainConfig
from tailsmith.classification.methods import METHODS
from tailsmith.classification.training import Groups, StepRecord, Training, train_classifier
from tailsmith.interruption import Interruption, Terminated

TINY = TrainConfig(image_size=8, steps=6, batch_size=8, learning_rate=0.05, evaluate_every=2, checkpoint_every=1)
META = StageTwoConfig(steps=4, batch_size=8, learning_rate=0.2, meta_batch_size=6, meta_learning_rate=0.1)
CASES = {
    "erm": TINY,
    "balanced_softmax": dataclasses.replace(TINY, method="balanced_softmax", resampling="half_and_half"),
    "averaged": dataclasses.replace(TINY, ema_decay=0.9),
    "other backbone": dataclasses.replace(TINY, backbone="test_convnext", image_size=32, steps=3),
    "stage_two uniform": dataclasses.replace(TINY, steps=3, stage_two=dataclasses.replace(META, sampler="uniform")),
    "stage_two meta": dataclasses.replace(TINY, steps=3, resampling="half_and_half", stage_two=META),
    "crt": dataclasses.replace(TINY, steps=3, method="crt:head_steps=4"),
    "lws": dataclasses.replace(TINY, steps=3, method="lws:scale_steps=4"),
    "cmo": dataclasses.replace(TINY, method="cmo:probability=0.7,start=0,end=1"),
    "group_dro": dataclasses.replace(TINY, method="group_dro:eta=0.5"),
    **{
        name.partition(":")[0]: dataclasses.replace(TINY, steps=3, method=name, resampling="half_and_half")
        for name in (
            "logit_adjustment:by=group",
            "resampled",
            "progressive",
            "reweight",
            "cb_loss:by=group",
            "focal",
            "ldam_drw",
            "tau_norm",
            "ncm",
            "mixup",
            "remix",
            "glmc",
            "paco:queue=13,dimension=5,momentum=0.9",
            "reslt",
            "mislas:head_steps=2",
            "irm:anneal_steps=1",
            "lisa",
            "crt_group:head_steps=2",
            "dfr:fits=2",
            "jtt",
            "dpe:members=2,epochs=1",
            "fill_up",
        )
    },
}


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return images * (0.5 + 0.5 * torch.rand(len(images), 1, 1, 1, generator=generator))


def training(config: TrainConfig, **changes) -> Training:
    images, labels = colours((20, 10, 5))
    if config.image_size == 32:
        images = images.repeat(4, 2).repeat(4, 3)
    held_out = images[::2].copy(), labels[::2].copy()
    arguments = {
        "images": images,
        "labels": labels,
        "is_synthetic": np.arange(35) % 3 == 0,
        "class_names": ("red", "green", "blue"),
        "validation": held_out,
        "augment": augment,
        "groups": Groups(labels * 2 + np.arange(35) % 2, (labels * 2)[::2], 2),
    }
    return train_classifier(config, **(arguments | changes))


def outcome(records: list[StepRecord]) -> list[object]:
    """All that was seen on validation, and the classifier."""
    seen = [(each.step, each.loss, each.validation, each.selected) for each in records if each.validation is not None]
    return [*seen, records[-1].classifier.sha256()]


def stopped_after(step: int, config: TrainConfig, path: Path, **changes) -> None:
    records = training(config, **changes).resumable(path, "colours")
    for record in records:
        if record.step == step:
            break
    records.close()  # as a process that is killed; what lies at `path` is all there is


def test_there_is_a_case_for_every_method():
    assert set(METHODS) <= set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_a_training_that_goes_on_ends_as_one_that_was_not_disturbed(name, tmp_path):
    config, path = CASES[name], tmp_path / "training" / "checkpoint.safetensors"
    whole = list(training(config))
    expected = outcome(whole)
    assert len({each.loss for each in whole}) == len(whole)
    for step in range(1, whole[-1].steps):
        stopped_after(step, config, path)
        rest = list(training(config).resumable(path, "colours"))
        fresh = [each for each in rest if each.step > step]
        assert [dataclasses.replace(each, classifier=None) for each in fresh] == [
            dataclasses.replace(each, classifier=None) for each in whole[step:]
        ]
        assert outcome(rest) == expected, step
        discard(path)
    assert not path.parent.exists()


def test_stopped_three_times_is_as_good_as_never(tmp_path):
    config, path = CASES["stage_two meta"], tmp_path / "checkpoint.safetensors"
    for step in (2, 3, 6):
        stopped_after(step, config, path)
    assert outcome(list(training(config).resumable(path, "colours"))) == outcome(list(training(config)))


def test_dropout_goes_on_too_and_leaves_the_global_generator_alone(tmp_path, monkeypatch):
    from tailsmith.classification import backbones

    class Dropping(backbones.SmallResNet):
        def forward(self, images):
            features = torch.nn.functional.dropout(self.blocks(self.stem(images)).mean((2, 3)), 0.5, self.training)
            return self.head(features), features

    monkeypatch.setattr(backbones, "SmallResNet", Dropping)
    path, before = tmp_path / "checkpoint.safetensors", torch.random.get_rng_state()
    whole = list(training(TINY))
    stopped_after(3, TINY, path)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(5)
    assert outcome(list(training(TINY).resumable(path, "colours"))) == outcome(whole)


def test_checkpoints_are_written_every_so_many_steps_and_change_nothing(tmp_path):
    config, path = dataclasses.replace(TINY, steps=7, checkpoint_every=3), tmp_path / "checkpoint.safetensors"
    written = []
    for record in training(config).resumable(path, "colours"):
        if path.exists() and path.stat().st_mtime_ns not in written:
            written.append(path.stat().st_mtime_ns)
            steps = record.step
            assert steps % 3 == 0
    assert len(written) == 2
    assert outcome(list(training(config))) == outcome(list(training(dataclasses.replace(config, checkpoint_every=5))))


def test_without_validation_images_it_goes_on_as_well(tmp_path):
    config, path = dataclasses.replace(TINY, steps=5), tmp_path / "checkpoint.safetensors"
    whole = list(training(config, validation=None))
    stopped_after(3, config, path, validation=None)
    *_, last = training(config, validation=None).resumable(path, "colours")
    assert last.classifier.sha256() == whole[-1].classifier.sha256()


# ----------------------------------------------------------------------------------------------------------
# Signals.


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_a_signal_waits_for_the_step_and_its_checkpoint(number, error, tmp_path):
    config, path = dataclasses.replace(TINY, checkpoint_every=100), tmp_path / "checkpoint.safetensors"
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    seen = []

    def interrupted():
        for record in training(config).resumable(path, "colours"):
            seen.append(record.step)
            if record.step == 2:
                os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt) as raised:
        interrupted()
    assert seen == [1, 2, 3] and type(raised.value) is error
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    rest = list(training(config).resumable(path, "colours"))
    assert [each.step for each in rest] == [2, 4, 5, 6] and outcome(rest) == outcome(list(training(config)))


def test_a_signal_in_the_last_step_loses_nothing(tmp_path, monkeypatch):
    path, step = tmp_path / "checkpoint.safetensors", stage_run.StageRun.step

    def signalled(self, number, before, stop):
        if number == 6:
            os.kill(os.getpid(), signal.SIGTERM)
            stop = True  # the flag was read just before
        return step(self, number, before, stop)

    monkeypatch.setattr(stage_run.StageRun, "step", signalled)
    with pytest.raises(Terminated):
        list(training(dataclasses.replace(TINY, checkpoint_every=100)).resumable(path, "colours"))
    monkeypatch.setattr(stage_run.StageRun, "step", lambda *_: pytest.fail("trained again"))
    rest = list(training(TINY).resumable(path, "colours"))
    monkeypatch.undo()
    assert [each.step for each in rest] == [2, 4, 6]
    assert outcome(rest) == outcome(list(training(TINY)))


@pytest.fixture
def default_signals():
    """As in a terminal; under nohup Ctrl-C is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("default_signals")
def test_a_second_signal_does_not_wait():
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.requested == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_without_a_checkpoint_and_in_other_threads_signals_are_left_alone():
    from concurrent.futures import ThreadPoolExecutor

    before = signal.getsignal(signal.SIGINT)
    for _ in training(TINY):
        assert signal.getsignal(signal.SIGINT) is before
    with ThreadPoolExecutor(1) as pool:

        def inside():
            with Interruption() as interruption:
                return signal.getsignal(signal.SIGINT) is before and interruption.requested is None

        assert pool.submit(inside).result()


def test_the_command_goes_on_after_sigterm_to_the_classifier_of_one_that_was_left_alone(tmp_path):
    from tailsmith.cli.main import main
    from tailsmith.data.writers import write_parquet
    from tiny import tiny_dataset

    write_parquet(tiny_dataset(((9, 6), (4, 2), (1, 3))), tmp_path / "data.parquet")
    settings = ["--train.steps=40", "--train.batch_size=8", "--train.image_size=16", "--train.evaluate_every=20"]
    settings += ["--train.checkpoint_every=10", "--train.method=cmo"]

    def command(name: str) -> list[str]:
        return ["train", str(tmp_path / "data.parquet"), "--out", str(tmp_path / name), *settings]

    checkpoint = tmp_path / "stopped" / "training" / "checkpoint.safetensors"
    slow = "import sys, time\nfrom tailsmith.classification import stage_run\nstep = stage_run.StageRun.step\n"
    slow += "stage_run.StageRun.step = lambda *a: (time.sleep(0.1), step(*a))[1]\n"
    slow += "from tailsmith.cli.main import main\nsys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", slow, *command("stopped")], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not checkpoint.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 143
    assert "run the same command again to go on" in said and "Traceback" not in said
    assert not (tmp_path / "stopped" / "config.json").exists()
    assert main(command("stopped")) == 0
    assert main(command("whole")) == 0
    assert not checkpoint.parent.exists()
    for name in ("model.safetensors", "config.json", "history.json"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def interrupted_and_resumed(folder: str) -> list[float]:
    """Group DRO on batches that two processes can't halve, of a backbone without batch norm."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (21, 3, 32, 32), dtype=np.uint8), np.repeat([0, 1, 2], 7)
    config = dataclasses.replace(CASES["other backbone"], method="group_dro:eta=0.5", batch_size=7, steps=5)
    changes = {"images": images, "labels": labels, "is_synthetic": labels < 0, "validation": (images, labels)}
    changes |= {"groups": Groups(np.arange(21) % 4), "augment": None}
    path = Path(folder) / "checkpoint.safetensors"
    stopped_after(3, config, path, **changes)
    processes.wait()
    *_, last = training(config, **changes).resumable(path, "colours")
    if processes.index() == 0:
        last.classifier.save(folder)
    return [last.loss, last.validation]


SCRIPT = """
import sys, torch
from test_checkpoint import interrupted_and_resumed
results = interrupted_and_resumed(sys.argv[1])
assert torch.distributed.get_world_size() == 2
print(*results)
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_go_on_from_one_checkpoint_to_the_classifier_of_one(tmp_path):
    from safetensors.torch import load_file

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
    expected = interrupted_and_resumed(str(tmp_path / "one"))
    for line in done.stdout.splitlines():
        assert [float(value) for value in line.split()] == pytest.approx(expected, rel=1e-4)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=1e-5, rtol=1e-3, msg=name)


# ----------------------------------------------------------------------------------------------------------
# What is refused, and what is set aside.


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"learning_rate": 0.06}, "learning_rate"),
        ({"steps": 7}, "steps"),
        ({"method": "cmo"}, "method"),
        ({"seed": 1}, "seed"),
    ],
)
def test_other_settings_are_refused_and_the_checkpoint_stays(changes, named, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    stopped_after(3, TINY, path)
    with pytest.raises(ValueError, match=f"interrupted and differs from this one in {named}; run that one's command"):
        list(training(dataclasses.replace(TINY, **changes)).resumable(path, "colours"))
    changed = dataclasses.replace(TINY, checkpoint_every=2)  # which changes no result
    assert outcome(list(training(changed).resumable(path, "colours"))) == outcome(list(training(TINY)))


def test_other_data_is_refused(tmp_path):
    path, labels = tmp_path / "checkpoint.safetensors", colours((20, 10, 5))[1]
    stopped_after(3, TINY, path)
    for other in (
        training(TINY, labels=np.roll(labels, 1)).resumable(path, "colours"),
        training(TINY, is_synthetic=labels < 0).resumable(path, "colours"),
        training(TINY, groups=Groups(labels)).resumable(path, "colours"),
        training(TINY, validation=None).resumable(path, "colours"),
        training(TINY).resumable(path, "other images"),
    ):
        with pytest.raises(ValueError, match="differs from this one in the data; run that"):
            next(other)
    with pytest.raises(ValueError, match="differs from this one in class_names; run that"):
        next(training(TINY, class_names=("a", "b", "c")).resumable(path, "colours"))


def test_the_identity_of_a_training_is_in_its_images_and_their_augmentation(tmp_path):
    import tailsmith
    from folders import write_folder, write_image
    from tailsmith.runs.progress import identity

    write_folder(tmp_path / "data")

    def known(size: int = 8, augmentation: str = "none") -> str:
        dataset = tailsmith.load(tmp_path / "data")
        return identity(dataset.split("train"), dataset.split("val"), size, augmentation)

    first = known()
    assert known() == first
    others = [known(size=9), known(augmentation="paper")]
    write_image(
        tmp_path / "data" / "val" / "cat" / "0.png", np.full((12, 12, 3), 99)
    )  # another image under the same name
    others.append(known())
    write_image(tmp_path / "data" / "train" / "cat" / "9.png", np.full((12, 12, 3), 9))
    others.append(known())
    assert len({first, *others}) == 5


def test_images_of_another_plan_under_the_same_ids_are_another_training(tmp_path):
    import pandas as pd

    from tailsmith.data.dataset import Dataset, make_table
    from tailsmith.data.packed import location, write_packed
    from tailsmith.runs.progress import identity

    def known(folder: str, images: list[bytes], seconds: float = 1.0) -> str:
        path = tmp_path / folder / "shard-00000.parquet"
        write_packed(pd.DataFrame({"image": images, "seconds": seconds}), path, {})
        where = [location(path, row) for row in range(2)]
        table = make_table([0, 1], image_ids=["synthetic-0-0-0", "synthetic-1-0-0"], paths=where, sources="synthetic")
        dataset = Dataset(table, ("a", "b"))
        return identity(dataset, dataset.split("val"), 8, "none")

    first = known("one", [b"1", b"2"])
    assert known("moved", [b"1", b"2"], seconds=2.0) == first  # as fast as it was made, wherever it lies
    assert known("another", [b"1", b"3"]) != first


def damage(path: Path, how: str) -> None:
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[:-100], "empty": b"", "flipped": whole[:-50] + b"\x7f\x7f" + whole[-48:]}[how])


@pytest.mark.parametrize("how", ["cut", "empty", "flipped"])
def test_a_damaged_checkpoint_is_set_aside_with_a_line(how, tmp_path, caplog):
    path = tmp_path / "checkpoint.safetensors"
    (tmp_path / "checkpoint.safetensors.damaged-1").write_bytes(b"of an earlier time")
    stopped_after(3, TINY, path)
    damage(path, how)
    with caplog.at_level(logging.WARNING, "tailsmith"):
        rest = list(training(TINY).resumable(path, "colours"))
    assert [each.step for each in rest] == [1, 2, 3, 4, 5, 6] and outcome(rest) == outcome(list(training(TINY)))
    assert "is damaged: set aside as checkpoint.safetensors.damaged-2; training starts again" in caplog.text
    assert (tmp_path / "checkpoint.safetensors.damaged-1").read_bytes() == b"of an earlier time"


def test_a_version_that_goes_on_otherwise_starts_again_and_an_upgrade_alone_goes_on(tmp_path, caplog, monkeypatch):
    path = tmp_path / "checkpoint.safetensors"
    stopped_after(3, TINY, path)
    monkeypatch.setattr("tailsmith.classification.training.__version__", "9.9.9", raising=False)
    assert next(training(TINY).resumable(path, "colours")).step > 1
    monkeypatch.setattr("tailsmith.classification.checkpoint.FORMAT", "other")
    with caplog.at_level(logging.WARNING, "tailsmith"):
        assert next(training(TINY).resumable(path, "colours")).step == 1
    assert "is of another version of tailsmith: set aside as checkpoint.safetensors.damaged-1; training" in caplog.text


def test_a_file_of_another_kind_is_set_aside_too(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    list(training(TINY))[-1].classifier.save(tmp_path)
    (tmp_path / "model.safetensors").rename(path)
    assert len(list(training(TINY).resumable(path, "colours"))) == 6


def test_only_the_checkpoint_is_removed(tmp_path):
    path = tmp_path / "training" / "checkpoint.safetensors"
    stopped_after(2, TINY, path)
    (path.parent / "notes.txt").write_text("mine")
    discard(path)
    assert [each.name for each in path.parent.iterdir()] == ["notes.txt"]
    discard(path)  # nothing to do
    discard(tmp_path / "never" / "checkpoint.safetensors")
