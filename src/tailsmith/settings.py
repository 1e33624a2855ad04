"""Settings as frozen dataclasses: their bounds, and to and from what YAML and JSON hold. Nothing heavy is imported."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

from tailsmith.errors import UserError

Config = TypeVar("Config")
MOST_SEED = 2**63 - 1  # what numpy's, torch's and Parquet's whole numbers hold alike
MOST_PIXELS = 4096  # of a side; a batch of 128 would have 26 GB before the first layer
MOST = {"steps": 10**9, "epochs": 10**6, "batch_size": 2**16, "meta_batch_size": 2**16}


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain dicts and lists, as YAML and JSON write them."""
    plain: dict[str, Any] = _plain(asdict(config))
    return plain


def own_settings(config: Any) -> dict[str, Any]:
    """What differs from the defaults, as `to_dict` has it: a setting that is added later changes nothing."""
    defaults, found = type(config)(), {}
    for each in fields(config):
        value, usual = getattr(config, each.name), getattr(defaults, each.name)
        if value != usual:
            found[each.name] = own_settings(value) if is_dataclass(value) and type(value) is type(usual) else value
    return {name: to_dict(each) if is_dataclass(each) else _plain(each) for name, each in found.items()}


def sha256_of(plain: Any) -> str:
    """Of plain dicts and lists; in hexadecimal digits, the same whatever the order of keys."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, tuple | list) else value


def changed(config: Config, changes: Mapping[str, Any], where: str = "configuration") -> Config:
    """A configuration with some values changed, those of a section within it alike; `where` says in errors whose."""
    values = {each.name: getattr(config, each.name) for each in fields(config)}  # type: ignore[arg-type]
    changes = _renamed(type(config), changes)
    for key, value in changes.items():
        section = is_dataclass(values.get(key)) and isinstance(value, Mapping)
        values[key] = changed(values[key], value, f"{where}.{key}") if section else value
    made: Config = from_dict(type(config), values, where)
    return made


def from_dict(kind: type[Any], values: Mapping[str, Any], where: str = "configuration") -> Any:
    """The configuration of a dict; an unknown key is a ValueError that lists the known ones."""
    if not isinstance(values, Mapping):
        raise UserError(f"{where} should be a section of settings and their values, got {values!r}")
    values = _renamed(kind, values)
    known = {each.name for each in fields(kind)}
    for key in values:
        if key not in known:
            raise UserError(f"{where} has an unknown key {key!r}; expected one of: {', '.join(sorted(known))}")
    hints = get_type_hints(kind)
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        nested = next((each for each in (hints[key], *get_args(hints[key])) if is_dataclass(each)), None)
        absent = value is None and NoneType in get_args(hints[key])
        if isinstance(nested, type) and not (absent or is_dataclass(value)):
            value = from_dict(nested, value, f"{where}.{key}")
        arguments[key] = tuple(value) if isinstance(value, list) else value
    try:
        return kind(**arguments)
    except TypeError as error:
        raise UserError(f"{where}: {error}") from error


def _renamed(kind: type[Any], values: Mapping[str, Any]) -> Mapping[str, Any]:
    """With the present names of settings that had others before, where a dataclass says which: `renamed(values)`."""
    renamed = getattr(kind, "renamed", None)
    return renamed(values) if renamed is not None else values


def check_seed(seed: int) -> None:
    if seed > MOST_SEED:
        raise UserError(f"seed should be at most {MOST_SEED} (2^63 - 1), got {seed}")


def check_whole(config: object, names: Sequence[str], prefix: str = "") -> None:
    """Whole numbers of at least 1, within bounds where larger ones only cost the memory or a lifetime."""
    for name in names:
        value, most = getattr(config, name), MOST.get(name, math.inf)
        if value is None:
            continue
        if not value > 0:
            raise UserError(f"{prefix}{name} should be above 0, got {value}")
        if value != value // 1:
            raise UserError(f"{prefix}{name} should be a whole number, got {value}")
        if value > most:
            raise UserError(f"{prefix}{name} should be {most:,} at most, got {value}")


def check_above_zero(config: object, names: Sequence[str], prefix: str = "") -> None:
    for name in names:
        if not 0 < getattr(config, name) < math.inf:
            raise UserError(f"{prefix}{name} should be above 0 and finite, got {getattr(config, name)}")


def check_not_negative(config: object, names: Sequence[str], prefix: str = "") -> None:
    for name in names:
        if not 0 <= getattr(config, name) < math.inf:
            raise UserError(f"{prefix}{name} should not be negative or infinite, got {getattr(config, name)}")
