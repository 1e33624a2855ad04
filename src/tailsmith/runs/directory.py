"""A run's folder: everything it knew and made, readable without tailsmith. The same command again resumes."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from tailsmith.classification.classifier import Classifier, load_classifier, on_accelerator
from tailsmith.data.dataset import Dataset
from tailsmith.data.fingerprint import Fingerprint, changes, fingerprint
from tailsmith.errors import UserError
from tailsmith.files import is_temporary, read_json, remove_leftovers, write_json, write_text
from tailsmith.locks import exclusive
from tailsmith.metrics.accuracy import AccuracyTable
from tailsmith.runs.config import RunConfig
from tailsmith.runs.identity import OF_DATA, differing, is_same_generator
from tailsmith.settings import from_dict, to_dict
from tailsmith.synthesis.sets import SyntheticSet
from tailsmith.yaml_files import read_yaml

CONFIG, COMMAND, FINGERPRINT, LOCK = "config.yaml", "command.json", "data.parquet", ".tailsmith-lock"
PACKAGES = ("tailsmith", "torch", "diffusers", "transformers", "timm", "accelerate", "numpy", "scikit-learn")


@dataclass(frozen=True)
class RunDirectory:
    """`path` and what lies where in it."""

    path: Path

    @staticmethod
    def claim(path: Path, config: RunConfig, command: str, dataset: Dataset | None = None) -> RunDirectory:
        """Make the folder the home of this configuration and data, or refuse one that is another's (ValueError).

        config.yaml is written last and makes the folder a run: what a killed claim left is replaced. Data and generator
        may have moved, as their contents count, and settings that change no result may be others: config.yaml follows.
        """
        directory = RunDirectory(path)
        directory.check(config)
        now = None if dataset is None else fingerprint(dataset)
        with directory.exclusive("begins this run"):
            directory.check(config)
            remove_leftovers(path)
            stored = path / FINGERPRINT
            if directory.is_claimed and now is not None:
                directory.check_data(config, now)
            if now is not None and not (directory.is_claimed and stored.exists()):
                now.write(stored)
            if not (directory.is_claimed and (path / COMMAND).exists()):
                write_json(path / COMMAND, {"command": command, "created": time.strftime("%Y-%m-%d %H:%M")})
            if not directory.is_claimed or directory.config() != config:
                directory.write_config(config)
        return directory

    @staticmethod
    def open(path: Path) -> RunDirectory:
        directory = RunDirectory(path)
        if not directory.is_claimed:
            raise UserError(f"{path} is no run directory: it has no {CONFIG}; make one with `tailsmith run`")
        return directory

    @property
    def is_claimed(self) -> bool:
        return (self.path / CONFIG).is_file()

    def check(self, config: RunConfig) -> None:
        """ValueError for a folder that is no run's, or of a configuration that could have other results.

        The data are not looked at: `check_data`.
        """
        if self.is_claimed:
            earlier = self.config()
            changed = differing(earlier, config)
            if "generator" in changed and is_same_generator(self.path, earlier.generator, config.generator):
                changed.remove("generator")
            if changed:
                raise UserError(
                    f"{self.path} holds a run of another configuration (differs in: {', '.join(changed)}); "
                    "use another --out"
                )
        elif self.path.exists() and (not self.path.is_dir() or not self._is_free()):
            raise UserError(f"{self.path} exists and is no run directory (it has no {CONFIG}); use another --out")

    def check_data(self, config: RunConfig, now: Fingerprint) -> None:
        """ValueError that says what changed, for other data than the run began with; of old runs their place counts."""
        stored = self.path / FINGERPRINT
        if not stored.exists():
            if changed := differing(self.config(), config, OF_DATA):
                raise UserError(
                    f"{self.path} holds a run of another configuration (differs in: {', '.join(changed)}), and no "
                    f"{FINGERPRINT} that could tell whether the data are the same; use another --out"
                )
        elif words := changes(Fingerprint.read(stored), now):
            raise UserError(
                f"{self.path} holds a run on the data as they were: since then {words}; use another --out for a run on "
                "the data as they are now, or bring the earlier state back"
            )

    def _is_free(self) -> bool:
        """Nothing is in the folder, or what a killed claim left there."""
        names = {each.name for each in self.path.iterdir() if not is_temporary(each)}
        return names <= ({LOCK, FINGERPRINT, COMMAND} if LOCK in names else set())

    def exclusive(self, what: str) -> AbstractContextManager[None]:
        """One process at a time is in such a block; the others wait."""
        return exclusive(self.path / LOCK, what)

    def config(self) -> RunConfig:
        content = read_yaml(self.path / CONFIG, "the configuration")
        if not isinstance(content, dict):
            raise UserError(f"{self.path / CONFIG} holds no configuration; use another --out")
        stored: RunConfig = from_dict(RunConfig, content, str(self.path / CONFIG))
        return stored

    def write_config(self, config: RunConfig) -> None:
        write_text(self.path / CONFIG, yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True))

    def config_text(self) -> str:
        return (self.path / CONFIG).read_text(encoding="utf-8")

    def command(self) -> dict[str, str]:
        stored: dict[str, str] = read_json(self.path / COMMAND)
        return stored

    def arm(self, name: str) -> Path:
        return self.path / "arms" / name.replace(":", "-")  # no file's name on Windows has a colon

    def synthetic_set(self, name: str) -> SyntheticSet:
        """The set of that name, rendered or not; runs of earlier versions have it in the arm of the same name."""
        earlier = self.path / "arms" / name / "synthetic"
        return SyntheticSet(name, earlier if earlier.is_dir() else self.path / "synthetic" / name)

    def classifier(self, arm: str) -> Classifier | None:
        """The trained classifier of an arm, None before it is whole (its config is written last)."""
        folder = self.arm(arm) / "classifier"
        return on_accelerator(load_classifier(folder)) if (folder / "config.json").exists() else None

    def evaluation(self, arm: str) -> AccuracyTable | None:
        path = self.arm(arm) / "evaluation.json"
        return AccuracyTable(read_json(path)) if path.exists() else None

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds of a block to timings.json, of an interrupted one too; a resumed run adds up."""
        begin = time.monotonic()
        try:
            yield
        except BaseException:
            with suppress(OSError, ValueError):  # what interrupted is what is reported
                self._add_time(stage, time.monotonic() - begin)
            raise
        self._add_time(stage, time.monotonic() - begin)

    def _add_time(self, stage: str, seconds: float) -> None:
        timings = self.timings()
        write_json(self.path / "timings.json", {**timings, stage: round(timings.get(stage, 0.0) + seconds, 1)})

    def timings(self) -> dict[str, float]:
        path = self.path / "timings.json"
        stored: dict[str, float] = read_json(path) if path.exists() else {}
        return stored


def environment() -> dict[str, Any]:
    """Versions and machine, for the record."""
    import torch

    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "torch threads": torch.get_num_threads(),
            "accelerator": str(torch.accelerator.current_accelerator()) if torch.accelerator.is_available() else "none",
        },
    }
