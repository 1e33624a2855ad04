"""Training views of one photograph at a time, before batching: torchvision's transforms and timm's policies."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tailsmith.errors import UserError

TIMM = "timm:"  # before the name of one of timm's policies
_LARGER = 256 / 224  # the short side before a crop, in sides of the crop
_MEAN_COLOUR = (124, 116, 104)  # ImageNet's, which timm fills with

MakeView = Callable[[Image.Image], Image.Image]  # draws from the global generators


@dataclass(frozen=True)
class PerImage:
    """What a training view is made by, in this order, at torchvision's defaults; every view has draws of its own."""

    crop: str = "resized"  # resized: 8 to 100% of the area, 3:4 to 4:3 | plain: of the short side 256 for a crop of 224
    flip: float = 0.5  # probability
    policy: str | None = None  # randaugment | timm:NAME, such as timm:rand-m9-mstd0.5-inc1
    jitter: float = 0.0  # of brightness, contrast and saturation alike
    grayscale: float = 0.0  # probability
    blur: float = 0.0  # probability

    def of_size(self, size: int) -> MakeView:
        """RGB image -> RGB image of size x size; ValueError for a policy that timm doesn't know."""
        from torchvision.transforms import v2  # takes a second to import

        plain = [v2.Resize(round(size * _LARGER)), v2.RandomCrop(size, pad_if_needed=True)]
        steps: list[Any] = [v2.RandomResizedCrop(size)] if self.crop == "resized" else plain
        if self.flip > 0:
            steps.append(v2.RandomHorizontalFlip(self.flip))
        if self.policy is not None:
            steps.append(_policy(self.policy, size))
        if self.jitter > 0:
            steps.append(v2.ColorJitter(self.jitter, self.jitter, self.jitter))
        if self.grayscale > 0:
            steps.append(v2.RandomGrayscale(self.grayscale))
        if self.blur > 0:
            kernel = max(3, size // 20 * 2 + 1)  # a tenth of the side, as in SimCLR
            steps.append(v2.RandomApply([v2.GaussianBlur(kernel, (0.1, 2.0))], self.blur))
        return cast(MakeView, v2.Compose(steps))


def seeded_view(image: Image.Image, make: MakeView, seed: int) -> Tensor:
    """The view that a seed makes of an RGB image, uint8 [3, S, S]; the global generators stay as they were."""
    earlier = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002 - it's what timm uses
    try:
        draw_from(seed)
        made = make(image)
    finally:
        torch.set_rng_state(earlier[0])
        random.setstate(earlier[1])
        np.random.set_state(earlier[2])  # noqa: NPY002
    return torch.from_numpy(np.array(made)).permute(2, 0, 1).contiguous()


def draw_from(seed: int) -> None:
    """Seed all that torchvision and timm draw from: torch's generator on the CPU, Python's and numpy's global ones."""
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed accelerators as well
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002


def timm_policy(name: str) -> PerImage:
    """timm's, behind a random resized crop and a flip; ValueError for one that timm doesn't know."""
    views = PerImage(policy=name)
    _policy(name, 224)
    return views


def _policy(name: str, size: int) -> Any:
    if name == "randaugment":
        from torchvision.transforms import v2

        return v2.RandAugment(interpolation=v2.InterpolationMode.BILINEAR)
    from timm.data import auto_augment

    policy = name.removeprefix(TIMM)
    makers = {"rand": auto_augment.rand_augment_transform, "augmix": auto_augment.augment_and_mix_transform}
    make = makers.get(policy.partition("-")[0], auto_augment.auto_augment_transform)
    hints = {"translate_const": int(size * 0.45), "img_mean": _MEAN_COLOUR, "interpolation": Image.Resampling.BILINEAR}
    try:
        return make(policy, hints)
    except (AssertionError, ValueError, KeyError) as error:
        raise UserError(
            f"augmentation {name!r} is no policy of timm's; one is {TIMM}rand-m9-mstd0.5-inc1, others are in its "
            "data/auto_augment.py"
        ) from error
