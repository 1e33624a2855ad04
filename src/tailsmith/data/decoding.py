"""Encoded bytes -> 8-bit RGB, in one way for all images of a dataset: formats, size limit, bit depth, transparency."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from tailsmith.errors import UserError

# All that is ever opened. Pillow would start Ghostscript on PostScript, whatever the file is called.
RASTER_FORMATS = (
    *("PNG", "JPEG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "PPM", "JPEG2000", "TGA", "PCX", "SGI", "QOI"),
    *("AVIF", "HEIF"),  # where this Pillow has the one, and pillow-heif is installed for the other
)
MAX_MEGAPIXELS = 178.9  # above twice Image.MAX_IMAGE_PIXELS Pillow itself refuses
SHALLOW = 64  # a high byte below this in all of a dataset's 16-bit colour: 14 bits or fewer are in use
WHOLE_16, WHOLE_32, FLOATS = "16-bit whole numbers", "32-bit whole numbers", "floating-point numbers"

_ORIENTATION = 0x0112  # EXIF: how the stored pixels are turned to stand upright
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)  # the latter under python -W error

Range = tuple[float, float]


@dataclass(frozen=True)
class Decoding:
    """What all images of a dataset share on their way to 8-bit RGB.

    `ranges`: kind of high-depth pixels -> the lowest and highest value over the dataset, which become 0 and 255.
    """

    max_megapixels: float = MAX_MEGAPIXELS
    ranges: Mapping[str, Range] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.max_megapixels < float("inf"):
            raise UserError(f"max_megapixels should be a number above 0, got {self.max_megapixels}")

    def joined(self, other: Decoding) -> Decoding:
        """For images of both; ValueError where one kind of pixels has two ranges."""
        for kind in self.ranges.keys() & other.ranges.keys():
            if tuple(self.ranges[kind]) != tuple(other.ranges[kind]):
                raise UserError(
                    f"{kind} are scaled by {self.ranges[kind]} in one dataset and by {other.ranges[kind]} in the "
                    "other; load them together, as one dataset"
                )
        return Decoding(max(self.max_megapixels, other.max_megapixels), {**self.ranges, **other.ranges})


@dataclass(frozen=True, slots=True)
class Seen:
    """What decoding an image once tells of it, for what is decided over a whole dataset."""

    kind: str | None  # of high-depth pixels; None for 8 bits
    low: float  # over its pixels and channels
    high: float
    single_colour: bool
    upright: bool  # False: its orientation couldn't be read, the pixels are as stored
    deep_colour: bool  # more than 8 bits a channel in the file, of which Pillow gives the upper 8


@dataclass(frozen=True)
class _Stored:
    image: Image.Image  # of any mode, upright where it can be
    upright: bool
    deep_colour: bool


class _Refused(UserError):
    """Of a sound file; the message is for the user."""


def decode(encoded: bytes, described: str, decoding: Decoding | None = None) -> Image.Image:
    """Encoded bytes -> RGB image, upright by its EXIF tag, on white where it's transparent, high depths scaled.

    ValueError naming the image, whatever is wrong with it.
    """
    return _pixels(encoded, described, decoding or Decoding())[1]


def examine(encoded: bytes, described: str, decoding: Decoding) -> Seen:
    """What the dataset wants to know of an image; ValueError as `decode` has it, but for ranges not known yet."""
    stored, rgb = _pixels(encoded, described, decoding, scale=False)
    kind = depth_kind(stored.image.mode)
    if kind is not None:
        values = np.asarray(stored.image)
        low, high = float(values.min()), float(values.max())
        return Seen(kind, low, high, low == high, stored.upright, False)
    single = all(lowest == highest for lowest, highest in _extrema(rgb))
    stored_colours = _extrema(stored.image.convert("RGB") if stored.deep_colour else rgb)  # without the white
    low, high = min(lowest for lowest, _ in stored_colours), max(highest for _, highest in stored_colours)
    return Seen(None, low, high, single, stored.upright, stored.deep_colour)


def depth_kind(mode: str) -> str | None:
    """Of a Pillow mode: which kind of high-depth pixels it has, None for 8 bits a channel."""
    return WHOLE_16 if mode.startswith("I;16") else {"I": WHOLE_32, "F": FLOATS}.get(mode)


def range_in_use(kind: str, low: float, high: float) -> Range:
    """The range that a dataset's lowest and highest values speak for.

    Whole numbers: that of the bit depth (4,000 -> 0..4,095) where half of it is in use. Floating-point numbers: 0..1
    or 0..255 where half of it is. All others: lowest to highest.
    """
    usual = [1.0, 255.0] if kind == FLOATS else [2.0 ** int(max(high, 1)).bit_length() - 1]
    for top in usual:
        if low >= 0 and high <= top and high - low >= top / 2:
            return (0.0, top)
    return (low, high)


def to_8_bits(values: npt.NDArray[Any], kind: str, limits: Range) -> npt.NDArray[np.uint8]:
    """Values within limits -> 0..255; of whole numbers in a full bit depth that's their upper 8 bits."""
    low, high = limits
    if kind == FLOATS:
        scaled = np.rint((values.astype(np.float64).clip(low, high) - low) * (255 / ((high - low) or 1)))
    else:
        above, span = values.astype(np.int64).clip(int(low), int(high)) - int(low), int(high) - int(low)
        scaled = above * 256 // (span + 1) if span > 255 else above * 255 // max(span, 1)
    return scaled.astype(np.uint8)


