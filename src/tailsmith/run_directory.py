"""A run's folder: everything it knew and made, readable without tailsmith. The same command again resumes."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from tailsmith.classification.classifier import Classifier, load_classifier, on_accelerator
from tailsmith.config import RunConfig, to_dict
from tailsmith.files import read_json, write_atomically, write_json

PACKAGES = ("tailsmith", "torch", "diffusers", "transformers", "timm", "accelerate", "numpy", "scikit-learn")


@dataclass(frozen=True)
class RunDirectory:
    """`path` and what lies where in it."""

    path: Path

    @staticmethod
    def claim(path: Path, config: RunConfig, command: str) -> RunDirectory:
        """Make the folder the home of this configuration, or refuse one that is another's (ValueError)."""
        text = yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)
        stored = path / "config.yaml"
        if stored.exists():
            earlier = yaml.safe_load(stored.read_text())
            changed = [key for key, value in yaml.safe_load(text).items() if earlier.get(key) != value]
            if changed or earlier.keys() != to_dict(config).keys():
                raise ValueError(
                    f"{path} holds a run of another configuration (differs in: {', '.join(changed) or 'its keys'}); "
                    "use another --out, or delete that folder to start again"
                )
        elif path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ValueError(f"{path} exists and is no run directory (it has no config.yaml); use another --out")
        else:
            write_atomically(stored, lambda temporary: _write_text(temporary, text))
            write_json(path / "command.json", {"command": command, "created": time.strftime("%Y-%m-%d %H:%M")})
        return RunDirectory(path)

    @staticmethod
    def open(path: Path) -> RunDirectory:
        if not (path / "config.yaml").is_file():
            raise ValueError(f"{path} is no run directory: it has no config.yaml; make one with `tailsmith run`")
        return RunDirectory(path)

    def config_text(self) -> str:
        return (self.path / "config.yaml").read_text()

    def command(self) -> dict[str, str]:
        stored: dict[str, str] = read_json(self.path / "command.json")
        return stored

    def arm(self, name: str) -> Path:
        return self.path / "arms" / name

    def classifier(self, arm: str) -> Classifier | None:
        """The trained classifier of an arm, None before it is whole (its config is written last)."""
        folder = self.arm(arm) / "classifier"
        return on_accelerator(load_classifier(folder)) if (folder / "config.json").exists() else None

    def evaluation(self, arm: str) -> dict[str, Any] | None:
        path = self.arm(arm) / "evaluation.json"
        return read_json(path) if path.exists() else None

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


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
