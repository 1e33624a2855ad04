"""The paper's two experiments on the embedded world, declared: arms, sets and settings.

Budgets are equal: all arms take the same number of steps of the same batch size, and all synthetic sets have the same
number of images.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tailsmith.classification.config import TrainConfig
from tailsmith.guidance.config import FeedbackConfig
from tailsmith.reproduction.driver import Experiment
from tailsmith.runs.config import RunConfig
from tailsmith.synthesis.config import SynthesisConfig

FEEDBACK_SCALE = 0.02
STEPS = 500
NUM_INFERENCE_STEPS = 20  # the paper has 30; a third cheaper

_TRAIN = TrainConfig(steps=STEPS, learning_rate=0.1, ema_decay=0.99)
_MIXED = replace(_TRAIN, method="balanced_softmax", resampling="half_and_half")
_SYNTHESIS = SynthesisConfig(
    guided_by="text",  # with 3, the best of 13 settings on validation that keeps the style (LOG.md, 2026-11-27)
    guidance_scale=3.0,
    feedback=FeedbackConfig(
        scale=FEEDBACK_SCALE,
        prediction="guided",  # fashion-gradients compares it with the default
    ),
    num_inference_steps=NUM_INFERENCE_STEPS,
)
_COMMON: dict[str, Any] = {"real": _TRAIN, "mixed": _MIXED}
_ARMS = ("erm", "balanced_softmax", "text", "image_text", "feedback_entropy")
_SHOTS = ("overall", "many", "medium", "few")

LT = RunConfig(data="fashion-lt", target=150, arms=_ARMS, synthesis=_SYNTHESIS, **_COMMON)

GROUPS = RunConfig(  # the prompt names the context, every group is topped up
    data="fashion-groups",
    target=16,
    per="group",
    arms=_ARMS,
    synthesis=replace(_SYNTHESIS, prompt="{label} in {attribute}"),
    **_COMMON,
)

# Does the default feedback help?
FEEDBACK = replace(
    LT,
    arms=("erm", "image_text", "feedback_entropy"),
    synthesis=replace(_SYNTHESIS, feedback=replace(_SYNTHESIS.feedback, prediction="conditional")),
)

# What cheaper gradients buy: one set of fashion-lt, in several ways, and unguided
_WAYS: dict[str, dict[str, Any]] = {
    "feedback_entropy_guided": {"feedback": {"prediction": "guided"}},
    "feedback_entropy_forward": {"feedback": {"through": "denoiser-forward"}},
    "feedback_entropy_tiny": {"feedback": {"decoder": "tiny"}},
    "feedback_entropy_decoder": {"feedback": {"through": "decoder", "decoder": "tiny"}},
}

EXPERIMENTS: dict[str, Experiment] = {
    "fashion-lt": Experiment({"": LT}, _SHOTS),
    "fashion-gradients": Experiment({"": replace(FEEDBACK, arms=(*FEEDBACK.arms, *_WAYS), sets=_WAYS)}, _SHOTS),
    "fashion-feedback": Experiment({"": FEEDBACK}, _SHOTS),
    "fashion-dose": Experiment(  # more of the same: 150 and 500 a class
        {
            "": replace(LT, arms=("erm", "balanced_softmax", "image_text")),
            "_500": replace(LT, target=500, arms=("erm", "image_text")),
        },
        _SHOTS,
    ),
    "fashion-groups": Experiment(
        {
            "": GROUPS,  # known groups
            "_hidden": RunConfig(  # hidden groups: as many images, planned per class, no context named
                data="fashion-groups",
                target=230,
                arms=("erm", "text", "image_text", "feedback_entropy"),
                synthesis=_SYNTHESIS,
                **_COMMON,
            ),
        },
        ("overall", "worst_group", "groups_majority", "groups_minority", "groups_unseen"),
    ),
}
