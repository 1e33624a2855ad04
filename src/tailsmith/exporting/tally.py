"""What was written, counted as it was: the card says what is there, not what should be."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field

from tailsmith.exporting.examples import Example

# Of a provenance: who made an image, and what of its request is told as a range.
MAKERS = (
    "generator", "generator_sha256", "generator_licence", "decoder_sha256", "classifier_sha256", "dtype", "version",
    "plan",
)  # fmt: skip
RANGES = ("guidance_scale", "num_inference_steps", "feedback_scale")


@dataclass
class Made:
    """The images of one maker."""

    images: int = 0
    conditioned: int = 0  # on a real image
    criteria: set[str] = field(default_factory=set)  # of those that feedback steered
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)

    def add(self, provenance: dict[str, object]) -> None:
        self.images += 1
        self.conditioned += "conditioning_id" in provenance
        for name in RANGES:
            if isinstance(value := provenance.get(name), int | float):
                low, high = self.ranges.get(name, (value, value))
                self.ranges[name] = (min(low, value), max(high, value))
        scale = provenance.get("feedback_scale")
        if isinstance(scale, int | float) and scale > 0:
            self.criteria.add(str(provenance.get("criterion")))


@dataclass
class Tally:
    """Counts of images by (split, source, label, attribute), of file formats, and what made the synthetic ones."""

    counts: Counter[tuple[str, str, int, int]] = field(default_factory=Counter)
    extensions: Counter[str] = field(default_factory=Counter)
    makers: dict[tuple[str, ...], Made] = field(default_factory=dict)  # MAKERS, "" where unknown

    def add(self, example: Example) -> None:
        self.counts[example.split, example.source, example.label, example.attribute] += 1
        self.extensions[example.extension] += 1
        if example.provenance:
            about = _object(example.provenance)
            self.makers.setdefault(tuple(str(about.get(name, "")) for name in MAKERS), Made()).add(about)

    def count(
        self,
        *,
        split: str | None = None,
        source: str | None = None,
        label: int | None = None,
        attribute: int | None = None,
    ) -> int:
        """Images of a split, a source, a class and an attribute; None = of all."""
        wanted = (split, source, label, attribute)
        return sum(
            count
            for key, count in self.counts.items()
            if all(want is None or want == has for want, has in zip(wanted, key, strict=True))
        )

    @property
    def splits(self) -> list[str]:
        return [split for split in ("train", "val", "test") if self.count(split=split)]


def _object(text: str) -> dict[str, object]:
    """The mark of a stranger's image may be anything."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
