"""How a classifier is trained. No torch here: the command line reads it to print its help."""

from __future__ import annotations

from dataclasses import dataclass

from tailsmith.errors import UserError
from tailsmith.settings import MOST_PIXELS, check_above_zero, check_not_negative, check_seed, check_whole

_MOST_PIXELS_OF_A_BATCH = 2**30  # 12.9 GB before the first layer


@dataclass(frozen=True)
class StageTwoConfig:
    """The last layer alone is trained on, upon the frozen backbone, as on Places-LT (App. G.4; Ren et al., 2020)."""

    steps: int = 500
    epochs: int | None = None  # instead of steps: passes over the training images, counted as in the first stage
    batch_size: int = 512
    learning_rate: float = 0.1  # falls as a cosine, without warm-up
    weight_decay: float = 5e-4
    method: str = "balanced_softmax"  # erm | balanced_softmax
    sampler: str = "meta"  # how each pool of `resampling` hands out its images: uniform | meta (learned, per class)
    init_pow: float = 0.3  # of the meta sampler: a class starts with a weight of its share ** -init_pow
    meta_batch_size: int = 512  # of the meta sampler: class-balanced training images on which a step is judged
    meta_learning_rate: float = 1e-3  # of the meta sampler: Adam's

    def __post_init__(self) -> None:
        check_whole(self, ("steps", "epochs", "batch_size", "meta_batch_size"), "stage_two.")
        check_above_zero(self, ("learning_rate", "meta_learning_rate"), "stage_two.")
        check_not_negative(self, ("weight_decay", "init_pow"), "stage_two.")
        if self.sampler not in ("uniform", "meta"):
            raise UserError(f"unknown stage_two.sampler {self.sampler!r}: expected one of uniform, meta")


@dataclass(frozen=True)
class TrainConfig:
    """The paper's SGD (Appendix G) with a cosine schedule; `check_train_config` checks the names in it."""

    backbone: str = "resnet-small"  # or the name of a timm model
    pretrained: bool = False  # timm's weights from the hub
    pretrained_file: str | None = None  # pretrained weights from this file instead of the hub
    image_size: int | None = None  # pixels; None = the backbone's own
    method: str = "erm"  # erm | balanced_softmax | crt | lws | cmo | group_dro; with settings: crt:head_steps=300
    alpha: float = 1.0  # weight of the method's loss against cross-entropy (Appendix F)
    prior: str = "per_source"  # of balanced softmax: per_source | effective (what batches hold) | combined | real
    resampling: str = "uniform"  # uniform | half_and_half (real, synthetic) | class_balanced | group_balanced
    steps: int = 1500
    epochs: int | None = None  # instead of steps: passes over the images; half_and_half: over the real images
    batch_size: int = 128  # over all processes together
    learning_rate: float = 0.1  # the peak
    warmup_fraction: float = 0.05  # of the steps, linear from 0
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    ema_decay: float = 0.0  # 0 = off; else averaged weights are what is evaluated and selected
    evaluate_every: int = 100  # steps between looks at the validation images; the last step is always one
    select_by: str = "class_mean"  # the validation accuracy that selects: class_mean | image_mean
    checkpoint_every: int = 200  # steps between what an interrupted training goes on from; changes no result
    precision: str = "fp32"  # fp32 | bf16 | fp16 (autocast; fp16 on accelerators only)
    workers: int | None = None  # that make training views of photographs; None = one per core; changes no result
    stage_two: StageTwoConfig | None = None  # after erm or balanced_softmax, the last layer alone; None = one stage
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole(self, ("steps", "epochs", "batch_size", "evaluate_every", "checkpoint_every"))
        check_above_zero(self, ("learning_rate",))
        check_not_negative(self, ("weight_decay", "seed"))
        check_seed(self.seed)
        if self.workers is not None and self.workers < 1:
            raise UserError(f"workers should be at least 1, got {self.workers}")
        if self.image_size is not None:
            self._check_image_size(self.image_size)
        for name in ("alpha", "warmup_fraction", "label_smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} should be in 0..1, got {getattr(self, name)}")
        for name in ("momentum", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} should be at least 0 and below 1, got {getattr(self, name)}")
        if self.resampling == "half_and_half" and self.batch_size % 2:
            raise UserError(f"resampling 'half_and_half' needs an even batch_size, got {self.batch_size}")
        if self.stage_two is not None:
            self._check_stage_two(self.stage_two)

    def _check_image_size(self, size: int) -> None:
        """Before the memory is gone."""
        if not 1 <= size <= MOST_PIXELS:
            raise UserError(f"image_size should be within 1..{MOST_PIXELS} pixels, got {size}")
        if self.batch_size * size**2 > _MOST_PIXELS_OF_A_BATCH:
            raise UserError(
                f"a batch of {self.batch_size} images of {size} x {size} pixels takes "
                f"{12e-9 * self.batch_size * size**2:,.0f} GB before the first layer; lower image_size or batch_size"
            )

    def _check_stage_two(self, second: StageTwoConfig) -> None:
        """What of the second stage can't go with the rest."""
        if self.resampling == "half_and_half" and second.batch_size % 2:
            raise UserError(f"resampling 'half_and_half' needs an even stage_two.batch_size, got {second.batch_size}")
        if second.sampler != "meta":
            return
        if self.resampling in ("class_balanced", "group_balanced"):
            raise UserError(
                f"stage_two.sampler 'meta' learns how often a class is drawn, but resampling {self.resampling!r} "
                "settles it; use resampling 'uniform' or 'half_and_half', or stage_two.sampler 'uniform'"
            )
        if self.prior == "effective" and second.method == "balanced_softmax":
            raise UserError(
                "prior 'effective' is what batches hold, which stage_two.sampler 'meta' changes at every step; use "
                "prior 'per_source', 'combined' or 'real', or stage_two.sampler 'uniform'"
            )
