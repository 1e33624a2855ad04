"""Which network's features sets of images are compared in: one of our classifiers, timm's, Inception or DINOv2."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from tailsmith.classification.backbones import Backbone, create_backbone
from tailsmith.classification.classifier import Classifier, load_classifier, on_accelerator
from tailsmith.classification.saved import not_finite, one_line
from tailsmith.data.dataset import Dataset
from tailsmith.errors import UserError, did_you_mean
from tailsmith.synthesis.prediction import predict

if TYPE_CHECKING:  # half a second, and only Inception needs it
    from torchvision.models.inception import Inception3

KNOWN = "the folder of a classifier, timm:NAME, timm:NAME@FILE, inception@FILE or dinov2@FILE"
INCEPTION_SIZE, INCEPTION_WIDTH = 299, 2048  # pixels, and entries of its pooled features
TENSORFLOW_CLASSES = 1008  # of the weights that published FIDs use
DINOV2_SIZE = 224  # pixels, as published distances have it (Stein et al., 2023); its own 518 cost ten times as much
DINOV2 = {384: "small", 768: "base", 1024: "large", 1536: "giant"}  # by the width of its tokens


@dataclass(frozen=True)
class FeatureExtractor:
    """`extractor(dataset)`: features [N, D] of its images, in the network's own test view; ValueError for no images."""

    name: str
    network: Classifier  # its logits mean nothing, unless it is a classifier of ours

    def __call__(self, dataset: Dataset) -> NDArray[np.float64]:
        features: NDArray[np.float64] = predict(self.network, dataset).features.double().numpy()
        return features


def feature_extractor(name: str | Path) -> FeatureExtractor:
    """On the chosen device; ValueError for an unknown name, and for weights that are absent, damaged or don't fit.

    - `runs/a/arms/erm`: the folder of a classifier of ours, or of an arm.
    - `timm:resnet50`, `timm:resnet50@model.safetensors`: a timm model, with weights from the hub or a file.
    - `dinov2@FILE`: DINOv2 of any size, with or without registers, from timm's or Meta's file; 224 pixels.
    - `inception@FILE`: the 2048 pooled features of Inception v3 at 299 pixels (bilinear, antialiased). FIDs of the
      literature use weights ported from TensorFlow, which pytorch-fid and torch-fidelity publish as
      pt_inception-2015-12-05-6726825d.pth and weights-inception-2015-12-05-6726825d.pth: such a file, of 1008 classes,
      is pooled as they do. With torchvision's own weights distances are others, and comparable among themselves only.
      The distance itself equals torchmetrics' of the same features; published ones also differ by how images were
      resized.
    """
    kind, at, file = str(name).partition("@")
    model = kind.removeprefix("timm:")
    if str(name) and Path(name).is_dir():
        network = load_classifier(name)
    elif kind in FROM_FILE:
        if not file:
            raise UserError(f"features {kind!r} need a file of weights: {kind}@FILE")
        network = FROM_FILE[kind](_existing(file, str(name)))
    elif model != kind and model and (file or not at):
        network = _wrapped(_created(model, _existing(file, str(name)) if at else None))
    else:
        meant = did_you_mean(kind, [*FROM_FILE, "timm:NAME"])
        raise UserError(f"unknown features {str(name)!r}{meant or ','} expected {KNOWN}; no such folder is there")
    return FeatureExtractor(str(name), on_accelerator(network.eval()))


def _existing(file: str, name: str) -> Path:
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"features {name}: {path} is no file; fetch the weights there, or name where they are")
    return path


def _wrapped(backbone: Backbone) -> Classifier:
    """With a class that nothing is known about: what counts are the features."""
    return Classifier(
        backbone.module,
        class_names=("unknown",),
        image_size=backbone.image_size,
        mean=backbone.mean,
        std=backbone.std,
    )


