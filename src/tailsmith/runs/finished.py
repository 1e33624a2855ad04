"""A run directory as a comparison reads it: its arms' results, what they trained on, and a hash of each split."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tailsmith.classification.config import TrainConfig
from tailsmith.classification.methods import method_of
from tailsmith.classification.methods.contract import HeldOut, Stage, Task
from tailsmith.data.fingerprint import Fingerprint
from tailsmith.errors import UserError
from tailsmith.files import read_json
from tailsmith.metrics.accuracy import AccuracyTable
from tailsmith.report.compared import Trained
from tailsmith.report.results import read_arm
from tailsmith.runs.arms import Arm
from tailsmith.runs.config import RunConfig, arms_of, train_config
from tailsmith.runs.directory import COMMAND, CONFIG, FINGERPRINT, RunDirectory
from tailsmith.runs.report import arm_tables
from tailsmith.runs.search import drawn_settings

log = logging.getLogger(__name__)
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """`arms`: name -> what is there of it, without those of `missing`, which the configuration names."""

    path: Path
    name: str  # as the comparison calls it
    config: RunConfig
    arms: Mapping[str, Trained]
    missing: tuple[str, ...] = ()
    select_by: Mapping[str, str] = field(default_factory=dict)  # arm -> the validation accuracy that selected
    data: Fingerprint | None = None  # None: an earlier version made the run
    command: str = ""
    created: str = ""

    @property
    def seed(self) -> str:
        return seed_of(self.config)

    def part(self, split: str) -> Fingerprint | None:
        """The data of a split."""
        if self.data is None:
            return None
        rows = self.data.table
        return replace(self.data, table=rows[(rows["split"] == split).to_numpy()].reset_index(drop=True))

    @cached_property
    def hashes(self) -> dict[str, str]:
        """Split -> hash of names, classes and contents, whatever their order; empty where the run doesn't say."""
        parts = {split: self.part(split) for split in ("train", "val", "test")}
        return {split: _hash(part.table) for split, part in parts.items() if part is not None}


def seed_of(config: RunConfig) -> str:
    """ "0", or where they aren't all the same "data 0, real 1, mixed 1, synthesis 0"."""
    seeds = {"data": config.data_seed, "real": config.real.seed, "mixed": config.mixed.seed}
    seeds |= {"synthesis": config.synthesis.seed}
    if len(set(seeds.values())) == 1:
        return str(config.data_seed)
    return ", ".join(f"{name} {seed}" for name, seed in seeds.items())


def read_run(path: Path, name: str) -> FinishedRun:
    """ValueError for a folder that is no run, or has no result yet, or whose files are damaged."""
    below = sorted(each.parent.name for each in path.glob(f"*/{CONFIG}")) if path.is_dir() else []
    if below and not (path / CONFIG).is_file():
        raise UserError(
            f"{path} is no run directory, but holds some ({', '.join(below[:5])}); give these, as in {path}/*"
        )
    directory = RunDirectory.open(path)
    try:
        return _read(directory, name)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} has a damaged JSON file ({error}); restore it, or make the run anew") from error


def _read(directory: RunDirectory, name: str) -> FinishedRun:
    config = directory.config()
    declared = {arm.name: arm for arm in arms_of(config)}
    tables = _tables(directory, config)
    if not tables:
        raise UserError(
            f"{directory.path} is not finished: none of its arms ({', '.join(declared)}) has been tested; run the same "
            "command again, and it goes on"
        )
    data = Fingerprint.read(path) if (path := directory.path / FINGERPRINT).exists() else None
    trained, select_by = {}, {}
    for arm, found in tables.items():
        settings = _settings(directory, config, declared[arm]) if arm in declared else None
        trained[arm] = _trained(directory, config, name, arm, found)
        if settings is not None:
            trained[arm] = _with_training(trained[arm], settings, directory, declared[arm], data)
            select_by[arm] = settings.select_by
    said = directory.command() if (directory.path / COMMAND).exists() else {}
    missing = tuple(arm for arm in declared if arm not in tables)
    return FinishedRun(
        directory.path,
        name,
        config,
        trained,
        missing,
        select_by,
        data,
        said.get("command", ""),
        said.get("created", ""),
    )


