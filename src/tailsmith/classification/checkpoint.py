"""What an interrupted training goes on from: one safetensors file, whole or absent, and held to its training.

Tensors are named parts of the training's state; the JSON beside them, in the file's metadata, says where it was. No
pickle is involved. The file of another training is refused; a damaged one, or another version's, is set aside.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tailsmith.classification import processes
from tailsmith.classification.tensors import plain, sha256
from tailsmith.errors import UserError
from tailsmith.files import set_aside, write_atomically

FORMAT = "2"  # raised where a version of tailsmith can't go on from an earlier one's checkpoints as that would have
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """The state of a training between two steps."""

    tensors: dict[str, Tensor]  # on the CPU
    progress: dict[str, Any]  # JSON: the step, the stage, what was seen on validation


@dataclass(frozen=True)
class CheckpointFile:
    """Where the checkpoint of one training lies; process 0 writes, all read."""

    path: Path
    every: int  # steps between two of them
    settings: Mapping[str, Any]  # JSON: all that the training is, so that no other one goes on from it
    data: str  # a hash of what it is trained on

    def write(self, checkpoint: Checkpoint) -> None:
        if processes.index() == 0:
            tensors = plain(checkpoint.tensors)
            metadata = {
                "format": FORMAT,
                "settings": json.dumps(self.settings, sort_keys=True),
                "data": self.data,
                "progress": json.dumps(checkpoint.progress),
                "sha256": sha256(tensors),
            }
            write_atomically(self.path, lambda temporary: save_file(tensors, temporary, metadata))

    def read(self) -> Checkpoint | None:
        """None where there is none, or none that this version can use; ValueError for that of another training."""
        if not self.path.exists():
            return None
        try:
            tensors, metadata = _read(self.path)
            unusable = "is of another version of tailsmith" if metadata["format"] != FORMAT else ""
            if not unusable:
                self._check_same(metadata)
                unusable = "is damaged" if metadata["sha256"] != sha256(tensors) else ""
        except (SafetensorError, KeyError):
            unusable = "is damaged"
        processes.wait()  # all have looked, before one moves it
        if unusable:
            self._set_aside(unusable)
            return None
        return Checkpoint(tensors, json.loads(metadata["progress"]))

    def _check_same(self, metadata: Mapping[str, str]) -> None:
        stored, ours = json.loads(metadata["settings"]), json.loads(json.dumps(self.settings))
        differing = sorted(key for key in stored.keys() | ours.keys() if stored.get(key) != ours.get(key))
        if metadata["data"] != self.data:
            differing.append("the data")
        if differing:
            raise UserError(
                f"{self.path} is of a training that was interrupted and differs from this one in "
                f"{', '.join(differing)}; run that one's command to go on, or use another folder"
            )

    def _set_aside(self, reason: str) -> None:
        if processes.index() == 0:
            aside = set_aside(self.path)
            log.warning("%s %s: set aside as %s; training starts again", self.path, reason, aside.name)


def discard(path: Path) -> None:
    """Remove a checkpoint whose training is finished and kept elsewhere, and its folder if that is empty then."""
    path.unlink(missing_ok=True)
    if path.parent.is_dir() and not any(path.parent.iterdir()):
        path.parent.rmdir()


def discard_all(folder: Path, but: Path | None = None) -> None:
    """The same for all checkpoints in a folder, or all but one."""
    for path in folder.glob("*.safetensors"):
        if path != but:
            discard(path)


def parts(of: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """{"model": {"weight": w}} -> {"model/weight": w}"""
    return {f"{part}/{name}": value for part, state in of.items() for name, value in state.items()}


def part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """{"model/weight": w}, "model" -> {"weight": w}"""
    return {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
