"""What feedback costs on the paper's generator, in FLOPs: counted on the meta device, no weights, no hardware.

    python benchmarks/flops.py [--json FILE]

One image of Stable Diffusion 2.1 unCLIP at its real size (870 M UNet, 96x96 latents, classifier-free guidance) and a
ResNeXt-50 at 224 pixels; 30 steps, guidance at 6 of them. Plain is the denoiser's calls and the final decoding; the
text and image encoders are left out. A multiplication and an addition are two FLOPs.
"""

from collections.abc import Callable

import timm
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from embedded import command_line
from tailsmith.files import write_json

STEPS, GUIDED, LATENT, SEEN = 30, 6, 96, 224
Part = Callable[[Tensor], Tensor]


def flops(call: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def forward(part: Part, *shape: int) -> int:
    with torch.no_grad():
        return flops(lambda: part(torch.empty(shape, device="meta")))


def both_ways(part: Part, *shape: int) -> int:
    """A forward pass and the gradient with respect to its input; no weight has one."""
    start = torch.empty(shape, device="meta", requires_grad=True)
    return flops(lambda: torch.autograd.grad(part(start * 1.0).sum(), start))


def frozen(module: nn.Module) -> nn.Module:
    return module.eval().requires_grad_(False)


def parts() -> tuple[Part, Part, Part, Part]:
    """The denoiser for [n, 4, h, w], the own decoder, the tiny one, and the classifier for images of any size."""
    with torch.device("meta"):
        unet = frozen(
            UNet2DConditionModel(
                sample_size=LATENT,
                block_out_channels=(320, 640, 1280, 1280),
                cross_attention_dim=1024,
                attention_head_dim=(5, 10, 20, 20),
                use_linear_projection=True,
                class_embed_type="projection",
                projection_class_embeddings_input_dim=2048,
            )
        )
        autoencoder = frozen(
            AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                block_out_channels=(128, 256, 512, 512),
                layers_per_block=2,
            )
        )
        tiny = frozen(AutoencoderTiny())
        classifier = frozen(timm.create_model("resnext50_32x4d"))
        time, text, embedding = torch.empty(()), torch.empty(2, 77, 1024), torch.empty(2, 2048)

    def denoise(latents: Tensor) -> Tensor:
        n = len(latents)
        output: Tensor = unet(latents, time, text[:n], class_labels=embedding[:n]).sample
        return output

    return denoise, lambda z: autoencoder.decode(z).sample, lambda z: tiny.decode(z).sample, classifier


def count() -> dict[str, float]:
    """FLOPs relative to plain sampling, by what is differentiated through and which decoder shows x0-hat."""
    denoise, own, tiny, classify = parts()
    doubled = lambda z: denoise(torch.cat([z, z]))  # noqa: E731 - classifier-free guidance
    full, seen = (1, 4, LATENT, LATENT), (1, 4, SEEN // 8, SEEN // 8)
    step, half = forward(doubled, *full), forward(denoise, *full)
    plain = STEPS * step + forward(own, *full)
    classified = both_ways(lambda x: classify(functional.interpolate(x, (SEEN, SEEN))), 1, 3, SEEN, SEEN)
    decoders = {
        "own": both_ways(own, *full),
        "own at 28x28": both_ways(own, *seen),
        "tiny": both_ways(tiny, *full),
        "tiny at 28x28": both_ways(tiny, *seen),
    }
    through = {  # the forward pass is the pipeline's own
        "denoiser": both_ways(denoise, *full) - half,  # x0-hat of the conditional branch, the default
        "denoiser, guided": both_ways(doubled, *full) - step,  # x0-hat after classifier-free guidance
        "denoiser-forward": half,
        "decoder": 0,
    }
    ratios = {
        f"{way}, {decoder}": 1 + GUIDED * (extra + decoding + classified) / plain
        for way, extra in through.items()
        for decoder, decoding in decoders.items()
    }
    official = both_ways(denoise, *full) + decoders["own"] + both_ways(classify, 1, 3, 8 * LATENT, 8 * LATENT)
    return {**ratios, "official procedure": 1 + GUIDED * official / plain, "plain, in TFLOPs": plain / 1e12}


def main() -> None:
    arguments = command_line(__doc__)
    ratios = count()
    for name, ratio in ratios.items():
        print(f"{name:36}{ratio:9.3f}")
    if arguments.json:
        keys = {
            "exact_ratio": "denoiser, tiny at 28x28",  # with the cheapest decoder; the default is the own one
            "default_ratio": "denoiser, own",
            "exact_guided_ratio": "denoiser, guided, tiny at 28x28",
            "forward_ratio": "denoiser-forward, tiny at 28x28",
            "cheap_ratio": "decoder, tiny at 28x28",
            "official_ratio": "official procedure",
        }
        named = {key: round(ratios[name], 4) for key, name in keys.items()}
        write_json(arguments.json, {**named, "table": {name: round(value, 4) for name, value in ratios.items()}})


if __name__ == "__main__":
    main()
