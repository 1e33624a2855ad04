"""A training of two processes, one of which is killed: all end, and the same command goes on to the same classifier."""

import os
import signal
import subprocess
import sys

import psutil
import pytest
import torch
from safetensors.torch import load_file

from faults.conftest import until

TRAIN = ["--train.steps=60", "--train.batch-size=8", "--train.checkpoint_every=10", "--train.evaluate-every=60"]


def command(work, out, *own):
    arguments = ["train", str(work.folder / "data"), "--out", str(out), *TRAIN, *own]
    together = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tailsmith"]
    return [sys.executable, *together, *arguments]


def start(work, out, *own):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command(work, out, *own), env=os.environ | {"OMP_NUM_THREADS": "1"}, **pipes)


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_killed_rank_ends_all_and_the_same_command_goes_on(work, tmp_path):
    out = tmp_path / "killed"
    both = start(work, out)
    ranks = []

    def checkpointed():
        ranks[:] = [each for each in psutil.Process(both.pid).children() if "tailsmith" in " ".join(each.cmdline())]
        return len(ranks) == 2 and list(tmp_path.rglob("*checkpoint*.safetensors"))

    until(checkpointed, both)
    ranks[1].send_signal(signal.SIGKILL)
    said, _ = both.communicate(timeout=120)
    assert both.returncode != 0 and "SIGKILL" in said
    _, alive = psutil.wait_procs(ranks, timeout=30)
    assert not alive and not (out / "model.safetensors").exists()
    again = start(work, out)
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0, said
    undisturbed = start(work, tmp_path / "undisturbed")
    said, _ = undisturbed.communicate(timeout=300)
    assert undisturbed.returncode == 0, said
    one, two = (load_file(folder / "model.safetensors") for folder in (tmp_path / "undisturbed", out))
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=1e-5, rtol=1e-3, msg=name)
