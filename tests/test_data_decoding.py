"""Encoded bytes as 8-bit RGB: formats, size limit, bit depths over a dataset, transparency, orientation, odd files."""

from __future__ import annotations

import re
import struct
import sys
import types
import warnings
import zlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from tailsmith.data import decoding as decoding_module
from tailsmith.data.checks import check_dataset
from tailsmith.data.dataset import Dataset, make_table
from tailsmith.data.decoding import (
    FLOATS,
    WHOLE_16,
    WHOLE_32,
    Decoding,
    decode,
    range_in_use,
    raster_formats,
    to_8_bits,
)
from tailsmith.data.sources.tables import load_table
from tailsmith.data.writers import write_image_folder, write_parquet

SOURCE = Path(decoding_module.__file__).parents[1]


def saved(image: Image.Image | np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, format=kind, **options)
    return buffer.getvalue()


def noise(seed: int, dtype: str = "uint16", low: float = 0, high: float = 4095, size: int = 16) -> np.ndarray:
    values = np.random.default_rng(seed).uniform(low, high, (size, size))
    values.flat[:2] = low, high
    return values.astype(dtype)


def dataset(images: list[bytes]) -> Dataset:
    """Two classes in turn, in all splits."""
    splits = [("train", "train", "train", "train", "val", "test")[i % 6] for i in range(len(images))]
    ids = [f"id{i}" for i in range(len(images))]
    table = make_table([i % 2 for i in range(len(images))], image_ids=ids, encoded=images, splits=splits)
    return Dataset(table, ("cat", "dog"), name="pets")


# --- bit depths


@pytest.mark.parametrize(
    ("dtype", "kind", "low", "high", "expected"),
    [
        ("uint16", "PNG", 0, 4095, (0, 4095)),
        ("uint16", "PNG", 0, 3000, (0, 4095)),
        ("uint16", "TIFF", 0, 65535, (0, 65535)),
        (">u2", "TIFF", 0, 1000, (0, 1023)),
        ("uint16", "PNG", 27000, 32000, (27000, 32000)),  # a thermal camera's
        ("int32", "TIFF", 0, 4095, (0, 4095)),
        ("int32", "TIFF", -1024, 3071, (-1024, 3071)),
        ("float32", "TIFF", 0, 1, (0, 1)),
        ("float32", "TIFF", 0, 255, (0, 255)),
        ("float32", "TIFF", 280, 320, (280, 320)),
        ("float32", "TIFF", -0.5, 0.5, (-0.5, 0.5)),
    ],
)
def test_high_bit_depths_are_scaled_by_the_range_in_use_over_the_dataset(
    dtype: str, kind: str, low: float, high: float, expected: tuple[float, float], caplog: pytest.LogCaptureFixture
) -> None:
    # One image has the whole range, in the test split; the others half of it.
    arrays = [noise(i, dtype, low, (low + high) / 2) for i in range(5)] + [noise(5, dtype, low, high)]
    checked, _ = check_dataset(dataset([saved(each, kind) for each in arrays]))
    bottom, top = expected
    for row, values in enumerate(arrays):
        got = np.asarray(checked.image(row))[..., 0].astype(int)
        exact = (values.astype(float) - bottom) / (top - bottom) * 255
        assert np.abs(got - exact).max() <= 1
    assert np.asarray(checked.image(0)).max() < 140 < np.asarray(checked.image(5)).max()  # brightness is kept
    assert [
        replace(checked, table=checked.split("test").table).decoding.ranges,
        checked.select([0]).decoding.ranges,
    ] == [checked.decoding.ranges] * 2
    assert "6 images have" in caplog.text


def test_whole_numbers_of_16_bits_keep_their_upper_eight() -> None:
    every = np.arange(2**16).reshape(256, 256)
    np.testing.assert_array_equal(to_8_bits(every, WHOLE_16, (0, 2**16 - 1)), every >> 8)
    np.testing.assert_array_equal(to_8_bits(np.arange(4096), WHOLE_16, (0, 4095)), np.arange(4096) >> 4)
    np.testing.assert_array_equal(to_8_bits(np.array([0, 1]), WHOLE_32, (0, 1)), [0, 255])
    np.testing.assert_array_equal(to_8_bits(np.array([-9, 7, 99]), WHOLE_32, (7, 7)), [0, 0, 0])
    np.testing.assert_array_equal(to_8_bits(np.array([2.0, 2.0]), FLOATS, (2, 2)), [0, 0])
    assert range_in_use(WHOLE_32, 0, 2**31 - 1) == (0, 2**31 - 1)


