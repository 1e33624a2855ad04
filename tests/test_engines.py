"""Worker processes that share a plan's shards: the same images, whoever makes them and whoever is killed."""

import errno
import logging
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import tailsmith
from rendering import DATASET, largest_difference
from tailsmith.classification.classifier import load_classifier
from tailsmith.data.dataset import Dataset, make_table
from tailsmith.data.decoding import Decoding
from tailsmith.data.manifest import read_manifest, write_manifest
from tailsmith.errors import UserError
from tailsmith.guidance.config import FeedbackConfig
from tailsmith.interruption import Terminated
from tailsmith.synthesis.config import SynthesisConfig
from tailsmith.synthesis.engines import local
from tailsmith.synthesis.engines.config import Workers
from tailsmith.synthesis.engines.local import Report
from tailsmith.synthesis.engines.status import read_statuses
from tailsmith.synthesis.fulfilment import ENGINES
from tailsmith.synthesis.rendering import render_job, written_job
from tailsmith.synthesis.shards import read_shards
from test_bad_input import save_classifier
from tiny import TinyClassifier, tiny_pipeline

CONFIG = SynthesisConfig(
    feedback=FeedbackConfig(criterion={"entropy": 0.5, "hardness": 0.5}, every=2),
    num_inference_steps=4,
    guidance_scale=2.0,
    shard_size=3,
)


@pytest.fixture(scope="module")
def guide(tmp_path_factory):
    """One that a folder can hold."""
    return load_classifier(save_classifier(tmp_path_factory.mktemp("guide"), *DATASET.class_names))


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generator")
    tiny_pipeline().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def plan(generator, guide):
    return tailsmith.plan(DATASET, 9, config=CONFIG, generator=generator, classifier=guide)


@pytest.fixture(scope="module")
def one_worker(plan, guide, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    tailsmith.synthesize(plan, DATASET, folder, classifier=guide)
    return read_shards(folder, plan)


def test_a_manifest_is_the_dataset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("photo.png").write_bytes(DATASET.encoded(0))
    table = make_table(
        [0, 1], image_ids=["a", "b"], paths=["photo.png", None], encoded=[None, DATASET.encoded(1)], attributes=[-1, 0]
    )
    dataset = Dataset(table, ("x", "y"), ("z",), "mine", "MIT", Decoding(5.0, {"16-bit": (3.0, 9.0)}))
    write_manifest(dataset, Path("manifest.parquet"))
    monkeypatch.chdir("/")
    again = read_manifest(tmp_path / "manifest.parquet")
    assert again.table["path"].tolist() == [str(tmp_path / "photo.png"), None]
    for name in ("image_id", "bytes", "label", "attribute", "split", "source"):
        assert again.table[name].tolist() == table[name].tolist()
    assert (again.class_names, again.attribute_names, again.name, again.licence) == (("x", "y"), ("z",), "mine", "MIT")
    assert again.decoding == dataset.decoding
    assert again.content_hash(0) == DATASET.content_hash(0)


def test_workers_make_what_one_process_makes(plan, guide, one_worker, tmp_path, monkeypatch):
    told: list[int] = []
    monkeypatch.setitem(
        ENGINES, "local", lambda job, n, advance: local.run_job(job, n, lambda more: (told.append(more), advance(more)))
    )
    made = tailsmith.synthesize(plan, DATASET, tmp_path, classifier=guide, workers=2)
    assert len(made) == len(plan) == sum(told)
    shared = read_shards(tmp_path, plan)
    assert largest_difference(shared, one_worker) <= 1
    np.testing.assert_allclose(shared["criterion_value"], one_worker["criterion_value"], rtol=1e-3, atol=0.05)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".") and path.name != ".plan-lock"]
    statuses = read_statuses(tmp_path)
    assert [each.ended for each in statuses] == ["finished"] * 2 and len({each.process for each in statuses}) == 2
    assert sum(each.images for each in statuses) == len(plan)


def started_and(monkeypatch, then):
    """`then(process)` for each worker process that the local engine starts."""
    start = local._Crew._start

    def begin(crew, slot):
        start(crew, slot)
        then(slot.process)

    monkeypatch.setattr(local._Crew, "_start", begin)


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_killed_worker_is_replaced(plan, guide, one_worker, tmp_path, monkeypatch, caplog):
    started: list[int] = []

    def kill_the_first(process):
        started.append(process.pid)
        if len(started) == 1:
            os.kill(process.pid, signal.SIGKILL)

    started_and(monkeypatch, kill_the_first)
    tailsmith.synthesize(plan, DATASET, tmp_path, classifier=guide, workers=2)
    assert "worker 0 was killed (exit code -9)" in caplog.text and len(started) == 3
    assert largest_difference(read_shards(tmp_path, plan), one_worker) <= 1


