"""Small pictures of real and synthetic images, as data URIs inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tailsmith.errors import UserError

Picture = Image.Image | np.ndarray  # arrays: uint8 [H, W, 3], [3, H, W] or [H, W]
IMAGES_PER_CELL = 6
MOST_IMAGES = 300  # keeps the page under 3 MB
MOST_ROWS = 12


@dataclass(frozen=True)
class GalleryRow:
    """One class: column title ("real", "text only", ...) -> its images; columns may be missing."""

    class_name: str
    images: Mapping[str, Sequence[Picture]]
    count: int | None = None


@dataclass(frozen=True)
class GalleryCell:
    """What the template shows for one class in one column: data URIs, empty where there is nothing."""

    title: str
    uris: tuple[str, ...]


@dataclass(frozen=True)
class GalleryView:
    """Column titles, and for each class its name, training count (None = unknown) and one cell per column."""

    titles: tuple[str, ...]
    rows: tuple[tuple[str, int | None, tuple[GalleryCell, ...]], ...]
    left_out: int


def view_gallery(rows: Sequence[GalleryRow]) -> GalleryView:
    """Rows in the order given, columns in order of first appearance, as many rows as the page affords."""
    titles = tuple(dict.fromkeys(title for row in rows for title in row.images))
    affordable = max(1, min(MOST_ROWS, MOST_IMAGES // (IMAGES_PER_CELL * max(len(titles), 1))))
    shown = tuple((row.class_name, row.count, _cells(row, titles)) for row in rows[:affordable])
    return GalleryView(titles, shown, max(len(rows) - affordable, 0))


def data_uri(picture: Picture, thumbnail: int = 96) -> str:
    """Images up to 40 pixels as PNG, pixel for pixel; larger ones as a JPEG of at most `thumbnail` pixels."""
    image = _to_pil(picture)
    buffer = io.BytesIO()
    if max(image.size) <= 40:
        image.save(buffer, "PNG", optimize=True)
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    image.thumbnail((thumbnail, thumbnail), Image.Resampling.LANCZOS)
    image.save(buffer, "JPEG", quality=85, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _cells(row: GalleryRow, titles: Sequence[str]) -> tuple[GalleryCell, ...]:
    pictures = {title: list(row.images.get(title, ()))[:IMAGES_PER_CELL] for title in titles}
    return tuple(GalleryCell(title, tuple(data_uri(each) for each in pictures[title])) for title in titles)


def _to_pil(picture: Picture) -> Image.Image:
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")  # a copy: thumbnail() works in place
    array = np.asarray(picture)
    if array.ndim == 3 and array.shape[-1] != 3 and array.shape[0] == 3:
        array = array.transpose(1, 2, 0)  # [3, H, W] -> [H, W, 3]
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] == 3)):
        raise UserError(
            f"gallery image: got {array.dtype} {list(array.shape)}, expected a PIL image or uint8 [H, W, 3]; "
            "convert float images with (255 * image).round() first"
        )
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")
