"""The paper's benchmarks at three scales, as settings of a run; and the synthetic sets that its tables train on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from tailsmith.classification.config import StageTwoConfig, TrainConfig
from tailsmith.classification.methods import METHODS
from tailsmith.errors import UserError
from tailsmith.reproduction.fashion import GROUPS, LT
from tailsmith.runs.arms import GUIDE
from tailsmith.runs.config import RunConfig
from tailsmith.runs.recipe import read_recipe
from tailsmith.settings import changed, from_dict

SCALES = ("tiny", "embedded", "full")

# Embedded, fashion-lt stands for both long-tailed benchmarks, and their tables share its classifiers and sets. As on
# Places-LT, a row may have its last layer trained on by Meta Sampler (Appendix G.4).
_STAGE_TWO = StageTwoConfig(steps=100, batch_size=128, meta_batch_size=128, learning_rate=0.05)
_LT = replace(LT, arms=(GUIDE,), mixed=replace(LT.mixed, stage_two=_STAGE_TWO))
EMBEDDED: Mapping[str, RunConfig] = {
    "imagenet-lt": _LT,
    "places-lt": _LT,
    "nico++": replace(GROUPS, arms=(GUIDE,)),
}

# Sets beside `runs.arms.SETS`: the paper's ablations.
SETS: Mapping[str, Mapping[str, Any]] = {
    "image_text_no_dropout": {"conditioning": "image+text", "embedding_dropout": 0.0, "feedback": {"scale": 0.0}},
    **{f"entropy_{scale}": {"feedback": {"scale": scale}} for scale in (0.005, 0.01, 0.03, 0.05)},
    "entropy_every_step": {"feedback": {"every": 1}},
}


@dataclass(frozen=True)
class Scale:
    """How large an experiment is: tiny means nothing, embedded suits two cores, full is the paper's."""

    name: str = "embedded"
    data: str | None = None  # of the full scale: the benchmark's folder

    def __post_init__(self) -> None:
        if self.name not in SCALES:
            raise UserError(f"scale should be one of {', '.join(SCALES)}, got {self.name!r}")
        if self.name == "full" and self.data is None:
            raise UserError("scale full needs the benchmark's images: name their folder with --data (docs/recipes.md)")
        if self.name != "full" and self.data is not None:
            raise UserError(f"--data is for --scale full; scale {self.name} has its own images")

    def world(self, benchmark: str, sets: Mapping[str, Mapping[str, Any]] = SETS) -> RunConfig:
        """The run of one of EMBEDDED, with these sets beside the usual ones."""
        if self.name == "full":
            settings: RunConfig = from_dict(RunConfig, read_recipe(benchmark).settings, f"recipe {benchmark}")
            config = replace(settings, data=str(self.data), arms=(GUIDE,))
        else:
            config = EMBEDDED[benchmark]
        if self.name == "tiny":
            config = _tiny(config)
        return replace(config, sets={name: dict(each) for name, each in sets.items()})

    def folder(self, benchmark: str) -> str:
        """Of its runs. Benchmarks that one embedded world stands for share one."""
        return benchmark if self.name == "full" else EMBEDDED[benchmark].data

    def target(self, target: int | None, config: RunConfig) -> int | str | dict[str, int]:
        """Images per class or group afterwards: that of a row, if it has one, else the world's."""
        return config.target if target is None or self.name == "tiny" else target

    def method(self, named: str) -> str:
        """As a row names it; tiny second stages and ensembles, where the method has any."""
        name, _, given = named.partition(":")
        known = {each.name for each in fields(METHODS[name])}  # type: ignore[arg-type]
        short = {"head_steps": 4, "scale_steps": 4, "fits": 2, "members": 2, "queue": 64}
        if self.name != "tiny" or not (wanted := {key: value for key, value in short.items() if key in known}):
            return named
        kept = [each for each in given.split(",") if each and each.partition("=")[0] not in wanted]
        return f"{name}:{','.join([*kept, *(f'{key}={value}' for key, value in wanted.items())])}"


def _tiny(config: RunConfig) -> RunConfig:
    def few(training: TrainConfig) -> TrainConfig:
        second = training.stage_two and replace(training.stage_two, steps=4, batch_size=16, meta_batch_size=16)
        return replace(training, steps=8, batch_size=16, evaluate_every=8, stage_two=second)

    return replace(
        config,
        target=7 if config.per == "class" else 1,
        real=few(config.real),
        mixed=few(config.mixed),
        synthesis=changed(config.synthesis, {"num_inference_steps": 2, "feedback": {"every": 1}}),
    )
