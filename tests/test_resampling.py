"""Batches are counted: each row equally often, halves exact, every class or group with the same share."""

import numpy as np
import pytest
import torch

from tailsmith.classification.batches import (
    RESAMPLING,
    EndlessPass,
    PooledPasses,
    class_balanced,
    class_shares,
    group_balanced,
    half_and_half,
    uniform,
)

LABELS = np.array([0] * 60 + [1] * 30 + [2] * 10)
GROUPS = LABELS * 2 + (np.arange(100) % 7 == 0)
SYNTHETIC = np.arange(100) % 5 == 0


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batches(pools, batch_size: int, steps: int) -> list[np.ndarray]:
    passes = PooledPasses(pools, generator())
    return [passes.take(batch_size) for _ in range(steps)]


def drawn(name: str, batch_size: int, steps: int) -> np.ndarray:
    pools = RESAMPLING[name](LABELS, GROUPS, SYNTHETIC)
    return np.stack(batches(pools, batch_size, steps))  # [steps, batch_size]


@pytest.mark.parametrize(("n", "batch_size", "steps"), [(10, 4, 25), (3, 8, 9), (1, 2, 3), (7, 7, 5)])
def test_uniform_uses_every_row_equally_often_whatever_the_batch_size(n, batch_size, steps):
    rows = np.concatenate(batches([np.arange(n)], batch_size, steps))
    counts = np.bincount(rows, minlength=n)
    assert rows.shape == (batch_size * steps,)
    assert counts.max() - counts.min() <= 1
    for start in range(0, len(rows) - n + 1, n):  # every pass is whole: no row wraps early
        assert sorted(rows[start : start + n]) == list(range(n))


def test_passes_are_reshuffled_and_reproducible():
    rows = EndlessPass(50, generator())
    first, second = rows.take(50), rows.take(50)
    assert not np.array_equal(first, second)
    again = EndlessPass(50, generator())
    np.testing.assert_array_equal(np.concatenate([again.take(7), again.take(93)]), np.concatenate([first, second]))
    assert not np.array_equal(EndlessPass(50, generator(1)).take(50), first)


def test_half_and_half_is_exact_in_every_batch_and_uniform_in_each_half():
    rows = drawn("half_and_half", 16, 40)
    assert (SYNTHETIC[rows].sum(1) == 8).all()
    counts = np.bincount(rows.ravel(), minlength=100)
    for half in (SYNTHETIC, ~SYNTHETIC):
        assert counts[half].max() - counts[half].min() <= 1


def test_half_and_half_is_exact_in_the_slice_of_every_process():
    for rows in drawn("half_and_half", 16, 10):
        for mine in np.array_split(rows, 4):
            assert SYNTHETIC[mine].sum() == 2


@pytest.mark.parametrize(("name", "key"), [("class_balanced", LABELS), ("group_balanced", GROUPS)])
def test_balanced_batches_hold_every_class_or_group_alike(name, key):
    rows = drawn(name, 12, 50)
    shares = np.bincount(key[rows].ravel(), minlength=key.max() + 1)
    assert shares.min() >= 600 // len(np.unique(key))
    assert shares.max() - shares.min() <= 1


def test_classes_and_groups_without_images_are_left_out():
    labels = np.array([0, 0, 3])
    assert [pool.tolist() for pool in class_balanced(labels, labels, labels > 9)] == [[0, 1], [2]]


@pytest.mark.parametrize("name", RESAMPLING)
def test_expected_class_shares_are_what_long_runs_hold(name):
    pools = RESAMPLING[name](LABELS, GROUPS, SYNTHETIC)
    observed = np.bincount(LABELS[drawn(name, 60, 200)].ravel(), minlength=3) / 12000
    np.testing.assert_allclose(class_shares(pools, LABELS, 3), observed, atol=2e-3)


def test_expected_class_shares_of_half_and_half_in_closed_form():
    pools = half_and_half(LABELS, GROUPS, SYNTHETIC)
    real, synthetic = (np.bincount(LABELS[kind], minlength=4) for kind in (~SYNTHETIC, SYNTHETIC))
    np.testing.assert_allclose(class_shares(pools, LABELS, 4), real / 160 + synthetic / 40)


@pytest.mark.parametrize(("kind", "synthetic"), [("synthetic", False), ("real", True)])
def test_half_and_half_needs_both_kinds(kind, synthetic):
    with pytest.raises(ValueError, match=f"got no {kind} ones among 100; use resampling 'uniform'"):
        half_and_half(LABELS, GROUPS, np.full(100, synthetic))


def test_group_balanced_needs_groups():
    with pytest.raises(ValueError, match="a group for every training image, 1 have none"):
        group_balanced(LABELS[:3], np.array([0, -1, 2]), SYNTHETIC[:3])


@pytest.mark.parametrize("name", RESAMPLING)
def test_passes_go_on_from_their_state(name):
    pools = RESAMPLING[name](LABELS, GROUPS, SYNTHETIC)
    whole, broken, other = (PooledPasses(pools, generator(seed)) for seed in (0, 0, 9))
    for _ in range(7):
        assert (whole.take(11) == broken.take(11)).all()
    other.load_state_dict(broken.state_dict())
    for _ in range(30):
        assert (whole.take(11) == other.take(11)).all()


def test_uniform_ignores_labels():
    assert [pool.tolist() for pool in uniform(LABELS[:4], GROUPS[:4], SYNTHETIC[:4])] == [[0, 1, 2, 3]]