def test_a_range_survives_a_file_and_concatenation(tmp_path: Path) -> None:
    images = [saved(noise(i), "PNG" if i % 2 else "TIFF") for i in range(6)]
    checked, _ = check_dataset(dataset(images))
    expected = [np.asarray(checked.image(row)) for row in range(6)]
    write_parquet(checked.split("train"), tmp_path / "x.parquet")  # a part, read without looking at it
    write_image_folder(checked, tmp_path / "folder")
    for row in range(4):
        np.testing.assert_array_equal(np.asarray(load_table(tmp_path / "x.parquet").image(row)), expected[row])
    for row, image in enumerate(expected):
        np.testing.assert_array_equal(np.asarray(load_table(tmp_path / "folder/metadata.csv").image(row)), image)
    synthetic = dataset([saved(np.zeros((4, 4, 3), np.uint8))] * 6)
    for parts in ([checked, synthetic], [synthetic, checked]):
        both = Dataset.concatenate(parts)
        row = 0 if parts[0] is checked else 6
        np.testing.assert_array_equal(np.asarray(both.image(row)), expected[0])
    other = replace(checked, decoding=Decoding(ranges={WHOLE_16: (0, 1023)}))
    with pytest.raises(ValueError, match=r"are scaled by \(.*4095.*\) in one dataset and by \(0, 1023\) in the other"):
        Dataset.concatenate([checked, other])


def test_floats_without_a_known_range_and_without_a_value() -> None:
    with pytest.raises(ValueError, match=r"x has floating-point numbers, and no range .*tailsmith\.load"):
        decode(saved(noise(0, "float32"), "TIFF"), "x")
    broken = noise(0, "float32")
    broken[3, 3] = np.nan
    images = [saved(noise(i, "float32"), "TIFF") for i in range(6)]
    images[2] = saved(broken, "TIFF")
    with pytest.raises(
        ValueError, match=r"'id2' has pixels that are no numbers \(NaN or infinite\); replace it or pass"
    ):
        check_dataset(dataset(images))
    kept, skipped = check_dataset(dataset(images), skip_corrupt=True)
    assert (len(kept), len(skipped)) == (5, 1)


