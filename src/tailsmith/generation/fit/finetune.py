"""Adapt a pretrained pipeline to captioned images: LoRA for a large denoiser, all weights of a small one, or tokens."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tailsmith.devices import has_bf16_arithmetic
from tailsmith.errors import UserError
from tailsmith.files import read_json, write_json, write_text
from tailsmith.generation.conditioning import drop_entries
from tailsmith.generation.families import family_of
from tailsmith.generation.fit.captions import CaptionedImages
from tailsmith.generation.fit.conditions import caption_states, check_tunable, embeddings_of, no_embeddings
from tailsmith.generation.fit.config import ALL, LORA, TOKENS, FineTuneConfig, StageConfig
from tailsmith.generation.fit.lora import add_lora, merge_lora
from tailsmith.generation.fit.saving import save_pipeline
from tailsmith.generation.fit.stage import Draw, Fitting, draw_step, run_stage
from tailsmith.generation.fit.tokens import TokenRows, readme, states_within
from tailsmith.generation.fit.trained import load_trained, save, save_trained
from tailsmith.generation.fit.tuning_loss import Encoded, Prior, States, balanced_rows, held_out_loss, tuning_loss
from tailsmith.generation.generator import Generator
from tailsmith.generation.pipeline_folder import CLASS_TOKENS
from tailsmith.randomness import noise_generator
from tailsmith.terminal import progress_bar

SMALL = 50_000_000  # parameters of a denoiser up to which all of them are trained
HELD_OUT_DRAWS = 4  # batches of the held-out loss
WORSE = 1.5  # times the held-out loss of before: the fit diverges
SAMPLES = 64  # that are looked at for copies
TINY = "tiny_decoder"  # the autoencoder stays as it was, and so does what stands in for its decoder
POOLED = 8  # latents are compared at so many pixels a side
LEARNING_RATES = {LORA: 1e-4, ALL: 2e-4, TOKENS: 1e-3}


@dataclass(frozen=True)
class Tuning:
    """The images of a fine-tuning, in the pipeline's size: those to train on, and those that stop it."""

    training: CaptionedImages
    held_out: CaptionedImages


def method_for(pipe: Any, config: FineTuneConfig) -> str:
    """One of LEARNING_RATES: what the configuration says, or what suits the denoiser's size."""
    if config.method in LEARNING_RATES:
        return config.method
    return ALL if _is_small(pipe) else LORA