def _tables(directory: RunDirectory, config: RunConfig) -> dict[str, tuple[AccuracyTable, ...]]:
    """Arm with a result -> its tables; those that a run has beyond its configuration come last."""
    finished = [arm for arm in config.arms if directory.evaluation(arm) is not None]  # with a search, of all its seeds
    given = arm_tables(directory, config)
    tables = {arm: read_arm(arm, given[arm]).tables for arm in finished}
    known = {directory.arm(arm) for arm in config.arms}
    for path in sorted((directory.path / "arms").glob("*/evaluation.json")):
        if path.parent not in known:
            tables[path.parent.name] = read_arm(path.parent.name, read_json(path)).tables
    return tables


def _settings(directory: RunDirectory, config: RunConfig, arm: Arm) -> TrainConfig:
    """What it was trained with; where a search chose, that."""
    training, path = train_config(config, arm), directory.arm(arm.name) / "search.json"
    if config.search is None or not path.exists():
        return training
    return drawn_settings(config.search, training, int(read_json(path)["chosen"]))


def _trained(
    directory: RunDirectory, config: RunConfig, name: str, arm: str, tables: tuple[AccuracyTable, ...]
) -> Trained:
    """What the run's files say of any arm, its own or not."""
    path, seconds = directory.arm(arm) / "classifier" / "config.json", directory.timings()
    backbone = str(read_json(path)["backbone"]) if path.exists() else None
    return Trained(name, seed_of(config), tables, backbone, train_seconds=seconds.get(f"train {arm}"))


def _with_training(
    trained: Trained, settings: TrainConfig, directory: RunDirectory, arm: Arm, data: Fingerprint | None
) -> Trained:
    labels = None if arm.set is None else _synthetic(directory, arm.set)
    backbone = settings.backbone + (", pretrained" if settings.pretrained or settings.pretrained_file else "")
    if settings.image_size is not None:
        backbone += f", {settings.image_size} pixels"
    stages = _stages(settings, data, labels) if data is not None and (arm.set is None or labels is not None) else []
    return replace(
        trained,
        backbone=backbone,
        steps=sum(stage.config.steps for stage in stages) or None,
        images_seen=sum(stage.images_seen for stage in stages) or None,
        synthetic=0 if arm.set is None else None if labels is None else len(labels),
        synthesis_seconds=None if arm.set is None else directory.timings().get(f"synthesize {arm.set}"),
    )


def _synthetic(directory: RunDirectory, name: str) -> pd.DataFrame | None:
    """Label and attribute of each image of a set that was trained on; None where its shards are gone."""
    try:
        rows = directory.synthetic_set(name).results()
    except (UserError, FileNotFoundError) as error:
        log.warning("%s: its synthetic images can't be counted (%s)", directory.path, error)
        return None
    return rows.loc[~rows["black"].to_numpy(dtype=bool), ["label", "attribute"]]  # black ones were left out


def _stages(settings: TrainConfig, data: Fingerprint, synthetic: pd.DataFrame | None) -> list[Stage]:
    """The stages that the arm's method had on these rows."""
    split = data.table["split"].to_numpy()
    labels = pd.Index(data.class_names).get_indexer(pd.Index(data.table["label"].astype(object)))
    attributes = pd.Index(data.attribute_names, dtype=object).get_indexer(
        pd.Index(data.table["attribute"].astype(object))
    )
    added = pd.DataFrame({"label": [], "attribute": []}) if synthetic is None else synthetic
    width = len(data.attribute_names)

    def groups(label: Labels, attribute: Labels) -> Labels:
        return np.where((attribute < 0) | (width == 0), -1, label * width + attribute)

    of = {
        name: (labels[split == name], groups(labels[split == name], attributes[split == name])) for name in set(split)
    }
    extra = added["label"].to_numpy(np.int64), added["attribute"].to_numpy(np.int64)
    real, validation = of["train"], of.get("val", (labels[:0], labels[:0]))
    task = Task(
        settings,
        np.concatenate([real[0], extra[0]]),
        np.concatenate([real[1], groups(*extra)]),
        np.arange(len(real[0]) + len(added)) >= len(real[0]),
        data.class_names,
        num_attributes=width,
        has_validation=len(validation[0]) > 0,
        held_out=HeldOut(*validation) if len(validation[0]) > 1 else None,
    )
    try:
        return method_of(settings.method).stages(task)
    except UserError as error:  # of an earlier version, that trained what this one refuses
        log.warning("how many images %s saw is not known (%s)", settings.method, error)
        return []


def _hash(table: pd.DataFrame) -> str:
    columns: dict[str, Any] = {name: table[name].astype(str) for name in ("image_id", "label", "content")}
    rows = pd.util.hash_pandas_object(pd.DataFrame(columns), index=False).to_numpy()
    return hashlib.sha256(np.sort(rows).tobytes()).hexdigest()
