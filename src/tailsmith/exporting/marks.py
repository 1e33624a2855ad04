"""A text inside an encoded image, without touching a pixel: PNG's iTXt, JPEG's comment, WebP's XMP."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image

from tailsmith.errors import UserError

KEY = "tailsmith"
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_LONGEST = 60_000  # bytes: a segment of a JPEG file holds 65,533
_XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><!--%s--></x:xmpmeta>"


def extension_of(encoded: bytes) -> str:
    """png, jpg or webp; ValueError for any other format."""
    if encoded.startswith(_PNG):
        return "png"
    if encoded.startswith(_JPEG):
        return "jpg"
    if encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP":
        return "webp"
    raise UserError(f"expected an image in PNG, JPEG or WebP, got one that begins with {encoded[:8]!r}")


def marked(encoded: bytes, text: str) -> bytes:
    """The same image with a text in it, `KEY` before it; ValueError for another format, and for more than 60 kB."""
    said = f"{KEY} {text}".encode("ascii", "backslashreplace").replace(
        b"--", b"-\\u002d"
    )  # XML knows no -- in comments
    if len(said) > _LONGEST:
        raise UserError(f"a text in an image has at most {_LONGEST:,} bytes, got {len(said):,}")
    kind = extension_of(encoded)
    if kind == "png":
        return _in_png(encoded, KEY.encode() + b"\0\0\0\0\0" + said)
    if kind == "jpg":
        return encoded[:2] + b"\xff\xfe" + struct.pack(">H", len(said) + 2) + said + encoded[2:]
    return _in_webp(encoded, _XMP % said)


def mark_of(encoded: bytes) -> str | None:
    """The text that `marked` put there, None where there is none."""
    with Image.open(io.BytesIO(encoded)) as image:
        for said in (image.info.get(KEY), image.info.get("comment"), image.info.get("xmp")):
            text = said.decode("ascii", "replace") if isinstance(said, bytes) else str(said or "")
            text = text.partition("<!--")[2].rpartition("-->")[0] or text
            if text.startswith(f"{KEY} "):
                return text.removeprefix(f"{KEY} ")
    return None


def _in_png(encoded: bytes, content: bytes) -> bytes:
    """After the header, which is 25 bytes behind the signature."""
    chunk = b"iTXt" + content
    packed = struct.pack(">I", len(content)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    at = len(_PNG) + 25
    return encoded[:at] + packed + encoded[at:]


def _in_webp(encoded: bytes, content: bytes) -> bytes:
    """A chunk at the end; files of the simple layout get the extended one, which says that there is one."""
    body = encoded[12:]
    if body[:4] == b"VP8X":
        body = body[:8] + bytes([body[8] | 0x04]) + body[9:]
    else:
        with Image.open(io.BytesIO(encoded)) as image:
            (width, height), transparent = image.size, image.mode == "RGBA"
        sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        body = b"VP8X" + struct.pack("<I", 10) + bytes([0x04 | (0x10 if transparent else 0), 0, 0, 0]) + sizes + body
    body += b"XMP " + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body
