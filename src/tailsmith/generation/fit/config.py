"""Sizes and durations of a generator that is fitted. Nothing heavy is imported: help texts read this."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tailsmith.errors import UserError
from tailsmith.settings import MOST_PIXELS, check_above_zero, check_not_negative, check_seed, check_whole


@dataclass(frozen=True)
class Size:
    """Of the images that a preset is for, and of its denoiser."""

    image_size: int
    denoiser_channels: tuple[int, ...]


PRESETS = {"small": Size(32, (64, 128)), "medium": Size(64, (64, 128, 192))}


@dataclass(frozen=True)
class Passes:
    """How many steps a stage takes by default: so many passes over the training images, within bounds."""

    passes: int
    least: int
    most: int

    def steps(self, images: int, batch_size: int) -> int:
        return min(self.most, max(self.least, round(self.passes * images / batch_size)))


STEPS = {  # the most are those of mini-unclip, of 52,800 images
    "clip": Passes(25, 500, 9_000),
    "autoencoder": Passes(30, 4_000, 12_000),
    "denoiser": Passes(100, 3_000, 10_000),
    "decoder": Passes(10, 1_000, 4_000),
}


@dataclass(frozen=True)
class StageConfig:
    """How long and how fast one stage of fit-generator trains; `ema_decay` 0 keeps the last weights, not an average."""

    steps: int = 0  # 0 = follows the number of training images
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup_steps: int = 100
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        check_whole(self, ("steps", "batch_size") if self.steps else ("batch_size",))
        check_above_zero(self, ("learning_rate",))
        check_not_negative(self, ("weight_decay", "warmup_steps"))
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"ema_decay should be at least 0 and below 1, got {self.ema_decay}")


@dataclass(frozen=True)
class FitGeneratorConfig:
    """Sizes and durations; those of mini-unclip follow from its 52,800 images of 32 x 32 pixels."""

    preset: str | None = None  # small (32 pixels) | medium (64); None = follows the data
    image_size: int = 0  # 0 = the preset's
    latent_channels: int = 12
    autoencoder_channels: tuple[int, ...] = (16, 32, 64)  # each entry after the first halves the resolution
    denoiser_channels: tuple[int, ...] = ()  # none = the preset's
    clip_width: int = 128
    clip_embedding: int = 96
    embedding_entries: int = 256  # that the finished image embedding is spread over
    clip: StageConfig = field(default_factory=lambda: StageConfig(batch_size=128, learning_rate=1e-3))
    autoencoder: StageConfig = field(
        default_factory=lambda: StageConfig(batch_size=16, learning_rate=2e-3, ema_decay=0.999)
    )
    denoiser: StageConfig = field(
        default_factory=lambda: StageConfig(batch_size=256, learning_rate=1e-3, ema_decay=0.9995)
    )
    decoder: StageConfig = field(
        default_factory=lambda: StageConfig(batch_size=16, learning_rate=5e-4, ema_decay=0.999)
    )
    caption_attribute_probability: float = 0.5  # how often a caption names the attribute
    text_dropout: float = 0.1
    embedding_dropout: float = 0.3  # share of images denoised without their image embedding
    entry_dropout: float = 0.8  # of every other embedding up to so many entries are dropped, as sampling does
    kl_weight: float = 1e-4
    critic_weight: float = 0.5  # of the critic that the decoder is trained against last; 1 = as much as reconstruction
    bf16: bool | None = None  # autocast; None = where the device has bf16 arithmetic
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.preset is not None and self.preset not in PRESETS:
            raise UserError(f"preset should be one of {', '.join(PRESETS)}, got {self.preset!r}")
        check_whole(self, ("latent_channels", "clip_width", "clip_embedding", "embedding_entries"))
        check_not_negative(self, ("kl_weight", "critic_weight"))
        for name in ("caption_attribute_probability", "text_dropout", "embedding_dropout", "entry_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} should be in 0..1, got {getattr(self, name)}")
        for name, groups in (("autoencoder_channels", 8), ("denoiser_channels", 16)):  # of their normalisation
            channels = getattr(self, name)
            if any(each < 1 or each % groups for each in channels):
                raise UserError(f"{name} should be multiples of {groups}, got {list(channels)}")
        if self.embedding_entries < self.clip_embedding:
            raise UserError(
                f"embedding_entries should be at least clip_embedding ({self.clip_embedding}), got "
                f"{self.embedding_entries}"
            )
        if self.clip_width % 16:
            raise UserError(f"clip_width should be a multiple of 16, got {self.clip_width}")
        if not self.autoencoder_channels:
            raise UserError("autoencoder_channels should name the width of at least one level, got none")
        if self.image_size:
            check_whole(self, ("image_size",))
            self._check_image_size(self.image_size, 2 ** (len(self.autoencoder_channels) - 1))

    def settled(self, images: int, side: int) -> FitGeneratorConfig:
        """With all that follows the data: so many training images, of `side` pixels (their median short side)."""
        preset = PRESETS[self.preset or ("small" if side < 48 else "medium")]
        stages = {name: getattr(self, name) for name in STEPS}
        taken = {
            name: replace(stage, steps=stage.steps or STEPS[name].steps(images, stage.batch_size))
            for name, stage in stages.items()
        }
        return replace(
            self,
            image_size=self.image_size or preset.image_size,
            denoiser_channels=self.denoiser_channels or preset.denoiser_channels,
            **taken,
        )

    def _check_image_size(self, size: int, step: int) -> None:
        """The autoencoder halves it once for each entry after the first; CLIP's patches have 8 pixels."""
        if not 8 <= size <= MOST_PIXELS:
            raise UserError(f"image_size should be within 8..{MOST_PIXELS} pixels, got {size}")
        if size % step:
            near, halvings = max(-(-8 // step), size // step) * step, len(self.autoencoder_channels) - 1
            raise UserError(
                f"image_size should be a multiple of {step}, as the autoencoder halves it {halvings} times; "
                f"got {size}, near it are {near} and {near + step}"
            )


LORA, ALL, TOKENS = "lora", "all", "textual-inversion"
METHODS = ("auto", LORA, ALL, TOKENS)
NOT_OF_TOKENS = ("lora_rank", "prior_weight", "prior_images", "text_dropout", "embedding_dropout", "entry_dropout")


@dataclass(frozen=True)
class FineTuneConfig:
    """How a pretrained generator is adapted to the data (--from)."""

    method: str = (
        "auto"  # lora | all (weights) | textual-inversion (a token per class); auto = by size, one of the first
    )
    steps: int = 1000  # at most: it stops where held-out images get worse
    batch_size: int = 16
    learning_rate: float | None = None  # None = 1e-4 for adapters (LoRA), 2e-4 for all weights, 1e-3 for tokens
    lora_rank: int = 16
    evaluate_every: int = 100  # steps between two looks at the held-out images
    patience: int = 3  # looks without a better one before it stops
    prior_weight: float = 0.3  # of the generator's own images of the same captions, against forgetting; 0 = none
    prior_images: int = 16  # of each class
    caption_attribute_probability: float = 0.5  # how often a caption names the attribute
    text_dropout: float = 0.1
    embedding_dropout: float = 0.3  # share of images denoised without their image embedding
    entry_dropout: float = 0.8  # of every other embedding up to so many entries are dropped, as sampling does
    guidance_scale: float = 5.0  # of the images that are sampled: the prior, and those that are looked at for copies
    most_copies: float = 0.25  # share of samples that may be nearer to a training image than 1 % of these are
    bf16: bool | None = None  # autocast; None = where the device has bf16 arithmetic
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.method not in METHODS:
            raise UserError(f"method should be one of {', '.join(METHODS)}, got {self.method!r}")
        check_whole(self, ("steps", "batch_size", "lora_rank", "evaluate_every", "patience", "prior_images"))
        check_not_negative(self, ("prior_weight", "guidance_scale"))
        if self.learning_rate is not None:
            check_above_zero(self, ("learning_rate",))
        for name in (
            "caption_attribute_probability",
            "text_dropout",
            "embedding_dropout",
            "entry_dropout",
            "most_copies",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} should be in 0..1, got {getattr(self, name)}")

    def without_effect(self) -> list[str]:
        """Settings that were changed and that the method doesn't look at: only tokens are trained, from text alone."""
        if self.method != TOKENS:
            return []
        plain = FineTuneConfig()
        return [name for name in NOT_OF_TOKENS if getattr(self, name) != getattr(plain, name)]
