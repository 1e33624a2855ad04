"""The samples that are worth a look, as one picture: the most and least real-looking, and the nearest to training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from tailsmith.data.dataset import Dataset
from tailsmith.data.images import resize_and_crop
from tailsmith.files import write_atomically
from tailsmith.studies.nearness import Nearness

ABREAST = 12  # pictures in a row
PICTURE, GAP, MARGIN, TITLE = 96, 8, 24, 40  # pixels


def write_pictures(found: Nearness, synthetic: Dataset, real: Dataset, path: Path) -> Path:
    """A PNG of four rows; each of the nearest samples stands above the training image that it is nearest to."""
    looks, pairs = found.real_looking.tolist(), found.nearest[:ABREAST]
    rows = {
        "most like real images (the probe of simple statistics is least sure)": _pictures(synthetic, looks[:ABREAST]),
        "least like real images": _pictures(synthetic, looks[::-1][:ABREAST]),
        "nearest to a training image": _pictures(synthetic, [made for made, _ in pairs]),
        "that training image": _pictures(real, [known for _, known in pairs]),
    }
    drawn = _sheet(rows)
    write_atomically(path, lambda temporary: drawn.save(temporary, "PNG"))
    return path


def _pictures(dataset: Dataset, rows: Sequence[int]) -> list[Image.Image]:
    return [resize_and_crop(dataset.image(row), PICTURE) for row in rows]


def _sheet(rows: dict[str, list[Image.Image]]) -> Image.Image:
    font = ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", 18)
    high = TITLE + PICTURE + GAP
    sheet = Image.new("RGB", (2 * MARGIN + ABREAST * (PICTURE + GAP) - GAP, 2 * MARGIN + len(rows) * high), "#fbfaf8")
    pen = ImageDraw.Draw(sheet)
    for number, (title, pictures) in enumerate(rows.items()):
        top = MARGIN + number * high
        pen.text((MARGIN, top + 8), title, "#1a1d23", font)
        for column, picture in enumerate(pictures):
            sheet.paste(picture, (MARGIN + column * (PICTURE + GAP), top + TITLE))
    return sheet