@cache
def raster_formats() -> tuple[str, ...]:
    """Those of RASTER_FORMATS that can be read here."""
    Image.init()
    try:
        import pillow_heif

        pillow_heif.register_heif_opener()
    except ImportError:
        pass
    return tuple(name for name in RASTER_FORMATS if name in Image.OPEN)


@cache
def image_suffixes() -> frozenset[str]:
    """ ".png", ".jpg" and so on, of all formats that are read, and of HEIC in any case."""
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in raster_formats()}
    return frozenset(known | {".heic", ".heif"})


def _pixels(encoded: bytes, described: str, decoding: Decoding, *, scale: bool = True) -> tuple[_Stored, Image.Image]:
    """The image as stored, and as 8-bit RGB; without `scale` one of high depth is checked but not converted."""
    try:
        with opened(encoded, decoding.max_megapixels) as image:
            stored = _loaded(image)
        kind = depth_kind(stored.image.mode)
        if kind is None:
            return stored, _on_white(stored.image)
        values = np.asarray(stored.image)
        if not np.isfinite(values).all():
            raise _Refused("has pixels that are no numbers (NaN or infinite); replace it")
        if not scale:
            return stored, stored.image
        return stored, Image.fromarray(to_8_bits(values, kind, _limits(kind, values, decoding))).convert("RGB")
    except _Refused as error:
        raise UserError(f"{described} {error} or pass --skip-corrupt") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{described} {_unidentified(encoded)} or pass --skip-corrupt") from error
    except MemoryError as error:
        raise MemoryError(f"not enough memory to decode {described}") from error
    except Exception as error:  # Pillow's readers let through whatever broken or odd bytes make Python raise
        said = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{described} is corrupt or truncated ({said}); replace it or pass --skip-corrupt") from error


def opened(encoded: bytes, max_megapixels: float = MAX_MEGAPIXELS) -> Image.Image:
    """Opened, not loaded; `_Refused` above the limit, which is ours: Pillow's is raised to it when it's met."""
    most = int(max_megapixels * 1e6)
    try:
        try:
            image: Image.Image = Image.open(BytesIO(encoded), formats=raster_formats())
        except _BOMBS:
            if Image.MAX_IMAGE_PIXELS is not None:
                Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, most)
            image = Image.open(BytesIO(encoded), formats=raster_formats())
    except _BOMBS as error:
        found = re.search(r"\((\d+) pixels\)", str(error))
        raise _Refused(_too_large(int(found[1]) if found else None, max_megapixels)) from error
    if image.width * image.height > most:
        raise _Refused(_too_large(image.width * image.height, max_megapixels))
    return image


def _too_large(pixels: int | None, limit: float) -> str:
    size = "is" if pixels is None else f"has {pixels / 1e6:,.1f} megapixels,"
    return (
        f"{size} larger than the limit of {limit:g} megapixels; raise it with --max-megapixels, make the image smaller,"
    )


def _loaded(image: Image.Image) -> _Stored:
    """Pixels in memory, upright where the orientation can be read."""
    deep = depth_kind(image.mode) is None and any(";16" in str(tile) for tile in getattr(image, "tile", ()))
    image.load()
    try:
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # EXIF is the camera's own, and odd in a thousand ways; the pixels are sound
        return _Stored(image, upright=False, deep_colour=deep)
    return _Stored(image if turn is None else image.transpose(turn), upright=True, deep_colour=deep)


def _extrema(rgb: Image.Image) -> list[tuple[int, int]]:
    """(lowest, highest) of each channel."""
    found: Any = rgb.getextrema()
    return list(found)


def _on_white(image: Image.Image) -> Image.Image:
    """RGB; what lies under transparent pixels is noise, and isn't seen."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    pasted = image.convert("RGBA")
    white = Image.new("RGBA", pasted.size, "white")
    return Image.alpha_composite(white, pasted).convert("RGB")


def _limits(kind: str, values: npt.NDArray[Any], decoding: Decoding) -> Range:
    """What becomes 0 and 255; a dataset that was never examined has whole numbers of 16 bits, or says so."""
    if kind in decoding.ranges:
        return decoding.ranges[kind]
    whole = kind != FLOATS and values.min() >= 0 and values.max() < 2**16
    if not whole:
        raise _Refused(
            f"has {kind}, and no range over the dataset is known to scale them by; read the dataset with "
            "tailsmith.load, convert it to 8 bits,"
        )
    return (0.0, 2.0**16 - 1)


def _unidentified(encoded: bytes) -> str:
    """What a file is that no reader knew, as far as its first bytes tell, and what to do."""
    if encoded[4:8] == b"ftyp" and encoded[8:12] in _HEIC_BRANDS:
        return (
            "is HEIC, which Pillow reads with pillow-heif only; install it (pip install pillow-heif), convert the "
            "images to JPEG,"
        )
    if encoded[4:8] == b"ftyp" and encoded[8:12] in (b"avif", b"avis"):
        return "is AVIF, which this Pillow can't read; upgrade it, convert the images to PNG or JPEG,"
    if encoded[:4] in (b"II*\0", b"MM\0*"):
        return "is a TIFF file of a kind that Pillow can't read; convert it to 8-bit PNG"
    return "is not an image file of a kind that is read (PNG, JPEG, WebP, TIFF, BMP, GIF, ...); remove it"
