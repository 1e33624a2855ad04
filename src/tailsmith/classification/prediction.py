"""From stored images to logits and features, in batches; and the accuracy that selects a classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tailsmith.contracts import Indexable
from tailsmith.errors import UserError

Rows = npt.NDArray[np.int64]


class NotFinite(UserError):
    """A classifier's answers are no numbers."""


def ahead(images: Indexable, rows: Rows, seeds: npt.NDArray[Any] | None = None) -> Callable[[], Any]:
    """Begin with a batch where the images can, so that it is there when the answer is called: uint8 [b, 3, S, S].

    `seeds` [b] ask for training views, of images that make them.
    """
    begin = getattr(images, "ahead", None)
    if begin is None:
        return lambda: images[rows]
    waiting: Callable[[], Any] = begin(rows) if seeds is None else begin(rows, seeds)
    return waiting


def makes_views(images: Indexable) -> bool:
    """Whether training takes views that are made of each image by itself."""
    return bool(getattr(images, "per_image", False))


def predict_images(
    classifier: nn.Module,
    images: Indexable,
    batch_size: int = 256,
    *,
    rows: npt.NDArray[np.int64] | None = None,
) -> tuple[Tensor, Tensor]:
    """Logits [n, C] and features [n, D], float32 on the CPU, in evaluation mode; `rows=None` is all.

    NotFinite for logits with a NaN or infinite maximum: they predict nothing, and would count as chance.
    """
    check_images("images", images)
    rows = np.arange(len(images)) if rows is None else rows
    device = next((parameter.device for parameter in classifier.parameters()), torch.device("cpu"))
    batches = [rows[start : start + batch_size] for start in range(0, max(1, len(rows)), batch_size)]  # one, if empty
    outputs = []
    coming = ahead(images, batches[0])
    with evaluation_mode(classifier), torch.no_grad():
        for number in range(len(batches)):
            batch = to_unit_range(coming(), device)
            if number + 1 < len(batches):
                coming = ahead(images, batches[number + 1])
            outputs.append([output.float().cpu() for output in classifier(batch)])
    logits, features = map(torch.cat, zip(*outputs, strict=True))
    if broken := int((~logits.amax(1).isfinite()).sum()):  # NaN wins any maximum; a class masked by -inf is fine
        raise NotFinite(
            f"the classifier's logits are NaN or infinite for {broken} of {len(logits)} images: its training diverged, "
            "its weights are damaged, or its precision is too low; train again, with a lower learning_rate"
        )
    return logits, features


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Batch norm and dropout as at test time; each layer gets its own mode back."""
    modes = [(layer, layer.training) for layer in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training


def to_unit_range(pixels: Any, device: torch.device) -> Tensor:
    """uint8 [b, 3, H, W], array or tensor -> float32 in [0, 1] on `device`"""
    return torch.as_tensor(pixels).to(device).float().div_(255)


def check_images(what: str, images: Indexable) -> None:
    """ValueError for no images, or a first image that isn't uint8 [1, 3, H, W]."""
    if not len(images):
        raise UserError(f"no {what}: expected at least one")
    first = torch.as_tensor(images[np.arange(1)])
    if first.dtype != torch.uint8 or first.ndim != 4 or first.shape[1] != 3:
        got = f"{first.dtype} {list(first.shape)}"
        raise UserError(f"{what}[rows] should be uint8 [b, 3, H, W], got {got} for one row")


def class_hits(predicted: npt.NDArray[Any], labels: npt.NDArray[Any], num_classes: int) -> npt.NDArray[np.int64]:
    """[2, C]: how many images of each class were right, and how many there are."""
    right = np.bincount(labels[predicted == labels], minlength=num_classes)
    return np.stack([right, np.bincount(labels, minlength=num_classes)])


def mean_class_accuracy(hits: npt.NDArray[Any]) -> float:
    """[2, C] of `class_hits` -> mean over the classes that have images, in %."""
    right, count = hits
    return float(100 * np.mean(right[count > 0] / count[count > 0]))


def image_accuracy(hits: npt.NDArray[Any]) -> float:
    """[2, C] of `class_hits` -> mean over the images, in %."""
    right, count = hits.sum(axis=1)
    return float(100 * right / count)


SELECT_BY: dict[str, Callable[[npt.NDArray[Any]], float]] = {
    "class_mean": mean_class_accuracy,
    "image_mean": image_accuracy,
}