def parameters(pipe: Any, config: FineTuneConfig) -> tuple[int, int]:
    """Of the whole pipeline, and about how many are trained."""
    modules = [each for each in pipe.components.values() if isinstance(each, torch.nn.Module)]
    trained = {ALL: _count(pipe.unet), LORA: _count(pipe.unet) // 50, TOKENS: 0}
    return sum(map(_count, modules)), trained[method_for(pipe, config)]


def _is_small(pipe: Any) -> bool:
    return _count(pipe.unet) <= SMALL


def _count(module: torch.nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


def finish(pipe: Any, out: Path, base: Generator, config: FineTuneConfig, tokens: Mapping[str, str]) -> None:
    """Write the tuned pipeline to `out`, with the tiny decoder of the one that it came from, and tidy up.

    `tokens`: those that classes were given, remembered beside it.
    """
    folder, method = out / "training", method_for(pipe, config)
    if method == LORA:
        merge_lora(pipe.unet)
    if method != TOKENS and not _is_small(pipe):
        pipe.to(dtype=torch.float16)  # as large ones are published
    if base.folder is not None and (base.folder / TINY).is_dir():
        shutil.copytree(base.folder / TINY, out / TINY, dirs_exist_ok=True)
    came = f"# Adapted by `tailsmith fit-generator --from {base.name}`"
    write_text(out / "README.md", f"{came}\n\nLicence of what it came from: {base.licence}\n{readme(tokens)}")
    if tokens:
        write_json(out / CLASS_TOKENS, dict(tokens))
    save_pipeline(pipe.to("cpu"), out, scratch=folder / "saving")
    for name in ("denoiser.pt", "tokens.pt", "best.pt", "prior.pt"):
        (folder / name).unlink(missing_ok=True)


@dataclass(frozen=True)
class Trainee:
    """What of a pipeline is trained: its weights with gradients, and how it reads captions meanwhile."""

    name: str  # of its checkpoint
    model: torch.nn.Module
    states: States


def fine_tune(pipe: Any, tuning: Tuning, folder: Path, config: FineTuneConfig) -> Encoded:
    """Train a loaded pipeline until held-out images get worse, and leave it in its best state.

    Its denoiser, or the tokens that the captions of `tuning` name classes by: add_class_tokens. Goes on from `folder`,
    and returns the training images as the denoiser sees them. ValueError for a pipeline that can't be tuned, and a fit
    that diverges or brings nothing; the best state until then stays in `folder`/best.pt.
    """
    check_tunable(type(pipe).__name__)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False)
    method = method_for(pipe, config)
    if not _is_small(pipe):
        pipe.unet.enable_gradient_checkpointing()
    if method == TOKENS:
        rows = TokenRows(pipe, tuning.training.captions.class_names)
        trainee = Trainee("tokens", rows, states_within(pipe, tuning.training.captions))
        config = replace(config, text_dropout=0.0, prior_weight=0.0)  # an empty caption has no token; nothing forgets
        with rows.read():
            real = _until_worse(pipe, tuning, folder, config, trainee)
        rows.write()
        return real
    if method == LORA:
        add_lora(pipe.unet, config.lora_rank)
    else:
        pipe.unet.requires_grad_(True)
    with torch.no_grad():
        captions = caption_states(pipe, tuning.training.captions.texts)
    return _until_worse(pipe, tuning, folder, config, Trainee("denoiser", pipe.unet, captions.of))


def _until_worse(pipe: Any, tuning: Tuning, folder: Path, config: FineTuneConfig, trainee: Trainee) -> Encoded:
    method = method_for(pipe, config)
    seen = method != TOKENS
    real, held_out = _encoded(pipe, tuning.training, seen=seen), _encoded(pipe, tuning.held_out, seen=seen)
    prior = _prior(pipe, tuning.training, folder / "prior.pt", config)
    nothing = Prior(real.latents[:0], prior.numbers[:0])
    stage = StageConfig(
        config.steps,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate or LEARNING_RATES[method],
        warmup_steps=min(20, config.steps // 10),
    )
    bf16 = has_bf16_arithmetic(pipe.device) if config.bf16 is None else config.bf16
    fitting = Fitting(folder, len(real), pipe.device, bf16)
    train = tuning_loss(pipe, tuning.training, real, trainee.states, prior, config)
    watch = tuning_loss(pipe, tuning.held_out, held_out, trainee.states, nothing, config)

    def draws() -> list[Draw]:
        steps = (draw_step(len(held_out), stage, config.seed + 1, each) for each in range(HELD_OUT_DRAWS))
        return [draw for halves in steps for _, draw in halves]

    values: dict[int, float] = {}
    if (kept := folder / "held_out.json").exists():
        values = {int(step): value for step, value in read_json(kept).items()}
    for step in range(0, config.steps + 1, config.evaluate_every):
        if step in values:
            continue
        if values and max(values) - _best(values) >= config.patience * config.evaluate_every:
            break
        if step:
            run_stage(fitting, trainee.name, trainee.model, train, stage, seed=config.seed, until=step)
        values[step] = held_out_loss(trainee.model, watch, draws)
        _check_converges(values, step, folder)
        if values[step] == min(values.values()):
            save_trained(trainee.model, folder / "best.pt")
        write_json(kept, values)
    if not _best(values):
        raise UserError(
            f"the held-out images never got better than before the fit ({values[0]:.4f}, then "
            f"{', '.join(f'{value:.4f}' for step, value in values.items() if step)}); the generator suits these images "
            "already, or lower finetune.learning_rate"
        )
    load_trained(trainee.model, folder / "best.pt")
    trainee.model.eval().requires_grad_(False)
    return real


def _best(values: Mapping[int, float]) -> int:
    """The first step of the least held-out loss."""
    return min(values, key=lambda step: values[step])


def _check_converges(values: dict[int, float], step: int, folder: Path) -> None:
    if math.isfinite(values[step]) and values[step] <= WORSE * values[0]:
        return
    raise UserError(
        f"the fit diverges: the loss on held-out images was {values[0]:.4f} before it and is {values[step]:.4f} at "
        f"step {step}; lower finetune.learning_rate and use another --out. The best state is kept in "
        f"{folder / 'best.pt'}"
    )


@torch.no_grad()
def sampled_latents(pipe: Any, data: CaptionedImages, real: Encoded, config: FineTuneConfig) -> tuple[Tensor, Tensor]:
    """Features of training images and of samples of their classes, [n, D] and [m, D]: small latents.

    Samples are conditioned on what synthesis conditions on: the class, and a training image where the pipeline takes
    one.
    """
    rng = np.random.default_rng([config.seed, 2])
    rows = balanced_rows(data.labels, SAMPLES, rng)
    numbers = data.draw_captions(rows, rng)
    embeddings = None
    if real.embeddings is not None:
        embeddings = torch.stack([drop_entries(real.embeddings[row], 0.5, int(row)) for row in rows])
    made = _sample(pipe, [data.captions.texts[each] for each in numbers], embeddings, config, "fit-generator: samples")
    return tuple(functional.adaptive_avg_pool2d(each, POOLED).flatten(1) for each in (real.latents, made))  # type: ignore[return-value]


def _prior(pipe: Any, data: CaptionedImages, path: Path, config: FineTuneConfig) -> Prior:
    """Samples of every class from text alone, made once and kept."""
    numbers = np.repeat(1 + np.unique(data.labels), config.prior_images if config.prior_weight else 0)
    if not len(numbers):
        return Prior(torch.empty(0), numbers)
    if path.exists():
        return Prior(torch.load(path, weights_only=True), numbers)
    prompts = [data.captions.texts[each] for each in numbers]
    latents = _sample(pipe, prompts, None, config, "fit-generator: prior")
    save(latents, path)  # whole or not at all: a kill in the middle leaves nothing that can't be read
    return Prior(latents, numbers)


@torch.no_grad()
def _sample(pipe: Any, prompts: list[str], embeddings: Tensor | None, config: FineTuneConfig, what: str) -> Tensor:
    """Scaled latents [n, C, h, w] on the CPU; image i has seed i."""
    family, made = family_of(pipe), []
    starts = range(0, len(prompts), config.batch_size)
    for start in progress_bar(starts, initial=0, total=len(starts), desc=what):
        batch = prompts[start : start + config.batch_size]
        nothing = torch.zeros(len(batch), *family.embedding_shape(pipe))
        given = nothing if embeddings is None else embeddings[start : start + len(batch)]
        with family.around(pipe):
            latents = pipe(
                **family.arguments(pipe, batch, given, config.guidance_scale),
                num_inference_steps=20,
                generator=[noise_generator(start + number) for number in range(len(batch))],
                output_type="latent",
            ).images
        made.append(latents.float().cpu())
    return torch.cat(made)


@torch.no_grad()
def _encoded(pipe: Any, data: CaptionedImages, *, seen: bool) -> Encoded:
    """`seen`: whether the denoiser is shown the images' embeddings, where it takes some."""
    latents = []
    for start in range(0, len(data), 8):
        pixels = data.images(np.arange(start, min(start + 8, len(data)))).to(pipe.device, pipe.vae.dtype)
        latents.append(pipe.vae.encode(pixels).latent_dist.mean.float().cpu())
    scaled = torch.cat(latents) * pipe.vae.config.scaling_factor
    shown = embeddings_of(pipe, data.images, len(data)) if seen else no_embeddings(pipe, len(data))
    return Encoded(scaled, shown)
