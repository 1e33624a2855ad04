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
from embedded import EVERY, labels, options, sample, trained_classifier
from tailsmith.files import write_json
from tailsmith.synthesis.generators import EMBEDDED, load_decoder

HARDLY = 1e-7  # a feedback scale at which nothing moves


def gradients(pipe: Any, classifier: Any, n: int, **options: Any) -> dict[int, Tensor]:
    with tailsmith.feedback(
        pipe, classifier, "entropy", HARDLY, EVERY, labels=labels(range(n)), keep_gradients=True, **options
    ) as record:
        sample(pipe, range(n))
    return record.gradients


def main() -> None:
    arguments = options(__doc__, images=64)
    pipe, classifier = tailsmith.load_generator(), trained_classifier()
    tiny = load_decoder("tiny", EMBEDDED)
    table = {}
    for prediction in ("conditional", "guided"):
        exact = gradients(pipe, classifier, arguments.images, prediction=prediction)
        print(f"{f'x0-hat: {prediction}':32}" + "".join(f"{f'step {step}':>9}" for step in exact))
        rows = table[prediction] = {}
        for through in ("denoiser", "denoiser-forward", "decoder"):
            for which, decoder in (("own", None), ("tiny", tiny)):
                if (through, which) == ("denoiser", "own"):
                    continue
                found = gradients(
                    pipe, classifier, arguments.images, prediction=prediction, through=through, decoder=decoder
                )
                cosines = {
                    step: functional.cosine_similarity(found[step].flatten(1), exact[step].flatten(1)).nanmedian()
                    for step in exact
                }
                rows[f"{through}, {which} decoder"] = {
                    str(step): round(float(each), 3) for step, each in cosines.items()
                }
                print(f"{f'{through}, {which} decoder':32}" + "".join(f"{each:9.3f}" for each in cosines.values()))
    if arguments.json:
        write_json(arguments.json, {"images": arguments.images, "median_cosine": table})


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
