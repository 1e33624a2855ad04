"""What feedback costs in time: guided against plain sampling of one batch, and the official procedure, in one run.

    python benchmarks/guidance_cost.py [--batch 64] [--repeats 3] [--json FILE]

mini-unclip, resnet-small, 30 steps, guidance every 5. The variants take turns; a ratio is of medians. The official
procedure is written from the paper's description of its code: one image at a time, the denoiser run again for the
conditional branch, x0-hat blended with the latents, decoded at full size, scaled to its own range.
"""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

import tailsmith
from embedded import EVERY, GUIDANCE_SCALE, OMEGA, STEPS, command_line, labels, sample, untrained_classifier
from tailsmith.data.sources.embedded import CLASS_NAMES
from tailsmith.files import write_json
from tailsmith.generation.generator import EMBEDDED, load_decoder
from tailsmith.guidance.criteria import entropy


def seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def official_procedure(pipe: Any, classifier: Any, seed: int) -> None:
    """One guided image; v instead of eps where the model predicts v, as its code would otherwise be wrong."""
    prompt, empty = (
        pipe.text_encoder(pipe.tokenizer(text, padding="max_length", truncation=True, return_tensors="pt").input_ids)[0]
        for text in ([CLASS_NAMES[seed % len(CLASS_NAMES)]], [""])
    )
    embedding = torch.zeros(1, pipe.unet.config.projection_class_embeddings_input_dim)
    scheduler = pipe.scheduler
    scheduler.set_timesteps(STEPS)
    size = pipe.unet.config.sample_size
    z = torch.randn(1, pipe.unet.config.in_channels, size, size, generator=torch.Generator().manual_seed(seed))
    for index, t in enumerate(scheduler.timesteps):
        with torch.no_grad():
            output = pipe.unet(
                torch.cat([z, z]), t, torch.cat([empty, prompt]), class_labels=embedding.repeat(2, 1)
            ).sample
            unconditional, conditional = output.chunk(2)
            guided = unconditional + GUIDANCE_SCALE * (conditional - unconditional)
        if index % EVERY == 0:
            a = scheduler.alphas_cumprod[t].sqrt()
            s = (1 - a * a).sqrt()
            with torch.enable_grad():
                leaf = z.detach().requires_grad_()
                v = pipe.unet(leaf, t, prompt, class_labels=embedding).sample
                blend = s * (a * leaf - s * v) + (1 - s) * leaf
                image = pipe.vae.decode(blend / pipe.vae.config.scaling_factor).sample / 2 + 0.5
                low, high = image.detach().amin(), image.detach().amax()
                logits, features = classifier((image - low) / (high - low))
                value = entropy(logits, features, torch.zeros(1, dtype=torch.long)).sum()
                (g,) = torch.autograd.grad(value, leaf)
            z = z + OMEGA * g * z.norm() / (g.norm() + 1e-8)
        z = scheduler.step(guided, t, z).prev_sample
    with torch.no_grad():
        pipe.vae.decode(z / pipe.vae.config.scaling_factor)


def main() -> None:
    arguments = command_line(__doc__, batch=64, repeats=3)
    pipe, classifier = tailsmith.load_generator(), untrained_classifier()
    for module in (pipe.unet, pipe.vae, classifier):
        module.requires_grad_(False)
    seeds, tiny = range(arguments.batch), load_decoder("tiny", EMBEDDED)

    def guided(**options: Any) -> None:
        with tailsmith.feedback(pipe, classifier, "entropy", OMEGA, EVERY, labels=labels(seeds), **options):
            sample(pipe, seeds)

    calls: dict[str, Callable[[], object]] = {"plain": lambda: sample(pipe, seeds)}
    for through in ("denoiser", "denoiser-forward", "decoder"):
        for which, decoder in (("own", None), ("tiny", tiny)):
            call = functools.partial(guided, through=through, decoder=decoder)
            calls[f"{through}, {which} decoder"] = call
    calls["denoiser, guided, own decoder"] = functools.partial(guided, prediction="guided")
    sample(pipe, seeds, 3)  # warm up
    taken: dict[str, list[float]] = {name: [] for name in calls}
    one_image: list[float] = []
    for repeat in range(arguments.repeats):
        for name, call in calls.items():
            taken[name].append(seconds(call))
        one_image.append(seconds(lambda seed=repeat: official_procedure(pipe, classifier, seed)))
    each = {name: statistics.median(values) / arguments.batch for name, values in taken.items()}
    each["official procedure, batch 1"] = statistics.median(one_image)
    print(f"{'':32}{'images/s':>10}{'ratio':>8}")
    for name, value in each.items():
        print(f"{name:32}{1 / value:10.1f}{value / each['plain']:8.2f}")
    if arguments.json:
        ratios = {name: round(value / each["plain"], 3) for name, value in each.items()}
        speed = {name: round(1 / value, 2) for name, value in each.items()}
        write_json(
            arguments.json, {"batch": arguments.batch, "steps": STEPS, "images_per_second": speed, "ratio": ratios}
        )


if __name__ == "__main__":
    main()
