"""How synthetic images are made. Nothing heavy is imported: help texts read this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from tailsmith.errors import UserError
from tailsmith.guidance.config import FeedbackConfig
from tailsmith.settings import check_seed

# Settings of `synthesis` by their names of before, and what they are in `synthesis.feedback` now. Options, YAML files
# and plans that have the old names are read as if they had the new ones.
MOVED = {"criterion": "criterion"} | {f"feedback_{each.name}": each.name for each in fields(FeedbackConfig)}


@dataclass(frozen=True)
class SynthesisConfig:
    """How each image is made; the defaults are the paper's where it states them."""

    conditioning: str = "image+text"  # text | image | image+text
    conditioning_from: str = "group"  # real images of: group (of its class, where the group has none) | class
    embedding_mixing: str = "none"  # none | mixup | cutmix: with that of another real image of the group or class
    embedding_mixing_alpha: float = 1.0  # the first image's share of a mixture is drawn from Beta(alpha, alpha)
    embedding_dropout: float = 0.7  # share of the image embedding's entries set to zero (section 3.3); LOG.md has why
    prompt: str = "{label}"  # "{label} in {attribute}" names the attribute
    display_names: dict[str, str] = field(default_factory=dict)  # class or attribute name -> words for the prompt
    guidance_scale: float | None = None  # gamma; None = the generator's own default
    guided_by: str = "image+text"  # what guidance_scale amplifies; text = the image stays in the negative too
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

    @staticmethod
    def renamed(values: Mapping[str, Any]) -> dict[str, Any]:
        """Settings with what has moved in its new place; ValueError for one that is given in both."""
        now = {name: value for name, value in values.items() if name not in MOVED}
        for old in values.keys() & MOVED.keys():
            feedback = now.setdefault("feedback", {})
            if not isinstance(feedback, Mapping) or MOVED[old] in feedback:
                raise UserError(
                    f"synthesis has both {old} and feedback.{MOVED[old]}, one setting; give only the latter"
                )
            now["feedback"] = {**feedback, MOVED[old]: values[old]}
        return now
