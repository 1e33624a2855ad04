"""Sizes and durations of a generator that is fitted. Nothing heavy is imported: help texts read this."""

from __future__ import annotations

from dataclasses import dataclass, field

from tailsmith.errors import UserError
from tailsmith.settings import MOST_PIXELS, check_above_zero, check_not_negative, check_seed, check_whole


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
    latent_channels: int = 12
    autoencoder_channels: tuple[int, ...] = (16, 32, 64)  # each entry after the first halves the resolution
    denoiser_channels: tuple[int, ...] = (64, 128)
    clip_width: int = 128
    clip_embedding: int = 96
    clip: StageConfig = field(default_factory=lambda: StageConfig(9000, batch_size=128, learning_rate=1e-3))
    autoencoder: StageConfig = field(
        default_factory=lambda: StageConfig(24_000, batch_size=16, learning_rate=2e-3, ema_decay=0.999)
    )
    denoiser: StageConfig = field(
        default_factory=lambda: StageConfig(20_000, batch_size=256, learning_rate=1e-3, ema_decay=0.9995)
    )
    caption_attribute_probability: float = 0.5  # how often a caption names the attribute
    text_dropout: float = 0.1
    embedding_dropout: float = 0.3  # share of images denoised without their image embedding
    entry_dropout: float = 0.8  # of every other embedding up to so many entries are dropped, as sampling does
    kl_weight: float = 1e-4
    critic_weight: float = 0.05  # of a critic of patches, in the second half of the autoencoder's steps; 0 = none
    bf16: bool | None = None  # autocast; None = where the device has bf16 arithmetic
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        check_whole(self, ("image_size", "latent_channels", "clip_width", "clip_embedding"))
        check_not_negative(self, ("kl_weight", "critic_weight"))
        for name in ("caption_attribute_probability", "text_dropout", "embedding_dropout", "entry_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} should be in 0..1, got {getattr(self, name)}")
        for name, groups in (("autoencoder_channels", 8), ("denoiser_channels", 16)):  # of their normalisation
            channels = getattr(self, name)
            if not channels or any(each < 1 or each % groups for each in channels):
                raise UserError(f"{name} should be multiples of {groups}, got {list(channels)}")
        if self.clip_width % 16:
            raise UserError(f"clip_width should be a multiple of 16, got {self.clip_width}")
        self._check_image_size(2 ** (len(self.autoencoder_channels) - 1))

    def _check_image_size(self, step: int) -> None:
        """The autoencoder halves it once for each entry after the first; CLIP's patches have 8 pixels."""
        if not 8 <= self.image_size <= MOST_PIXELS:
            raise UserError(f"image_size should be within 8..{MOST_PIXELS} pixels, got {self.image_size}")
        if self.image_size % step:
            near, halvings = max(-(-8 // step), self.image_size // step) * step, len(self.autoencoder_channels) - 1
            raise UserError(
                f"image_size should be a multiple of {step}, as the autoencoder halves it {halvings} times; "
                f"got {self.image_size}, near it are {near} and {near + step}"
            )
