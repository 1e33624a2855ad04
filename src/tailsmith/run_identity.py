"""Whether two configurations are of one run: whatever could change a result counts, and nothing else."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from tailsmith.config import RunConfig, to_dict
from tailsmith.outputs import plan_meta
from tailsmith.synthesis.generators import generator_hash, located
from tailsmith.synthesis.plan_identity import WITHOUT_EFFECT

OF_DATA = ("data", "skip_corrupt", "max_megapixels")  # what comes of them has a fingerprint
COSTS = (  # memory and time only
    "batch_size",
    "workers",
    *(f"{stage}.checkpoint_every" for stage in ("real", "mixed")),
    *(f"synthesis.{name}" for name in WITHOUT_EFFECT),
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
    sections = [key.partition(".")[0] for key in counting]
    both = [None not in (getattr(earlier, name), getattr(wanted, name)) for name in sections]
    return list(
        dict.fromkeys(key if there else name for key, name, there in zip(counting, sections, both, strict=True))
    )


def is_same_generator(run: Path, earlier: str, wanted: str) -> bool:
    """Whether a run's generator goes by another name now: its plans' hashes count, else those of the weights."""
    now = generator_hash(wanted)
    places = ("synthetic/*", "arms/*/synthetic", "study/*")  # the second one: as earlier versions had it
    plans = [path for place in places for path in run.glob(f"{place}/plan.parquet")]
    planned = {(plan_meta(path) or {}).get("generator_sha256") for path in plans}
    if planned:
        return planned == {now}
    try:
        return located(earlier) == located(wanted) or generator_hash(earlier) == now
    except ValueError:  # it is no longer where it was
        return False


def _flat(config: RunConfig) -> dict[str, Any]:
    """Sections by their settings; one that is absent, `search`, as None."""
    flat: dict[str, Any] = {}
    for name, value in to_dict(config).items():
        inner = getattr(config, name)
        if isinstance(value, dict) and not isinstance(inner, dict):
            flat |= {f"{name}.{key}": each for key, each in value.items()}
        else:
            flat[name] = value
    return flat
