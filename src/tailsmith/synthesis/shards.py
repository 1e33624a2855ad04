"""Shards of a plan from outside: which ones were asked for, what they hold, whether all are there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from tailsmith.data.checks import class_difference
from tailsmith.data.dataset import Dataset
from tailsmith.synthesis.requests import Plan, check_shards
from tailsmith.synthesis.worker import read_shards, shard_path, synthetic_dataset


def chosen_shards(text: str, known: Sequence[int]) -> list[int]:
    """ "3", "0,1,2" or "0-9,12" -> shard numbers of the plan."""
    chosen: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"shards should be numbers as in 3 or 0,1,2 or 0-9, got {text!r}")
        begin, end = int(first[:20]), int((last if dash else first)[:20])
        check_shards([begin, end], known)  # before a list of all between them
        chosen += range(begin, end + 1)
    if not chosen:
        raise ValueError(f"the plan has the shards {min(known)}-{max(known)}, got {text}")
    check_shards(chosen, known)
    return sorted(set(chosen))


def claim(out: Path, plan: Plan) -> None:
    """Keep the plan beside its shards, and refuse a folder with another plan's."""
    path = out / "plan.parquet"
    if path.exists():
        earlier = Plan.read(path)
        if earlier.meta != plan.meta or not earlier.table.equals(plan.table):
            raise ValueError(f"{out} holds images of another plan; use another folder")
    else:
        plan.write(path)


def finished_images(folder: Path, dataset: Dataset) -> Dataset:
    """The images of a folder whose plan is fulfilled; ValueError for half of a plan, or another dataset's."""
    requests = Plan.read(folder / "plan.parquet")
    planned = tuple(requests.meta["class_names"])
    if planned != dataset.class_names:
        raise ValueError(
            f"the classes of the images in {folder} are not the data's: the data "
            f"{class_difference(dataset.class_names, planned)}; synthesize for this data"
        )
    there = [number for number in requests.shards if shard_path(folder, number).exists()]
    if len(there) < len(requests.shards):
        raise ValueError(
            f"{folder} has {len(there)} of its plan's {len(requests.shards)} shards; "
            "finish it with `tailsmith synthesize`"
        )
    return synthetic_dataset(read_shards(folder, requests), dataset)


def rendered(folder: Path, shards: Sequence[int]) -> dict[str, Any]:
    """How many images, how fast, and what feedback skipped; reads two columns only."""
    columns = ["seconds", "skipped_steps"]
    parts = [pq.read_table(shard_path(folder, number), columns=columns).to_pandas() for number in shards]
    made = pd.concat(parts, ignore_index=True)
    return {
        "images": len(made),
        "shards": len(shards),
        "seconds_per_image": float(made["seconds"].mean()),
        "skipped_steps": int(made["skipped_steps"].sum()),
    }
