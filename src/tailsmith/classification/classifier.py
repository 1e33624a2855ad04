"""The contract `logits, features = classifier(images)`: images float [N, 3, H, W] in [0, 1], of any size."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from tailsmith.classification.backbones import TimmBackbone, create_backbone, has_timm_interface
from tailsmith.classification.heads import LINEAR, put_head
from tailsmith.classification.prediction import evaluation_mode
from tailsmith.classification.saved import (
    CONFIG,
    SEEN,
    WEIGHTS,
    checked_config,
    checked_names,
    one_line,
    read_config,
    read_seen,
    read_weights,
)
from tailsmith.classification.tensors import plain, sha256
from tailsmith.devices import chosen_device
from tailsmith.errors import UserError
from tailsmith.files import write_atomically, write_json

WRAPPED = "wrapped"  # the backbone name of a classifier made from a user's module


class Classifier(nn.Module):
    """Preprocessing, a module and class names; everything is differentiable, so guidance can flow through."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        module: nn.Module,  # normalised images [N, 3, S, S] -> (logits [N, C], features [N, D])
        *,
        class_names: Sequence[str],
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        backbone_name: str = WRAPPED,
    ) -> None:
        super().__init__()
        config = checked_config(
            backbone=backbone_name, class_names=class_names, image_size=image_size, mean=mean, std=std
        )
        self.head = LINEAR  # or a name of heads.py: the module's last layer, where a method has put one there
        self.module = module
        self.class_names = config.class_names
        self.image_size = config.image_size
        self.backbone_name = backbone_name
        self.history: list[dict[str, float]] = []  # per evaluated training step; whoever trains fills it
        self.seen: npt.NDArray[np.uint64] | None = None  # content keys of what it was trained and selected on, sorted
        self._config_mean, self._config_std = config.mean, config.std
        self.register_buffer("mean", torch.tensor(self._config_mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(self._config_std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images float [N, 3, H, W] in [0, 1] -> logits [N, C], features [N, D]"""
        return cast(tuple[Tensor, Tensor], self.module(self.preprocess(images)))

    def preprocess(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] in [0, 1] -> normalised [N, 3, image_size, image_size]; same size, same pixels."""
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise UserError(
                "a classifier takes float images [N, 3, H, W] in [0, 1] (divide uint8 by 255), "
                f"got {images.dtype} {list(images.shape)}"
            )
        images = resize_and_crop(images.to(self.mean.dtype), self.image_size)
        return (images - self.mean) / self.std

    def put_head(self, head: str) -> Any:
        """Another last layer of heads.py, which is returned, and its name: see `heads.put_head`."""
        new = put_head(self.module, head)
        self.head = head
        return new

    def config(self) -> dict[str, Any]:
        """What rebuilds this classifier together with its weights."""
        return {
            "backbone": self.backbone_name,
            "class_names": list(self.class_names),
            "image_size": self.image_size,
            "mean": list(self._config_mean),
            "std": list(self._config_std),
            **({} if self.head == LINEAR else {"head": self.head}),  # none: as before there were others
        }

    def sha256(self) -> str:
        """Of weights and config: equal after save and load, on any device, in any memory layout."""
        return sha256(plain(self.module.state_dict()), json.dumps(self.config(), sort_keys=True))

    def save(self, folder: str | Path) -> None:
        """What it has seen, model.safetensors, then config.json, each whole or absent."""
        state = plain(self.module.state_dict())
        if self.seen is not None:
            seen = {"keys": torch.from_numpy(self.seen.view(np.int64))}
            write_atomically(Path(folder) / SEEN, lambda temporary: save_file(seen, temporary))
        write_atomically(Path(folder) / WEIGHTS, lambda temporary: save_file(state, temporary))
        write_json(Path(folder) / CONFIG, self.config())


def load_classifier(folder: str | Path) -> Classifier:
    """On the CPU, in evaluation mode; of an arm's folder in a run, its classifier.

    ValueError for a folder that is absent, foreign or damaged.
    """
    folder = Path(folder)
    if not (folder / CONFIG).exists() and (folder / "classifier" / CONFIG).exists():
        folder = folder / "classifier"
    config = read_config(folder)
    if config.backbone == WRAPPED:
        raise UserError(
            f"{folder} was saved from a module of your own: rebuild it, load {folder / WEIGHTS} into it "
            "and pass it to wrap_classifier"
        )
    weights = read_weights(folder)
    try:
        with torch.random.fork_rng(devices=[]):  # these weights are overwritten: spare the caller's draws
            module = create_backbone(config.backbone, len(config.class_names), image_size=config.image_size).module
            if config.head != LINEAR:
                put_head(module, config.head)
        module.load_state_dict(weights)
    except ValueError as error:
        raise UserError(f"{folder / CONFIG}: {error}") from error
    except RuntimeError as error:
        raise UserError(
            f"{folder / WEIGHTS} is damaged or of another model than config.json says: {one_line(error)}; train again"
        ) from error
    classifier = Classifier(
        module,
        class_names=config.class_names,
        image_size=config.image_size,
        mean=config.mean,
        std=config.std,
        backbone_name=config.backbone,
    ).eval()
    classifier.head = config.head
    classifier.seen = read_seen(folder)
    return classifier


def on_accelerator(classifier: Classifier) -> Classifier:
    """Where training leaves a classifier, and where generators sample: on the chosen device."""
    return classifier.to(chosen_device())


def wrap_classifier(
    module: nn.Module,
    *,
    class_names: Sequence[str],
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    features: str | None = None,
) -> Classifier:
    """A classifier from a timm or torchvision module (normalised images -> logits), in its present mode.

    `features` names the layer whose input is the feature vector ("fc"); None finds timm's pooled features,
    else the last linear layer with one output per class. The module is tried on one blank image; what doesn't
    fit is a ValueError.
    """
    inner = _with_features(module, len(checked_names(class_names)), features)
    classifier = Classifier(inner, class_names=class_names, image_size=image_size, mean=mean, std=std)
    _try_on_blank_image(classifier)
    return classifier


def resize_and_crop(images: Tensor, size: int) -> Tensor:
    """[N, 3, H, W] -> [N, 3, size, size]: short side resized (bilinear, antialiased), then a centre crop.

    The same as `data.images.resize_and_crop`, which training and evaluation see.
    """
    height, width = images.shape[-2:]
    short = min(height, width)
    if short != size:
        scaled = (size * height // short, size * width // short)
        images = F.interpolate(images, scaled, mode="bilinear", antialias=True, align_corners=False)
    top, left = (images.shape[-2] - size) // 2, (images.shape[-1] - size) // 2
    return images[..., top : top + size, left : left + size]


class ModuleWithHead(nn.Module):
    """A module of logits as `images -> (logits, features)`: features are the input of one of its layers."""

    def __init__(self, module: nn.Module, head_name: str) -> None:
        super().__init__()
        self.module = module
        self.head_name = head_name

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        seen: list[Tensor] = []
        head = self.module.get_submodule(self.head_name)
        # A hook per call and not for life: the module stays as it was and can be copied
        handle = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            logits = self.module(images)
        finally:
            handle.remove()
        if not seen:
            raise UserError(f"layer {self.head_name!r} was not called; name the layer before the logits in features=")
        return logits, seen[-1].flatten(1)


def _with_features(module: nn.Module, num_classes: int, features: str | None) -> nn.Module:
    if features is not None:
        _check_layer(module, features)
        return ModuleWithHead(module, features)
    if has_timm_interface(module):
        return TimmBackbone(module)
    linear = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear) and name]
    fitting = [name for name in linear if module.get_submodule(name).out_features == num_classes]
    if fitting:
        return ModuleWithHead(module, fitting[-1])
    raise UserError(
        f"{type(module).__name__} has no linear layer with {num_classes} outputs, one per class, to take "
        "features from; name the layer whose input they are in features=, or check class_names"
    )


def _check_layer(module: nn.Module, name: str) -> None:
    names = [each for each, _ in module.named_modules() if each]
    if name not in names:
        raise UserError(f"{type(module).__name__} has no layer {name!r}; its last layers are {', '.join(names[-5:])}")


def _try_on_blank_image(classifier: Classifier) -> None:
    parameter = next(classifier.parameters(), torch.zeros(()))
    classifier.to(parameter.device, parameter.dtype)  # the preprocessing follows the module
    size, classes = classifier.image_size, len(classifier.class_names)
    with evaluation_mode(classifier), torch.no_grad():
        logits, _ = classifier(torch.zeros(1, 3, size, size, device=parameter.device))
    if not isinstance(logits, Tensor) or logits.shape != (1, classes):
        got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"expected logits [1, {classes}] for one image and {classes} class_names, got {got}")
