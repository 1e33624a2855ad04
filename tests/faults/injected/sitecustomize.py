"""Faults put into worker processes: read by Python at its start, where this folder is on PYTHONPATH.

The file that FAULTS names says which: {"fail": [requests], "kill": [...], "hang": [...], "slow": seconds,
"write": errno}. Those of "once" happen one time, whichever process meets them first.
"""

import json
import os
import signal
import sys
import time
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import PathFinder
from pathlib import Path


def _spec():
    return json.loads(Path(os.environ["FAULTS"]).read_text())


def _due(what):
    """Whether a fault happens now: always, or the first time only."""
    spec = _spec()
    if what not in spec.get("once", ()):
        return True
    try:
        os.close(os.open(f"{os.environ['FAULTS']}.{what}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def _in_worker(module):
    make = module.Worker._make

    def faulty(worker, batch, *rest):
        spec, requests = _spec(), set(batch["request_id"])
        time.sleep(spec.get("slow", 0) * len(batch))
        if requests & set(spec.get("fail", ())) and _due("fail"):
            raise FloatingPointError("poisoned")
        if requests & set(spec.get("kill", ())) and _due("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        if requests & set(spec.get("hang", ())) and _due("hang"):
            time.sleep(3600)
        return make(worker, batch, *rest)

    module.Worker._make = faulty


def _in_files(module):
    replace = os.replace

    def faulty(source, target):
        if Path(target).name.startswith("shard-") and "write" in _spec() and _due("write"):
            number = _spec()["write"]
            raise OSError(number, os.strerror(number), str(target))
        replace(source, target)

    module.os.replace = faulty


PATCHES = {"tailsmith.synthesis.worker": _in_worker, "tailsmith.files": _in_files}


class _Patching(Loader):
    def __init__(self, loader, patch):
        self.loader, self.patch = loader, patch

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        self.loader.exec_module(module)
        self.patch(module)


class _Finder(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name not in PATCHES:
            return None
        spec = PathFinder.find_spec(name, path)
        spec.loader = _Patching(spec.loader, PATCHES[name])
        return spec


if "FAULTS" in os.environ:
    sys.meta_path.insert(0, _Finder())
