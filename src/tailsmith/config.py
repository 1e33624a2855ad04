"""Every setting of a run, as frozen dataclasses, one per stage. Nothing heavy is imported: help texts read this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from operator import attrgetter
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

from tailsmith.arms import GUIDE, SETS, Arm, arm_of, check_sets
from tailsmith.classification.train_config import (
    MOST,
    MOST_PIXELS,
    StageTwoConfig,
    TrainConfig,
    check_above_zero,
    check_not_negative,
    check_seed,
    check_whole,
)
from tailsmith.errors import UserError
from tailsmith.guidance.config import FeedbackConfig

Config = TypeVar("Config")

__all__ = [
    "FeedbackConfig",
    "FitGeneratorConfig",
    "RunConfig",
    "SearchConfig",
    "StageConfig",
    "StageTwoConfig",
    "SynthesisConfig",
    "TrainConfig",
    "from_dict",
    "to_dict",
]


@dataclass(frozen=True)
class SynthesisConfig:
    """How each image is made; the defaults are the paper's where it states them."""

    conditioning: str = "image+text"  # text | image | image+text
    conditioning_from: str = "group"  # real images of: group (of its class, where the group has none) | class
    embedding_dropout: float = 0.7  # share of the image embedding's entries set to zero (section 3.3); LOG.md has why
    prompt: str = "{label}"  # "{label} in {attribute}" names the attribute
    display_names: dict[str, str] = field(default_factory=dict)  # class or attribute name -> words for the prompt
    guidance_scale: float | None = None  # gamma; None = the generator's own default
    num_inference_steps: int | None = None  # None = the generator's own default, 30 for most
    feedback: FeedbackConfig = field(default_factory=FeedbackConfig)
    dtype: str = "fp32"  # of the generator: fp32 | fp16 (accelerators only; the paper's) | bf16; also --dtype
    store_size: int | None = None  # pixels of the stored short side; None = 8/7 of the classifier's; 0 = as made
    store_format: str = "png"  # png | jpeg | webp
    store_quality: int = 90  # of jpeg and webp, 1..100
    shard_size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)


# Settings of `synthesis` by their names of before, and what they are in `synthesis.feedback` now. Options, YAML files
# and plans that have the old names are read as if they had the new ones.
MOVED = {"criterion": "criterion"} | {f"feedback_{each.name}": each.name for each in fields(FeedbackConfig)}


def renamed(synthesis: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of synthesis with what has moved in its new place; ValueError for one that is given in both."""
    now = {name: value for name, value in synthesis.items() if name not in MOVED}
    for old in synthesis.keys() & MOVED.keys():
        feedback = now.setdefault("feedback", {})
        if not isinstance(feedback, Mapping) or MOVED[old] in feedback:
            raise UserError(f"synthesis has both {old} and feedback.{MOVED[old]}, one setting; give only the latter")
        now["feedback"] = {**feedback, MOVED[old]: synthesis[old]}
    return now


@dataclass(frozen=True)
class StageConfig:
    """How long and how fast one stage of fit-generator trains; `ema_decay` 0 keeps the last weights, not an average."""

    steps: int
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup_steps: int = 100
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        check_whole(self, ("steps", "batch_size"))
        check_above_zero(self, ("learning_rate",))
        check_not_negative(self, ("weight_decay", "warmup_steps"))
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"ema_decay should be at least 0 and below 1, got {self.ema_decay}")


@dataclass(frozen=True)
class FitGeneratorConfig:
    """Sizes and durations; the defaults are those of mini-unclip (32x32 images, 2 CPU cores, about 75 minutes)."""

    image_size: int = 32
    latent_channels: int = 8
    autoencoder_channels: tuple[int, ...] = (16, 32, 64)  # each entry after the first halves the resolution
    denoiser_channels: tuple[int, ...] = (64, 128)
    clip_width: int = 128
    clip_embedding: int = 64
    clip: StageConfig = field(default_factory=lambda: StageConfig(1000, batch_size=128, learning_rate=1e-3))
    autoencoder: StageConfig = field(
        default_factory=lambda: StageConfig(4500, batch_size=32, learning_rate=2e-3, ema_decay=0.999)
    )
    denoiser: StageConfig = field(
        default_factory=lambda: StageConfig(4000, batch_size=128, learning_rate=1e-3, ema_decay=0.999)
    )
    caption_attribute_probability: float = 0.5  # how often a caption names the attribute
    text_dropout: float = 0.1
    embedding_dropout: float = 0.5  # share of images denoised without their image embedding
    kl_weight: float = 1e-3
    bf16: bool | None = None  # autocast; None = where the device has bf16 arithmetic
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if not 1 <= self.image_size <= MOST_PIXELS:
            raise UserError(f"image_size should be within 1..{MOST_PIXELS} pixels, got {self.image_size}")


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
        for name in ("batch_size", "workers"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} should be at least 1, got {getattr(self, name)}")


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


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain dicts and lists, as YAML and JSON write them."""
    plain: dict[str, Any] = _plain(asdict(config))
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, tuple | list) else value


def changed(config: Config, changes: Mapping[str, Any], where: str = "configuration") -> Config:
    """A configuration with some values changed, those of a section within it alike; `where` says in errors whose."""
    values = {each.name: getattr(config, each.name) for each in fields(config)}  # type: ignore[arg-type]
    changes = renamed(changes) if isinstance(config, SynthesisConfig) else changes
    for key, value in changes.items():
        section = is_dataclass(values.get(key)) and isinstance(value, Mapping)
        values[key] = changed(values[key], value, f"{where}.{key}") if section else value
    made: Config = from_dict(type(config), values, where)
    return made


def from_dict(kind: type[Any], values: Mapping[str, Any], where: str = "configuration") -> Any:
    """The configuration of a dict; an unknown key is a ValueError that lists the known ones."""
    if not isinstance(values, Mapping):
        raise UserError(f"{where} should be a section of settings and their values, got {values!r}")
    values = renamed(values) if kind is SynthesisConfig else values
    known = {each.name for each in fields(kind)}
    for key in values:
        if key not in known:
            raise UserError(f"{where} has an unknown key {key!r}; expected one of: {', '.join(sorted(known))}")
    hints = get_type_hints(kind)
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        nested = next((each for each in (hints[key], *get_args(hints[key])) if is_dataclass(each)), None)
        absent = value is None and NoneType in get_args(hints[key])
        if isinstance(nested, type) and not (absent or is_dataclass(value)):
            value = from_dict(nested, value, f"{where}.{key}")
        arguments[key] = tuple(value) if isinstance(value, list) else value
    try:
        return kind(**arguments)
    except TypeError as error:
        raise UserError(f"{where}: {error}") from error
