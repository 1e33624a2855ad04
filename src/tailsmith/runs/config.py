"""Every setting of a run, as frozen dataclasses, one per stage. Nothing heavy is imported: help texts read this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

from tailsmith.classification.config import TrainConfig
from tailsmith.errors import UserError
from tailsmith.runs.arms import GUIDE, SETS, Arm, arm_of, check_sets
from tailsmith.settings import MOST, changed
from tailsmith.synthesis.config import SynthesisConfig
from tailsmith.synthesis.engines.config import Workers


@dataclass(frozen=True)
class SearchConfig:
    """Every arm draws its learning rate and batch size at random, and validation accuracy chooses (App. G.3)."""

    trials: int = 10
    seeds: int = 5  # the chosen setting is trained again and tested with this many new training seeds
    learning_rate: tuple[float, float] = (1e-4, 1e-2)  # log-uniform: 10 ** U(-4, -2)
    batch_size: tuple[int, int] = (64, 128)  # log-uniform: 2 ** U(6, 7), rounded to an even number
    seed: int = 0  # of the draws

    def __post_init__(self) -> None:
        for name in ("trials", "seeds"):
            if getattr(self, name) < 1:
                raise UserError(f"search.{name} should be at least 1, got {getattr(self, name)}")
        for name, least in (("learning_rate", 0), ("batch_size", 1)):
            bounds, most = getattr(self, name), MOST.get(name, 1e9)
            if len(bounds) != 2 or not least < bounds[0] <= bounds[1] <= most:
                raise UserError(
                    f"search.{name} should be two numbers above {least} and at most {most:,.0f}, the lower one first, "
                    f"got {list(bounds)}"
                )
        if self.seed < 0:
            raise UserError(f"search.seed should not be negative, got {self.seed}")


@dataclass(frozen=True)
class RunConfig:
    """One whole run: real images in, classifiers and a report out."""

    data: str = "fashion-lt"  # an image folder, a CSV or Parquet file, or an embedded task
    data_seed: int = 0  # which real images an embedded task draws; how a dataset without splits is split
    skip_corrupt: bool = False  # leave unreadable images out, and list them
    max_megapixels: float | None = None  # images above it count as unreadable; None = 178.9
    generator: str = "mini-unclip"  # a preset, a folder, or a hub id
    target: int | str | dict[str, int] = "max"  # max, a number, or {name: number}: images per class or group afterwards
    per: str = "class"  # class | group
    arms: tuple[str, ...] = ("erm", "balanced_softmax", "image_text", "feedback_entropy")  # METHOD, SET, METHOD+SET
    sets: dict[str, dict[str, Any]] = field(default_factory=dict)  # your own: {mine: {guidance_scale: 3}}; arms name it
    augmentation: str = "crop-flip-colour"
    real: TrainConfig = field(default_factory=lambda: TrainConfig(steps=600))  # real images only
    mixed: TrainConfig = field(  # real and synthetic, half of each mini-batch (section 4.1)
        default_factory=lambda: TrainConfig(steps=600, method="balanced_softmax", resampling="half_and_half")
    )
    search: SearchConfig | None = None  # None: train each arm once, with the settings of `real` and `mixed`
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    batch_size: int = 64  # of synthesis
    workers: int = 1  # processes that synthesize: one per accelerator, or sharing the CPU's cores
    engine: str = "local"  # who starts them: local | ray | slurm
    engine_options: dict[str, str] = field(default_factory=dict)  # of ray or slurm: docs/workers.md
    stalled_after: float = 1800.0  # seconds without a new image, after which a worker counts as hung and is replaced
    study_scales: tuple[float, ...] = (0.0, 0.01, 0.02, 0.04)  # omegas at which a few samples are looked at

    def __post_init__(self) -> None:
        if self.sets:
            check_sets(self.sets)
        for name, changes in self.sets.items():
            if not isinstance(changes, Mapping):
                raise UserError(f"sets.{name} should be settings of synthesis and their values, got {changes!r}")
            synthesis_of(self, name)
        for name in self.arms:
            arm_of(name, self.sets)
        if GUIDE not in self.arms:
            raise UserError(f"arms should include {GUIDE!r}, the classifier that guides; got {list(self.arms)}")
        if self.per not in ("class", "group"):
            raise UserError(f"per should be 'class' or 'group', got {self.per!r}")
        if self.batch_size < 1:
            raise UserError(f"batch_size should be at least 1, got {self.batch_size}")
        _ = self.crew

    @property
    def crew(self) -> Workers:
        """Who synthesizes."""
        return Workers(self.workers, self.engine, self.engine_options, self.stalled_after)


def arms_of(config: RunConfig) -> list[Arm]:
    """What the run compares, in its order."""
    return [arm_of(name, config.sets) for name in config.arms]


def sets_of(config: RunConfig) -> dict[str, SynthesisConfig]:
    """Name of each synthetic set that an arm trains on -> its settings, each once."""
    return {arm.set: synthesis_of(config, arm.set) for arm in arms_of(config) if arm.set is not None}


def synthesis_of(config: RunConfig, name: str) -> SynthesisConfig:
    """The run's synthesis settings with what makes a synthetic set."""
    return changed(config.synthesis, {**SETS, **config.sets}[name], f"sets.{name}")


def train_config(config: RunConfig, arm: Arm) -> TrainConfig:
    """Arms of real images differ in their method alone; arms with synthetic images share the rest of `mixed`."""
    training = config.real if arm.set is None else config.mixed
    return training if arm.method is None else replace(training, method=arm.method)


def check_settled(config: RunConfig) -> None:
    """ValueError for a value of one's own that every arm replaces with its own: it would be without effect."""
    if config.real.method != TrainConfig().method:
        raise UserError(
            f"real.method is {config.real.method!r}, but each arm of real images has its own (erm, balanced_softmax): "
            "leave it out and name the arms with --arms; arms with synthetic images have mixed.method"
        )
    if unused := [name for name in config.sets if name not in sets_of(config)]:
        raise UserError(f"no arm trains on the set {unused[0]!r}; name it among --arms, or leave it out of sets")
    for name in ("conditioning", "feedback.criterion", "feedback.scale"):
        value_of = attrgetter(name)
        given = value_of(config.synthesis)
        own = {set_name: value_of(settings) for set_name, settings in sets_of(config).items()}
        if name == "feedback.criterion":
            guided = {set_name for set_name, settings in sets_of(config).items() if settings.feedback.scale > 0}
            own = {set_name: value if set_name in guided else "unguided" for set_name, value in own.items()}
        if own and given != value_of(SynthesisConfig()) and given not in own.values():
            said = ", ".join(f"{set_name}: {value}" for set_name, value in own.items())
            raise UserError(
                f"synthesis.{name} is {given}, but no arm uses it ({said}); leave it out, or name other --arms"
            )
