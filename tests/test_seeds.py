"""Statistics over seeds against scipy, simulation, published rules and hand-worked cases."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from tailsmith.metrics.seeds import detectable, holm, over_seeds, paired_over_seeds


def test_mean_and_spread_of_seeds():
    found = over_seeds([1.0, 2.0, 6.0])
    assert (found.mean, found.sd, found.n) == (3, pytest.approx(math.sqrt(7)), 3)
    one = over_seeds([5.0])
    assert one.mean == 5 and math.isnan(one.sd) and one.n == 1
    none = over_seeds([])
    assert math.isnan(none.mean) and math.isnan(none.sd) and none.n == 0
    gap = over_seeds([1.0, None, 3.0])  # as JSON holds NaN
    assert math.isnan(gap.mean) and math.isnan(gap.sd) and gap.n == 3
    with pytest.raises(ValueError, match=r"one value per seed \[n\], got an array \[2, 2\]"):
        over_seeds(np.ones((2, 2)))


@pytest.mark.parametrize("n", [2, 3, 8])
def test_a_paired_difference_is_that_of_scipy(n):
    rng = np.random.default_rng(n)
    before = rng.normal(70, 3, n)
    after = before + rng.normal(1, 0.5, n)
    found, expected = paired_over_seeds(before, after), stats.ttest_rel(after, before)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p == pytest.approx(expected.pvalue)
    assert found.mean == pytest.approx((after - before).mean()) and found.n == n


def test_one_seed_and_a_missing_value_say_nothing_but_the_mean():
    one = paired_over_seeds([70.0], [72.0])
    assert one.mean == 2 and one.n == 1
    assert all(map(math.isnan, (one.low, one.high, one.p, one.detectable)))
    gap = paired_over_seeds([70.0, math.nan, 71.0], [72.0, 72.0, 72.0])
    assert all(map(math.isnan, (gap.mean, gap.low, gap.high, gap.p, gap.detectable)))
    assert paired_over_seeds([], []).n == 0 and math.isnan(paired_over_seeds([], []).mean)
    with pytest.raises(ValueError, match="one value per seed on both sides, got 2 and 3; pair the same seeds"):
        paired_over_seeds([1.0, 2.0], [1.0, 2.0, 3.0])


def test_an_arm_that_is_the_baseline_gains_nothing_for_sure():
    same = paired_over_seeds([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert (same.mean, same.low, same.high, same.p, same.detectable) == (0, 0, 0, 1, 0)
    more = paired_over_seeds([1.0, 2.0, 3.0], [2.0, 3.0, 4.0])
    assert (more.mean, more.low, more.high, more.p, more.detectable) == (1, 1, 1, 0, 0)


def seeds_needed(sd: float, gain: float, level: float = 0.05) -> int:
    return next(n for n in range(2, 100) if detectable(sd, n, level) <= gain)


@pytest.mark.parametrize(
    ("sd", "one", "one_of_eight", "two", "three"),
    [
        (0.4, 4, 6, 3, 3), (0.5, 5, 7, 3, 3), (0.6, 6, 9, 3, 3),
        (1.5, 20, 33, 7, 5), (1.75, 27, 43, 9, 5), (2.0, 34, 55, 10, 6),
    ],
)  # fmt: skip
def test_the_seeds_that_are_needed_are_those_we_planned_with(sd, one, one_of_eight, two, three):
    found = seeds_needed(sd, 1), seeds_needed(sd, 1, 0.05 / 8), seeds_needed(sd, 2), seeds_needed(sd, 3)
    assert found == (one, one_of_eight, two, three)


def test_what_is_detectable_comes_with_the_difference_and_grows_with_its_spread():
    gains = np.array([0.0, 1.0, 0.5, 1.5])
    found = paired_over_seeds(np.zeros(4), gains)
    assert found.detectable == pytest.approx(detectable(gains.std(ddof=1), 4))
    assert round(detectable(0.5, 4), 1) == 1.1 and round(detectable(1.75, 4), 1) == 3.7
    assert detectable(1.0, 4) == pytest.approx(2 * detectable(0.5, 4))


@pytest.mark.parametrize(("n", "level", "power"), [(2, 0.05, 0.8), (4, 0.05, 0.8), (5, 0.05 / 8, 0.9), (30, 0.05, 0.8)])
def test_a_detectable_difference_is_found_with_the_power_by_integration_over_the_spread(n, level, power):
    """P(|T| > t) as the mean, over the sd that n seeds show, of the normal tails beyond t times it."""
    shift = detectable(1.0, n, level, power) * math.sqrt(n)
    threshold = stats.t.ppf(1 - level / 2, n - 1)

    def tails(spread: float) -> float:
        reach = threshold * spread / math.sqrt(n - 1)
        return (stats.norm.sf(reach - shift) + stats.norm.cdf(-reach - shift)) * stats.chi.pdf(spread, n - 1)

    found, _ = integrate.quad(tails, 0, 5 * math.sqrt(n), limit=400, epsabs=1e-10)
    assert found == pytest.approx(power, abs=1e-6)


def test_a_detectable_difference_is_found_in_so_many_simulated_experiments():
    rng = np.random.default_rng(0)
    gains = rng.normal(detectable(2.0, 4), 2.0, (20_000, 4))
    assert (stats.ttest_1samp(gains, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.01)


def test_what_is_no_spread_or_power_is_refused():
    for sd, level, power in ((-1, 0.05, 0.8), (1, 0, 0.8), (1, 0.05, 1), (1, 0.05, 0.01)):
        with pytest.raises(ValueError, match=r"sd >= 0 and 0 < level < power < 1"):
            detectable(sd, 4, level, power)


# ---- Holm


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1, 1])
    assert holm([0.2]) == pytest.approx([0.2]) and holm([]).shape == (0,)


def test_holm_rejects_what_stepping_down_rejects():
    rng = np.random.default_rng(0)
    for _ in range(200):
        p = rng.random(rng.integers(1, 9)) ** 3
        adjusted = holm(p)
        for level in (0.01, 0.05, 0.2):
            rejected, order = np.zeros(len(p), dtype=bool), np.argsort(p)
            for rank, row in enumerate(order):
                if p[row] > level / (len(p) - rank):
                    break
                rejected[row] = True
            assert ((adjusted <= level) == rejected).all()


def test_holm_counts_tests_without_an_answer():
    found = holm([math.nan, 0.01, 0.02])
    assert found[1:] == pytest.approx([0.03, 0.04]) and math.isnan(found[0])
    with pytest.raises(ValueError, match=r"p values \[m\] in 0..1, got \[0.5, 1.5\]"):
        holm([0.5, 1.5])
