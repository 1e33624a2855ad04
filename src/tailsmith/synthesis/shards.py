"""Shards: one Parquet file each, written when whole. What is in one is checked against its plan and what was written.

A shard that is not what its plan asks for is set aside, never deleted. Who renders which is in claims.py; a folder of
shards as a whole is in sets.py.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pandas as pd

from tailsmith.data.dataset import Dataset, make_table
from tailsmith.data.packed import CHECKSUM, IMAGE_HASH, VERIFIED, Damaged, check_images, location, read_meta, read_rows
from tailsmith.errors import UserError
from tailsmith.files import read_json, write_json
from tailsmith.synthesis.columns import RESULTS, columns_of
from tailsmith.synthesis.plan import Plan

log = logging.getLogger(__name__)
MANY = 100  # shards, from which on it is remembered which were read
THREADS = 8  # hashing and reading release Python's lock


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.parquet"


def begun_path(folder: Path, number: int) -> Path:
    """Where the images of a shard wait that was begun and not finished."""
    return folder / f".begun-{number:05d}.parquet"


def read_shard(path: Path, plan: Plan, number: int, *, images: bool) -> pd.DataFrame:
    """The rows of a plan's shard, but for the images; Damaged where they are not what the plan asks for.

    Requests are compared one by one, everything but the images by a checksum, and with `images` these by their hashes,
    for which all of the file is read.
    """
    rows, meta = read_rows(path)
    known = True
    if "rendering" in plan.meta:  # shards of earlier versions say less about themselves
        if CHECKSUM not in meta:
            raise Damaged(f"{path} was not written by tailsmith: it has no checksum")
        known = meta.get("plan") in (plan.identity, *plan.meta.get("extends", ()))
        if not known and meta.get("common") != plan.common:
            raise Damaged(f"{path} is a shard of another plan")
    if (fault := _difference(rows, plan.shard(number))) is not None:  # a larger plan in the same folder may have it
        raise Damaged(f"{path} {fault if known else 'is a shard of another plan'}")
    if images:
        check_images(path)
    return rows.drop(columns=IMAGE_HASH, errors="ignore")


def unsound(folder: Path, plan: Plan, numbers: Sequence[int]) -> list[int]:
    """Which of these shards are to be made: not there, or not what was written.

    Every byte of the others is read; of a set of many shards, once: those whose file is as it was then are sound, until
    somebody finds damage in one of them.
    """
    states = _state_of_files(folder, numbers)
    known = _verified(folder, plan) if len(numbers) >= MANY else {}

    def to_be_made(number: int) -> bool:
        state = states[number]
        return state is None or (
            known.get(number) != state and fault_of(shard_path(folder, number), plan, number) is not None
        )

    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(to_be_made, numbers))
    if len(numbers) >= MANY:
        sound = {number: states[number] for number, made in zip(numbers, found, strict=True) if not made}
        write_json(folder / VERIFIED, {"plan": plan.identity, "files": {**known, **sound}})
    return [number for number, made in zip(numbers, found, strict=True) if made]


def _state_of_files(folder: Path, numbers: Sequence[int]) -> dict[int, list[int] | None]:
    """Size, time of change and inode of each shard, by one look at the folder; None where there is none."""
    with os.scandir(folder) if folder.is_dir() else nullcontext(()) as entries:
        there = {entry.name: entry.stat() for entry in entries if entry.name.startswith("shard-")}
    found = ((number, there.get(shard_path(folder, number).name)) for number in numbers)
    return {number: None if each is None else [each.st_size, each.st_mtime_ns, each.st_ino] for number, each in found}


def _verified(folder: Path, plan: Plan) -> dict[int, list[int]]:
    """Shards that an earlier look found sound, and the state of their files then."""
    try:
        content = read_json(folder / VERIFIED)
        return (
            {int(number): list(state) for number, state in content["files"].items()}
            if content["plan"] == plan.identity
            else {}
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def guides_of(folder: Path, plan: Plan, numbers: Sequence[int]) -> set[str]:
    """Hashes of the classifiers that guided those of a plan's shards that are there; of shards with feedback only."""
    guided = {number for number in numbers if (plan.shard(number)["feedback_scale"] > 0).any()}
    there = [path for number in sorted(guided) if (path := shard_path(folder, number)).is_file()]
    with ThreadPoolExecutor(THREADS) as pool:
        return {meta["classifier_sha256"] for meta in pool.map(read_meta, there) if "classifier_sha256" in meta}


