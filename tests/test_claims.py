"""Several processes on one plan: each shard is rendered once, and what dead processes leave stops nobody."""

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing

import numpy as np
import pytest

from rendering import tiny_plan
from tailsmith.data.packed import write_packed
from tailsmith.synthesis import claims
from tailsmith.synthesis.claims import claim_path, claimed, in_turn, sweep
from tailsmith.synthesis.shards import shard_path

PLAN = tiny_plan(feedback_scale=0.0, shard_size=1)  # ten shards


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(claims, "POLL_SECONDS", 0.02)


def write(folder, number):
    """A shard that passes every check, of no picture."""
    requests = PLAN.shard(number)
    results = {"criterion_value": np.nan, "skipped_steps": 0, "retries": 0, "black": False, "seconds": 1.0}
    write_packed(
        requests.assign(image=[b"x"] * len(requests), **results), shard_path(folder, number), {"plan": PLAN.identity}
    )


def work(folder, rendered, others=lambda number: None):
    with closing(in_turn(folder, PLAN.shards, others)) as turns:
        for number in turns:
            time.sleep(0.01)
            write(folder, number)
            rendered.append(number)


def held_by(folder, number, **holder):
    path = claim_path(folder, number)
    path.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "token": "t", **holder}))
    return path


def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_each_shard_is_rendered_once_and_all_wait_for_all(tmp_path):
    rendered, told = [], []
    finished = []

    def worker():
        work(tmp_path, rendered, told.append)
        finished.append(all(shard_path(tmp_path, number).exists() for number in PLAN.shards))

    threads = [threading.Thread(target=worker) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(rendered) == PLAN.shards
    assert finished == [True] * 4
    assert len(told) == 3 * len(PLAN.shards)  # what others made, to each of the others
    assert not list(tmp_path.glob(".*"))


def test_a_claim_of_another_machine_is_waited_for(tmp_path, caplog):
    path = held_by(tmp_path, 3, host="elsewhere", pid=17)

    def elsewhere():
        write(tmp_path, 3)
        path.unlink()

    rendered = []
    timer = threading.Timer(1.0, elsewhere)
    timer.start()
    with caplog.at_level(logging.WARNING, "tailsmith"):
        work(tmp_path, rendered)
    timer.join()
    assert rendered == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert caplog.messages == [
        "waiting for 1 of the shards, which others render: shard-00003.parquet by process 17 on elsewhere"
    ]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x", "host": 3}', '{"pid": 1e400}', "\xff"])
def test_a_stale_claim_is_taken_over_whatever_it_holds(content, tmp_path):
    path = claim_path(tmp_path, 0)
    path.write_bytes(content.encode("latin-1"))
    with claimed(tmp_path, 0) as mine:
        assert not mine
    said = content.startswith('{"')
    os.utime(path, (time.time() - (claims.STALE_SECONDS if said else claims.UNWRITTEN_SECONDS) - 1,) * 2)
    with claimed(tmp_path, 0) as mine:
        assert mine
    assert [each.name for each in tmp_path.iterdir()] == [".tries-00000.jsonl"]  # a process has failed at it


@pytest.mark.skipif(os.name == "nt", reason="asks whether a process is there")
def test_a_dead_process_on_this_machine_is_not_waited_for(tmp_path):
    held_by(tmp_path, 0, pid=dead_pid())
    held_by(tmp_path, 1)  # this process's number, in an earlier life
    held_by(tmp_path, 2, pid=2**70)
    for number in (0, 1, 2):
        with claimed(tmp_path, number) as mine:
            assert mine
    held_by(tmp_path, 3, pid=os.getppid())
    with claimed(tmp_path, 3) as mine:
        assert not mine


def test_of_two_that_see_the_same_stale_claim_one_gets_it(tmp_path, monkeypatch):
    held_by(tmp_path, 0, host="elsewhere")
    fresh = {"host": "faster", "pid": 1, "token": "new"}

    def stale(path):  # between this look and the move, a faster process takes over
        path.write_text(json.dumps(fresh))
        return True

    monkeypatch.setattr(claims, "_is_stale", stale)
    with claimed(tmp_path, 0) as mine:
        assert not mine
    assert json.loads(claim_path(tmp_path, 0).read_text()) == fresh
    assert len(list(tmp_path.iterdir())) == 1


def test_a_claim_is_touched_while_it_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "TOUCH_SECONDS", 0.02)
    with claimed(tmp_path, 0):
        os.utime(claim_path(tmp_path, 0), (0, 0))
        deadline = time.monotonic() + 20
        while claim_path(tmp_path, 0).stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert json.loads(claim_path(tmp_path, 0).read_text())["pid"] == os.getpid()


def test_whoever_leaves_early_leaves_no_claim_and_removes_nobody_elses(tmp_path):
    with closing(in_turn(tmp_path, [0], print)) as turns:
        assert next(turns) == 0
        assert claim_path(tmp_path, 0).exists()
    assert not list(tmp_path.iterdir())
    with claimed(tmp_path, 0):
        taken_over = held_by(tmp_path, 0, host="elsewhere")  # while this process slept
    assert taken_over.exists()


def test_what_killed_processes_left_is_cleared(tmp_path):
    old, other = tmp_path / ".shard-00001.parquet.0123456789ab.tmp", tmp_path / ".plan.parquet.0123456789ab.tmp"
    young, mine = tmp_path / ".shard-00002.parquet.0123456789ab.tmp", tmp_path / ".shard-notes.tmp"
    for path in (old, other, young, mine):
        path.write_bytes(b"half")
    for path in (old, other, mine):
        os.utime(path, (0, 0))
    write(tmp_path, 0)
    held_by(tmp_path, 0, pid=dead_pid())  # killed after its shard was in place
    kept = held_by(tmp_path, 5, host="elsewhere")
    sweep(tmp_path)
    assert {path.name for path in tmp_path.glob(".*")} == {young.name, mine.name, kept.name}
    with claimed(tmp_path, 2):
        assert not young.exists()  # whoever holds the claim is the only writer
