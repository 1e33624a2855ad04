"""Figure 5 of the paper (Appendix A.3): feedback brings a DDPM's samples of points to the minority modes.

Each of two classes has a majority mode with 90 % of its points and a minority mode with 10 %. A linear classifier is
trained for a few epochs, until it is right about the majority modes while its line cuts through the minority modes; its
criteria guide the sampling of a DDPM of the points, without training that again; and it is trained anew on real and
synthetic points.

The paper says no more than this. Ours: where the modes lie; 1,000 points of each class; a class-conditional DDPM
without classifier-free guidance, as synthetic points need labels; as many synthetic points as real ones, half of each
class; both sources weigh the same in the second training, as in the mini-batches of section 4, and the epochs are as
many. Feedback has the package's own settings (omega = 0.03 of the sample's length, as the official code moves), but at
every step, as a step costs nothing. Beside entropy there are loss and hardness, entropy by the score as Eq. 3 is
written, and real points alone with ten times the epochs: a line parts the modes, if it is given the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import torch
from torch import Tensor

from tailsmith.errors import UserError
from tailsmith.generation.points import PointsPipeline, PointsTraining, train_points_denoiser
from tailsmith.guidance.config import CRITERION_NAMES, FeedbackConfig
from tailsmith.metrics.seeds import PairedDifference, over_seeds, paired_over_seeds
from tailsmith.randomness import noise_generator
from tailsmith.studies.points_sampling import (
    CENTRES,
    LABELS,
    MODES,
    SPREAD,
    LinearClassifier,
    Points,
    Steered,
    draw_points,
    points_criterion,
    sample_points,
    train_linear,
)

REAL, LONGER, PLAIN, ENTROPY = "real points", "real points, 10 x epochs", "DDPM", "DDPM-FG (Entropy)"
IN_MODE = 3.0  # standard deviations, within which 98.9 % of a mode's points lie
MINORITY = [number for number, mode in enumerate(MODES) if mode.share < 0.5]
ARMS: Mapping[str, FeedbackConfig] = {
    ENTROPY: FeedbackConfig(criterion="entropy", every=1),
    "DDPM-FG (Loss)": FeedbackConfig(criterion="loss", every=1),
    "DDPM-FG (Hardness)": FeedbackConfig(criterion="hardness", every=1),
    "DDPM-FG (Entropy, Eq. 3)": FeedbackConfig(criterion="entropy", every=1, scale=4.0, update="score"),
}


@dataclass(frozen=True)
class PointsSettings:
    """All that a seed's numbers follow from."""

    per_class: int = 1000  # real points, and as many synthetic ones
    test_per_mode: int = 2000
    epochs: int = 20  # of the linear classifier, a step each
    learning_rate: float = 0.5
    num_inference_steps: int = 50
    denoiser: PointsTraining = field(default_factory=PointsTraining)  # its seed is replaced
    arms: Mapping[str, FeedbackConfig] = field(default_factory=lambda: ARMS)


SCALES: Mapping[str, PointsSettings] = {
    "tiny": PointsSettings(60, 100, num_inference_steps=10, denoiser=PointsTraining(steps=200, batch_size=64)),
    "embedded": PointsSettings(),
}


@dataclass(frozen=True)
class PointsRow:
    """What came of one way of training at one seed.

    `test`: accuracy in % on points of which each mode has as many: "overall", "minority" and by mode. `samples`: shares
    of the training points (the real ones where there are no others) that lie nearest to the minority mode of their
    class ("minority_share"), or to each of its modes by name, farther than three standard deviations from all modes of
    their class ("strays"), and nearest to a mode of their class ("label_agreement"); and the means of the three
    criteria, by the classifier that guides.
    """

    row: str
    seed: int
    test: Mapping[str, float]
    samples: Mapping[str, float]

    def value(self, column: str) -> float:
        """Of "overall" or "samples.minority_share"; NaN where there is none."""
        section, dot, name = column.rpartition(".")
        of: Mapping[str, float] = getattr(self, section if dot else "test")
        return of.get(name, float("nan"))


@dataclass(frozen=True)
class Picture:
    """What Figure 5 shows of one seed: by row, the training points and the line that they lead to."""

    points: Mapping[str, Points]
    classifiers: Mapping[str, LinearClassifier]


@dataclass(frozen=True)
class Figure5:
    """Rows of all seeds, and the picture of the first; `as_json` leaves the latter out."""

    scale: str
    settings: PointsSettings
    rows: tuple[PointsRow, ...]
    picture: Picture

    def values(self, row: str, column: str) -> list[float]:
        """Of a row, by seed."""
        return [each.value(column) for each in self.rows if each.row == row]

    def difference(self, row: str, against: str, column: str) -> PairedDifference:
        """Of two rows, over seeds."""
        return paired_over_seeds(self.values(against, column), self.values(row, column))

    def as_json(self) -> Mapping[str, object]:
        """For `files.write_json`."""
        return {
            "figure": "Figure 5: points in the plane",
            "scale": self.scale,
            "settings": asdict(self.settings),
            "rows": [asdict(each) for each in self.rows],
            "differences": {
                f"{row} - {against}": {
                    column: asdict(self.difference(row, against, column))
                    for column in ("samples.minority_share", "overall", "minority")
                }
                for row in self.settings.arms
                for against in (PLAIN, REAL)
            },
        }


