"""A plan, what it gives undisturbed, and commands that are disturbed. Run by `make test-faults`."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import tailsmith
from rendering import DATASET, largest_difference
from tailsmith.classification.classifier import Classifier, load_classifier
from tailsmith.data.writers import write_image_folder
from tailsmith.guidance.config import FeedbackConfig
from tailsmith.synthesis.config import SynthesisConfig
from tailsmith.synthesis.plan import Plan
from tailsmith.synthesis.shards import read_shards, shard_path
from tailsmith.synthesis.tries import given_up
from test_bad_input import save_classifier
from tiny import tiny_pipeline

INJECTED = Path(__file__).parent / "injected"
PATIENCE = 300.0


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.faults)


@dataclass(frozen=True)
class Work:
    """All that a disturbed command needs, and the set that it should give."""

    folder: Path
    plan: Plan
    guide: Classifier
    undisturbed: object

    def command(self, out: Path, *options: str) -> list[str]:
        files = ["plan.parquet", "--data", str(self.folder / "data"), "--out", str(out)]
        guide = ["--classifier", str(self.folder / "guide")]
        return [sys.executable, "-m", "tailsmith", "synthesize", *files, *guide, *options]

    def start(self, out: Path, *options: str, faults: dict | None = None) -> subprocess.Popen:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
        if faults is not None:
            spec = out.parent / f"{out.name}.faults.json"
            spec.write_text(json.dumps(faults))
            environment |= {"FAULTS": str(spec), "PYTHONPATH": str(INJECTED)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(self.command(out, *options), cwd=self.folder, env=environment, **pipes)

    def run(self, out: Path, *options: str, faults: dict | None = None, code: int = 0) -> str:
        """What the command said; it ended with this exit code."""
        process = self.start(out, *options, faults=faults)
        try:
            said, _ = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
        assert process.returncode == code, said
        return said

    def check(self, out: Path, lacking: set[str] = frozenset()) -> None:
        """The set is the undisturbed one, id for id; but for requests that were given up."""
        results = read_shards(out, self.plan, images=True)
        assert results["request_id"].tolist() == self.plan.table["request_id"].tolist()
        assert set(given_up(results)) == set(lacking)
        sound = ~results["request_id"].isin(list(lacking))
        assert largest_difference(results[sound], self.undisturbed[sound]) <= 1
        left = [each.name for each in out.iterdir() if each.name.startswith(".") and each.name != ".plan-lock"]
        assert not left, left


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    write_image_folder(DATASET, folder / "data")
    dataset = tailsmith.load(folder / "data")
    tiny_pipeline().save_pretrained(folder / "generator")
    save_classifier(folder / "guide", *dataset.class_names)
    guide = load_classifier(folder / "guide")
    config = SynthesisConfig(feedback=FeedbackConfig(every=2), num_inference_steps=4, guidance_scale=2.0, shard_size=3)
    plan = tailsmith.plan(dataset, 12, config=config, generator=str(folder / "generator"), classifier=guide)
    plan.write(folder / "plan.parquet")
    tailsmith.synthesize(plan, dataset, folder / "undisturbed", classifier=guide)
    return Work(folder, plan, guide, read_shards(folder / "undisturbed", plan))


def until(there: Callable[[], object], process: subprocess.Popen, patience: float = PATIENCE) -> None:
    """Wait for something that a running command does."""
    deadline = time.monotonic() + patience
    while not there():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def shards_there(out: Path, plan: Plan) -> int:
    return sum(shard_path(out, number).exists() for number in plan.shards)
