"""How a classifier is trained. No torch here: the command line reads it to print its help."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainConfig:
    """The paper's SGD (Appendix G) with a cosine schedule; `check_train_config` checks the names in it."""

    backbone: str = "resnet-small"  # or the name of a timm model
    pretrained: bool = False  # timm's weights from the hub
    image_size: int | None = None  # pixels; None = the backbone's own
    method: str = "erm"  # erm | balanced_softmax
    alpha: float = 1.0  # weight of the method's loss against cross-entropy (Appendix F)
    prior: str = "per_source"  # of balanced softmax: per_source | effective (what batches hold) | combined | real
    resampling: str = "uniform"  # uniform | half_and_half (real, synthetic) | class_balanced | group_balanced
    steps: int = 1500
    batch_size: int = 128  # over all processes together
    learning_rate: float = 0.1  # the peak
    warmup_fraction: float = 0.05  # of the steps, linear from 0
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    ema_decay: float = 0.0  # 0 = off; else averaged weights are what is evaluated and selected
    evaluate_every: int = 100  # steps between looks at the validation images; the last step is always one
    precision: str = "fp32"  # fp32 | bf16 (autocast)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "learning_rate", "evaluate_every"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} should be above 0, got {getattr(self, name)}")
        for name in ("weight_decay", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} should not be negative, got {getattr(self, name)}")
        for name in ("alpha", "warmup_fraction", "label_smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} should be in 0..1, got {getattr(self, name)}")
        for name in ("momentum", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} should be at least 0 and below 1, got {getattr(self, name)}")
        if self.resampling == "half_and_half" and self.batch_size % 2:
            raise ValueError(f"resampling 'half_and_half' needs an even batch_size, got {self.batch_size}")
