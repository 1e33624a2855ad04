"""The weights of a model that are trained, and no others: what a checkpoint of a fit holds of it."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path

import torch

from tailsmith.files import write_atomically

State = dict[str, torch.Tensor]


def trained_state(model: torch.nn.Module) -> State:
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}


@torch.no_grad()
def put_back(model: torch.nn.Module, state: State) -> None:
    """Raises KeyError where the state lacks a weight that is trained."""
    for name, weight in trained_state(model).items():
        weight.copy_(state[name])


def save(state: object, path: Path) -> None:
    """Whole or not at all."""
    buffer = io.BytesIO()  # on a full disk Python's own write says so, torch.save speaks of streams
    torch.save(state, buffer)
    write_atomically(path, partial(_write_bytes, buffer=buffer))


def save_trained(model: torch.nn.Module, path: Path) -> None:
    save(trained_state(model), path)


def load_trained(model: torch.nn.Module, path: Path) -> None:
    put_back(model, torch.load(path, map_location="cpu", weights_only=True))


def _write_bytes(path: Path, buffer: io.BytesIO) -> None:
    path.write_bytes(buffer.getbuffer())
