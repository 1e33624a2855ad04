"""How a classifier can be trained: a line of METHODS and a file each; docs/adding-a-method.md writes one."""

from __future__ import annotations

from dataclasses import fields
from types import NoneType
from typing import Any, get_args, get_type_hints

from tailsmith.classification.methods.balanced_softmax import BalancedSoftmax
from tailsmith.classification.methods.cmo import CMO
from tailsmith.classification.methods.contract import Method
from tailsmith.classification.methods.crt import CRT, CRTGroup
from tailsmith.classification.methods.dfr import DFR
from tailsmith.classification.methods.dpe import DPE
from tailsmith.classification.methods.erm import ERM
from tailsmith.classification.methods.fill_up import FillUp
from tailsmith.classification.methods.focal import Focal
from tailsmith.classification.methods.glmc import GLMC
from tailsmith.classification.methods.group_dro import GroupDRO
from tailsmith.classification.methods.irm import IRM
from tailsmith.classification.methods.jtt import JTT
from tailsmith.classification.methods.ldam_drw import LDAMDRW
from tailsmith.classification.methods.lisa import LISA
from tailsmith.classification.methods.logit_adjustment import LogitAdjustment
from tailsmith.classification.methods.lws import LWS
from tailsmith.classification.methods.mislas import MiSLAS
from tailsmith.classification.methods.mixup import Mixup, Remix
from tailsmith.classification.methods.ncm import NCM
from tailsmith.classification.methods.paco import PaCo
from tailsmith.classification.methods.resampled import Progressive, Resampled
from tailsmith.classification.methods.reslt import ResLT
from tailsmith.classification.methods.reweighting import CBLoss, Reweight
from tailsmith.classification.methods.tau_norm import TauNorm
from tailsmith.errors import UserError, did_you_mean

METHODS: dict[str, type[Method]] = {
    "erm": ERM,
    "balanced_softmax": BalancedSoftmax,
    "logit_adjustment": LogitAdjustment,
    "resampled": Resampled,
    "progressive": Progressive,
    "reweight": Reweight,
    "cb_loss": CBLoss,
    "focal": Focal,
    "ldam_drw": LDAMDRW,
    "crt": CRT,
    "lws": LWS,
    "tau_norm": TauNorm,
    "ncm": NCM,
    "mixup": Mixup,
    "remix": Remix,
    "cmo": CMO,
    "glmc": GLMC,
    "paco": PaCo,
    "reslt": ResLT,
    "mislas": MiSLAS,
    "group_dro": GroupDRO,
    "irm": IRM,
    "lisa": LISA,
    "crt_group": CRTGroup,
    "dfr": DFR,
    "jtt": JTT,
    "dpe": DPE,
    "fill_up": FillUp,
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
