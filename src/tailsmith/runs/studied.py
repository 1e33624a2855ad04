"""Which few samples a run looks at: the settings that are varied, and where they lie."""

from __future__ import annotations

from pathlib import Path

from tailsmith.guidance.config import CRITERION_NAMES
from tailsmith.runs.config import RunConfig, sets_of
from tailsmith.runs.directory import RunDirectory
from tailsmith.settings import changed
from tailsmith.synthesis.config import SynthesisConfig

CONDITIONED = {"text": "text only", "image": "image only", "image+text": "image + text"}


def studied_criteria(config: RunConfig) -> list[str]:
    """All that guide in this run: those of its own settings, which the study's samples follow, and of its sets."""
    chosen = [config.synthesis.feedback.criterion, *(each.feedback.criterion for each in sets_of(config).values())]
    several = [[each] if isinstance(each, str) else each for each in chosen]
    used = {name for names in several for name in names}
    return [name for name in CRITERION_NAMES if name in used]


def study_settings(config: RunConfig) -> dict[str, SynthesisConfig]:
    """What is varied: text only, then the run's own conditioning at growing feedback scales.

    Where that is the image, there is no text: the generator (Kandinsky) takes none.
    """
    own = config.synthesis.conditioning
    chosen: dict[str, SynthesisConfig] = {}
    if own != "image":
        chosen["text only"] = changed(
            config.synthesis, {"conditioning": "text", "embedding_mixing": "none", "feedback": {"scale": 0.0}}
        )
    for scale in config.study_scales:
        name = CONDITIONED.get(own, own) if scale == 0 else f"feedback ω = {scale:g}"
        chosen[name] = changed(config.synthesis, {"feedback": {"scale": scale}})
    return chosen


def study_folder(directory: RunDirectory, name: str) -> Path:
    slug = name.replace("ω = ", "").replace(" + ", "-").replace(" ", "-")
    return directory.path / "study" / slug
