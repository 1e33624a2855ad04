"""Whether a plan means something, as a whole: its settings before it is made, its rows and metadata when it is read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd

from tailsmith.data.dataset import Dataset
from tailsmith.devices import DTYPES
from tailsmith.errors import UserError
from tailsmith.generation.generator import Generator
from tailsmith.generation.presets import preset
from tailsmith.guidance.config import PER_IMAGE, FeedbackConfig, check_feedback
from tailsmith.settings import check_above_zero, from_dict
from tailsmith.synthesis.columns import (
    ERROR,
    LARGEST,
    MIXINGS,
    NO_MIXING,
    RESULTS,
    Mask,
    columns_of,
    plain,
)
from tailsmith.synthesis.config import SynthesisConfig
from tailsmith.synthesis.storage import Storage

CONDITIONINGS, GUIDED_BY = ("text", "image", "image+text"), ("image+text", "text")
REQUESTS = 10**8  # at most in one plan: a hundred times the paper's, and what memory holds


def check_plan(table: pd.DataFrame, meta: Any) -> None:
    """Raise ValueError for a plan that means nothing: which column or key, which request, and what is expected."""
    _check_meta(meta)
    columns = columns_of(table, len(meta["class_names"]), len(meta["attribute_names"]))
    if lacking := [name for name in columns if name not in table.columns]:
        raise UserError(f"it lacks the column {lacking[0]!r}; a plan has {', '.join(columns)}")
    if taken := [name for name in (*RESULTS, ERROR) if name in table.columns]:
        raise UserError(f"it has a column {taken[0]!r}, which is for what becomes of a request; name it otherwise")
    if not len(table):
        return
    for name, kind in columns.items():
        values = table[name]
        if not kind.typed(values):
            raise UserError(
                f"column {name!r} should hold {kind} for each request; it is of type {values.dtype}, with "
                f"{plain(values.iloc[0])!r} in row 0"
            )
        _complain(name, str(kind), kind.wrong(values), table)
    _complain("request_id", "a name of its own", table["request_id"].duplicated().to_numpy(), table)
    if "mixing" in columns:
        no_image = table["conditioning_id"].isna().to_numpy(dtype=bool)
        _complain("conditioning_id", "a real image in every request that is mixed with a second one", no_image, table)
    if len(guided := table[table["feedback_scale"] > 0]):
        _check_steps(feedback_of(meta["synthesis"]), int(guided["num_inference_steps"].min()))


def _complain(name: str, expected: str, wrong: Mask, table: pd.DataFrame) -> None:
    rows = np.flatnonzero(wrong)
    if not len(rows):
        return
    row = int(rows[0])
    more = f", and {len(rows) - 1} more" if len(rows) > 1 else ""
    raise UserError(
        f"column {name!r} should be {expected}; row {row} (request {table['request_id'].iat[row]!r}) has "
        f"{plain(table[name].iat[row])!r}{more}"
    )


def _check_meta(meta: Any) -> None:
    if not isinstance(meta, dict):
        raise UserError(f"its metadata should be a JSON object, got {type(meta).__name__}")
    for key, least in (("class_names", 1), ("attribute_names", 0)):
        names = meta.get(key)
        if not isinstance(names, list) or len(names) < least or not all(isinstance(name, str) for name in names):
            raise UserError(f"its metadata should have {key!r}, a list of names; got {names!r}")
    if not isinstance(meta.get("synthesis"), dict):
        raise UserError(f"its metadata should have 'synthesis', its settings by name; got {meta.get('synthesis')!r}")
    for key in ("generator", "generator_sha256", "decoder_sha256", "classifier_sha256"):
        if not isinstance(meta.get(key), str | None):
            raise UserError(f"its metadata should have a text as {key!r}, got {meta[key]!r}")
    if not isinstance(extends := meta.get("extends", []), list) or not all(isinstance(each, str) for each in extends):
        raise UserError(f"its metadata should have 'extends' as a list of the hashes of plans, got {extends!r}")
    _check_guided_by(meta["synthesis"].get("guided_by", SynthesisConfig.guided_by))
    settings = meta["synthesis"].get("feedback", {})
    if not isinstance(settings, dict):
        raise UserError(f"its metadata should have settings by name as synthesis.feedback, got {settings!r}")
    if settings.keys() >= {each.name for each in fields(FeedbackConfig)} - set(PER_IMAGE):  # else of another version
        feedback = feedback_of(meta["synthesis"])
        _check_types(feedback, "feedback.")
        check_feedback(feedback, "feedback.")


def feedback_of(settings: Mapping[str, Any]) -> FeedbackConfig:
    """The settings of pipeline calls in a plan's metadata, synthesis; criterion and scale are in its rows."""
    known = {each.name for each in fields(FeedbackConfig)} - set(PER_IMAGE)
    stored = settings.get("feedback", {})
    feedback: FeedbackConfig = from_dict(FeedbackConfig, {name: stored[name] for name in known & stored.keys()})
    return feedback


# ----------------------------------------------------------------------------------------------------------
# Settings


def check_config(config: SynthesisConfig, dataset: Dataset) -> None:
    """Raise ValueError for settings that can't work, before anything is planned."""
    check_settings(config)
    _check_wording(config, dataset)


