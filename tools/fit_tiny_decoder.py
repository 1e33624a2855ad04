"""Train the cheap decoder that feedback can look through, by imitation of a pipeline's own: an AutoencoderTiny.

    python tools/fit_tiny_decoder.py --generator mini-unclip --out FOLDER [--steps 3000]

It is for gradients, so beside the image it learns how image, features and logits of a judge change with the latents. No
images are needed: it is shown what it will be shown, x0-hats on the way to samples of the generator, at every noise
level, guided or of the conditional branch alone. The judges (assets/judges) were trained on the generator's own data;
whoever is to be guided is never seen.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm, trange

import tailsmith
from tailsmith.classification.classifier import load_classifier
from tailsmith.data.contexts import CONTEXTS
from tailsmith.data.embedded import CLASS_NAMES
from tailsmith.files import write_json
from tailsmith.guidance.criteria import entropy
from tailsmith.guidance.denoiser import Watch
from tailsmith.guidance.parameterization import predicted_x0
from tailsmith.guidance.schedulers import noising
from tailsmith.synthesis.conditioning import drop_entries, embed_images

JUDGES = Path(tailsmith.__file__).parent / "assets" / "judges"
GUIDANCE_SCALE, STEPS, EMBEDDING_DROPOUT = 5.0, 30, 0.7


def collect(pipe: Any, images: int, batch: int, random: np.random.Generator) -> Tensor:
    """x0-hats [n, C, h, w] of every step of so many samples: half text only, half conditioned on one of those."""
    found: list[Tensor] = []
    scheduler, own_step, watch = pipe.scheduler, pipe.scheduler.step, Watch(pipe)

    def step(model_output: Tensor, t: Any, sample: Tensor, *arguments: Any, **options: Any) -> Any:
        at = noising(scheduler, int((scheduler.timesteps == t).nonzero()[0]))
        assert watch.call is not None
        found.extend(predicted_x0(each, sample, at).half() for each in (model_output, watch.call.output))
        watch.expect(len(sample), records=False)
        return own_step(model_output, t, sample, *arguments, **options)

    embeddings = torch.zeros(batch, pipe.image_encoder.config.projection_dim)
    scheduler.step = step
    watch.attach()
    for begin in tqdm(range(0, images, batch), desc="x0-hats"):
        names = [(random.choice(CLASS_NAMES), random.choice(CONTEXTS)) for _ in range(batch)]
        watch.expect(batch, records=False)
        made = pipe(
            image=None,
            prompt=[f"{name} in {context}" if row % 2 else str(name) for row, (name, context) in enumerate(names)],
            image_embeds=embeddings,
            guidance_scale=GUIDANCE_SCALE,
            num_inference_steps=STEPS,
            noise_level=0,
            generator=[torch.Generator().manual_seed(begin + row) for row in range(batch)],
        ).images
        alternate = (begin // batch) % 2 == 0
        embeddings = torch.zeros_like(embeddings)
        if alternate:
            embedded = embed_images(pipe, made)
            embeddings = torch.stack(
                [drop_entries(each, EMBEDDING_DROPOUT, begin + row) for row, each in enumerate(embedded)]
            )
    watch.detach()
    del scheduler.step
    return torch.cat(found)


def cosine(tiny: Any, own: Any, judge: Any, latents: Tensor) -> float:
    """Mean cosine of the entropy's gradient with respect to latents [n, C, h, w], through either decoder."""
    gradients = []
    for decode in (tiny, own):
        start = latents.detach().requires_grad_()
        value = entropy(*judge(decode(start) / 2 + 0.5), torch.zeros(len(latents), dtype=torch.long)).sum()
        gradients.append(torch.autograd.grad(value, start)[0].flatten(1))
    return float(functional.cosine_similarity(*gradients).nanmean())


