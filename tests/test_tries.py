"""Requests that fail whoever renders them: the rest goes on, and it is said which, and why."""

import json
import logging
import socket

import numpy as np
import pandas as pd
import pytest
import torch

import tailsmith
from rendering import DATASET, largest_difference, tiny_plan
from tailsmith.cli.synthesize_command import said_of_given_up
from tailsmith.synthesis import one_shard, tries
from tailsmith.synthesis.claims import claim_path
from tailsmith.synthesis.sets import rendered
from tailsmith.synthesis.shards import read_shards, shard_path
from tailsmith.synthesis.tries import Tries, given_up
from tailsmith.synthesis.worker import Worker
from tiny import tiny_pipeline

PLAN = tiny_plan((4, 2, 4), feedback_scale=0.0)
POISON = "0-(-1)-1"


@pytest.fixture(scope="module")
def pipe():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def undisturbed(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    tailsmith.synthesize(PLAN, DATASET, folder, pipe=pipe)
    return read_shards(folder, PLAN)


def poisoned(monkeypatch, *requests, error=lambda: FloatingPointError("it can't\nbe sampled"), times=10**9):
    """Batches with one of these requests fail so many times; -> the batches that were tried."""
    make, batches = Worker._make, []

    def fail(worker, batch, *rest):
        batches.append(batch["request_id"].tolist())
        bad = set(requests) & set(batches[-1])
        if bad and sum(bool(bad & set(each)) for each in batches) <= times:
            raise error()
        return make(worker, batch, *rest)

    monkeypatch.setattr(Worker, "_make", fail)
    return batches


def name(row):
    return PLAN.table["request_id"][row]


def test_a_request_that_always_fails_is_given_up_and_the_rest_is_what_it_would_be(
    pipe, undisturbed, tmp_path, monkeypatch, caplog
):
    batches = poisoned(monkeypatch, name(1), name(9))
    made = tailsmith.synthesize(PLAN, DATASET, tmp_path, pipe=pipe)
    assert len(made) == len(PLAN) - 2
    results = read_shards(tmp_path, PLAN)
    assert given_up(results) == dict.fromkeys((name(1), name(9)), "FloatingPointError: it can't be sampled")
    sound = results["error"].isna()
    assert largest_difference(results[sound], undisturbed[sound]) <= 1
    assert results["black"][~sound].all() and not results["black"][sound].any()
    alone = [each for each in batches if each == [name(1)]]
    assert len(alone) == tries.TRIES and not list(tmp_path.glob(".*"))
    assert f"request {name(1)} is given up: FloatingPointError" in caplog.text
    assert rendered(tmp_path, PLAN.shards)["given_up"].keys() == {name(1), name(9)}
    batches.clear()
    tailsmith.synthesize(PLAN, DATASET, tmp_path, pipe=pipe)
    assert not batches  # a shard that is there is done


def test_one_that_fails_once_is_made_the_second_time(pipe, undisturbed, tmp_path, monkeypatch):
    poisoned(monkeypatch, name(5), times=2)  # in its batch, and then on its own
    assert len(tailsmith.synthesize(PLAN, DATASET, tmp_path, pipe=pipe)) == len(PLAN)
    results = read_shards(tmp_path, PLAN)
    assert largest_difference(results, undisturbed) <= 1 and "error" not in results
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("error", [ValueError("of ours"), OSError("disk"), MemoryError(), torch.OutOfMemoryError()])
def test_what_is_not_the_requests_doing_stops_all_and_counts_as_no_try(error, pipe, tmp_path, monkeypatch):
    if type(error) is ValueError:
        error = tailsmith.errors.UserError("mend this")
    poisoned(monkeypatch, name(5), error=lambda: error)
    with pytest.raises((ValueError, OSError, MemoryError, RuntimeError)):
        tailsmith.synthesize(PLAN, DATASET, tmp_path, pipe=pipe, batch_size=1)
    assert not list(tmp_path.glob(".tries*")) and not list(tmp_path.glob("*.claim"))
    assert one_shard.begun_path(tmp_path, 1).exists()  # what was made of its shard is kept


def test_where_all_fail_it_is_not_the_requests(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(one_shard, "IN_A_ROW", 3)
    poisoned(monkeypatch, *PLAN.table["request_id"])
    with pytest.raises(RuntimeError, match="3 requests failed one after the other, which isn't the requests' doing"):
        tailsmith.synthesize(PLAN, DATASET, tmp_path, pipe=pipe)
    assert not list(tmp_path.glob("shard-*"))


class Died(BaseException):
    """As if the process were killed: nobody can react."""


def test_the_process_that_dies_of_a_request_is_seen_by_the_next(pipe, tmp_path, monkeypatch):
    """Claims of dead processes stand for crashes; a try that was begun and never ended is one."""
    deadly, shard = PLAN.shard(0)["request_id"][0], PLAN.shard(0)["request_id"].tolist()
    claim = {"host": socket.gethostname(), "pid": 2**22 - 3, "time": 0.0, "token": "of a dead process"}
    tried = []

    def die(worker, requests, config):
        tried.append(requests["request_id"].tolist())
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "render", die)
        while not Tries.of(tmp_path, 0).given_up():
            claim_path(tmp_path, 0).write_text(json.dumps(claim))
            with pytest.raises(Died):
                tailsmith.synthesize(PLAN, DATASET, tmp_path, pipe=pipe)
    assert tried == [shard] * (tries.CRASHES - 1) + [[deadly]] * tries.TRIES
    killed = "the process that rendered it was killed, or crashed, each time"
    assert Tries.of(tmp_path, 0).given_up() == {deadly: killed}
    assert len(tailsmith.synthesize(PLAN, DATASET, tmp_path, pipe=pipe)) == len(PLAN) - 1


def test_half_a_line_of_a_dying_process_is_no_event(tmp_path):
    found = Tries.of(tmp_path, 3)
    for _ in range(tries.TRIES):
        found.begin("a")
    found.begin("b")
    with open(found.path, "a") as file:
        file.write('{"request": "b"')
    assert list(found.given_up()) == ["a"] and found.careful
    found.passed("a")
    assert not found.given_up()


def test_shards_without_an_error_have_no_such_column_and_a_mix_is_read(pipe, undisturbed, tmp_path, monkeypatch):
    assert "error" not in undisturbed
    poisoned(monkeypatch, name(0))
    tailsmith.synthesize(PLAN, DATASET, tmp_path, pipe=pipe)
    results = read_shards(tmp_path, PLAN)
    assert results["error"].notna().sum() == 1 and np.array_equal(results["label"], PLAN.table["label"])
    assert "error" not in pd.read_parquet(shard_path(tmp_path, 1)).columns


def test_the_command_says_which_and_why_with_an_exit_code_of_its_own(caplog):
    with caplog.at_level(logging.ERROR, "tailsmith"):
        assert said_of_given_up({}) == 0 and not caplog.text
        assert said_of_given_up({f"r{n}": "it failed" for n in range(7)}) == 3
    assert "request r4 was given up: it failed" in caplog.text and "request r5" not in caplog.text
    assert "7 of the requests were given up, the others are there" in caplog.text
