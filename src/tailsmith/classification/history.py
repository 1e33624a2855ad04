"""What a training saw on validation, an entry per look: plain numbers, as history.json and trials keep them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def selected_score(history: Sequence[Mapping[str, float]]) -> float | None:
    """The validation accuracy of the classifier that was kept; None without validation images.

    Not always the best that was seen: a last stage may have to stand for itself. Histories of before such stages were
    don't say what was selected; there it is the best.
    """
    if not history:
        return None
    return history[-1].get("selected", max(entry["validation"] for entry in history))
