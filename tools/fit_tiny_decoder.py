"""Train the cheap decoder that feedback can look through, by imitation of a pipeline's own: an AutoencoderTiny.

    python tools/fit_tiny_decoder.py DATA.parquet --generator mini-unclip --out FOLDER [--steps 4000]

DATA holds images the generator was trained on (tools/build_embedded.py writes it). x0-hat of an early step is a blur of
several images, so the decoder is shown latents of images, of mixtures of two, and their averages.
"""

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch.nn import functional
from tqdm import trange

import tailsmith
from tailsmith.data.images import Images
from tailsmith.files import write_json


def mixtures(latents: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A third of the batch [N, C, h, w] as it is, a third between two, a third towards the mean of eight."""
    n = len(latents)
    weight = torch.rand(n, 1, 1, 1, generator=generator)
    others = latents[torch.randint(n, (n, 8), generator=generator)]  # [N, 8, C, h, w]
    kind = torch.arange(n).reshape(-1, 1, 1, 1) % 3
    mixed = torch.where(kind == 1, others[:, 0], others.mean(dim=1))
    return torch.where(kind == 0, latents, weight * latents + (1 - weight) * mixed)


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Images, rows: torch.Tensor) -> torch.Tensor:
    """The latents' means of the images of these rows, [n, C, h, w]."""
    pixels = (torch.as_tensor(images[some.numpy()]).float() / 127.5 - 1 for some in rows.split(128))
    return torch.cat([vae.encode(each).latent_dist.mean for each in pixels])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--generator", default="mini-unclip")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--images", type=int, default=8192)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(arguments.seed)
    torch.manual_seed(arguments.seed)
    vae = tailsmith.load_generator(arguments.generator).vae.eval().requires_grad_(False)
    dataset = tailsmith.load(arguments.data).split("train")
    images = Images(dataset, vae.config.sample_size)
    levels = len(vae.config.block_out_channels)
    channels = (arguments.channels,) * levels
    tiny = AutoencoderTiny(
        latent_channels=vae.config.latent_channels,
        encoder_block_out_channels=channels,
        decoder_block_out_channels=channels,
        num_encoder_blocks=(1,) * levels,
        num_decoder_blocks=tuple(range(levels, 0, -1)),
        scaling_factor=1.0,  # it takes the denoiser's latents as they are
    )
    optimizer = torch.optim.AdamW(tiny.decoder.parameters(), lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=arguments.steps, pct_start=0.05)
    encoded = encode(vae, images, torch.randperm(len(dataset), generator=generator)[: arguments.images])
    bar, recent = trange(arguments.steps), []
    for step in bar:
        latents = mixtures(encoded[torch.randint(len(encoded), (32,), generator=generator)], generator)
        with torch.no_grad():
            wanted = vae.decode(latents).sample
        made = tiny.decode(latents * vae.config.scaling_factor).sample
        loss = functional.l1_loss(made, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        recent.append(float(loss.detach()))
        if step % 100 == 99:
            bar.set_postfix(l1=f"{sum(recent[-100:]) / 100:.4f}")
    tiny.eval().to(torch.float16).save_pretrained(arguments.out)
    # nothing encodes with it: its encoder is as it was made
    write_json(arguments.out / "quality.json", {"l1_to_own_decoder": round(sum(recent[-200:]) / 200, 4)})


if __name__ == "__main__":
    main()
