"""How much memory feedback takes: the peak of live tensors, guided against plain, in one run.

    python benchmarks/memory.py [--batch 64] [--json FILE]

mini-unclip, resnet-small, weights of both included. Every tensor that an operation makes is counted while it lives; two
sampling steps are enough, as the peak is within a guided one.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import tailsmith
from embedded import OMEGA, command_line, labels, sample, untrained_classifier
from tailsmith.files import write_json
from tailsmith.generation.generator import EMBEDDED, load_decoder

FEW = {"decode_batch_size": 8}  # where memory counts; the whole batch at once is faster
WAYS = {
    "exact": {"through": "denoiser"},
    "exact, checkpointing, 8 at a time": {"through": "denoiser", "checkpointing": True, **FEW},
    "forward": {"through": "denoiser-forward"},
    "forward, 8 at a time": {"through": "denoiser-forward", **FEW},
    "cheap": {"through": "decoder"},
    "cheap, 8 at a time": {"through": "decoder", **FEW},
}


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of every storage that an operation makes, from then until it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}  # storage -> bytes
        self.now = self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        output = function(*arguments, **(options or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return output

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self.alive:
            return
        self.alive[storage._cdata] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, storage._cdata)

    def _forget(self, storage: int) -> None:
        self.now -= self.alive.pop(storage, 0)


def peak(call: Callable[[], object]) -> int:
    """Bytes alive at the worst moment, without what was there before."""
    with LiveTensors() as tensors:
        call()
    return tensors.peak


def main() -> None:
    arguments = command_line(__doc__, batch=64)
    pipe, classifier, tiny = tailsmith.load_generator(), untrained_classifier(), load_decoder("tiny", EMBEDDED)
    seeds = range(arguments.batch)
    modules = [classifier, *(each for each in pipe.components.values() if isinstance(each, torch.nn.Module))]
    weights = sum(weight.numel() * weight.element_size() for module in modules for weight in module.parameters())
    plain = weights + peak(lambda: sample(pipe, seeds, 2))
    print(f"{'':50}{'MB':>8}{'ratio':>8}\n{'plain':50}{plain / 1e6:8.1f}{1:8.2f}")
    ratios = {}
    for name, way in WAYS.items():
        for which, decoder in (("own", None), ("tiny", tiny)):

            def guided(way: dict = way, decoder: torch.nn.Module | None = decoder) -> None:
                with tailsmith.feedback(
                    pipe, classifier, scale=OMEGA, steps=[1], labels=labels(seeds), decoder=decoder, **way
                ):
                    sample(pipe, seeds, 2)

            bytes_ = weights + peak(guided)
            ratios[f"{name}, {which} decoder"] = bytes_ / plain
            print(f"{name + ', ' + which + ' decoder':50}{bytes_ / 1e6:8.1f}{bytes_ / plain:8.2f}")
    if arguments.json:
        rounded = {name: round(ratio, 3) for name, ratio in ratios.items()}
        write_json(arguments.json, {"batch": arguments.batch, "plain_mb": round(plain / 1e6, 1), "ratios": rounded})


if __name__ == "__main__":
    main()
