"""The engines for many machines: on this one, with their own processes killed."""

import os
import signal
import threading
import time

import pytest

import tailsmith
from faults.conftest import shards_there
from tailsmith.synthesis.engines.config import Workers
from tailsmith.synthesis.engines.status import read_statuses

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
SLURM = ("--engine", "slurm", "--engine_options", '{"cluster": "local", "timeout_min": "10"}', "--workers", "2")
RAY = ("--engine", "ray", "--engine_options", '{"num_cpus": "1"}', "--workers", "2")


def in_background(work, out, workers):
    """A synthesis in a thread, and what it raised."""
    raised: list[BaseException] = []

    def run():
        try:
            tailsmith.synthesize(
                work.plan, tailsmith.load(work.folder / "data"), out, classifier=work.guide, workers=workers
            )
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, raised


def killed_once(work, out, thread, patience=200):
    """Kill the first worker that has made something, while others are still to be made."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and thread.is_alive():
        made = [each for each in read_statuses(out) if each.images]
        if made and shards_there(out, work.plan) < len(work.plan.shards):
            os.kill(made[0].process, signal.SIGKILL)
            return made[0].process
        time.sleep(0.02)
    raise AssertionError("no worker to kill")


@pytest.fixture
def slow_workers(monkeypatch, tmp_path):
    """Processes that are started now render slowly enough to be killed in the middle."""
    spec = tmp_path / "faults.json"
    spec.write_text('{"slow": 0.7}')
    from faults.conftest import INJECTED

    monkeypatch.setenv("FAULTS", str(spec))
    monkeypatch.setenv("PYTHONPATH", str(INJECTED))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setattr("tailsmith.synthesis.engines.status.EVERY_SECONDS", 0.0)


@pytest.mark.parametrize("options", [SLURM, RAY], ids=["slurm", "ray"])
def test_an_engine_makes_the_set_and_a_poisoned_request_is_given_up(options, work, tmp_path):
    if options is RAY:
        pytest.importorskip("ray")
    bad = work.plan.table["request_id"][4]
    said = work.run(tmp_path / "set", *options, "--batch_size", "2", faults={"fail": [bad]}, code=3)
    assert f"request {bad} was given up: FloatingPointError: poisoned" in said
    work.check(tmp_path / "set", lacking={bad})
    assert {each.engine for each in read_statuses(tmp_path / "set")} == {options[1]}


def test_a_slurm_job_that_is_killed_leaves_its_shard_to_the_others(work, tmp_path, slow_workers):
    out = tmp_path / "set"
    options = {"cluster": "local", "timeout_min": "10"}
    thread, raised = in_background(work, out, Workers(2, "slurm", options))
    killed_once(work, out, thread)
    thread.join(300)
    assert not thread.is_alive() and not raised, raised
    work.check(out)


def test_a_ray_actor_that_is_killed_is_restarted(work, tmp_path, slow_workers):
    pytest.importorskip("ray")
    out = tmp_path / "set"
    thread, raised = in_background(work, out, Workers(2, "ray", {"num_cpus": "1"}))
    killed_once(work, out, thread)
    thread.join(300)
    assert not thread.is_alive() and not raised, raised
    work.check(out)


def test_a_ray_node_that_goes_leaves_its_shards_to_the_others(work, tmp_path, slow_workers):
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    out = tmp_path / "set"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        node = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        thread, raised = in_background(work, out, Workers(2, "ray", {"address": cluster.address, "num_cpus": "1"}))
        deadline = time.monotonic() + 200
        while shards_there(out, work.plan) < 1 and thread.is_alive():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        cluster.remove_node(node, allow_graceful=False)
        thread.join(300)
        assert not thread.is_alive() and not raised, raised
    finally:
        ray.shutdown()
        cluster.shutdown()
    work.check(out)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--engine", "cloud"), "engine should be one of local, ray, slurm, got 'cloud'"),
        (("--engine_options", '{"a": "b"}'), "engine local has no engine_options"),
        (("--engine", "slurm", "--engine_options", '{"color": "red"}'), "Slurm can't be used with engine_options"),
        (("--engine", "ray", "--engine_options", '{"num_gpus": "9"}'), "no node of the Ray cluster has room for"),
        (("--engine", "ray", "--engine_options", '{"color": "red"}'), "Ray can't be reached with engine_options"),
    ],
)
def test_what_an_engine_can_not_do_is_one_line(options, said, work, tmp_path):
    if options[1] == "ray":
        pytest.importorskip("ray")
    heard = work.run(tmp_path / "set", *options, code=2)
    assert said in heard and "Traceback" not in heard
