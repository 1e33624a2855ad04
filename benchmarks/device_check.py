"""What only a machine with an accelerator can show: that all parts meet there, in each precision, how fast, how large.

    python benchmarks/device_check.py [--device auto] [--quick] [--json FILE]

1. Where a classifier, a generator and fit-generator land. 2. mini-unclip guided by a trained resnet-small in fp32, fp16
and bf16, one image and 64 at a time: finite, the criterion against unguided, images a second, peak memory. 3. A
pipeline of the size of Stable Diffusion 2.1 unCLIP with random weights, guided by a ResNeXt-50: seconds per image and
peak memory, plain and guided, one and four images at a time. Nothing is downloaded. `--quick` shrinks everything, to
see on a CPU that the script runs.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from diffusers import AutoencoderKL, StableUnCLIPImg2ImgPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

import tailsmith
from tailsmith import devices
from tailsmith.classification.config import TrainConfig
from tailsmith.data.dataset import Dataset
from tailsmith.data.sources.embedded import CLASS_NAMES
from tailsmith.files import to_json, write_json
from tailsmith.generation.families import family_of
from tailsmith.generation.fit.captions import build_tokenizer
from tailsmith.generation.fit.config import FitGeneratorConfig, StageConfig
from tailsmith.generation.fit.denoiser import create_schedulers
from tailsmith.generation.generator import EMBEDDED
from tailsmith.guidance.config import FeedbackConfig
from tailsmith.synthesis.config import SynthesisConfig
from tailsmith.synthesis.fitting import fit_generator
from tailsmith.synthesis.plan_checks import settled
from tailsmith.synthesis.requests import make_plan
from tailsmith.synthesis.worker import Worker

OMEGA = 0.03


def measured(call: Callable[[], object], images: int) -> dict[str, float | None]:
    """Seconds per image, and the peak of the accelerator's memory in GB (None on a CPU)."""
    on_cuda = devices.chosen_device().type == "cuda"
    if on_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    call()
    if on_cuda:
        torch.cuda.synchronize()
    taken = (time.perf_counter() - begin) / images
    peak = round(torch.cuda.max_memory_allocated() / 1e9, 3) if on_cuda else None
    return {"seconds_per_image": round(taken, 4), "images_per_second": round(1 / taken, 2), "peak_gb": peak}


def where(module: torch.nn.Module) -> str:
    return str(next(module.parameters()).device)


def landing(classifier: Any, dataset: Dataset, quick: bool) -> dict[str, Any]:
    """The devices of the parts, and a short fit of a generator there."""
    pipe = tailsmith.load_generator()
    steps = StageConfig(2 if quick else 60, batch_size=8 if quick else 64, warmup_steps=1)
    config = FitGeneratorConfig(clip=steps, autoencoder=steps, denoiser=steps)
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        fitted = tailsmith.load_generator(str(fit_generator(dataset, Path(folder) / "fitted", config)))
        seconds = round(time.perf_counter() - begin, 1)
    chosen = devices.chosen_device()
    return {
        "auto": str(chosen),
        "classifier": where(classifier),
        "generator": where(pipe.unet),
        "fitted_generator": where(fitted.unet),
        "same": len({torch.device(where(each)).type for each in (classifier, pipe.unet, fitted.unet)}) == 1,
        "bf16_arithmetic": devices.has_bf16_arithmetic(chosen),
        "fit_seconds": seconds,
    }


def embedded_world(classifier: Any, dataset: Dataset, quick: bool) -> dict[str, Any]:
    """mini-unclip per precision: plain and guided requests of real plans."""
    found: dict[str, Any] = {}
    names = [name for name in devices.DTYPES if name != "fp16" or devices.chosen_device().type != "cpu"]
    for name in names:
        pipe = tailsmith.load_generator(dtype=devices.chosen_dtype(name))
        for batch in (1, 4 if quick else 64):
            counts = np.bincount(np.arange(batch) % len(CLASS_NAMES), minlength=len(CLASS_NAMES))
            row: dict[str, Any] = {}
            for scale in (0.0, OMEGA):
                config = settled(SynthesisConfig(dtype=name, feedback=FeedbackConfig(scale=scale)), EMBEDDED)
                plan = make_plan(dataset, counts, config, meta={})
                worker = Worker(pipe, dataset.split("train"), classifier, batch_size=batch)
                made: list[Any] = []

                def render(worker: Worker = worker, plan: Any = plan, made: list[Any] = made) -> None:
                    made[:] = list(worker.render(plan.table, plan.feedback))

                render()  # warm up
                row["guided" if scale else "plain"] = {
                    **measured(render, batch),
                    "entropy": round(float(np.mean([value for each in made for value in each["criterion_value"]])), 4),
                    "black": int(sum(each["black"].sum() for each in made)),
                    "skipped_steps": int(sum(each["skipped_steps"].sum() for each in made)),
                }
            finite = all(np.isfinite(row[each]["entropy"]) and not row[each]["black"] for each in row)
            row |= {"finite": finite, "rises": row["guided"]["entropy"] > row["plain"]["entropy"]}
            found[f"{name}, batch {batch}"] = row
            print(name, batch, row, flush=True)
    return found