def difference(made: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute difference relative to the size of what is wanted."""
    return (made - wanted).abs().mean() / wanted.abs().mean().clamp_min(1e-6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generator", default="mini-unclip")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--images", type=int, default=512, help="samples whose x0-hats are learned from")
    parser.add_argument("--start", type=Path, help="go on with this one, whatever its size")
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--blocks", type=int, nargs="*", default=[4, 3, 1])
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    torch.set_flush_denormal(True)  # silu makes many, and each is slow
    pipe = tailsmith.load_generator(arguments.generator)
    pipe.vae.eval().requires_grad_(False)
    judges = [load_classifier(JUDGES / what).eval().requires_grad_(False) for what in ("label", "attribute")]
    vae, factor = pipe.vae, pipe.vae.config.scaling_factor
    levels = len(vae.config.block_out_channels)
    tiny = (
        AutoencoderTiny.from_pretrained(arguments.start)
        if arguments.start
        else AutoencoderTiny(
            latent_channels=vae.config.latent_channels,
            encoder_block_out_channels=(arguments.channels,) * levels,
            decoder_block_out_channels=(arguments.channels,) * levels,
            num_encoder_blocks=(1,) * levels,
            num_decoder_blocks=tuple(arguments.blocks),
            act_fn="silu",  # smooth, as what it imitates
            scaling_factor=1.0,  # it takes the denoiser's latents as they are
        )
    )

    def own(z: Tensor) -> Tensor:
        return vae.decode(z / factor).sample

    def tiny_decode(z: Tensor) -> Tensor:
        return tiny.decode(z).sample

    with torch.no_grad():
        latents = collect(pipe, arguments.images, 64, np.random.default_rng(arguments.seed))
    optimizer = torch.optim.AdamW(tiny.decoder.parameters(), lr=arguments.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, arguments.learning_rate, total_steps=arguments.steps, pct_start=0.05
    )
    bar, recent = trange(arguments.steps, desc="fit"), []
    for step in bar:
        some = latents[torch.randint(len(latents), (arguments.batch,))].float()
        direction = torch.where(torch.rand(len(some), 1, 1, 1) < 0.5, torch.randn_like(some), some.flip(0) - some)
        norms = direction.flatten(1).norm(dim=1).clamp_min(1e-6)  # an image may be its own neighbour
        share = 0.3 * torch.rand(len(some)) * some.flatten(1).norm(dim=1) / norms
        both = torch.cat([some, some + direction * share.view(-1, 1, 1, 1)])
        judge = judges[0 if step % 4 else 1]
        with torch.no_grad():
            wanted = own(both)
            aims = judge(wanted / 2 + 0.5)
        made = tiny_decode(both)
        objective, changes = 10 * functional.l1_loss(made, wanted), 0
        for mine, aim in ((made, wanted), *zip(judge(made / 2 + 0.5), aims, strict=True)):
            here, there = mine.chunk(2)
            here_aim, there_aim = aim.chunk(2)
            changes = changes + difference(there - here, there_aim - here_aim)
            changes = changes + (0 if mine is made else difference(mine, aim))
        early = 0 if arguments.start else 1 - 5 * step / arguments.steps  # first of all, the image
        objective = objective + min(1, 1 - early) * changes
        optimizer.zero_grad()
        objective.backward()
        torch.nn.utils.clip_grad_norm_(tiny.decoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        recent.append((float(functional.l1_loss(made.detach(), wanted)), float(objective.detach())))
        if step % 100 == 99:
            agrees = cosine(tiny_decode, own, judges[0], latents[:: len(latents) // 256].float())
            l1, total = np.mean(recent[-100:], axis=0)
            bar.set_postfix(l1=f"{l1:.4f}", loss=f"{total:.2f}", cosine=f"{agrees:.3f}")
    tiny.eval().to(torch.float16).save_pretrained(arguments.out)
    # nothing encodes with it: its encoder is as it was made
    write_json(arguments.out / "quality.json", {"l1_to_own_decoder": round(l1, 4), "cosine": round(agrees, 3)})


if __name__ == "__main__":
    main()
