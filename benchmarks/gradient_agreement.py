"""How well the cheaper gradients agree with the exact one: cosine per guided step, on mini-unclip.

    python benchmarks/gradient_agreement.py [--images 64] [--json FILE]

The same sampling (moved by nothing) seen by each variant; the guide is fashion-lt's, entropy its criterion. Exact is
through denoiser and own decoder, for x0-hat of the conditional branch and for the guided one. Medians over the images.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import tailsmith
from embedded import EVERY, command_line, labels, sample, trained_classifier
from tailsmith.files import write_json
from tailsmith.generation.generator import EMBEDDED, load_decoder

SMALL = 16  # pixels of a guide that looks at half the image's size
HARDLY = 1e-7  # a feedback scale at which nothing moves


def gradients(pipe: Any, classifier: Any, n: int, **options: Any) -> dict[int, Tensor]:
    with tailsmith.feedback(
        pipe, classifier, "entropy", HARDLY, EVERY, labels=labels(range(n)), keep_gradients=True, **options
    ) as record:
        sample(pipe, range(n))
    return record.gradients


def main() -> None:
    arguments = command_line(__doc__, images=64)
    pipe, classifier = tailsmith.load_generator(), trained_classifier()
    tiny = load_decoder("tiny", EMBEDDED)
    table: dict[str, dict[str, dict[str, float]]] = {}

    def compare(title: str, guide: Any, variants: dict[str, dict[str, Any]], **common: Any) -> None:
        """Each variant's gradients with the exact ones of the same guide and prediction."""
        exact = gradients(pipe, guide, arguments.images, **common)
        print(f"{title:32}" + "".join(f"{f'step {step}':>9}" for step in exact))
        table[title] = {}
        for name, options in variants.items():
            found = gradients(pipe, guide, arguments.images, **common, **options)
            cosines = {
                str(step): float(functional.cosine_similarity(found[step].flatten(1), g.flatten(1)).nanmedian())
                for step, g in exact.items()
            }
            table[title][name] = {step: round(each, 3) for step, each in cosines.items()}
            print(f"  {name:30}" + "".join(f"{each:9.3f}" for each in cosines.values()), flush=True)

    variants = {
        f"{through}, {which} decoder": {"through": through, "decoder": decoder}
        for through in ("denoiser", "denoiser-forward", "decoder")
        for which, decoder in (("own", None), ("tiny", tiny))
    }
    del variants["denoiser, own decoder"]
    for prediction in ("conditional", "guided"):
        compare(prediction, classifier, variants, prediction=prediction)
    smaller = {"own decoder, latents resized": {"decode_size": SMALL}}
    compare(f"conditional, guide of {SMALL} pixels", trained_classifier(SMALL), smaller)
    if arguments.json:
        write_json(arguments.json, {"images": arguments.images, "median_cosine": table})


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
