"""Whether two configurations are of one run: whatever could change a result counts, and nothing else."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from tailsmith.generation.generator import Generator
from tailsmith.runs.config import RunConfig
from tailsmith.runs.outputs import plan_meta
from tailsmith.synthesis.plan_identity import WITHOUT_EFFECT

OF_DATA = ("data", "skip_corrupt", "max_megapixels")  # what comes of them has a fingerprint
COSTS = (  # memory and time only
    "batch_size",
    "workers",
    "engine",
    "engine_options",
    "stalled_after",
    *(f"{stage}.checkpoint_every" for stage in ("real", "mixed")),
    *(f"synthesis.feedback.{name}" for name in WITHOUT_EFFECT),
)


def differing(earlier: RunConfig, wanted: RunConfig, among: Collection[str] | None = None) -> list[str]:
    """The settings that differ, "real.steps", of those that could change a result, or of these `among` which to look.

    What data come of OF_DATA is left to their fingerprint.
    """
    one, other = _flat(earlier), _flat(wanted)
    keys = [key for key in one | other if one.get(key) != other.get(key)]
    if among is not None:
        return [key for key in keys if key in among]
    counting = [key for key in keys if key not in (*OF_DATA, *COSTS)]

    def named(key: str) -> str:
        """A section that one of both lacks as a whole, by its own name."""
        section = key.partition(".")[0]
        return section if None in (getattr(earlier, section), getattr(wanted, section)) else key

    return list(dict.fromkeys(map(named, counting)))


def is_same_generator(run: Path, earlier: str, wanted: str) -> bool:
    """Whether a run's generator goes by another name now: its plans' hashes count, else those of the weights."""
    now = Generator.find(wanted).sha256()
    places = ("synthetic/*", "arms/*/synthetic", "study/*")  # the second one: as earlier versions had it
    plans = [path for place in places for path in run.glob(f"{place}/plan.parquet")]
    planned = {(plan_meta(path) or {}).get("generator_sha256") for path in plans}
    if planned:
        return planned == {now}
    try:
        before = Generator.find(earlier)
        return before.located == Generator.find(wanted).located or before.sha256() == now
    except ValueError:  # it is no longer where it was
        return False


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Settings by their dotted names; a section that is absent, `search`, as None."""
    flat: dict[str, Any] = {}
    for each in fields(config):
        value = getattr(config, each.name)
        flat |= _flat(value, f"{prefix}{each.name}.") if is_dataclass(value) else {prefix + each.name: value}
    return flat
