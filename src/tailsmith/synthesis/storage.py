"""How a finished image is stored: at which size, in which format. What judges it has seen it before, as it was made."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from tailsmith.errors import UserError

FORMATS = ("png", "jpeg", "webp")
AROUND_CROP = 256 / 224  # the short side that training crops from, in sides of what the classifier sees


def stored_size(wanted: int | None, classifier_size: int | None, generator_size: int) -> int | None:
    """The short side to store at, in pixels; None where images stay as they are made, as they are small enough."""
    if wanted is None and classifier_size is not None:
        wanted = round(classifier_size * AROUND_CROP)
    return wanted if wanted and wanted < generator_size else None


@dataclass(frozen=True)
class Storage:
    """As the settings of a plan have it; a plan of an earlier version says nothing, and has the defaults."""

    store_size: int | None = None  # of the short side, in pixels; a smaller image, and any with None, stays as it is
    store_format: str = "png"
    store_quality: int = 90  # of jpeg and webp

    def __post_init__(self) -> None:
        if self.store_format not in FORMATS:
            raise UserError(f"store_format should be one of {', '.join(FORMATS)}, got {self.store_format!r}")
        for name, least, most in (("store_size", 1, 2**16), ("store_quality", 1, 100)):
            value = getattr(self, name)
            if value is None and name == "store_size":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise UserError(f"{name} should be a whole number within {least}..{most}, got {value!r}")

    @staticmethod
    def of(settings: Mapping[str, Any]) -> Storage:
        """Of the settings of a plan; a size of 0 is no size."""
        values = {name: settings[name] for name in ("store_size", "store_format", "store_quality") if name in settings}
        return Storage(**{**values, "store_size": values.get("store_size") or None})

    def effect(self) -> list[Any]:
        """What of it decides the bytes: nothing of the defaults, and no quality of what loses nothing."""
        if self.store_format == "png":
            return [] if self.store_size is None else [self.store_size, "png"]
        return [self.store_size, self.store_format, self.store_quality]

    def encode(self, image: Tensor) -> bytes:
        """uint8 [3, H, W] -> encoded bytes."""
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        short = min(picture.size)
        if self.store_size is not None and short > self.store_size:
            width, height = (max(1, round(self.store_size * side / short)) for side in picture.size)
            picture = picture.resize((width, height), Image.Resampling.BICUBIC)  # antialiased, as Pillow's always is
        buffer = io.BytesIO()
        options = {"png": {"compress_level": 1}, "jpeg": {"subsampling": 0}, "webp": {}}[self.store_format]
        if self.store_format != "png":
            options["quality"] = self.store_quality
        picture.save(buffer, self.store_format.upper(), **options)
        return buffer.getvalue()
