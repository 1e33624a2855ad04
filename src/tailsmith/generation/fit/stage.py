"""One stage of training: a resumable loop over random mini-batches, with checkpoint, progress, loss log."""

import copy
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from tailsmith.errors import UserError
from tailsmith.generation.fit.config import StageConfig
from tailsmith.generation.fit.halves import Losses, backward, lanes
from tailsmith.generation.fit.trained import put_back, save, trained_state
from tailsmith.randomness import noise_generator
from tailsmith.terminal import progress_bar

Model = TypeVar("Model", bound=torch.nn.Module)
LOG_EVERY = 50
DIVERGED = 20  # times the first losses
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Draw:
    """The randomness of half a step: made from (seed, step, half) alone, so that a resumed run draws what it would."""

    rows: NDArray[np.int64]  # [B]
    numpy: np.random.Generator
    torch: torch.Generator


def draw_step(n: int, config: StageConfig, seed: int, step: int) -> list[tuple[float, Draw]]:
    """A batch in halves, each with its share of the batch; a batch of one image is one half."""
    halves, batch = [], config.batch_size
    for half, size in enumerate((batch - batch // 2, batch // 2)):
        if size:
            rng = np.random.default_rng([seed, step, half])
            rows = rng.integers(0, n, size=size)
            noise = noise_generator(int(rng.integers(2**62)))
            halves.append((size / batch, Draw(rows, rng, noise)))
    return halves


def learning_rate_factor(step: int, steps: int, warmup: int) -> float:
    """Linear warm-up, then cosine to 1 %."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


@dataclass(frozen=True)
class Fitting:
    """What the stages of one fit share."""

    folder: Path  # of checkpoints and losses
    n: int  # images
    device: torch.device = CPU
    bf16: bool = False


def run_stage(
    fitting: Fitting,
    name: str,
    model: Model,
    loss_function: Callable[[Model, Draw], Losses],
    config: StageConfig,
    *,
    seed: int,
    until: int | None = None,
    checkpoint_seconds: float = 120.0,
) -> Model:
    """Train `model` and return it (its moving average if so configured), on the fit's device, in eval mode.

    Continues from `folder/<name>.pt` where one exists, up to the step `until` (None = all); mean losses go to
    `folder/<name>.jsonl`, a line per 50 steps. Only what requires gradients is trained and kept.
    """
    folder, device = fitting.folder, fitting.device
    checkpoint, log = folder / f"{name}.pt", _LossLog(folder / f"{name}.jsonl")
    model = model.to(device)
    optimizer = torch.optim.AdamW(
        [each for each in model.parameters() if each.requires_grad],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        betas=(0.9, 0.99),
        fused=True,
    )
    average = copy.deepcopy(model) if config.ema_decay else model
    models = {"model": model, "average": average}
    start, last_step = _resume(checkpoint, models, optimizer), config.steps if until is None else until
    model.train()
    saved, first = time.monotonic(), None
    bar = progress_bar(range(start, last_step), initial=start, total=config.steps, desc=f"fit-generator: {name}")
    with lanes(device, bf16=fitting.bf16) as run:
        for step in bar:
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * learning_rate_factor(step, config.steps, config.warmup_steps)
            drawn = draw_step(fitting.n, config, seed, step)
            losses = backward(model, loss_function, drawn, run, autocast=fitting.bf16)
            _clip(model)
            optimizer.step()
            if config.ema_decay:
                _follow(average, model, min(config.ema_decay, (step + 1) / (step + 10)))
            log.add(losses)
            last = step + 1 == last_step
            if last or (step + 1) % LOG_EVERY == 0:
                means = log.write(step + 1)
                bar.set_postfix({key: f"{value:.3f}" for key, value in means.items()})
                first = means["loss"] if first is None else first
                if not _converges(first, means["loss"]):
                    raise _diverged(name, step + 1, first, means["loss"], checkpoint)
            due = last or time.monotonic() - saved > checkpoint_seconds
            if due and _converges(first, float(losses["loss"])):
                _save(checkpoint, models, optimizer, step + 1)
                saved = time.monotonic()
    return average.eval()


class _LossLog:
    """Means of the losses since the last line, as JSON lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[str, list[torch.Tensor]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, losses: Losses) -> None:
        """They stay on their device until a line is written: to look at one is to wait for an accelerator."""
        for key, value in losses.items():
            self.values.setdefault(key, []).append(value)

    def write(self, step: int) -> dict[str, float]:
        means = {key: fmean(torch.stack(values).tolist()) for key, values in self.values.items()}
        with self.path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"step": step, **{k: round(v, 5) for k, v in means.items()}}) + "\n")
        self.values = {}
        return means


def _resume(checkpoint: Path, models: Mapping[str, torch.nn.Module], optimizer: torch.optim.Optimizer) -> int:
    """Put everything back where the checkpoint left it -> steps already done."""
    if not checkpoint.exists():
        return 0
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    for name, model in models.items():
        put_back(model, state[name])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def _save(checkpoint: Path, models: Mapping[str, torch.nn.Module], optimizer: torch.optim.Optimizer, step: int) -> None:
    states = {name: trained_state(model) for name, model in models.items()}
    save({"step": step, **states, "optimizer": optimizer.state_dict()}, checkpoint)


def _clip(model: torch.nn.Module) -> None:
    """To a norm of 1; of several models each by itself, as a critic's gradients say nothing of the autoencoder's."""
    for part in model.children() if isinstance(model, torch.nn.ModuleDict) else [model]:
        torch.nn.utils.clip_grad_norm_(part.parameters(), 1.0)


def _converges(first: float | None, loss: float) -> bool:
    """`first`: the mean of the first losses, None before they are over."""
    return math.isfinite(loss) and (first is None or loss <= DIVERGED * max(first, 1e-3))


def _diverged(name: str, step: int, first: float, loss: float, checkpoint: Path) -> UserError:
    kept = f"; the last good state is kept in {checkpoint}" if checkpoint.exists() else ""
    return UserError(
        f"the fit diverges: the loss of the {name} was {first:.4g} in its first {LOG_EVERY} steps and is {loss:.4g} at "
        f"step {step}{kept}. Lower {name}.learning_rate, with another --out"
    )


@torch.no_grad()
def _follow(average: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