def large_pipeline(dtype: torch.dtype, quick: bool) -> StableUnCLIPImg2ImgPipeline:
    """Denoiser and autoencoder as Stable Diffusion 2.1 unCLIP has them, with random weights; small encoders.

    The encoders run once per image and are left small; their outputs are as wide as its own.
    """
    tokenizer = build_tokenizer(list(CLASS_NAMES), max_length=77)
    channels, width = ((32, 64), 64) if quick else ((320, 640, 1280, 1280), 1024)
    attending = len(channels) - 1
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with devices.chosen_device():
            unet = UNet2DConditionModel(
                sample_size=16 if quick else 96,
                block_out_channels=channels,
                down_block_types=(*("CrossAttnDownBlock2D",) * attending, "DownBlock2D"),
                up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * attending),
                cross_attention_dim=width,
                attention_head_dim=4 if quick else (5, 10, 20, 20),
                use_linear_projection=True,
                class_embed_type="projection",
                projection_class_embeddings_input_dim=2 * width,
            )
            vae = AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * (2 if quick else 4),
                up_block_types=("UpDecoderBlock2D",) * (2 if quick else 4),
                block_out_channels=(32, 32) if quick else (128, 256, 512, 512),
                layers_per_block=2,
                sample_size=768,
            )
            small = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": width, "intermediate_size": width}
            text = CLIPTextModel(
                CLIPTextConfig(
                    vocab_size=len(tokenizer),
                    max_position_embeddings=77,
                    bos_token_id=tokenizer.bos_token_id,
                    eos_token_id=tokenizer.eos_token_id,
                    pad_token_id=tokenizer.pad_token_id,
                    **small,
                )
            )
            vision = CLIPVisionModelWithProjection(CLIPVisionConfig(projection_dim=width, **small))
            normalizer = StableUnCLIPImageNormalizer(width)
    finally:
        torch.set_default_dtype(before)
    scheduler, noising = create_schedulers()
    pipe = StableUnCLIPImg2ImgPipeline(
        feature_extractor=CLIPImageProcessor(),
        image_encoder=vision,
        image_normalizer=normalizer,
        image_noising_scheduler=noising,
        tokenizer=tokenizer,
        text_encoder=text,
        unet=unet,
        scheduler=scheduler,
        vae=vae,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(devices.chosen_device(), dtype)


def large_generator(quick: bool) -> dict[str, Any]:
    """Seconds per image and peak memory of 30 steps with feedback every 5, by what is done to save memory."""
    name = "bf16" if devices.chosen_device().type == "cpu" else "fp16"
    pipe = large_pipeline(devices.chosen_dtype(name), quick)
    family = family_of(pipe)
    plain = {"class_names": CLASS_NAMES, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    backbone = timm.create_model("test_resnet" if quick else "resnext50_32x4d", num_classes=len(CLASS_NAMES)).eval()
    guide = tailsmith.wrap_classifier(backbone, image_size=64 if quick else 224, **plain)
    guide = guide.to(devices.chosen_device())
    found: dict[str, Any] = {"dtype": name, "parameters": sum(each.numel() for each in pipe.unet.parameters())}
    options: dict[str, dict[str, Any] | None] = {
        "plain": None,
        "guided": {},
        "guided, checkpointing": {"checkpointing": True},
        "guided, denoiser-forward": {"through": "denoiser-forward"},
    }
    for batch in (1, 4):
        prompts = [CLASS_NAMES[image] for image in range(batch)]
        embeddings = torch.randn(batch, pipe.image_encoder.config.projection_dim)

        def call(steps: int, prompts: list[str] = prompts, embeddings: torch.Tensor = embeddings) -> None:
            generators = [torch.Generator().manual_seed(image) for image in range(len(prompts))]
            arguments = family.arguments(pipe, prompts, embeddings, 7.5)
            with torch.no_grad(), family.around(pipe):
                pipe(**arguments, num_inference_steps=steps, generator=generators, output_type="pt")

        for what, settings in options.items():
            steps = 6 if quick else 30
            if settings is None:
                call(2)  # warm up
                row: dict[str, Any] = measured(lambda steps=steps, call=call: call(steps), batch)
            else:
                with tailsmith.feedback(pipe, guide, scale=OMEGA, labels=range(batch), **settings):
                    call(6)
                with tailsmith.feedback(pipe, guide, scale=OMEGA, labels=range(batch), **settings) as record:
                    row = measured(lambda steps=steps, call=call: call(steps), batch)
                row |= {"skipped": len(record.skipped), "guided_steps": len(record.values)}
            found[f"{what}, batch {batch}"] = row
            print(what, batch, row, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device, dataset = devices.use(arguments.device), tailsmith.load("fashion-lt")
    training = TrainConfig(steps=2 if arguments.quick else 400, batch_size=64, evaluate_every=400, ema_decay=0.9)
    guide = tailsmith.train(dataset, config=training).eval()
    machine = torch.cuda.get_device_name() if device.type == "cuda" else device.type
    found: dict[str, Any] = {"machine": machine, "torch": torch.__version__}
    for name, part in (
        ("landing", lambda: landing(guide, dataset, arguments.quick)),
        ("mini_unclip", lambda: embedded_world(guide, dataset, arguments.quick)),
        ("sd21_unclip_size", lambda: large_generator(arguments.quick)),
    ):
        found[name] = part()
        print(name, found[name], flush=True)
        if arguments.json:  # after each part: a time limit then loses one
            write_json(arguments.json, found)
    print(to_json(found))


if __name__ == "__main__":
    main()
