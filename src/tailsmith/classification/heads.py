"""Last layers other than a linear one, features [B, D] -> logits [B, C]; a saved classifier names its own."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailsmith.classification.backbones import last_layer
from tailsmith.errors import UserError

LINEAR = "linear"


class Cosine(nn.Module):
    """scale * cos(f, w_c): all features and classes of equal length (LDAM's last layer; class means, in NCM)."""

    scale: Tensor

    def __init__(self, features: int, classes: int, count: int = 1) -> None:
        super().__init__()
        self.in_features, self.out_features = features, classes
        self.weight = nn.Parameter(torch.empty(classes, features).uniform_(-1, 1))
        self.register_buffer("scale", torch.tensor(30.0))

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * F.linear(F.normalize(features), F.normalize(self.weight))


class Branches(nn.Module):
    """Logits that are the sum of those of `count` branches, each a residual layer and a last layer (ResLT)."""

    exponent: Tensor

    def __init__(self, features: int, classes: int, count: int = 3) -> None:
        super().__init__()
        self.in_features, self.out_features = features, classes
        self.residuals = nn.ModuleList(nn.Linear(features, features) for _ in range(count))
        self.lasts = nn.ModuleList(nn.Linear(features, classes) for _ in range(count))
        self.register_buffer("exponent", torch.tensor(0.0))  # gamma: a class's weights are divided by |w_c| ** gamma

    def forward(self, features: Tensor) -> Tensor:
        return self.apart(features).sum(0)

    def apart(self, features: Tensor) -> Tensor:
        """[B, D] -> [branches, B, C]"""
        logits = []
        residual: nn.Linear
        last: nn.Linear
        for residual, last in zip(self.residuals, self.lasts, strict=True):  # type: ignore[assignment]
            own = features + F.relu(residual(features))
            weight = last.weight / last.weight.norm(dim=1, keepdim=True).clamp_min(1e-12) ** self.exponent
            logits.append(F.linear(own, weight, last.bias))
        return torch.stack(logits)


class Prototypes(nn.Module):
    """An ensemble of `count` members with a prototype per class: log of their mean softmax(-scale * distance) (DPE).

    Features and prototypes have length 1.
    """

    scale: Tensor

    def __init__(self, features: int, classes: int, count: int = 15) -> None:
        super().__init__()
        self.in_features, self.out_features = features, classes
        self.weight = nn.Parameter(torch.empty(count, classes, features).normal_())
        self.register_buffer("scale", torch.full((count,), 10.0))

    def forward(self, features: Tensor) -> Tensor:
        return self.apart(features).log_softmax(2).logsumexp(0) - torch.tensor(float(len(self.weight))).log()

    def apart(self, features: Tensor) -> Tensor:
        """[B, D] -> [members, B, C]"""
        return -self.scale[:, None, None] * torch.cdist(F.normalize(features)[None], F.normalize(self.weight, dim=2))


HEADS: dict[str, type[nn.Module]] = {"cosine": Cosine, "branches": Branches, "prototypes": Prototypes}


def checked_head(head: object) -> str:
    """ "linear", or NAME or NAME:COUNT of `HEADS`; ValueError for anything else."""
    name, _, count = str(head).partition(":")
    if head != LINEAR and (name not in HEADS or (count and not (count.isdecimal() and 0 < int(count) <= 1000))):
        raise UserError(f"head should be {LINEAR!r} or one of {', '.join(HEADS)}, got {head!r}")
    return str(head)


def put_head(module: nn.Module, head: str) -> Any:
    """A backbone's last layer becomes this one, which is returned; random weights from torch's global generator."""
    old: Any = next((each for each in module.modules() if isinstance(each, tuple(HEADS.values()))), None)
    if old is None:
        old = last_layer(module, f"a head {head!r}")
    name, _, count = checked_head(head).partition(":")
    new = HEADS[name](old.in_features, old.out_features, **({"count": int(count)} if count else {}))
    replace_layer(module, old, new.to(next(old.parameters()).device))
    return new


def replace_layer(module: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Wherever `old` is a child of a module within this one, other than `new` itself."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if child is old and parent is not new:
                setattr(parent, name, new)
