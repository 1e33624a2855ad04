"""One stage of training: a resumable loop over random mini-batches, with a checkpoint, a progress bar and a loss log."""

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from tailsmith.files import write_atomically

Losses = dict[str, torch.Tensor]  # the entry "loss" is minimised, all are logged


@dataclass(frozen=True)
class StageConfig:
    """How long and how fast one stage trains; `ema_decay` 0 keeps the last weights instead of an average."""

    steps: int
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup_steps: int = 100
    ema_decay: float = 0.0


@dataclass(frozen=True)
class Draw:
    """The randomness of one step: made from (seed, step) alone, so that a resumed run draws what it would have."""

    rows: NDArray[np.int64]  # [B]
    numpy: np.random.Generator
    torch: torch.Generator


def draw_step(n: int, batch_size: int, seed: int, step: int) -> Draw:
    rng = np.random.default_rng([seed, step])
    rows = rng.integers(0, n, size=batch_size)
    return Draw(rows, rng, torch.Generator().manual_seed(int(rng.integers(2**62))))


def learning_rate_factor(step: int, steps: int, warmup: int) -> float:
    """Linear warm-up, then cosine to 1 %."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def run_stage(
    name: str,
    model: torch.nn.Module,
    loss_function: Callable[[torch.nn.Module, Draw], Losses],
    config: StageConfig,
    *,
    n: int,
    folder: Path,
    seed: int,
    bf16: bool = False,
    checkpoint_seconds: float = 120.0,
) -> torch.nn.Module:
    """Train `model` on n rows and return it (its moving average if so configured), in eval mode and frozen.

    Continues from `folder/<name>.pt` where one exists; losses go to `folder/<name>.jsonl`, a line per 50 steps.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, log = folder / f"{name}.pt", folder / f"{name}.jsonl"
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.99)
    )
    average = copy.deepcopy(model) if config.ema_decay else model
    start = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        start = int(state["step"])
    model.train()
    saved = time.monotonic()
    running: dict[str, float] = {}
    bar = tqdm(range(start, config.steps), initial=start, total=config.steps, desc=f"fit-generator: {name}")
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * learning_rate_factor(step, config.steps, config.warmup_steps)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            losses = loss_function(model, draw_step(n, config.batch_size, seed, step))
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if config.ema_decay:
            _follow(average, model, min(config.ema_decay, (step + 1) / (step + 10)))
        for key, value in losses.items():
            running[key] = running.get(key, 0.0) + float(value.detach()) / 50
        if (step + 1) % 50 == 0:
            with log.open("a") as lines:
                lines.write(json.dumps({"step": step + 1, **{k: round(v, 5) for k, v in running.items()}}) + "\n")
            bar.set_postfix({key: f"{value:.3f}" for key, value in running.items()})
            running = {}
        finished = step + 1 == config.steps
        if finished or time.monotonic() - saved > checkpoint_seconds:
            saved = time.monotonic()
            state = {
                "model": model.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step + 1,
            }
            write_atomically(checkpoint, lambda path, state=state: torch.save(state, path))  # type: ignore[misc]
    return average.eval().requires_grad_(False)


@torch.no_grad()
def _follow(average: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
