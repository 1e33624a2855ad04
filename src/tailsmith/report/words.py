"""Sentences that the report and the terminal share."""

from __future__ import annotations

import math


def tested_words(tested: int, of: int, kind: str) -> str:
    """Which classes or groups a mean leaves out: "3 of 5 classes have test images"; empty where it leaves out none."""
    if tested == of:
        return ""
    return f"{tested or 'none'} of {of} {kind} {'has' if tested == 1 else 'have'} test images"


def bias_words(bias: float | None, groups: int) -> str:
    """What the lowest of many accuracies is off by, in points, without a full stop; empty where it doesn't show."""
    if bias is None or math.isnan(bias) or abs(bias) < 0.05:
        return ""
    way = "downwards" if bias < 0 else "upwards"
    return (
        f"The lowest of {groups:,} groups' accuracies is biased {way}, as groups have few test images: here by about "
        f"{abs(bias):.1f} points"
    )
