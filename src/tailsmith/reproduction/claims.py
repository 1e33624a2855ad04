"""The paper's claims as differences between rows of its tables, and the rule by which one is said to hold.

The rule was committed before the tables were run; only five rows of Table 1 were known by then, of one seed, and all
of claim k, which was added last (LOG.md, 2026-11-27). A claim is one or several differences, over the seeds that both
rows have, paired, with a t interval:

- it **holds** where every one of them lies above what is claimed (usually 0), its 95 % interval included;
- it **does not hold here** where one of them lies below the least that would matter, its interval included: one of 95 %
  for all of the claim's differences together (Bonferroni);
- else it is **inconclusive**.

All of several differences holding needs no correction for their number; one of several failing does. What would matter
is 1 point overall and on average, 2 on Few, Medium, Many and on groups, more than what is claimed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

from tailsmith.metrics.seeds import PairedDifference
from tailsmith.reproduction.rows import Measured, paired

HOLDS, FAILS, OPEN = "holds", "does not hold here", "inconclusive"
MATTERS = {"overall": 1.0, "average": 1.0}  # points; 2 for all other cells
CELLS = 2.0
Results = Mapping[str, Sequence[Measured]]  # table -> its rows at all seeds


@dataclass(frozen=True)
class Difference:
    """`row` less `against`, in a column of a table; times -1 where less is better."""

    table: str
    row: str
    against: str
    column: str
    more_than: float = 0.0  # what the claim says that it exceeds
    matters: float | None = None  # how much more would matter; None = by the column
    sign: int = 1

    def over_seeds(self, results: Results) -> PairedDifference:
        """NaN throughout with fewer than two seeds that both rows have."""
        return paired(results[self.table], self.row, self.against, self.column, self.sign)

    def verdict(self, found: PairedDifference, together: int) -> str:
        """By the rule, as one of `together` differences of a claim."""
        matters = MATTERS.get(self.column.rpartition(".")[2], CELLS) if self.matters is None else self.matters
        if found.low > self.more_than:
            return HOLDS
        if found.n > 1 and upper_end(found, together) < self.more_than + matters:
            return FAILS
        return OPEN


@dataclass(frozen=True)
class Claim:
    letter: str  # as in docs/results.md
    text: str
    differences: tuple[Difference, ...]

    def verdict(self, results: Results) -> str:
        """Of all differences together; inconclusive where a table is missing."""
        if any(each.table not in results for each in self.differences):
            return OPEN
        of_each = [each.verdict(each.over_seeds(results), len(self.differences)) for each in self.differences]
        if all(each == HOLDS for each in of_each):
            return HOLDS
        return FAILS if FAILS in of_each else OPEN


def upper_end(found: PairedDifference, together: int) -> float:
    """Of the interval that holds with its likes, `together` of them, in 95 % of cases."""
    reach = found.high - found.mean
    wider = stats.t.ppf(1 - 0.025 / together, found.n - 1) / stats.t.ppf(0.975, found.n - 1)
    return float(found.mean + reach * wider)


_REAL_ONLY = ("ERM", "Decouple-cRT", "Decouple-LWS", "Remix", "Balanced Softmax", "CMO", "Mix-Up GLMC")
_ENTROPY = "LDM-FG (Entropy)"

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "a",
        "Feedback by entropy beats text-only synthesis and every method of real images only, overall and on Few.",
        tuple(
            Difference("table-1", _ENTROPY, other, column)
            for other in ("LDM (txt)", *_REAL_ONLY)
            for column in ("overall", "few")
        ),
    ),
    Claim(
        "b",
        "Overall, entropy is better than loss, loss than hardness, and the criteria combined are below entropy.",
        (
            Difference("table-5", _ENTROPY, "LDM-FG (Loss)", "overall"),
            Difference("table-5", "LDM-FG (Loss)", "LDM-FG (Hardness)", "overall"),
            Difference("table-5", _ENTROPY, "LDM-FG (Combined)", "overall"),
        ),
    ),
    Claim(
        "c",
        "Image and text bring samples closer to real data than text (distance, density); dropout restores coverage.",
        (
            Difference("table-3", "+ image", "text", "samples.frechet_distance", matters=0.0, sign=-1),
            Difference("table-3", "+ image", "text", "samples.density", matters=0.0),
            Difference("table-3", "+ dropout", "+ image", "samples.coverage", matters=0.0),
        ),
    ),
    Claim(
        "d",
        "Entropy gives the best accuracy although its distance and coverage are the worst.",
        (
            *(
                Difference("table-3", "+ entropy", other, "validation.overall")
                for other in ("text", "+ image", "+ dropout", "+ loss", "+ hardness")
            ),
            *(
                Difference("table-3", "+ entropy", other, column, matters=0.0, sign=sign)
                for other in ("text", "+ image", "+ dropout", "+ loss", "+ hardness")
                for column, sign in (("samples.frechet_distance", 1), ("samples.coverage", -1))
            ),
        ),
    ),
    Claim(
        "e",
        "On groups, worst-group accuracy rises by more than 10 points over ERM and over unguided synthesis, at a cost "
        "of at most 1 point on average.",
        (
            *(
                Difference("table-2", "LDM FG (Entropy)", other, "worst_group", more_than=10.0, matters=0.0)
                for other in ("ERM", "LDM")
            ),
            Difference("table-2", "LDM FG (Entropy)", "ERM", "average", more_than=-1.0, matters=0.0),
        ),
    ),
    Claim(
        "f",
        "The feedback scale has an optimum between its ends (worst group).",
        tuple(Difference("table-6", "omega = 0.03", end, "worst_group") for end in ("omega = 0", "omega = 0.05")),
    ),
    Claim(
        "g",
        "Guiding every 5th step is as good as every step, to within 1 point overall.",
        (Difference("every-step", "every 5th step", "every step", "overall", more_than=-1.0, matters=0.0),),
    ),
    Claim(
        "h",
        "Mini-batches half real, half synthetic beat mixing in proportion.",
        (Difference("mini-batches", "half and half", "in proportion", "overall"),),
    ),
    Claim(
        "i",
        "Accuracy grows with the number of synthetic images, mostly on Few.",
        (
            Difference("figure-14", "150", "50", "few"),
            Difference("figure-14", "500", "150", "few"),
            Difference("figure-14", "500", "50", "overall"),
        ),
    ),
    Claim(
        "j",
        "Balanced softmax trades Many for Few as its weight grows.",
        (
            Difference("figure-15", "1.0", "0.0", "few"),
            Difference("figure-15", "1.0", "0.0", "many", sign=-1),
        ),
    ),
    Claim(
        "k",
        "In the plane, feedback gives the minority modes more samples, and the linear classifier improves.",
        (
            Difference("figure-5", "DDPM-FG (Entropy)", "DDPM", "samples.minority_share", matters=0.0),
            Difference("figure-5", "DDPM-FG (Entropy)", "DDPM", "overall"),
            Difference("figure-5", "DDPM-FG (Entropy)", "real points", "overall"),
        ),
    ),
)