def check_settings(config: SynthesisConfig) -> None:
    """Raise ValueError for settings that mean nothing, whatever the data."""
    if config.guidance_scale is None or config.num_inference_steps is None:
        raise UserError(
            "guidance_scale and num_inference_steps should be numbers, got None; presets.settled(config, generator) "
            "gives the generator's own"
        )
    _check_types(config)
    _check_types(config.feedback, "feedback.")
    if config.conditioning not in CONDITIONINGS:
        raise UserError(f"conditioning should be one of {list(CONDITIONINGS)}, got {config.conditioning!r}")
    _check_guided_by(config.guided_by)
    if (config.guided_by, config.conditioning) == ("text", "image"):
        raise UserError("guided_by='text' needs a text, and conditioning='image' has none; use 'image+text' for either")
    if config.conditioning_from not in ("group", "class"):
        raise UserError(f"conditioning_from should be 'group' or 'class', got {config.conditioning_from!r}")
    if config.embedding_mixing not in (*MIXINGS, NO_MIXING):
        raise UserError(
            f"embedding_mixing should be one of {', '.join((NO_MIXING, *MIXINGS))}, got {config.embedding_mixing!r}"
        )
    if config.embedding_mixing != NO_MIXING and config.conditioning == "text":
        raise UserError(
            f"embedding_mixing={config.embedding_mixing!r} mixes embeddings of real images, and conditioning='text' "
            "has none; use 'image+text' or 'image', or leave it out"
        )
    check_above_zero(config, ("embedding_mixing_alpha",))
    if not 0 <= config.embedding_dropout <= 1:
        raise UserError(f"embedding_dropout should be within 0..1, got {config.embedding_dropout}")
    if not math.isfinite(config.guidance_scale) or config.guidance_scale < 0:
        raise UserError(f"guidance_scale should be finite and not negative, got {config.guidance_scale}")
    if config.num_inference_steps < 1 or config.shard_size < 1:
        raise UserError(
            f"num_inference_steps and shard_size should be at least 1, got {config.num_inference_steps} "
            f"and {config.shard_size}"
        )
    if config.seed < 0:
        raise UserError(f"seed should not be negative, got {config.seed}")
    Storage.of(vars(config))  # ValueError for what can't be
    if config.seed > LARGEST:
        raise UserError(f"seed should be below 2^63, got {config.seed}")
    check_feedback(config.feedback, "feedback.")
    _check_steps(config.feedback, config.num_inference_steps)


def _check_guided_by(value: Any) -> None:
    if value not in GUIDED_BY:
        raise UserError(f"guided_by should be one of {list(GUIDED_BY)}, got {value!r}")


def _check_steps(feedback: FeedbackConfig, steps: int) -> None:
    if feedback.steps and max(feedback.steps) >= steps:
        raise UserError(f"feedback.steps should be below num_inference_steps, {steps}; got {max(feedback.steps)}")


def _check_wording(config: SynthesisConfig, dataset: Dataset) -> None:
    unknown = set(config.display_names) - {*dataset.class_names, *dataset.attribute_names}
    if unknown:
        raise UserError(f"display_names has {min(unknown)!r}, which is no class or attribute of the dataset")
    try:
        config.prompt.format(label="", attribute="")
    except (KeyError, IndexError, AttributeError, ValueError) as error:
        raise UserError(f"prompt may hold {{label}} and {{attribute}} only, got {config.prompt!r}") from error


def _check_types(config: SynthesisConfig | FeedbackConfig, where: str = "") -> None:
    """A dataclass takes whatever it is given; what passes here can be compared, and written as JSON."""
    hints = get_type_hints(type(config))
    for name, value in vars(config).items():
        if not _fits(value, hints[name]):
            expected = getattr(hints[name], "__name__", str(hints[name])) if not get_args(hints[name]) else hints[name]
            raise UserError(f"{where}{name} should be {expected}, got {value!r}")


def _fits(value: Any, hint: Any) -> bool:
    kind, inner = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        return any(_fits(value, each) for each in inner)
    if hint is NoneType:
        return value is None
    if kind is tuple:
        return isinstance(value, Sequence) and not isinstance(value, str) and all(_fits(v, inner[0]) for v in value)
    if kind is dict:
        return isinstance(value, Mapping) and all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items())
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def check_generator(generator: str, class_names: Sequence[str], config: SynthesisConfig) -> None:
    """Raise ValueError for data that a generator doesn't know, and for settings of its calls that mean nothing."""
    if (advice := Generator.find(generator).class_advice(class_names, config.display_names)) is not None:
        raise UserError(advice)
    if config.dtype not in DTYPES:
        raise UserError(f"dtype should be one of {', '.join(DTYPES)}, got {config.dtype!r}")


def settled(config: SynthesisConfig, generator: str) -> SynthesisConfig:
    """The configuration with the generator's own guidance scale and number of steps where it names none."""
    known = preset(generator)
    scale, steps = config.guidance_scale, config.num_inference_steps
    return replace(
        config,
        guidance_scale=known.guidance_scale if scale is None else scale,
        num_inference_steps=known.num_inference_steps if steps is None else steps,
    )
