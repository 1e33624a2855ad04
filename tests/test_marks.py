"""What an image says of itself inside its file: read back by us and by others, and no pixel changes."""

import io
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

import tailsmith
from folders import write_folder
from tailsmith.data.marks import HEAD_BYTES, mark_of, marked

SAID = json.dumps({"synthetic": True, "prompt": "a cät -- <b>&amp; ]]> --> \n in the house", "seed": 2**62})
TERM = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
EXIF = Image.Exif()
EXIF[0x0110] = "a camera"
OTHERS_XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:'
    b'Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:format="x"/></rdf:RDF></x:xmpmeta>'
)


def image_of(kind, mode="RGB", **options):
    channels = {"L": 1, "RGB": 3, "RGBA": 4, "CMYK": 4}[mode]
    pixels = np.random.default_rng(0).integers(0, 255, (9, 7, channels), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(), mode).save(buffer, kind, **options)
    return buffer.getvalue()


IMAGES = {
    "png": image_of("PNG"),
    "grey png": image_of("PNG", "L"),
    "png with exif and xmp": image_of("PNG", exif=EXIF, xmp=OTHERS_XMP),
    "jpeg": image_of("JPEG"),
    "progressive jpeg": image_of("JPEG", progressive=True),
    "cmyk jpeg": image_of("JPEG", "CMYK"),
    "jpeg with exif, comment and xmp": image_of("JPEG", exif=EXIF, comment=b"mine", xmp=OTHERS_XMP),
    "webp": image_of("WEBP"),
    "lossless webp": image_of("WEBP", lossless=True),
    "transparent webp": image_of("WEBP", "RGBA", lossless=True),
    "webp with exif and xmp": image_of("WEBP", exif=EXIF, xmp=OTHERS_XMP),
}


def opened(encoded):
    image = Image.open(io.BytesIO(encoded))
    image.load()
    return image


@pytest.mark.parametrize("encoded", IMAGES.values(), ids=IMAGES.keys())
def test_a_mark_is_read_back_and_no_pixel_changes(encoded):
    again = marked(encoded, SAID)
    assert mark_of(encoded) is None and json.loads(mark_of(again)) == json.loads(SAID)
    before, after = opened(encoded), opened(again)
    assert (before.format, before.mode) == (after.format, after.mode)
    assert np.array_equal(np.asarray(before), np.asarray(after))
    assert before.getexif() == after.getexif()


@pytest.mark.parametrize("encoded", IMAGES.values(), ids=IMAGES.keys())
def test_other_programs_read_what_kind_of_image_it_is(encoded):
    info = opened(marked(encoded, SAID)).info
    if b"PNG" in encoded[:8]:
        assert json.loads(info["tailsmith"]) == json.loads(SAID)  # Pillow's own reading of the chunk
    if b"purl.org" in encoded and b"WEBP" not in encoded[:16]:
        assert info["xmp"] == opened(encoded).info["xmp"]  # others' words stay as they are
        return
    found = ElementTree.fromstring(re.sub(rb"<\?xpacket.*?\?>", b"", info["xmp"]).strip())
    described = [value for each in found.iter() for name, value in each.attrib.items() if "DigitalSourceType" in name]
    assert described == [TERM]
    if b"WEBP" in encoded[:16]:
        (provenance,) = found.iter("{urn:tailsmith:}provenance")
        assert json.loads(provenance.text) == json.loads(SAID)
        assert (b"purl.org" in encoded) == (b"purl.org" in info["xmp"])


@pytest.mark.parametrize("name", [name for name in IMAGES if "jpeg" in name and "cmyk" not in name])
def test_jfif_and_exif_stay_where_readers_want_them(name):
    """JFIF's segment is the first one, and Exif's the next."""
    before, after = IMAGES[name], marked(IMAGES[name], SAID)
    assert before[2:4] == b"\xff\xe0" and after[:20] == before[:20]
    assert (b"Exif\0" in before) == (after.find(b"Exif\0") == before.find(b"Exif\0") > 0)


def test_the_head_of_a_file_is_enough():
    for kind in ("PNG", "JPEG"):
        pixels = np.random.default_rng(0).integers(0, 255, (400, 400, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind, quality=100)
        again = marked(buffer.getvalue(), SAID)
        assert len(again) > HEAD_BYTES and mark_of(again[:HEAD_BYTES]) == mark_of(again) is not None


@pytest.mark.parametrize("encoded", IMAGES.values(), ids=IMAGES.keys())
def test_whatever_bytes_there_are_they_are_no_fault_of_ours(encoded):
    again, rng = marked(encoded, SAID), np.random.default_rng(1)
    for length in range(0, len(again), 7):
        mark_of(again[:length])
    for _ in range(200):
        broken = bytearray(again)
        broken[rng.integers(8, len(again))] = rng.integers(256)
        mark_of(bytes(broken))


def test_what_can_not_be_marked_is_refused():
    with pytest.raises(ValueError, match="expected an image in PNG, JPEG or WebP, got one that begins with b'BM"):
        marked(image_of("BMP"), "x")
    with pytest.raises(ValueError, match=r"a text in an image has at most 60,000 bytes, got 70,000"):
        marked(IMAGES["png"], "x" * 70_000)
    with pytest.raises(ValueError, match="got one without pixels"):
        marked(IMAGES["webp"][:20], SAID)
    with pytest.raises(ValueError, match="says already how it was made"):
        marked(marked(IMAGES["jpeg"], SAID), SAID)


# ---- a synthetic image among real ones


@pytest.fixture
def photos(tmp_path: Path):
    """A folder of two classes, in one of which two of the training images are synthetic, and don't stand out."""
    folder = write_folder(tmp_path / "photos")
    for number, suffix in enumerate(("PNG", "WEBP")):
        path = folder / "train" / "dog" / f"{number}.png"
        buffer = io.BytesIO()
        Image.open(path).save(buffer, suffix)
        path.write_bytes(marked(buffer.getvalue(), SAID))
    return folder


def test_a_marked_image_counts_as_synthetic_wherever_it_lies(photos, caplog):
    dataset = tailsmith.load(photos)
    sources = dict(zip(dataset.table["image_id"], dataset.table["source"], strict=True))
    assert {name for name, source in sources.items() if source == "synthetic"} == {"train/dog/0.png", "train/dog/1.png"}
    assert "2 of the images that are listed as real say inside that they are synthetic" in caplog.text


def test_a_marked_image_does_not_become_a_test_image(tmp_path, caplog):
    folder = write_folder(tmp_path / "photos", {"train": {"cat": 30, "dog": 30}})
    made = sorted((folder / "train" / "dog").iterdir())[:20]
    for path in made:
        path.write_bytes(marked(path.read_bytes(), SAID))
    dataset = tailsmith.load(folder / "train")
    synthetic = dataset.table["source"] == "synthetic"
    assert synthetic.sum() == 20 and set(dataset.table["split"][synthetic]) == {"train"}
    assert {"val", "test"} < set(dataset.table["split"])


def test_a_marked_image_in_a_test_folder_is_refused(photos):
    (photos / "train" / "dog" / "0.png").rename(photos / "test" / "dog" / "new.png")
    with pytest.raises(ValueError, match=r"test/dog/new\.png is synthetic and in test"):
        tailsmith.load(photos)


def test_images_without_a_mark_stay_what_they_are(tmp_path, caplog):
    dataset = tailsmith.load(write_folder(tmp_path / "photos"))
    assert set(dataset.table["source"]) == {"real"} and "synthetic" not in caplog.text