def fault_of(path: Path, plan: Plan, number: int) -> str | None:
    """What is wrong with a shard that is there, as far as rendering it again would help."""
    try:
        read_shard(path, plan, number, images=True)
    except Damaged as error:
        return error.fault
    return None


def _difference(rows: pd.DataFrame, planned: pd.DataFrame) -> str | None:
    """What keeps the rows from being the planned requests, in their order, with all results."""
    expected = [*columns_of(planned), *(name for name in RESULTS if name not in ("image", IMAGE_HASH))]
    if lacking := [name for name in expected if name not in rows.columns]:
        return f"lacks the column {lacking[0]!r}"
    if len(rows) != len(planned):
        return f"has {len(rows)} images, its plan {len(planned)}"
    for name in columns_of(planned):
        got, wanted = _values(rows[name]), _values(planned[name])
        if got != wanted:
            row = next(row for row, pair in enumerate(zip(got, wanted, strict=True)) if pair[0] != pair[1])
            return f"is not what its plan says: row {row} has the {name} {got[row]!r}, the plan {wanted[row]!r}"
    return None


def _values(column: pd.Series) -> list[object]:
    """Of any type, None where there is none: what a column without text is read as differs."""
    values = column.astype(object)
    listed: list[object] = values.where(values.notna(), None).tolist()
    return listed


def read_shards(
    folder: Path, plan: Plan, numbers: Sequence[int] | None = None, *, images: bool = False
) -> pd.DataFrame:
    """Shards of a plan (None = all), in its order, but for the images: column `path` says where each is (packed.py).

    The images of a full plan would not fit into memory. Raises ValueError for a shard that is missing, or is not what
    the plan asks for; with `images` all of these are read and compared with their hashes, too.
    """
    folder = folder.resolve()  # the locations hold wherever the process goes
    numbers = plan.shards if numbers is None else numbers
    there = [number for number in numbers if shard_path(folder, number).exists()]
    if not there:
        raise UserError(f"no finished shard in {folder}; run `tailsmith synthesize` first")
    if len(there) < len(numbers):
        raise UserError(
            f"{folder} has {len(there)} of its plan's {len(numbers)} shards; finish it with `tailsmith synthesize`"
        )

    def one(number: int) -> pd.DataFrame:
        path = shard_path(folder, number)
        shard = read_shard(path, plan, number, images=images)
        return shard.assign(path=[location(path, row) for row in range(len(shard))])

    if len(guides := guides_of(folder, plan, numbers)) > 1:
        which = ", ".join(sorted(guide[:12] for guide in guides))
        raise UserError(
            f"{folder} holds images that {len(guides)} classifiers guided ({which}); synthesize into another folder, "
            "with one of them"
        )
    with ThreadPoolExecutor(THREADS) as pool:
        found = pd.concat(list(pool.map(one, numbers)), ignore_index=True)
    rows = pd.Index(found["request_id"]).get_indexer(pd.Index(plan.table["request_id"]))
    in_order: pd.DataFrame = found.iloc[rows[rows >= 0]].reset_index(drop=True)
    return in_order


def synthetic_dataset(results: pd.DataFrame, like: Dataset) -> Dataset:
    """Results, of shards or still in memory, as training rows of the same classes and attributes, but for the images
    that show nothing.
    """
    black = results["black"].to_numpy(dtype=bool)
    if black.any():
        log.warning("%d of %d synthetic images show nothing and are left out", black.sum(), len(results))
        results = results[~black]
    table = make_table(
        results["label"].to_numpy(),
        image_ids=[f"synthetic-{request}" for request in results["request_id"]],
        paths=results["path"].tolist() if "path" in results else None,
        encoded=results["image"].tolist() if "image" in results else None,
        attributes=results["attribute"].to_numpy(),
        splits="train",
        sources="synthetic",
    )
    return Dataset(table, like.class_names, like.attribute_names, f"{like.name} (synthetic)", like.licence)
