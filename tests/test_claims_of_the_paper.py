"""The rule by which a claim holds, and that every claim names rows there are."""

import math

import numpy as np
import pytest
from scipy import stats

from tailsmith.metrics.seeds import paired_over_seeds
from tailsmith.reproduction.claims import CLAIMS, FAILS, HOLDS, OPEN, Claim, Difference, upper_end
from tailsmith.reproduction.paper_tables import TABLES
from tailsmith.reproduction.rows import Result
from tailsmith.studies.points_2d import PLAIN, REAL, SCALES


def result(row: str, seed: int, few: float) -> Result:
    return Result(row, row, seed, {"few": few, "overall": few}, {}, {"few": few}, 0, 0, "", {"coverage": few / 100})


def results(one: list[float], other: list[float]) -> dict[str, list[Result]]:
    rows = [("new", one), ("old", other)]
    return {"table": [result(row, seed, few) for row, values in rows for seed, few in enumerate(values)]}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.letter)
def test_every_claim_is_about_rows_and_columns_of_a_table(claim):
    for each in claim.differences:
        if each.table == "figure-5":
            labels, columns = {REAL, PLAIN, *SCALES["embedded"].arms}, {"overall", "samples.minority_share"}
        else:
            labels, columns = {row.label for row in TABLES[each.table].rows}, set(TABLES[each.table].columns)
        assert {each.row, each.against} <= labels and each.row != each.against and each.column in columns
    assert claim.verdict({}) == OPEN


def test_the_claims_are_the_issues_in_its_order():
    assert "".join(claim.letter for claim in CLAIMS) == "abcdefghijk"


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ([5.0, 6.0, 7.0], HOLDS),
        ([-1.0, 0.0, 1.0], OPEN),  # to -2.5 .. 2.5, and 2 would matter
        ([-0.1, 0.0, 0.1], FAILS),
        ([-5.0, -5.5, -6.0], FAILS),
        ([0.5, 0.6, 0.7], HOLDS),  # less than would matter, but more than nothing
        ([9.0], OPEN),
        ([], OPEN),
    ],
)
def test_one_difference_on_few(gains, expected):
    claim = Claim("x", "", (Difference("table", "new", "old", "few"),))
    assert claim.verdict(results([50 + gain for gain in gains], [50.0] * len(gains))) == expected


def test_what_is_claimed_may_be_more_than_nothing_or_no_loss():
    more = Difference("table", "new", "old", "few", more_than=10.0, matters=0.0)
    no_loss = Difference("table", "new", "old", "few", more_than=-1.0, matters=0.0)
    found = paired_over_seeds([50, 50, 50], [55, 56, 57])
    assert more.verdict(found, 1) == FAILS and no_loss.verdict(found, 1) == HOLDS
    assert more.verdict(paired_over_seeds([50, 50, 50], [61, 62, 63]), 1) == OPEN
    assert more.verdict(paired_over_seeds([50, 50, 50], [71, 72, 73]), 1) == HOLDS


def test_all_have_to_hold_and_one_that_fails_fails():
    many = lambda *gains: Claim("x", "", tuple(  # noqa: E731
        Difference("table", "new", "old", "few", more_than=gain, matters=0.0) for gain in gains
    ))  # fmt: skip
    data = results([55.0, 56.0, 57.0], [50.0, 50.0, 50.0])
    assert many(0, 3).verdict(data) == HOLDS
    assert many(0, 5).verdict(data) == OPEN
    assert many(0, 20).verdict(data) == FAILS


def test_with_more_differences_a_failure_needs_a_wider_interval():
    found = paired_over_seeds([0, 0, 0], [-1, 0, 1])
    assert upper_end(found, 1) == pytest.approx(found.high)
    t = stats.ttest_rel([-1, 0, 1], [0, 0, 0]).confidence_interval(1 - 0.05 / 4).high
    assert upper_end(found, 4) == pytest.approx(t)
    assert math.isnan(paired_over_seeds([0], [1]).low)


def test_less_may_be_better_and_what_a_seed_lacks_is_left_out():
    data = results([1.0, 2.0, 3.0], [5.0, 6.1, 7.2, 9.0])
    found = Difference("table", "new", "old", "samples.coverage", sign=-1).over_seeds(data)
    assert found.n == 3 and found.mean == pytest.approx(np.mean([4.0, 4.1, 4.2]) / 100)
