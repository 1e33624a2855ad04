"""What a synthetic image says of itself inside its file, without a pixel touched: in PNG, JPEG and WebP.

JSON of what it follows from stands in PNG's text chunk `tailsmith`, JPEG's comment, WebP's XMP; and XMP has IPTC's term
for it, digital source type `trainedAlgorithmicMedia`, which other programs know.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from html import escape, unescape

from tailsmith.errors import UserError

KEY = "tailsmith"
HEAD_BYTES = 256 * 1024  # of a PNG or JPEG file: the mark lies before the pixels, behind a camera's own notes
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_PNG_TEXT, _PNG_XMP = KEY.encode() + b"\0\0\0\0\0", b"XML:com.adobe.xmp\0\0\0\0\0"  # of iTXt chunks
_JPEG_TEXT, _JPEG_XMP = f"{KEY} ".encode(), b"http://ns.adobe.com/xap/1.0/\0"
_COMMENT, _APP0, _APP1, _SCAN = 0xFE, 0xE0, 0xE1, 0xDA  # second bytes of JPEG's markers
_LONGEST = 60_000  # bytes: a segment of a JPEG file holds 65,533
_DESCRIPTION = (
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'xmlns:tailsmith="urn:tailsmith:" Iptc4xmpExt:DigitalSourceType='
    '"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia">%s</rdf:Description>'
)
_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">%s</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)
_PROVENANCE = re.compile(rb"<tailsmith:provenance>(.*?)</tailsmith:provenance>", re.DOTALL)
_END = b"</rdf:RDF>"


def marked(encoded: bytes, text: str) -> bytes:
    """The same image with a text in it; ValueError for another format, an image that has one, and more than 60 kB."""
    said = text.encode("ascii", "backslashreplace")
    if len(said) > _LONGEST:
        raise UserError(f"a text in an image has at most {_LONGEST:,} bytes, got {len(said):,}")
    if mark_of(encoded) is not None:
        raise UserError("this image says already how it was made; it is not marked twice")
    if encoded.startswith(_PNG):
        return _in_png(encoded, said)
    if encoded.startswith(_JPEG):
        return _in_jpeg(encoded, said)
    if is_webp(encoded):
        return _in_webp(encoded, said)
    raise UserError(f"expected an image in PNG, JPEG or WebP, got one that begins with {encoded[:8]!r}")


def mark_of(encoded: bytes) -> str | None:
    """The text that `marked` put there; None where there is none, and for whatever bytes are no image.

    The first `HEAD_BYTES` of a PNG or JPEG file are enough.
    """
    if encoded.startswith(_PNG):
        chunks = (content for kind, content in _png_chunks(encoded) if kind == b"iTXt")
        found = next((each.removeprefix(_PNG_TEXT) for each in chunks if each.startswith(_PNG_TEXT)), None)
    elif encoded.startswith(_JPEG):
        comments = (content for kind, _, content in _jpeg_segments(encoded) if kind == _COMMENT)
        found = next((each.removeprefix(_JPEG_TEXT) for each in comments if each.startswith(_JPEG_TEXT)), None)
    elif is_webp(encoded):
        packets = (content for kind, content in _webp_chunks(encoded) if kind == b"XMP ")
        matches = filter(None, map(_PROVENANCE.search, packets))
        found = next((unescape(each[1].decode("utf-8", "replace")).encode() for each in matches), None)
    else:
        return None
    return None if found is None else found.decode("utf-8", "replace")


def is_webp(encoded: bytes) -> bool:
    """Whether a file that begins so is WebP."""
    return encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP"


def _in_png(encoded: bytes, said: bytes) -> bytes:
    """After the header, which is 25 bytes behind the signature."""
    added = _png_chunk(b"iTXt", _PNG_TEXT + said)
    if not any(content.startswith(_PNG_XMP) for _, content in _png_chunks(encoded)):
        added += _png_chunk(b"iTXt", _PNG_XMP + _packet(b""))
    at = len(_PNG) + 25
    return encoded[:at] + added + encoded[at:]


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png_chunks(encoded: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each chunk before the pixels that is whole."""
    at = len(_PNG)
    while at + 8 <= len(encoded):
        (size,), kind = struct.unpack_from(">I", encoded, at), encoded[at + 4 : at + 8]
        if kind == b"IDAT" or at + 12 + size > len(encoded):
            return
        yield kind, encoded[at + 8 : at + 8 + size]
        at += 12 + size