def png_of_16_bit_colour(values: np.ndarray) -> bytes:
    """[H, W, 3] uint16, which Pillow can't write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width, _ = values.shape
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def test_sixteen_bit_colour_of_which_only_the_lower_bits_are_used_is_refused() -> None:
    def deep(top: int) -> list[bytes]:
        rng = np.random.default_rng(0)
        return [png_of_16_bit_colour(rng.integers(0, top, (8, 8, 3))) for _ in range(3)]

    plain = [saved(noise(i, "uint8", 0, 255)) for i in range(3)]
    full, skipped = check_dataset(dataset(plain + deep(2**16)))
    assert (len(full), skipped) == (6, [])
    with pytest.raises(ValueError, match=r"'id3' has 16 bits a colour channel and uses the lower ones.*\(and 2 more"):
        check_dataset(dataset(plain + deep(2**12)))
    kept, skipped = check_dataset(dataset(plain + deep(2**12)), skip_corrupt=True)
    assert (len(kept), len(skipped)) == (3, 3)


def test_images_that_look_wrong_are_warnings(caplog: pytest.LogCaptureFixture) -> None:
    images = [saved(noise(i, high=2000)) for i in range(6)]
    images[1] = saved(noise(1, high=60000))
    images[3] = saved(np.full((9, 9), 7, np.uint8))
    check_dataset(dataset(images))
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "5 images have 16-bit whole numbers: 0..65535, the range in use over the dataset, becomes black..white",
        "1 image is of a single colour, the first is image_id 'id3'; is that all there is to see?",
        "4 images are nearly black beside the lightest pixel of the dataset, which is in image_id 'id1'; the first is "
        "image_id 'id0'",
    ]


# --- transparency, orientation


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L"])
def test_transparent_pixels_are_white(mode: str) -> None:
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 200, (6, 6, 3), dtype=np.uint8)
    alpha = rng.choice([0, 255], (6, 6)).astype(np.uint8)
    image = Image.fromarray(np.dstack([colours, alpha]))
    if mode == "LA":
        image = image.convert("LA")
    options: dict[str, Any] = {}
    if mode in ("P", "RGB", "L"):  # one colour is transparent
        image = Image.fromarray(colours).convert(mode)
        image.paste({"P": 3, "RGB": (1, 2, 3), "L": 9}[mode], mask=Image.fromarray(255 - alpha))
        options = {"transparency": {"P": 3, "RGB": (1, 2, 3), "L": 9}[mode]}
    encoded = saved(image, **options)
    got = np.asarray(decode(encoded, "x"))
    stored = np.asarray(Image.open(BytesIO(encoded)).convert("RGBA")).astype(float)
    share = stored[..., 3:] / 255
    assert (share == 0).any()
    np.testing.assert_allclose(got, stored[..., :3] * share + 255 * (1 - share), atol=1)


def test_half_transparent_pixels_are_mixed_with_white_and_opaque_ones_stay() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 4), dtype=np.uint8)
    share = pixels[..., 3:] / 255
    got = np.asarray(decode(saved(pixels), "x"))
    np.testing.assert_allclose(got, pixels[..., :3] * share + 255 * (1 - share), atol=1)
    pixels[..., 3] = 255
    np.testing.assert_array_equal(decode(saved(pixels), "x"), pixels[..., :3])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(10))
def test_images_stand_upright_as_pillow_turns_them(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = saved(noise(0, "uint8", 0, 255)[:5], kind, exif=exif)
    with Image.open(BytesIO(encoded)) as image:
        image.load()
        expected = ImageOps.exif_transpose(image)
    np.testing.assert_array_equal(decode(encoded, "x"), expected.convert("RGB"))


@pytest.mark.parametrize("error", [AttributeError, TypeError, KeyError, SyntaxError, ZeroDivisionError, OverflowError])
def test_where_only_the_orientation_fails_the_pixels_are_used(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(self: Image.Image) -> Image.Exif:
        raise error("odd tag")

    images = [saved(noise(i, "uint8", 0, 255)) for i in range(6)]
    expected = decode(images[0], "x")
    monkeypatch.setattr(Image.Image, "getexif", fails)
    checked, skipped = check_dataset(dataset(images))
    assert skipped == []
    np.testing.assert_array_equal(checked.image(0), expected)
    assert "6 images are used as stored, for an EXIF orientation that can't be read" in caplog.text


@pytest.mark.parametrize(
    ("tag", "kind", "value"),
    [  # each makes ImageOps.exif_transpose raise something else
        (0x0213, 1, b"\1\0\0\0"),
        (0x0213, 4, b"abcd"),
        (0x011A, 2, b"\1\0\0\0"),
        (0x0132, 11, b"\1\0\0\0"),
        (0x02BC, 3, b"abcd"),
        (0x8769, 6, b"\xff\xff\xff\xff"),
    ],
)
def test_an_odd_tag_in_a_sound_photograph_leaves_its_orientation(tag: int, kind: int, value: bytes) -> None:
    photograph = saved(Image.new("RGB", (8, 6), "red"), "JPEG")
    turned = struct.pack("<HHI4s", 0x0112, 3, 1, b"\6\0\0\0")
    entries = struct.pack("<H", 2) + turned + struct.pack("<HHI4s", tag, kind, 1, value) + bytes(4)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + entries + bytes(16)
    odd = photograph[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + photograph[2:]
    with Image.open(BytesIO(odd)) as image:
        image.load()
        with pytest.raises(Exception, match=r"integer|format|operand|encode|bytes|seek"):
            ImageOps.exif_transpose(image)
    assert decode(odd, "x").size == (6, 8)


# --- files that can't be read


@pytest.mark.parametrize(
    "error",
    [AttributeError, TypeError, RuntimeError, SyntaxError, KeyError, ZeroDivisionError, OverflowError, IndexError],
)
def test_any_exception_of_a_reader_is_that_files(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    original = ImageFile.ImageFile.load

    def fails(self: Any) -> Any:
        if self.size == (3, 3):
            raise error("odd\nbytes")
        return original(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load", fails)
    images = [saved(noise(i, "uint8", 0, 255)) for i in range(6)]
    images[2] = saved(noise(2, "uint8", 0, 255, size=3))
    with pytest.raises(ValueError, match=r"^image_id 'id2' is corrupt or truncated \(.*odd.*\); replace it or pass"):
        check_dataset(dataset(images))
    kept, skipped = check_dataset(dataset(images), skip_corrupt=True)
    assert (len(kept), len(skipped)) == (5, 1)


def test_too_little_memory_is_not_a_corrupt_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Any) -> Any:
        raise MemoryError

    encoded = saved(noise(0, "uint8", 0, 255))
    monkeypatch.setattr(ImageFile.ImageFile, "load", fails)
    with pytest.raises(MemoryError, match="not enough memory to decode x"):
        decode(encoded, "x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n%%EOF\n", "is not an image file"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", r"is HEIC, which .*pip install pillow-heif\), convert the images"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0heic", "is HEIC"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42", "is not an image file"),
        (b"II*\0\x08\0\0\0\0\0\0\0\0\0", "is a TIFF file of a kind that Pillow can't read"),
    ],
)
def test_what_is_said_of_files_of_other_kinds(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^x {message}.* or pass --skip-corrupt$"):
        decode(content, "x")


def test_only_named_raster_formats_are_ever_opened() -> None:
    assert {"PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM"} <= set(raster_formats())
    assert not {"EPS", "WMF", "PSD", "MPEG", "HDF5", "GRIB", "BUFR", "FITS"} & set(raster_formats())
    opening = [path for path in SOURCE.rglob("*.py") if "Image.open(" in path.read_text(encoding="utf-8")]
    assert [path.name for path in opening] == ["decoding.py"]
    calls = re.findall(r"Image\.open\(.*", opening[0].read_text(encoding="utf-8"))
    assert all("formats=raster_formats()" in call for call in calls)


def test_heic_is_read_where_pillow_heif_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    class HeifFile(ImageFile.ImageFile):
        format = "HEIF"

        def _open(self) -> None:
            self._size, self._mode = (2, 2), "RGB"
            self.tile = [("raw", (0, 0, 2, 2), 24, ("RGB", 0, 1))]

    def register() -> None:
        Image.register_open("HEIF", HeifFile, lambda prefix: prefix[4:12] == b"ftypheic")

    monkeypatch.setattr(Image, "OPEN", {**Image.OPEN})
    monkeypatch.setattr(Image, "ID", [*Image.ID])
    monkeypatch.setitem(sys.modules, "pillow_heif", types.SimpleNamespace(register_heif_opener=register))
    raster_formats.cache_clear()
    try:
        image = decode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(range(12)), "x")
    finally:
        raster_formats.cache_clear()
    np.testing.assert_array_equal(np.asarray(image).ravel(), np.arange(12))


# --- the limit on size


@pytest.fixture
def pillows_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100 pixels, beyond which it warns, and refuses beyond 200."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)


@pytest.mark.usefixtures("pillows_limit")
@pytest.mark.parametrize("size", [12, 40])  # where Pillow warns, and where it refuses
def test_the_limit_on_size_is_ours(size: int) -> None:
    encoded = saved(noise(0, "uint8", 0, 255, size=size))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(encoded, "x", Decoding(max_megapixels=0.002)).size == (size, size)
        assert decode(encoded, "x").size == (size, size)


@pytest.mark.parametrize("pillow", [100, 10**6, None])
def test_larger_than_the_limit(pillow: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillow)
    encoded = saved(noise(0, "uint8", 0, 255, size=1000))
    expected = r"^x has 1\.0 megapixels, larger than the limit of 0\.5 megapixels; raise it with --max-megapixels"
    with pytest.raises(ValueError, match=expected):
        decode(encoded, "x", Decoding(max_megapixels=0.5))
    images = [saved(noise(i, "uint8", 0, 255)) for i in range(5)] + [encoded]
    small = replace(dataset(images), decoding=Decoding(max_megapixels=0.5))
    kept, skipped = check_dataset(small, skip_corrupt=True)
    assert (len(kept), len(skipped)) == (5, 1)
    assert kept.select([0]).decoding.max_megapixels == 0.5


@pytest.mark.parametrize("limit", [0, -1, float("nan"), float("inf")])
def test_limits_that_cannot_be(limit: float) -> None:
    with pytest.raises(ValueError, match="max_megapixels should be a number above 0"):
        Decoding(max_megapixels=limit)


def test_a_limit_reaches_the_command_line(tmp_path: Path) -> None:
    from folders import write_folder
    from tailsmith.cli.main import main

    data = write_folder(tmp_path / "pets")
    assert main(["inspect", str(data), "--max-megapixels", "0.001"]) == 0
    assert main(["inspect", str(data), "--max-megapixels", "0.0001"]) == 2
