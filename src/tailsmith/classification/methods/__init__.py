"""How a classifier can be trained: a line of METHODS and a file each; docs/adding-a-method.md writes one."""

from __future__ import annotations

from dataclasses import fields
from types import NoneType
from typing import Any, get_args, get_type_hints

from tailsmith.classification.methods.balanced_softmax import BalancedSoftmax
from tailsmith.classification.methods.cmo import CMO
from tailsmith.classification.methods.contract import Method
from tailsmith.classification.methods.crt import CRT
from tailsmith.classification.methods.erm import ERM
from tailsmith.classification.methods.group_dro import GroupDRO
from tailsmith.classification.methods.lws import LWS
from tailsmith.errors import UserError, did_you_mean

METHODS: dict[str, type[Method]] = {
    "erm": ERM,
    "balanced_softmax": BalancedSoftmax,
    "crt": CRT,
    "lws": LWS,
    "cmo": CMO,
    "group_dro": GroupDRO,
}


def method_of(named: str) -> Method:
    """A name of METHODS, alone or with settings: "cmo:loss=balanced_softmax,probability=0.7".

    ValueError for a name or setting that doesn't exist, naming those that do, and for a value that can't be.
    """
    name, _, given = named.partition(":")
    if name not in METHODS:
        raise UserError(f"unknown method {name!r}: expected one of {', '.join(METHODS)}{did_you_mean(name, METHODS)}")
    kind = METHODS[name]
    hints = get_type_hints(kind)
    known = [each.name for each in fields(kind)]  # type: ignore[arg-type]  # every method is a dataclass
    settings: dict[str, Any] = {}
    for each in given.split(",") if given else []:
        key, equals, value = (part.strip() for part in each.partition("="))
        if key not in known or not equals:
            takes = f"one of {', '.join(f'{each}=...' for each in known)}" if known else "none"
            raise UserError(f"method {name!r} has no setting {each.strip()!r}: expected {takes}")
        settings[key] = _value(f"{name}:{key}", value, hints[key])
    return kind(**settings)


def _value(setting: str, text: str, hint: Any) -> Any:
    """`text` as the field's type: int, float, bool or str, or one of them or None."""
    kinds = get_args(hint) or (hint,)
    if NoneType in kinds and text.lower() in ("none", "null"):
        return None
    (kind,) = [each for each in kinds if each is not NoneType]
    if kind is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        if kind is not bool:
            return kind(text)
    except ValueError:
        pass
    raise UserError(f"{setting} should be {kind.__name__}, got {text!r}")