def figure_5(seeds: Sequence[int] = (0, 1, 2, 3, 4), scale: str = "embedded") -> Figure5:
    """Draw, train, sample and train again for each seed; some twenty seconds each at embedded scale.

    ValueError for an unknown scale, and for seeds that are none, negative or twice the same.
    """
    if scale not in SCALES:
        raise UserError(f"scale should be one of {', '.join(SCALES)}, got {scale!r}")
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise UserError(f"seeds should be different whole numbers from 0, at least one; got {list(seeds)}")
    settings = SCALES[scale]
    of_seeds = [_one_seed(seed, settings) for seed in seeds]
    rows = tuple(row for rows, _ in of_seeds for row in rows)
    return Figure5(scale, settings, rows, of_seeds[0][1])


def markdown(figure: Figure5) -> str:
    """A line per row: mean ± standard deviation over seeds."""
    columns = {
        "nearest to a minority mode": "samples.minority_share",
        "strays": "samples.strays",
        "label agreement": "samples.label_agreement",
        "accuracy": "overall",
        "on minority modes": "minority",
    }
    lines = [
        "# Figure 5: points in the plane",
        "",
        f"In %, {len(figure.values(REAL, 'overall'))} seeds.",
        "",
    ]
    lines += [f"| trained on | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for row in dict.fromkeys(each.row for each in figure.rows):
        cells = []
        for column in columns.values():
            factor = 100 if column.startswith("samples.") else 1
            spread = over_seeds([factor * each for each in figure.values(row, column)])
            cells.append(f"{spread.mean:.1f}" + (f" ± {spread.sd:.1f}" if spread.n > 1 else ""))
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


# ---- one seed ----


@dataclass(frozen=True)
class _Seed:
    """What the arms of a seed share."""

    seed: int
    settings: PointsSettings
    real: Points
    test: Points
    guide: LinearClassifier
    pipe: PointsPipeline

    def sampled(self, config: FeedbackConfig | None) -> Points:
        """As many points as there are real ones; the same noise in every arm."""
        n = self.settings.per_class
        labels = torch.arange(2).repeat_interleave(n)
        seeds = [(self.seed << 32) + row for row in range(2 * n)]
        steered = None
        if config is not None:
            steered = Steered(self.guide, points_criterion(str(config.criterion), self.guide, self.real), config)
        return sample_points(self.pipe, labels, seeds, self.settings.num_inference_steps, steered)[0]

    def trained(self, *sources: Points, times: int = 1) -> LinearClassifier:
        return train_linear(sources, times * self.settings.epochs, self.settings.learning_rate)

    def row(self, name: str, points: Points, classifier: LinearClassifier) -> PointsRow:
        asked = {each: points_criterion(each, self.guide, self.real) for each in CRITERION_NAMES}
        values = {each: float(asked[each](points.images, points.labels).mean()) for each in asked}
        return PointsRow(name, self.seed, accuracies(classifier, self.test), where_points_lie(points) | values)


def _one_seed(seed: int, settings: PointsSettings) -> tuple[list[PointsRow], Picture]:
    real = draw_points([round(mode.share * settings.per_class) for mode in MODES], noise_generator(2 * seed))
    test = draw_points([settings.test_per_mode] * len(MODES), noise_generator(2 * seed + 1))
    guide = train_linear([real], settings.epochs, settings.learning_rate)
    pipe = train_points_denoiser(real.at, real.labels, replace(settings.denoiser, seed=seed))
    shared = _Seed(seed, settings, real, test, guide, pipe)
    points, classifiers = {REAL: real, LONGER: real}, {REAL: guide, LONGER: shared.trained(real, times=10)}
    for name, config in {PLAIN: None, **settings.arms}.items():
        points[name] = shared.sampled(config)
        classifiers[name] = shared.trained(real, points[name])
    return [shared.row(name, points[name], classifiers[name]) for name in points], Picture(points, classifiers)


def accuracies(classifier: LinearClassifier, test: Points) -> dict[str, float]:
    """In %, of points [n] of whose modes each has as many: "overall", "minority", and by mode's name.

    A point belongs to the mode of its class that is nearest to it.
    """
    right = classifier.classes(test.at) == test.labels
    modes = _nearest_of_its_class(test)[0]
    of_modes = [100 * float(right[modes == number].float().mean()) for number in range(len(MODES))]
    return {
        "overall": 100 * float(right.float().mean()),
        "minority": sum(of_modes[number] for number in MINORITY) / len(MINORITY),
        **{mode.name: value for mode, value in zip(MODES, of_modes, strict=True)},
    }


def where_points_lie(points: Points) -> dict[str, float]:
    """Shares as in `PointsRow.samples`, the criteria aside; a mode's own is of the points of its class."""
    modes, distance = _nearest_of_its_class(points)
    nearest_of_all = torch.cdist(points.at, CENTRES).argmin(1)
    shares = {
        mode.name: float((modes[points.labels == mode.label] == number).float().mean())
        for number, mode in enumerate(MODES)
    }
    return {
        "minority_share": sum(shares[MODES[number].name] for number in MINORITY) / len(MINORITY),
        "strays": float((distance > IN_MODE * SPREAD).float().mean()),
        "label_agreement": float((LABELS[nearest_of_all] == points.labels).float().mean()),
        **shares,
    }


def _nearest_of_its_class(points: Points) -> tuple[Tensor, Tensor]:
    """(mode [n], distance to it [n]) of the modes of each point's class."""
    others = LABELS[None] != points.labels[:, None]
    distances = torch.cdist(points.at, CENTRES).masked_fill(others, torch.inf)
    least = distances.min(dim=1)
    return least.indices, least.values
