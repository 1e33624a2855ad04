"""Workers of the local engine that fail, die, hang and meet a bad disk: the set is the undisturbed one."""

import errno
import os
import signal
import time

import psutil
import pytest

from faults.conftest import shards_there, until
from tailsmith.synthesis.engines.status import read_statuses

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
TWO = ("--workers", "2", "--batch_size", "2")


def request(work, row):
    return work.plan.table["request_id"][row]


def test_a_request_that_fails_on_every_worker_is_given_up_and_named(work, tmp_path):
    bad = {request(work, 4), request(work, 9)}
    said = work.run(tmp_path / "set", *TWO, faults={"fail": sorted(bad)}, code=3)
    assert all(f"request {each} was given up: FloatingPointError: poisoned" in said for each in bad), said
    assert "2 of the requests were given up, the others are there" in said and "Traceback" not in said
    work.check(tmp_path / "set", lacking=bad)


def test_a_request_that_kills_its_process_every_time_is_given_up(work, tmp_path):
    bad = request(work, 4)
    said = work.run(tmp_path / "set", *TWO, faults={"kill": [bad]}, code=3)
    assert f"request {bad} was given up: the process that rendered it was killed, or crashed, each time" in said
    work.check(tmp_path / "set", lacking={bad})


def test_a_worker_that_hangs_is_replaced(work, tmp_path):
    faults = {"hang": [request(work, 4)], "once": ["hang"]}
    said = work.run(tmp_path / "set", *TWO, "--stalled_after", "25", faults=faults)
    assert "was killed (exit code 1)" in said
    work.check(tmp_path / "set")


def test_a_worker_that_is_killed_once_is_replaced_and_nothing_is_lost(work, tmp_path):
    said = work.run(tmp_path / "set", *TWO, faults={"kill": [request(work, 0)], "once": ["kill"]})
    assert "was killed (exit code -9)" in said
    work.check(tmp_path / "set")


@pytest.mark.parametrize(
    ("number", "line"),
    [(errno.ENOSPC, "disk full while writing"), (errno.EIO, "Input/output error")],
    ids=["full disk", "failing disk"],
)
def test_a_disk_that_fails_is_one_line_and_the_same_command_goes_on(number, line, work, tmp_path):
    said = work.run(tmp_path / "set", *TWO, faults={"write": number, "once": ["write"]}, code=2)
    assert line in said and "Traceback" not in said, said
    work.run(tmp_path / "set", *TWO)
    work.check(tmp_path / "set")


def test_the_driver_is_killed_and_its_workers_end_too(work, tmp_path):
    out = tmp_path / "set"
    driver = work.start(out, *TWO, faults={"slow": 0.2})
    until(lambda: shards_there(out, work.plan) >= 1, driver)
    workers = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(signal.SIGKILL)
    driver.communicate(timeout=60)  # until the workers have ended, too: they share its output
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive and shards_there(out, work.plan) < len(work.plan.shards)
    work.run(out, *TWO)
    work.check(out)


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_ends_within_thirty_seconds_and_what_was_made_is_kept(workers, work, tmp_path):
    out = tmp_path / "set"
    driver = work.start(out, "--workers", str(workers), "--batch_size", "1", faults={"slow": 0.3})
    until(lambda: shards_there(out, work.plan) >= 1, driver)
    begin = time.monotonic()
    driver.send_signal(signal.SIGTERM)
    said, _ = driver.communicate(timeout=40)
    assert time.monotonic() - begin < 30 and driver.returncode == 143
    assert "nothing already written is lost" in said and not list(out.glob("*.claim"))
    work.run(out, "--workers", str(workers))
    work.check(out)


def test_two_commands_in_one_folder_make_one_set(work, tmp_path):
    out = tmp_path / "set"
    both = [work.start(out, "--batch_size", "2", faults={"slow": 0.1}) for _ in range(2)]
    said = [each.communicate(timeout=300)[0] for each in both]
    assert [each.returncode for each in both] == [0, 0], said
    work.check(out)


def test_statuses_say_who_made_how_much_and_how_it_ended(work, tmp_path):
    work.run(tmp_path / "set", *TWO)
    statuses = read_statuses(tmp_path / "set")
    assert sum(each.images for each in statuses) == len(work.plan)
    assert {each.ended for each in statuses} == {"finished"} and {each.engine for each in statuses} == {"local"}
