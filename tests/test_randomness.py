"""Seeds: every bit counts, and the numbers are those of numpy's Mersenne Twister."""

import numpy as np
import pytest
import torch

from tailsmith.data.sources.benchmarks import published
from tailsmith.generation.conditioning import drop_entries
from tailsmith.randomness import noise_generator
from tailsmith.runs.recipe import read_recipe
from tailsmith.synthesis.config import SynthesisConfig
from tailsmith.synthesis.requests import make_plan


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32, 2**63 - 1, 5308472710703660647])
def test_the_numbers_are_those_of_numpys_mersenne_twister(seed: int) -> None:
    twister = np.random.MT19937(seed)
    state = twister.state
    state["state"]["pos"] = 624  # torch mixes the seeded numbers before the first draw
    twister.state = state
    below = 2**40 + 7
    drawn = torch.empty(1000, dtype=torch.int64).random_(0, below, generator=noise_generator(seed))
    first, second = twister.random_raw(2000).reshape(1000, 2).T  # torch makes 64 bits of two draws
    np.testing.assert_array_equal(drawn.numpy(), ((first << np.uint64(32)) | second) % np.uint64(below))


def test_normal_numbers_are_normal_and_the_same_every_time() -> None:
    first, again = (torch.randn(100_000, generator=noise_generator(7)) for _ in range(2))
    assert torch.equal(first, again)
    assert abs(first.mean().item()) < 0.02 and first.std().item() == pytest.approx(1, abs=0.02)
    assert noise_generator(7).initial_seed() == 7


@pytest.mark.parametrize("other", [5 + 2**32, 5 + 2**62])
def test_seeds_that_agree_in_their_low_32_bits_differ_in_noise(other: int) -> None:
    assert torch.equal(*(torch.randn(8, generator=torch.Generator().manual_seed(seed)) for seed in (5, other)))
    one, two = (torch.randn(10_000, generator=noise_generator(seed)) for seed in (5, other))
    assert abs(torch.corrcoef(torch.stack([one, two]))[0, 1].item()) < 0.05
    ones = torch.ones(1000)
    assert not torch.equal(drop_entries(ones, 0.5, 5), drop_entries(ones, 0.5, other))


def test_a_negative_seed() -> None:
    with pytest.raises(ValueError, match="seed should not be negative, got -1"):
        noise_generator(-1)


@pytest.mark.parametrize(("recipe", "target", "of_32_bits"), [("imagenet-lt", 1300, 342), ("places-lt", 4980, 708)])
def test_no_two_requests_of_the_full_plans_share_noise_or_dropout(recipe: str, target: int, of_32_bits: int) -> None:
    dataset = published(read_recipe(recipe).benchmark)
    missing = target - np.bincount(dataset.split("train").labels, minlength=len(dataset.class_names))
    config = SynthesisConfig(conditioning="text", guidance_scale=1.0, num_inference_steps=1)
    table = make_plan(dataset, missing, config, meta={}).table
    assert table["noise_seed"].is_unique and table["dropout_seed"].is_unique
    low = table["noise_seed"].to_numpy() & 0xFFFFFFFF
    _, shared = np.unique(low, return_counts=True)
    assert shared[shared > 1].sum() == of_32_bits  # what torch's own seeding would make alike