@pytest.mark.skipif(os.name == "nt", reason="needs SIGTERM")
def test_sigterm_ends_the_workers_and_the_same_call_goes_on(plan, guide, one_worker, tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        started_and(patch, lambda process: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Terminated):
            tailsmith.synthesize(plan, DATASET, tmp_path, classifier=guide, workers=2)
    assert signal.getsignal(signal.SIGTERM) is before and not list(tmp_path.glob(".job*"))
    tailsmith.synthesize(plan, DATASET, tmp_path, classifier=guide)
    assert largest_difference(read_shards(tmp_path, plan), one_worker) <= 1


def test_a_worker_that_refuses_speaks_through_the_caller(plan, guide, tmp_path):
    with written_job(plan, DATASET, tmp_path, plan.shards, guide, None, 4) as job:
        other = replace(job, plan_identity="another")
        with pytest.raises(ValueError, match="is not the plan that this job is of"):
            local.run_job(other, Workers(1), print)


class Ended:
    """The process of a worker that has ended."""

    name, exitcode, pid = "worker 0", -9, 0

    def __init__(self, exitcode=-9):
        self.exitcode = exitcode

    def join(self, seconds=None):
        pass

    def is_alive(self):
        return False


def crew_of(monkeypatch, reports, exitcode):
    """A crew of one whose worker says this each time, and then ends."""

    def start(crew, slot):
        receiver, sender = multiprocessing.Pipe(duplex=False)
        for each in reports:
            sender.send(each)
        sender.close()
        slot.process, crew.receivers[receiver] = Ended(exitcode), slot
        starts.append(slot.number)

    starts: list[int] = []
    monkeypatch.setattr(local._Crew, "_start", start)
    advanced: list[int] = []
    return local._Crew(None, Workers(1), advanced.append), starts, advanced


def test_workers_that_are_all_killed_again_and_again_are_one_line_for_the_user(monkeypatch):
    crew, starts, _ = crew_of(monkeypatch, [], -9)
    with pytest.raises(UserError, match=r"all workers were killed; .* run the same command again, with fewer workers"):
        crew.work()
    assert len(starts) == 1 + local.RESTARTS


def test_what_a_killed_worker_had_not_written_is_not_counted(monkeypatch):
    monkeypatch.setattr(local, "RESTARTS", 0)
    made = [Report(3), Report(finished=True), Report(2)]
    crew, _, advanced = crew_of(monkeypatch, made, -9)
    with pytest.raises(UserError, match="all workers were killed"):
        crew.work()
    assert sum(advanced) == 3


@pytest.mark.parametrize(
    ("error", "raised", "said", "times"),
    [
        (UserError("mend this"), UserError, "mend this", 1),
        (OSError(errno.ENOSPC, "full", "shard.parquet"), OSError, "shard.parquet", 1),
        (ValueError("of numpy"), RuntimeError, "ValueError: of numpy", local.FAULTS),
    ],
)
def test_a_worker_tells_what_the_user_can_mend_from_a_fault(error, raised, said, times, monkeypatch, tmp_path):
    def fail(job, advance, *, finished):
        raise error

    monkeypatch.setattr(local.signal, "signal", lambda *_: None)
    monkeypatch.setattr(local.torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr(logging.getLogger("tailsmith.synthesis.claims"), "level", logging.NOTSET)  # put back after
    monkeypatch.setattr(local, "_end_with_parent", lambda: None)
    monkeypatch.setattr(local.devices, "use", lambda _: None)
    monkeypatch.setattr(local, "render_job", fail)
    receiver, sender = multiprocessing.Pipe(duplex=False)
    local._work(SimpleNamespace(out=tmp_path), "cpu", 1, 60.0, sender)
    crew, starts, _ = crew_of(monkeypatch, [receiver.recv()], 0)
    with pytest.raises(raised, match=said) as caught:
        crew.work()
    assert getattr(caught.value, "errno", None) == getattr(error, "errno", None) and len(starts) == times
    (status,) = read_statuses(tmp_path)
    assert said in status.ended


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"plan_identity": "another"}, "plan.parquet is not the plan that this job is of"),
        ({"classifier_sha256": "another"}, "classifier is not the classifier that this job is of"),
        ({"gaussians": Path("nowhere")}, "nowhere holds no class Gaussians of this job's classifier"),
    ],
)
def test_a_job_is_held_to_its_hashes(changes, what, plan, guide, tmp_path):
    with written_job(plan, DATASET, tmp_path, plan.shards, guide, None, 4) as job:
        with pytest.raises(ValueError, match=what):
            render_job(replace(job, **changes), print)
        files = job.plan.parent
    assert not files.exists()


def test_a_job_is_paths_hashes_and_numbers(plan, guide, tmp_path):
    with written_job(plan, DATASET, tmp_path, [0], guide, None, 4) as job:
        for value in vars(job).values():
            assert isinstance(value, Path | str | int | tuple | None)
        assert job.out.is_absolute() and job.conditioning.is_absolute()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"workers": 0}, "workers should be at least 1, got 0"),
        ({"workers": 2, "pipe": object()}, "2 local workers load the plan's generator themselves; leave `pipe` out"),
        ({"workers": 2, "classifier": TinyClassifier()}, "which can't be done with a module of your own"),
    ],
)
def test_what_workers_can_not_do_is_refused(options, what, plan, guide, tmp_path):
    with pytest.raises(ValueError, match=what):
        tailsmith.synthesize(plan, DATASET, tmp_path, **{"classifier": guide, **options})
    assert not list(tmp_path.iterdir())


def test_one_worker_for_each_accelerator(monkeypatch):
    assert local.worker_devices(3) == ["cpu"] * 3
    monkeypatch.setattr(local.devices, "chosen_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert local.worker_devices(3) == ["cuda:0", "cuda:1", "cuda:0"]
    monkeypatch.setattr(local.devices, "chosen_device", lambda: torch.device("cuda:1"))
    assert local.worker_devices(2) == ["cuda:1", "cuda:1"]