def _created(model: str, file: Path | None) -> Backbone:
    try:
        with torch.random.fork_rng(devices=[]):  # the weights are the file's: spare the caller's draws
            return create_backbone(model, 1, pretrained=True, pretrained_file=None if file is None else str(file))
    except UserError as error:
        raise UserError(f"{error}; as features, a file is named like timm:{model}@FILE") from error


def _state(path: Path) -> dict[str, Tensor]:
    """Of a .safetensors file, or one of torch's that holds nothing else than tensors."""
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of pickle, zipfile, torch and safetensors
        raise UserError(f"{path} holds no weights ({one_line(error)}); fetch it again") from error
    if not isinstance(state, dict) or not all(isinstance(each, Tensor) for each in state.values()):
        raise UserError(f"{path} holds no state dict of weights; save module.state_dict()")
    if broken := not_finite(state.items()):
        raise UserError(f"{path} has NaN or infinite weights, the first in {broken[0]}; fetch it again")
    return state


# ---- DINOv2


def _dinov2(path: Path) -> Classifier:
    state = _state(path)
    width = state["cls_token"].shape[-1] if "cls_token" in state else None
    if width not in DINOV2:
        raise UserError(f"{path} is not of DINOv2: its cls_token should have {', '.join(map(str, DINOV2))} entries")
    registers = "_reg4" if state.keys() & {"reg_token", "register_tokens"} else ""
    del state
    return _wrapped(_at_dinov2_size(_created(f"vit_{DINOV2[width]}_patch14{registers}_dinov2.lvd142m", path)))


def _at_dinov2_size(backbone: Backbone) -> Backbone:
    transformer = cast(nn.Module, backbone.module.model)
    cast(Callable[..., None], transformer.set_input_size)(img_size=(DINOV2_SIZE, DINOV2_SIZE))
    return replace(backbone, image_size=DINOV2_SIZE)


# ---- Inception


class PooledInception(nn.Module):
    """Images [N, 3, 299, 299] in [-1, 1] -> (nothing of use [N, 1], pooled features [N, 2048])."""

    def __init__(self, network: Inception3) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features: Tensor = self.network(images)
        return features[:, :1], features


class OtherPooling(nn.Module):
    """A block of torchvision's Inception v3 with another pooling before the last of its branches."""

    def __init__(self, block: nn.Module, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.block = block
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        branches = cast(Callable[[Tensor], list[Tensor]], self.block._forward)(x)[:-1]
        pooled = cast(nn.Module, self.block.branch_pool)(self.pool(x))
        return torch.cat([*branches, pooled], dim=1)


def _inception(path: Path) -> Classifier:
    from torchvision.models.inception import Inception3

    state = {name: each for name, each in _state(path).items() if not name.startswith("AuxLogits.")}
    classes = len(state["fc.weight"]) if state.get("fc.weight", torch.zeros(())).ndim == 2 else 1
    with torch.device("meta"):
        network = Inception3(num_classes=classes, aux_logits=False, init_weights=False)
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise UserError(
            f"{path} is not of Inception v3: {one_line(error)}; give torchvision's file, or that of pytorch-fid"
        ) from error
    network.fc = nn.Identity()
    if classes == TENSORFLOW_CLASSES:
        _pool_as_tensorflow(network)
    half = (0.5, 0.5, 0.5)  # to [-1, 1], which both weights were trained on
    return _wrapped(Backbone(PooledInception(network.float()), mean=half, std=half, image_size=INCEPTION_SIZE))


def _pool_as_tensorflow(network: Inception3) -> None:
    """Averages leave the padding out, and the last block takes maxima, as the graph of 2015-12-05 does."""
    inner = partial(F.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False)
    largest = partial(F.max_pool2d, kernel_size=3, stride=1, padding=1)
    for name in ("5b", "5c", "5d", "6b", "6c", "6d", "6e", "7b", "7c"):
        block = getattr(network, f"Mixed_{name}")
        setattr(network, f"Mixed_{name}", OtherPooling(block, largest if name == "7c" else inner))


FROM_FILE: dict[str, Callable[[Path], Classifier]] = {"inception": _inception, "dinov2": _dinov2}
