"""The columns of a plan and of its shards: each is of a kind, which knows the values that are none of it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tailsmith.guidance.config import CRITERION_NAMES

RESULTS = ("image", "image_sha256", "criterion_value", "skipped_steps", "retries", "black", "seconds")  # of a shard
ERROR = "error"  # of a request that was given up; a column of the shards that have one
NO_MIXING, MIXINGS = "none", ("mixup", "cutmix")
LARGEST = 2**63 - 1
SHA256 = re.compile(r"[0-9a-f]{64}")

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Whole:
    low: int
    high: int = LARGEST

    def __str__(self) -> str:
        return f"a whole number {_within(self.low, self.high, LARGEST)}"

    def typed(self, values: pd.Series) -> bool:
        return pd.api.types.is_integer_dtype(values.dtype) and not values.hasnans

    def wrong(self, values: pd.Series) -> Mask:
        return np.asarray(~values.between(self.low, self.high).to_numpy(dtype=bool))


@dataclass(frozen=True)
class Number:
    low: float
    high: float = math.inf

    def __str__(self) -> str:
        return f"a finite number {_within(self.low, self.high, math.inf)}"

    def typed(self, values: pd.Series) -> bool:
        kind = values.dtype
        return pd.api.types.is_float_dtype(kind) or pd.api.types.is_integer_dtype(kind)

    def wrong(self, values: pd.Series) -> Mask:
        numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
        return np.asarray(~(np.isfinite(numbers) & (numbers >= self.low) & (numbers <= self.high)))


@dataclass(frozen=True)
class Text:
    among: tuple[str, ...] = ()  # any, where empty
    optional: bool = False  # may be None
    sha256: bool = False

    def __str__(self) -> str:
        kind = f"one of {list(self.among)}" if self.among else "a SHA-256 in hexadecimal" if self.sha256 else "a text"
        return f"{kind} or nothing" if self.optional else kind

    def typed(self, values: pd.Series) -> bool:
        kind = pd.api.types.infer_dtype(values, skipna=True)
        return kind == "string" or (self.optional and bool(values.isna().all()))

    def wrong(self, values: pd.Series) -> Mask:
        missing = values.isna().to_numpy(dtype=bool)
        if not self.among and not self.sha256:
            return np.zeros(len(values), dtype=bool) if self.optional else missing
        known = values.dropna().unique().tolist()
        sound = [each for each in known if (each in self.among if self.among else SHA256.fullmatch(each))]
        return np.asarray(~(values.isin(sound).to_numpy(dtype=bool) | (missing & self.optional)))


Kind = Whole | Number | Text


def _within(low: float, high: float, largest: float) -> str:
    return f"of at least {low}" if high == largest else f"within {low}..{high}"


def plain(value: Any) -> Any:
    """As a user writes it: 2.0, not np.float64(2.0)."""
    return value.item() if isinstance(value, np.generic) else value


def request_columns(classes: int = 1, attributes: int = 0) -> dict[str, Kind]:
    """What determines one image: the columns of every plan, and what each may hold."""
    return {
        "request_id": Text(),
        "shard": Whole(0),
        "label": Whole(0, classes - 1),
        "attribute": Whole(-1, attributes - 1),
        "prompt": Text(),
        "conditioning_id": Text(optional=True),
        "conditioning_sha256": Text(optional=True, sha256=True),
        "embedding_dropout": Number(0, 1),
        "dropout_seed": Whole(0),
        "noise_seed": Whole(0),
        "guidance_scale": Number(0),
        "num_inference_steps": Whole(1),
        "feedback_scale": Number(0),
        "criterion": Text(among=CRITERION_NAMES),
    }


def mixing_columns() -> dict[str, Kind]:
    """Of plans whose requests are conditioned on two real images each."""
    return {
        "mixing": Text(among=MIXINGS),
        "mixing_id": Text(),
        "mixing_sha256": Text(optional=True, sha256=True),
        "mixing_weight": Number(0, 1),  # lambda: the share of the first image
        "mixing_start": Number(0, 1),  # of cutmix: where the second one's entries begin
    }


def columns_of(table: pd.DataFrame, classes: int = 1, attributes: int = 0) -> dict[str, Kind]:
    """What determines the images of a plan or shard."""
    columns = request_columns(classes, attributes)
    return {**columns, **mixing_columns()} if "mixing" in table.columns else columns
