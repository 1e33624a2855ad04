"""Place a 28x28 product photograph into one of six procedural contexts, as a 32x32 colour image.

The contexts carry the names of NICO++'s six. Everything is a deterministic function of (photograph, context,
style, seed).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tailsmith.errors import UserError

Array = NDArray[np.float64]
SIZE = 32
CONTEXTS = ("autumn", "dim", "grass", "outdoor", "rock", "water")
STYLES = ("photograph", "drawing")

_Y, _X = np.mgrid[0:SIZE, 0:SIZE] / (SIZE - 1.0)  # each [32, 32] in [0, 1]


def _colour(*rgb: float) -> Array:
    return np.array(rgb, dtype=np.float64)


def _lerp(a: Array, b: Array, weight: Array) -> Array:
    """Blend two colours or colour fields by a [32, 32] weight -> [32, 32, 3]."""
    return a + (b - a) * weight[..., None]


def _blob(rng: np.random.Generator, low: float, high: float) -> Array:
    """A soft-edged random ellipse, [32, 32] in [0, 1]."""
    x, y, angle = rng.random(), rng.random(), np.pi * rng.random()
    a, b = low + (high - low) * rng.random(2)
    u = (_X - x) * np.cos(angle) + (_Y - y) * np.sin(angle)
    v = (_Y - y) * np.cos(angle) - (_X - x) * np.sin(angle)
    radius = np.sqrt((u / a) ** 2 + (v / b) ** 2)
    return np.asarray(np.clip((1.25 - radius) / 0.5, 0, 1))


def _autumn(rng: np.random.Generator) -> Array:
    field = _lerp(_colour(0.45, 0.26, 0.12), _colour(0.62, 0.38, 0.16), _Y)
    leaves = [_colour(0.85, 0.45, 0.1), _colour(0.75, 0.2, 0.1), _colour(0.9, 0.65, 0.2)]
    for _ in range(9):
        field = _lerp(field, leaves[rng.integers(3)], 0.9 * _blob(rng, 0.08, 0.2))
    return field


def _dim(rng: np.random.Generator) -> Array:
    x, y = rng.random(), 0.6 * rng.random()
    glow = np.exp(-((_X - x) ** 2 + (_Y - y) ** 2) / (0.05 + 0.08 * rng.random()))
    return _lerp(_colour(0.03, 0.03, 0.09), _colour(0.42, 0.32, 0.2), 0.8 * glow)


def _grass(rng: np.random.Generator) -> Array:
    bend, phase = 3 * (rng.random() - 0.5), 2 * np.pi * rng.random(2)
    blades = np.sin(2 * np.pi * (5 + 2 * rng.random()) * (_X + 0.15 * bend * _Y) + phase[0])
    blades = 0.65 * blades + 0.35 * np.sin(2 * np.pi * 3.1 * (_X - 0.1 * bend * _Y) + phase[1])
    return _lerp(_colour(0.1, 0.36, 0.08), _colour(0.42, 0.68, 0.2), 0.5 + 0.5 * blades * (0.5 + 0.5 * _Y))


def _outdoor(rng: np.random.Generator) -> Array:
    horizon = 0.5 + 0.25 * rng.random()
    sky = _lerp(_colour(0.42, 0.66, 0.95), _colour(0.86, 0.92, 0.98), np.clip(_Y / horizon, 0, 1))
    for _ in range(2):
        cloud = _blob(rng, 0.12, 0.35) * (horizon > _Y)
        sky = _lerp(sky, _colour(1, 1, 1), 0.8 * cloud)
    ground = _lerp(_colour(0.8, 0.72, 0.56), _colour(0.66, 0.56, 0.4), np.clip((_Y - horizon) * 2, 0, 1))
    return _lerp(sky, ground, np.clip((_Y - horizon) * 16, 0, 1))


def _rock(rng: np.random.Generator) -> Array:
    centres, shades = rng.random((9, 2)), 0.28 + 0.4 * rng.random(9)
    distance = (_X[..., None] - centres[:, 0]) ** 2 + (_Y[..., None] - centres[:, 1]) ** 2  # [32, 32, 9]
    nearest = np.sort(distance, axis=-1)
    crack = np.clip((np.sqrt(nearest[..., 1]) - np.sqrt(nearest[..., 0])) * 10, 0, 1)  # 0 on a facet's border
    shade = shades[distance.argmin(axis=-1)] * (0.55 + 0.45 * crack)
    return np.asarray(shade[..., None] * _colour(1.0, 0.97, 0.92))


def _water(rng: np.random.Generator) -> Array:
    phase, speed = 2 * np.pi * rng.random(2), 3 + 1.5 * rng.random()
    swell = 0.06 * np.sin(2 * np.pi * (1 + rng.random()) * _X + phase[0])
    waves = np.sin(2 * np.pi * speed * (_Y + swell) + phase[1])
    return _lerp(_colour(0.04, 0.26, 0.5), _colour(0.35, 0.72, 0.85), np.clip(0.45 + 0.5 * waves, 0, 1))


BACKGROUNDS: dict[str, Callable[[np.random.Generator], Array]] = {
    "autumn": _autumn, "dim": _dim, "grass": _grass, "outdoor": _outdoor, "rock": _rock, "water": _water,
}  # fmt: skip
LIGHT: dict[str, Array] = {  # what the surroundings do to the colour of the garment itself
    "autumn": _colour(1.0, 0.9, 0.75), "dim": _colour(0.45, 0.43, 0.5), "grass": _colour(0.92, 1.0, 0.85),
    "outdoor": _colour(1.0, 1.0, 1.0), "rock": _colour(0.9, 0.9, 0.9), "water": _colour(0.8, 0.92, 1.0),
}  # fmt: skip


def cut_out(photograph: NDArray[np.uint8], *, keep_holes: bool) -> Array:
    """Opacity of the garment, [28, 28] in [0, 1].

    Fashion-MNIST is tone-inverted on black: white cloth is almost as dark as the background, so inner holes
    are cloth and are filled, unless the garment really has holes (straps, handles: `keep_holes`).
    """
    solid = photograph > 16
    if not keep_holes:
        solid = ndimage.binary_fill_holes(ndimage.binary_closing(solid, iterations=1) | solid)
    return np.asarray(np.maximum(np.clip(photograph / 64.0, 0, 1), 0.95 * solid))


def _ink(value: Array, opacity: Array) -> Array:
    """Outlines of a drawing, [32, 32] in [0, 1]: strong at the silhouette, weaker along inner edges."""
    silhouette = np.hypot(*np.gradient(opacity))
    inner = np.hypot(*np.gradient(value))
    return np.asarray(np.clip(2.2 * silhouette + 1.3 * inner, 0, 1))


def render(
    photograph: NDArray[np.uint8],
    context: str,
    *,
    seed: int,
    style: str = "photograph",
    keep_holes: bool = False,
) -> NDArray[np.uint8]:
    """One photograph [28, 28] in one context -> uint8 [32, 32, 3]; a pure function of its arguments.

    `style="drawing"` inverts the garment's tones, inks its outlines and bleaches the surroundings: the
    stylistic bias of the paper's section 3.2.
    """
    if style not in STYLES:
        raise UserError(f"style should be one of {', '.join(STYLES)}, got {style!r}")
    rng = np.random.default_rng(seed)
    background = BACKGROUNDS[context](rng)
    top, left = rng.integers(0, SIZE - 28 + 1, size=2)
    value, opacity = np.zeros((SIZE, SIZE)), np.zeros((SIZE, SIZE))
    value[top : top + 28, left : left + 28] = photograph / 255.0
    opacity[top : top + 28, left : left + 28] = cut_out(photograph, keep_holes=keep_holes)
    hue = rng.random(3)
    tint = 1.0 - 0.45 * (1.0 - hue / hue.max())  # a pale random dye
    if style == "photograph":
        cloth = (0.22 + 0.78 * value)[..., None] * tint * LIGHT[context]
        image = _lerp(background, cloth, opacity)
    else:
        paper = _lerp(background, _colour(0.97, 0.96, 0.92), np.full((SIZE, SIZE), 0.5))
        cloth = (1.0 - 0.5 * value)[..., None] * (0.5 + 0.5 * tint)
        image = _lerp(_lerp(paper, cloth, opacity), _colour(0.08, 0.08, 0.12), _ink(value, opacity))
    return np.asarray(np.rint(np.clip(image, 0, 1) * 255), dtype=np.uint8)
