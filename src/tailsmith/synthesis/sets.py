"""A plan and its shards in one folder, and what may be done there; a synthetic set is one that has a name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tailsmith.data.checks import class_difference
from tailsmith.data.dataset import Dataset
from tailsmith.data.packed import read_rows
from tailsmith.errors import UserError
from tailsmith.locks import exclusive
from tailsmith.synthesis.claims import sweep
from tailsmith.synthesis.plan import Plan, check_shards
from tailsmith.synthesis.shards import read_shards, shard_path, synthetic_dataset
from tailsmith.synthesis.tries import given_up

PLAN, LOCK = "plan.parquet", ".plan-lock"


@dataclass(frozen=True)
class SyntheticSet:
    """`RUN/synthetic/<name>/`. It grows: a plan for a larger target keeps the shards there are, and adds others."""

    name: str
    folder: Path

    @property
    def plan(self) -> Plan:
        """The requests of all its images."""
        return Plan.read(self.folder / PLAN)

    def results(self) -> pd.DataFrame:
        """Requests and results of all its images, in the plan's order; ValueError for half of a plan."""
        return read_shards(self.folder, self.plan)

    def images(self, like: Dataset) -> Dataset:
        """Its images as training rows of the classes and attributes of `like`, but for those that show nothing."""
        return synthetic_dataset(self.results(), like)


def chosen_shards(text: str, known: Sequence[int]) -> list[int]:
    """ "3", "0,1,2" or "0-9,12" -> shard numbers of the plan."""
    chosen: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UserError(f"shards should be numbers as in 3 or 0,1,2 or 0-9, got {text!r}")
        low, high = int(first), int(last if dash else first)
        check_shards([low, high] if low <= high else [], known)  # before a range of billions is written out
        chosen += range(low, high + 1)
    if not chosen:
        raise UserError(f"the plan has the shards {min(known)}-{max(known)}, got {text}")
    check_shards(chosen, known)
    return sorted(set(chosen))


def plan_in(out: Path, plan: Plan) -> Plan:
    """A plan as its folder keeps it: where a smaller plan's images lie there, their shards stay and new ones follow;
    where a larger one has grown from this one, this one's shards are some of that one's.

    The same for every process that is given the plan. ValueError for a folder of another plan's shards.
    """
    path = out / PLAN
    kept = Plan.read(path) if path.exists() else plan
    if kept.parts == plan.parts:
        return plan
    try:
        return plan.extended(kept)
    except ValueError as error:
        if (part := plan.within(kept)) is not None:
            return part
        older = "; an earlier version of tailsmith made them" if "rendering" not in kept.meta else ""
        raise UserError(f"{out} holds images of another plan; use another folder ({error}{older})") from error


def keep_plan(out: Path, plan: Plan) -> None:
    """Keep the plan, as `plan_in` gave it, beside its shards: the largest one of those that begin alike."""
    path = out / PLAN
    if not path.exists():
        plan.write(path)
    elif not _keeps(path, plan):
        with exclusive(out / LOCK, "adds to this plan"):
            if not _keeps(path, plan):
                if plan_in(out, plan).parts != plan.parts:
                    raise UserError(f"another process has added other images to {out}; run the same command again")
                plan.write(path)


def _keeps(path: Path, plan: Plan) -> bool:
    kept = Plan.read(path)
    return kept.parts == plan.parts or kept.begins_with(plan)


def check_folder(out: Path, plan: Plan) -> Plan:
    """What `plan_in` says, and ValueError as there; clear what killed processes left in the folder."""
    sweep(out)
    return plan_in(out, plan)


def finished_images(folder: Path, dataset: Dataset) -> Dataset:
    """The images of a folder whose plan is fulfilled, all of them compared with their hashes.

    Raises ValueError for half of a plan, another dataset's, or a shard that is not what was written.
    """
    requests = Plan.read(folder / PLAN)
    planned = tuple(requests.meta["class_names"])
    if planned != dataset.class_names:
        raise UserError(
            f"the classes of the images in {folder} are not the data's: the data "
            f"{class_difference(dataset.class_names, planned)}; synthesize for this data"
        )
    return synthetic_dataset(read_shards(folder, requests, images=True), dataset)


def rendered(folder: Path, shards: Sequence[int]) -> dict[str, Any]:
    """How many images, how fast, what feedback skipped, and which requests were given up."""
    made = pd.concat([read_rows(shard_path(folder, number))[0] for number in shards], ignore_index=True)
    return {
        "images": len(made),
        "shards": len(shards),
        "seconds_per_image": float(made["seconds"].mean()),
        "skipped_steps": int(made["skipped_steps"].sum()),
        "given_up": given_up(made),
    }
