"""The cells of a grid as its figures and its page read them: where each lies, its image, and what was seen in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple


class Place(NamedTuple):
    """One step on every axis."""

    name: str  # of a class or group
    seed: int
    conditioning: str
    dropout: float  # of the image embedding; 0 where the conditioning is text, which has none
    criterion: str
    guidance_scale: float
    feedback_scale: float

    def moved(self, **steps: Any) -> Place:
        """Another step on some axes; text stays without dropout."""
        place = self._replace(**steps)
        return place._replace(dropout=0.0) if place.conditioning == "text" else place


@dataclass(frozen=True)
class Axes:
    """The steps of each axis, scales and dropouts ascending; fields in the order of a `Place`."""

    names: tuple[str, ...]
    seeds: tuple[int, ...]
    conditionings: tuple[str, ...]
    dropouts: tuple[float, ...]
    criteria: tuple[str, ...]
    guidance_scales: tuple[float, ...]
    feedback_scales: tuple[float, ...]

    def places(self) -> list[Place]:
        """Every combination once."""
        return list(dict.fromkeys(Place(*steps).moved() for steps in product(*vars(self).values())))

    def shown_at(self, place: Place) -> Place:
        """The place whose image is shown here: without feedback no criterion guides, so all share one image."""
        return place._replace(criterion=self.criteria[0]) if place.feedback_scale == 0 else place

    def rendered(self) -> list[Place]:
        """The places that have an image of their own, in the order of rendering.

        Those that can share a pipeline call follow each other, plain ones before guided ones, and every conditioning
        is among the first: a generator that lacks one says so before it makes an image.
        """
        distinct = dict.fromkeys(self.shown_at(place) for place in self.places())
        return sorted(distinct, key=lambda place: (place.guidance_scale, place.feedback_scale, place.criterion))


@dataclass(frozen=True)
class Seen:
    """An image and what the classifier says of it."""

    image: bytes  # encoded
    values: Mapping[str, float]  # criterion -> its value
    top: tuple[tuple[str, float], ...]  # (class, probability), highest first


@dataclass(frozen=True)
class Grid:
    """Everything that figures and page show."""

    dataset: str
    generator: str
    command: str
    num_inference_steps: int
    axes: Axes
    held: Place  # where an axis stands while others are drawn
    seen: Mapping[Place, Seen]  # of the rendered places
    real: Mapping[str, Seen]  # name -> the real image its cells are conditioned on; none where all are text only
    asked: Mapping[str, str]  # name -> the class that is asked for

    def at(self, place: Place) -> Seen:
        return self.seen[self.axes.shown_at(place)]
