"""Processes killed at random for minutes, and the count of what was lost and what was doubled: none and none."""

import os
import random
import signal
import time

import psutil
import pytest

from faults.conftest import shards_there
from tailsmith.synthesis.shards import read_shards

SECONDS = float(os.environ.get("SOAK_SECONDS", "150"))


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
@pytest.mark.timeout(SECONDS + 600)
def test_soak(work, tmp_path):
    draws, kills, drivers, sets = random.Random(0), 0, 0, 0
    lost = doubled = 0
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline or not sets:
        out = tmp_path / f"set-{sets}"
        while shards_there(out, work.plan) < len(work.plan.shards):
            last = time.monotonic() >= deadline
            driver = work.start(out, "--workers", "2", "--batch_size", "1", faults={"slow": 0.0 if last else 0.15})
            while driver.poll() is None:
                time.sleep(draws.uniform(0.5, 6))
                if time.monotonic() >= deadline:
                    driver.wait(timeout=300)
                    break
                victims = _workers_of(driver)
                if draws.random() < 0.15:
                    driver.send_signal(signal.SIGKILL)
                    drivers += 1
                elif victims:
                    draws.choice(victims).kill()
                    kills += 1
            said, _ = driver.communicate()
            assert "Traceback" not in said, said
        work.run(out)  # clears what is left, and finds nothing to do
        requests = read_shards(out, work.plan, images=True)["request_id"]
        lost += len(set(work.plan.table["request_id"]) - set(requests))
        doubled += int(requests.duplicated().sum())
        work.check(out)
        sets += 1
    print(f"\nsoak: {sets} sets, {kills} workers and {drivers} drivers killed; {lost} lost, {doubled} doubled")
    assert (lost, doubled) == (0, 0) and kills + drivers > 0


def _workers_of(driver):
    try:
        children = psutil.Process(driver.pid).children()
        return [each for each in children if "spawn_main" in " ".join(each.cmdline())]
    except psutil.NoSuchProcess:
        return []
