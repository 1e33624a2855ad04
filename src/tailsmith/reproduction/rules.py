"""Rules that choose some of many candidates of a class: pure functions of what is known of each candidate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Candidates:
    """A pool: a row per image, with what classifiers say of it."""

    labels: Rows  # [n], what was asked for
    judged: NDArray[np.bool_]  # [n], the judge sees it: an oracle, as it knows what no user's classifier does
    referenced: NDArray[np.bool_]  # [n], a classifier of the real images alone sees it
    entropy: Values  # [n], of the guide, as the others
    loss: Values
    hardness: Values
    real_looking: Values  # [n], to a probe of simple statistics that wasn't fitted to it
    features: Values  # [n, D], of the judge

    def of(self, rows: Rows) -> Candidates:
        return Candidates(**{name: values[rows] for name, values in vars(self).items()})


Order = Callable[[Candidates, np.random.Generator], Rows]  # -> all its rows, the best first


def at_random(pool: Candidates, rng: np.random.Generator) -> Rows:
    return rng.permutation(len(pool.labels))


def by(name: str, *, lowest: bool = False) -> Order:
    """Highest value first."""

    def order(pool: Candidates, _: np.random.Generator) -> Rows:
        values = getattr(pool, name)
        return np.argsort(values if lowest else -values, kind="stable")

    return order


def upper_middle_entropy(pool: Candidates, _: np.random.Generator) -> Rows:
    """Nearest to the 70 % quantile first: hard, but not the hardest."""
    if not len(pool.labels):
        return np.empty(0, dtype=np.int64)
    return np.argsort(np.abs(pool.entropy - np.quantile(pool.entropy, 0.7)), kind="stable")


def most_diverse(pool: Candidates, rng: np.random.Generator) -> Rows:
    """k-centre, greedily (Gonzalez, 1985): each next one is the farthest from all that were chosen."""
    if not len(pool.labels):
        return np.empty(0, dtype=np.int64)
    chosen = [int(rng.integers(len(pool.labels)))]
    nearest = np.linalg.norm(pool.features - pool.features[chosen[0]], axis=1)
    while len(chosen) < len(pool.labels):
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(pool.features - pool.features[chosen[-1]], axis=1))
    return np.array(chosen, dtype=np.int64)


@dataclass(frozen=True)
class Rule:
    """An order, among all candidates or those that somebody calls right first."""

    order: Order
    among: str | None = None  # judged | referenced


RULES: Mapping[str, Rule] = {
    "random": Rule(at_random),
    "right": Rule(at_random, "judged"),
    "right by reference": Rule(at_random, "referenced"),
    "high entropy": Rule(by("entropy")),
    "high entropy, right": Rule(by("entropy"), "judged"),
    "upper-middle entropy, right": Rule(upper_middle_entropy, "judged"),
    "low entropy, right": Rule(by("entropy", lowest=True), "judged"),
    "high entropy, right by reference": Rule(by("entropy"), "referenced"),
    "high loss, right": Rule(by("loss"), "judged"),
    "high hardness, right": Rule(by("hardness"), "judged"),
    "most diverse, right": Rule(most_diverse, "judged"),
    "real-looking, right": Rule(by("real_looking"), "judged"),
}


def choose(pool: Candidates, rule: Rule, wanted: Rows, seed: int) -> tuple[Rows, int]:
    """Rows of `wanted` [C] candidates of each class, and how many of them `among` had to be left out for.

    Where too few are called right, others fill up at random: the sets that are compared have equal counts.
    """
    chosen, filled = [], 0
    for label, count in enumerate(wanted.tolist()):
        rows, rng = np.flatnonzero(pool.labels == label), np.random.default_rng([seed, label])
        right = rows if rule.among is None else rows[getattr(pool, rule.among)[rows]]
        best = right[rule.order(pool.of(right), rng)][:count]
        rest = rng.permutation(np.setdiff1d(rows, right))[: count - len(best)]
        chosen += [best, rest]
        filled += len(rest)
    return np.sort(np.concatenate([np.empty(0, dtype=np.int64), *chosen])), filled
