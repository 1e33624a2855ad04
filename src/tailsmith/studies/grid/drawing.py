"""Panels of images with labelled axes -> one picture, drawn with Pillow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont, ImageOps

from tailsmith.data.decoding import decode
from tailsmith.studies.grid.cells import Seen
from tailsmith.terminal import shown

# Pixels, for a page that shows the figure at half its size.
PICTURE = 256  # a cell's image
SMALL = 128  # images up to here are enlarged by a whole number, pixel by pixel
VALUE, BAR, BAR_GAP = 48, 34, 5  # the line with the criterion's value, a bar of the classifier's top 3
GAP, INSET, MARGIN = 30, 40, 48  # between cells, inside a card, around cards
TITLE, AXIS, LABEL = 62, 50, 46  # heights of a card's title, of an axis title, of the labels along an axis
MOST_WIDTH = 2600  # cards stand side by side up to here

PAGE, CARD, INK, SOFT, LINE = "#fbfaf8", "#ffffff", "#1a1d23", "#5b616d", "#e6e3dd"  # as in style.css
ASKED, OTHER = "#b9daee", "#eceae5"  # bars: the class asked for, any other


@dataclass(frozen=True)
class Cell:
    """An image, the class asked for, and the criterion whose value is shown."""

    seen: Seen
    asked: str
    criterion: str


@dataclass(frozen=True)
class Panel:
    """Cells in rows and columns, at least one; the titles of the panel and its axes may be empty."""

    cells: Sequence[Sequence[Cell]]  # [rows][columns]
    rows: Sequence[str]
    columns: Sequence[str]
    title: str = ""
    row_axis: str = ""
    column_axis: str = ""


def draw_figure(title: str, note: str, panels: Sequence[Panel]) -> Image.Image:
    """Cards of one panel each, side by side as far as they fit, under a title and a note."""
    cards = [draw_panel(panel) for panel in panels]
    wide = max(card.width for card in cards)
    abreast = max(1, min(len(cards), (MOST_WIDTH - MARGIN) // (wide + MARGIN)))
    shelves = [cards[start : start + abreast] for start in range(0, len(cards), abreast)]
    width = MARGIN + abreast * (wide + MARGIN)
    heading = _heading(title, note, width - 2 * MARGIN)
    height = MARGIN + heading.height + sum(max(card.height for card in shelf) + MARGIN for shelf in shelves)
    figure = Image.new("RGB", (width, height), PAGE)
    figure.paste(heading, (MARGIN, MARGIN))
    y = MARGIN + heading.height
    for shelf in shelves:
        for position, card in enumerate(shelf):
            figure.paste(card, (MARGIN + position * (wide + MARGIN), y))
        y += max(card.height for card in shelf) + MARGIN
    return figure


def draw_panel(panel: Panel) -> Image.Image:
    """A card: the title, column labels above, row labels to the left, the cells."""
    bold = _font(28, bold=True)
    rows = [shown(label) for label in panel.rows]
    labels = max(int(bold.getlength(label)) for label in rows)
    left = INSET + (AXIS if panel.row_axis else 0) + labels + GAP
    top = INSET + (TITLE if panel.title else 0) + (AXIS if panel.column_axis else 0) + LABEL
    cells = [[draw_cell(cell) for cell in row] for row in panel.cells]
    cell_height = max(cell.height for row in cells for cell in row)
    width = left + len(panel.columns) * (PICTURE + GAP) - GAP + INSET
    height = top + len(panel.rows) * (cell_height + GAP) - GAP + INSET
    card = Image.new("RGB", (width, height), PAGE)
    pen = ImageDraw.Draw(card)
    pen.rounded_rectangle((0, 0, width - 1, height - 1), 24, CARD, LINE, 2)
    pen.text((INSET, INSET - 4), shown(panel.title), INK, _font(36, bold=True))
    pen.text((left, top - LABEL - AXIS + 4), panel.column_axis, SOFT, _font(26))
    if panel.row_axis:
        card.paste(_downwards(panel.row_axis), (INSET - 6, top))
    for column, label in enumerate(panel.columns):
        pen.text((left + column * (PICTURE + GAP), top - LABEL), _cut(label, bold, PICTURE), INK, bold)
    for row, label in enumerate(rows):
        y = top + row * (cell_height + GAP)
        pen.text((left - GAP, y + PICTURE // 2), label, INK, bold, anchor="rm")
        for column, cell in enumerate(cells[row]):
            card.paste(cell, (left + column * (PICTURE + GAP), y))
    return card


def draw_cell(cell: Cell) -> Image.Image:
    """The image, its criterion's value, and the classifier's top 3 as bars of probability."""
    height = PICTURE + VALUE + len(cell.seen.top) * (BAR + BAR_GAP)
    drawn = Image.new("RGB", (PICTURE, height), CARD)
    picture = _fitted(decode(cell.seen.image, "a cell of the grid"))
    corner = (PICTURE - picture.width) // 2, (PICTURE - picture.height) // 2
    drawn.paste(picture, corner)
    pen = ImageDraw.Draw(drawn)
    pen.text((2, PICTURE + 8), cell.criterion, SOFT, _font(24))
    pen.text(
        (PICTURE - 2, PICTURE + 8), number(cell.seen.values[cell.criterion]), INK, _font(24, bold=True), anchor="ra"
    )
    for rank, (label, probability) in enumerate(cell.seen.top):
        asked = label == cell.asked
        y = PICTURE + VALUE + rank * (BAR + BAR_GAP)
        length = max(4, round(PICTURE * probability))
        pen.rounded_rectangle((0, y, length, y + BAR), 6, ASKED if asked else OTHER)
        percent = f"{100 * probability:.0f} %"
        pen.text((PICTURE - 4, y + BAR // 2), percent, INK, _font(22), anchor="rm")
        space = PICTURE - 20 - int(_font(22).getlength(percent))
        pen.text((8, y + BAR // 2), _cut(label, _font(22, asked), space), INK, _font(22, asked), anchor="lm")
    return drawn


def _heading(title: str, note: str, width: int) -> Image.Image:
    """Title and note, wrapped to the width."""
    lines = [(line, 44, True, INK) for line in _wrapped(title, _font(44, bold=True), width)]
    lines += [(line, 25, False, SOFT) for line in _wrapped(note, _font(25), width)]
    heading = Image.new("RGB", (width, sum(round(size * 1.5) for _, size, _, _ in lines) + GAP), PAGE)
    pen, y = ImageDraw.Draw(heading), 0
    for line, size, bold, colour in lines:
        pen.text((0, y), line, colour, _font(size, bold))
        y += round(size * 1.5)
    return heading


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _downwards(text: str) -> Image.Image:
    """A title along the rows, read from top to bottom."""
    font = _font(26)
    drawn = Image.new("RGB", (int(font.getlength(text)) + 4, 40), CARD)
    ImageDraw.Draw(drawn).text((0, 2), text, SOFT, font)
    return drawn.rotate(-90, expand=True)


def _fitted(image: Image.Image) -> Image.Image:
    """At most PICTURE pixels a side, and as near to it as whole pixels allow."""
    if max(image.size) <= SMALL:
        times = PICTURE // max(image.size)
        return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    return ImageOps.contain(image, (PICTURE, PICTURE), Image.Resampling.LANCZOS)


def _cut(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text on one line, or as much of it as fits and an ellipsis."""
    text = kept = shown(text)
    while len(kept) > 1 and font.getlength(kept if kept == text else f"{kept}…") > width:
        kept = kept[:-1]
    return text if kept == text else f"{kept.rstrip()}…"


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Matplotlib's own DejaVu Sans: it has Greek letters, which Pillow's font lacks, and is always there."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)


def number(value: float) -> str:
    return f"{value:.2f}".replace("-", "−") if math.isfinite(value) else "–"
