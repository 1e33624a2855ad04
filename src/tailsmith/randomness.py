"""Random numbers of torch that every bit of a seed has a say in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tailsmith.errors import UserError

if TYPE_CHECKING:
    import torch

# The state of torch's CPU generator (ATen/CPUGeneratorImpl.cpp) in 64-bit words: the seed; two counters; the next
# number's place; the 624 numbers of the Mersenne Twister, one to a word; what normal numbers have left over.
_SEED, _NUMBERS = 0, slice(3, 3 + 624)


def noise_generator(seed: int) -> torch.Generator:
    """A generator on the CPU, seeded with all bits of a seed that is not negative.

    torch's own `manual_seed` uses the low 32 bits, so that among a million 64-bit seeds hundreds would share their
    noise. Here numpy's SeedSequence fills the state of the same Mersenne Twister.
    """
    import torch

    if seed < 0:
        raise UserError(f"seed should not be negative, got {seed}")
    generator = torch.Generator().manual_seed(0)  # its counters say: mix the numbers before the first draw
    state = generator.get_state()
    words = state.numpy().view(np.uint64)
    words[_SEED] = seed % 2**64
    words[_NUMBERS] = np.random.MT19937(seed).state["state"]["key"]
    return generator.set_state(state)