def _in_jpeg(encoded: bytes, said: bytes) -> bytes:
    """After JFIF's and Exif's segments, which readers want first."""
    segments = list(_jpeg_segments(encoded))
    first = next((at for kind, at, _ in segments if kind not in (_APP0, _APP1)), len(_JPEG))
    added = _jpeg_segment(_COMMENT, _JPEG_TEXT + said)
    if not any(kind == _APP1 and content.startswith(_JPEG_XMP) for kind, _, content in segments):
        added += _jpeg_segment(_APP1, _JPEG_XMP + _packet(b""))
    return encoded[:first] + added + encoded[first:]


def _jpeg_segment(kind: int, content: bytes) -> bytes:
    return bytes([0xFF, kind]) + struct.pack(">H", len(content) + 2) + content


def _jpeg_segments(encoded: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Marker, place and content of each whole segment before the pixels; of the scan that begins these, no content."""
    at = len(_JPEG)
    while at + 4 <= len(encoded) and encoded[at] == 0xFF:
        kind = encoded[at + 1]
        if kind == 0xFF:  # any number of these may stand before a marker
            at += 1
            continue
        (size,) = struct.unpack_from(">H", encoded, at + 2)
        if kind == _SCAN or size < 2 or at + 2 + size > len(encoded):
            yield _SCAN, at, b""
            return
        yield kind, at, encoded[at + 4 : at + 2 + size]
        at += 2 + size


def _in_webp(encoded: bytes, said: bytes) -> bytes:
    """XMP at the end, where the format has it; files of the simple layout get the extended one, which announces it."""
    provenance = b"<tailsmith:provenance>" + escape(said.decode()).encode() + b"</tailsmith:provenance>"
    chunks = list(_webp_chunks(encoded))
    before = next((content for kind, content in chunks if kind == b"XMP "), None)
    chunks = [each for each in chunks if each[0] != b"XMP "]
    if chunks and chunks[0][0] == b"VP8X":
        header = chunks.pop(0)[1]
        header = bytes([header[0] | 0x04]) + header[1:]
    else:
        width, height, transparent = _webp_size(dict(chunks))
        sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        header = bytes([0x04 | (0x10 if transparent else 0), 0, 0, 0]) + sizes
    whole = [(b"VP8X", header), *chunks, (b"XMP ", _packet(provenance, before))]
    body = b"".join(
        kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2) for kind, content in whole
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _webp_chunks(encoded: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each chunk that is whole."""
    at = 12
    while at + 8 <= len(encoded):
        kind, (size,) = encoded[at : at + 4], struct.unpack_from("<I", encoded, at + 4)
        if at + 8 + size > len(encoded):
            return
        yield kind, encoded[at + 8 : at + 8 + size]
        at += 8 + size + size % 2


def _webp_size(chunks: dict[bytes, bytes]) -> tuple[int, int, bool]:
    """Width, height and whether there is an alpha channel, of a file of the simple layout (RFC 6386 9.1, RFC 9649)."""
    lossless, lossy = chunks.get(b"VP8L", b""), chunks.get(b"VP8 ", b"")
    if len(lossless) >= 5:
        (bits,) = struct.unpack_from("<I", lossless, 1)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, bool(bits >> 28 & 1)
    if len(lossy) >= 10:
        width, height = struct.unpack_from("<HH", lossy, 6)
        return width & 0x3FFF, height & 0x3FFF, False
    raise UserError("expected a WebP image, got one without pixels; replace it")


def _packet(content: bytes, before: bytes | None = None) -> bytes:
    """XMP that says where the image comes from, with what the packet before it says of other things."""
    description = _DESCRIPTION.encode() % content
    if before is not None and _END in before:
        head, _, tail = before.rpartition(_END)
        return head + description + _END + tail
    return _PACKET.encode() % description
