"""How much memory feedback takes: the peak of live tensors, guided against plain, in one run.

    python benchmarks/memory.py [--batch 64] [--json FILE]

mini-unclip, resnet-small, weights of both included. Torch's own tracker counts every tensor that an operation makes;
two sampling steps are enough, as the peak is within a guided one.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch.distributed._tools.mem_tracker import MemTracker

import tailsmith
from embedded import OMEGA, labels, sample, untrained_classifier
from tailsmith.files import write_json
from tailsmith.synthesis.generators import EMBEDDED, load_decoder

WAYS = {
    "exact": {"through": "denoiser"},
    "exact, checkpointing": {"through": "denoiser", "checkpointing": True},
    "forward": {"through": "denoiser-forward"},
    "cheap": {"through": "decoder"},
}


def peak(call: Callable[[], object]) -> int:
    """Bytes alive at the worst moment, without what was there before."""
    tracker = MemTracker()
    with tracker:
        call()
    return sum(int(each["Total"]) for each in tracker.get_tracker_snapshot("peak").values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    pipe, classifier, tiny = tailsmith.load_generator(), untrained_classifier(), load_decoder("tiny", EMBEDDED)
    seeds = range(arguments.batch)
    modules = [classifier, *(each for each in pipe.components.values() if isinstance(each, torch.nn.Module))]
    weights = sum(weight.numel() * weight.element_size() for module in modules for weight in module.parameters())
    plain = weights + peak(lambda: sample(pipe, seeds, 2))
    print(f"{'':32}{'MB':>8}{'ratio':>8}\n{'plain':32}{plain / 1e6:8.1f}{1:8.2f}")
    ratios = {}
    for name, options in WAYS.items():
        for which, decoder in (("own", None), ("tiny", tiny)):

            def guided(options: dict = options, decoder: torch.nn.Module | None = decoder) -> None:
                with tailsmith.feedback(
                    pipe, classifier, scale=OMEGA, steps=[1], labels=labels(seeds), decoder=decoder, **options
                ):
                    sample(pipe, seeds, 2)

            bytes_ = weights + peak(guided)
            ratios[f"{name}, {which} decoder"] = bytes_ / plain
            print(f"{name + ', ' + which + ' decoder':32}{bytes_ / 1e6:8.1f}{bytes_ / plain:8.2f}")
    if arguments.json:
        rounded = {name: round(ratio, 3) for name, ratio in ratios.items()}
        write_json(arguments.json, {"batch": arguments.batch, "plain_mb": round(plain / 1e6, 1), "ratios": rounded})


if __name__ == "__main__":
    main()
