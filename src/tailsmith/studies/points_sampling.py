"""The plane of Figure 5 (Appendix A.3): points of two classes, a linear classifier, and sampling that it steers.

A point is an image of one pixel (generation/points.py), so that all that guides is the package's own, from
`tailsmith.feedback` down: the hook around `scheduler.step`, x0-hat, the moves, the criteria, and the class Gaussians
of hardness. Only the data, the denoiser and the linear classifier are of this study.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tailsmith.contracts import Criterion
from tailsmith.errors import UserError
from tailsmith.generation.points import EXTENT, PointsPipeline
from tailsmith.guidance.class_gaussians import fit_class_gaussians
from tailsmith.guidance.config import FeedbackConfig
from tailsmith.guidance.criteria import criterion_of
from tailsmith.guidance.feedback import feedback
from tailsmith.guidance.guided_step import FeedbackRecord
from tailsmith.guidance.latents import ADAPTERS, LatentsAdapter
from tailsmith.randomness import noise_generator


@dataclass(frozen=True)
class Mode:
    """One round Gaussian of a class, with a standard deviation of SPREAD."""

    name: str
    label: int
    centre: tuple[float, float]
    share: float  # of the class


SPREAD = 0.25
MODES = (
    Mode("majority of blue", 0, (-1.4, -0.7), 0.9),
    Mode("minority of blue", 0, (-0.3, 1.2), 0.1),
    Mode("majority of red", 1, (1.4, 0.7), 0.9),
    Mode("minority of red", 1, (0.3, -1.2), 0.1),
)
CENTRES = torch.tensor([mode.centre for mode in MODES])
LABELS = torch.tensor([mode.label for mode in MODES])
_ENTRY = "PointsPipeline"


@dataclass(frozen=True)
class Points:
    """Coordinates [n, 2] and classes [n]."""

    at: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def images(self) -> Tensor:
        """What a classifier sees of them, [n, 3, 1, 1] in [0, 1]."""
        blue = torch.zeros_like(self.at[:, :1])
        return (torch.cat([self.at, blue], dim=1) / EXTENT / 2 + 0.5)[:, :, None, None]


class LinearClassifier(nn.Module):
    """Logits of a point are linear in it; images [N, 3, 1, 1] in [0, 1] -> (logits [N, 2], the points [N, 2])."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        points = (images[:, :2, 0, 0] * 2 - 1) * EXTENT
        return self.linear(points), points

    def classes(self, points: Tensor) -> Tensor:
        """[n, 2] -> [n]"""
        answer: Tensor = self.linear(points).argmax(1)
        return answer


# ---- data, and the classifier ----


def draw_points(counts: Sequence[int], generator: torch.Generator) -> Points:
    """So many points of each of MODES, in that order."""
    if len(counts) != len(MODES) or min(counts) < 0:
        raise UserError(f"counts should be {len(MODES)} whole numbers from 0, one per mode; got {list(counts)}")
    modes = torch.arange(len(MODES)).repeat_interleave(torch.tensor(counts))
    noise = torch.randn((len(modes), 2), generator=generator)
    return Points(CENTRES[modes] + SPREAD * noise, LABELS[modes])


def train_linear(sources: Sequence[Points], epochs: int, learning_rate: float) -> LinearClassifier:
    """By gradient descent on the cross-entropy from zero, one step per epoch; all sources weigh the same."""
    if not sources or not all(len(each) for each in sources):
        raise UserError("a linear classifier needs points, got none; give sources that are not empty")
    classifier = LinearClassifier()
    optimizer = torch.optim.SGD(classifier.parameters(), learning_rate)
    for _ in range(epochs):
        losses = [nn.functional.cross_entropy(classifier.linear(each.at), each.labels) for each in sources]
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return classifier.requires_grad_(False)


# ---- sampling ----


def points_criterion(name: str, classifier: LinearClassifier, real: Points) -> Criterion:
    """A criterion of the paper that asks this classifier; the Gaussians of hardness are those of the real points."""
    gaussians = fit_class_gaussians(real.at.numpy(), real.labels.numpy(), 2) if name == "hardness" else None
    return criterion_of(name, classifier, gaussians)


@dataclass(frozen=True)
class Steered:
    """Who steers sampling, and how strongly."""

    classifier: LinearClassifier
    criterion: Criterion
    config: FeedbackConfig


def sample_points(
    pipe: PointsPipeline,
    labels: Tensor,
    seeds: Sequence[int],
    num_inference_steps: int,
    steered: Steered | None = None,
) -> tuple[Points, FeedbackRecord]:
    """One point of each label [n] from its own seed, whatever the others are; `steered` None = plain sampling.

    ValueError for another number of seeds, and for what `feedback` refuses.
    """
    generators = [noise_generator(seed) for seed in seeds]
    with _known_to_feedback(), _around(pipe, labels, steered) as record:
        at = pipe(labels, generators, num_inference_steps)
    return Points(at, labels), record


def _around(pipe: PointsPipeline, labels: Tensor, steered: Steered | None) -> AbstractContextManager[FeedbackRecord]:
    if steered is None:
        return nullcontext(FeedbackRecord())
    return feedback(pipe, steered.classifier, steered.criterion, labels=labels.tolist(), config=steered.config)


@contextmanager
def _known_to_feedback() -> Iterator[None]:
    """A family of our own (docs/adding-a-family.md), for as long as points are sampled."""
    ADAPTERS[_ENTRY] = LatentsAdapter("vae", lambda vae, latents: vae.decode(latents)[0])
    try:
        yield
    finally:
        del ADAPTERS[_ENTRY]
