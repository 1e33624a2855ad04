"""Folders as Hugging Face and WebDataset have them: whoever wrote them, and whatever they try."""

import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import tailsmith
from folders import write_folder
from tailsmith.data.sources.readers import load, read_unchecked

NAMES = ["dog", "cat"]  # not in the order of the alphabet


def png(seed, size=8):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_table(path, images, labels=None, names=NAMES, **options):
    """As `datasets` writes a Parquet file."""
    labels = [row % 2 for row in range(len(images))] if labels is None else labels
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    table = pa.table({"image": images, "label": labels})
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), path, **options)


def held(seeds):
    return [{"bytes": png(seed), "path": None} for seed in seeds]


def tar_of(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content, *kind in members:
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname = (*kind, tarfile.REGTYPE)[0], len(content), "/etc/passwd"
            archive.addfile(member, io.BytesIO(content))


def found(folder):
    """(split, class name, first pixel of the image) of each row."""
    dataset = read_unchecked(folder)
    rows = enumerate(zip(dataset.table["split"], dataset.labels, strict=True))
    return [(split, dataset.class_names[label], dataset.image(row).getpixel((0, 0))) for row, (split, label) in rows]


def expected(split, seeds, names=NAMES):
    first = [Image.open(io.BytesIO(png(seed))).getpixel((0, 0)) for seed in seeds]
    return [(split, names[row % 2], pixel) for row, pixel in enumerate(first)]


# ---- Parquet


@pytest.mark.parametrize("batch_size", [None, 2])
def test_a_parquet_folder_that_datasets_wrote_is_read(tmp_path, batch_size):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    for split, seeds in (("train", range(12)), ("validation", range(12, 16)), ("test", range(16, 20))):
        pictures = [Image.open(io.BytesIO(png(seed))) for seed in seeds]
        rows = datasets.Dataset.from_dict({"image": pictures, "label": [0, 1] * (len(seeds) // 2)}, features=features)
        (tmp_path / "data").mkdir(exist_ok=True)
        rows.to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet", batch_size=batch_size)
    want = expected("test", range(16, 20)) + expected("train", range(12)) + expected("val", range(12, 16))
    assert found(tmp_path) == want
    assert tailsmith.load(tmp_path).class_names == ("dog", "cat")


@pytest.mark.parametrize(
    "name",
    [
        "data/train-00000-of-00001.parquet",
        "data/train-00000-of-00001-0123456789abcdef.parquet",
        "train-00000-of-00001.parquet",
        "train/0000.parquet",
        "train.parquet",
    ],
)
@pytest.mark.parametrize("one_by_one", [True, False])
def test_the_names_that_the_hub_knows(name, one_by_one, tmp_path, monkeypatch):
    if not one_by_one:
        monkeypatch.setattr("tailsmith.data.sources.hub_folders.ONE_BY_ONE", 0)
    write_table(tmp_path / name, held(range(4)))
    assert found(tmp_path) == expected("train", range(4))
    assert read_unchecked(tmp_path).table["bytes"].isna().all() == one_by_one


def test_files_of_a_folder_that_are_named_in_a_table(tmp_path):
    for seed in range(4):
        (tmp_path / f"{seed}.png").write_bytes(png(seed))
    write_table(tmp_path / "data/train-0-of-1.parquet", [{"bytes": None, "path": f"{seed}.png"} for seed in range(4)])
    assert found(tmp_path) == expected("train", range(4))


@pytest.mark.parametrize("where", ["../secret.png", "/etc/secret.png", "a/../../secret.png", "C:\\secret.png"])
def test_a_table_can_not_lead_out_of_its_folder(where, tmp_path):
    (tmp_path / "secret.png").write_bytes(png(0))
    write_table(tmp_path / "in/train-0-of-1.parquet", [{"bytes": None, "path": where}] * 2)
    with pytest.raises(ValueError, match="row 0 should hold its image, or name a file inside the folder, got"):
        tailsmith.load(tmp_path / "in")


def test_two_tables_that_name_labels_otherwise_are_refused(tmp_path):
    write_table(tmp_path / "data/train-00000-of-00001.parquet", held(range(4)))
    write_table(tmp_path / "data/test-00000-of-00001.parquet", held(range(4, 8)), names=NAMES[::-1])
    with pytest.raises(ValueError, match=r"train-00000-of-00001\.parquet names its labels otherwise than .*test-"):
        tailsmith.load(tmp_path)


def test_a_label_that_is_none_of_the_names(tmp_path):
    write_table(tmp_path / "data/train-00000-of-00001.parquet", held(range(2)), labels=[0, -1])
    with pytest.raises(ValueError, match="label -1 is none of the names"):
        tailsmith.load(tmp_path)


def test_a_row_without_an_image_is_named(tmp_path):
    write_table(tmp_path / "train-0-of-1.parquet", [*held(range(3)), {"bytes": None, "path": None}])
    with pytest.raises(ValueError, match=r"train-0-of-1\.parquet#3 has no image; remove the row, or pass --skip"):
        tailsmith.load(tmp_path)


# ---- metadata.jsonl


def test_metadata_of_the_folder_or_of_its_splits(tmp_path, caplog):
    for split in ("train", "test"):
        (tmp_path / "one" / split / "x").mkdir(parents=True)
    lines = {"train": [], "test": []}
    for seed in range(8):
        split = "test" if seed > 5 else "train"
        (tmp_path / "one" / split / "x" / f"12:3{seed}.png").write_bytes(png(seed))
        lines[split].append({"file_name": f"x/12:3{seed}.png", "label": NAMES[seed % 2]})
    for split, rows in lines.items():
        (tmp_path / "one" / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    names = ["cat", "dog"]  # by the alphabet: nothing says otherwise
    assert sorted(found(tmp_path / "one")) == sorted(expected("train", range(6)) + expected("test", (6, 7)))
    assert read_unchecked(tmp_path / "one").class_names == tuple(names)
    rows = [
        {**row, "file_name": f"{split}/{row['file_name']}", "split": split} for split in lines for row in lines[split]
    ]
    (tmp_path / "one" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for split in lines:
        (tmp_path / "one" / split / "metadata.jsonl").unlink()
    assert sorted(found(tmp_path / "one")) == sorted(expected("train", range(6)) + expected("test", (6, 7)))
    assert not caplog.text


def test_a_split_without_metadata_is_not_left_out_in_silence(tmp_path, caplog):
    write_folder(tmp_path, {"train": {"cat": 3, "dog": 3}, "test": {"cat": 2, "dog": 2}})
    rows = [{"file_name": f"{name}/{n}.png", "label": name} for name in ("cat", "dog") for n in range(3)]
    (tmp_path / "train" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert len(read_unchecked(tmp_path)) == 6
    assert "test has no metadata.jsonl with labels, and is left out" in caplog.text


@pytest.mark.parametrize("name", ["../secret.png", "/etc/secret.png", "a/../../secret.png", "C:\\x.png", 3, None])
def test_metadata_can_not_lead_out_of_its_folder(name, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(png(0))
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": name, "label": "a"}))
    with pytest.raises(ValueError, match="line 1 should have a file_name inside the folder, got"):
        tailsmith.load(folder)


# ---- tar files


def test_tar_files_of_others(tmp_path):
    """Numbers in `cls`, folders with dots, captions and masks beside an image, and a folder as a member."""
    members = [("v1.0", b"", tarfile.DIRTYPE)]
    for seed in range(4):
        members += [(f"v1.0/{seed}.seg.png", png(99)), (f"v1.0/{seed}.cls", str(seed % 2).encode())]
        members += [(f"v1.0/{seed}.txt", b"a caption"), (f"v1.0/{seed}.PNG", png(seed)), (f"v1.0/._{seed}.png", b"mac")]
    tar_of(tmp_path / "train-000000.tar", members)
    assert found(tmp_path) == expected("train", range(4), names=["0", "1"])
    dataset = read_unchecked(tmp_path)
    assert dataset.table["image_id"].tolist() == [f"train-000000/v1.0/{seed}" for seed in range(4)]
    assert dataset.encoded(2) == png(2) and dataset.table["bytes"].isna().all()
    assert dataset.described(2).endswith(":v1.0/2.PNG")


def test_a_tar_file_that_is_cut_or_gone_after_it_was_read(tmp_path):
    tar_of(tmp_path / "train-00000.tar", [("0.png", png(0)), ("0.cls", b"0")])
    dataset = read_unchecked(tmp_path)
    with open(tmp_path / "train-00000.tar", "r+b") as file:
        file.truncate(600)
    with pytest.raises(ValueError, match=r"train-00000\.tar ends within 0\.png; bring back a sound copy"):
        dataset.encoded(0)
    (tmp_path / "train-00000.tar").unlink()
    with pytest.raises(ValueError, match=r"train-00000\.tar does not exist, or is no file"):
        dataset.encoded(0)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../out.png", tarfile.REGTYPE),
        ("/etc/out.png", tarfile.REGTYPE),
        ("a/../../out.png", tarfile.REGTYPE),
        ("C:\\out.png", tarfile.REGTYPE),
        ("0.png", tarfile.SYMTYPE),
        ("0.png", tarfile.LNKTYPE),
        ("0.png", tarfile.CHRTYPE),
        ("0.png", tarfile.FIFOTYPE),
        ("0.png", tarfile.GNUTYPE_SPARSE),
    ],
)
def test_a_tar_file_can_not_lead_out_of_its_folder(name, kind, tmp_path):
    tar_of(tmp_path / "train-00000.tar", [(name, png(0) if kind == tarfile.REGTYPE else b"", kind)])
    with pytest.raises(ValueError, match=r"has the member .* expected files inside of at most"):
        tailsmith.load(tmp_path)


def test_a_member_larger_than_any_picture_is_refused_unread(tmp_path):
    member = tarfile.TarInfo("0.json")
    member.size = 2**40
    (tmp_path / "train-00000.tar").write_bytes(member.tobuf() + bytes(1024))
    with pytest.raises(ValueError, match=r"member '0\.json' \(1,099,511,627,776 bytes\)"):
        tailsmith.load(tmp_path)


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_an_image_of_too_many_pixels_is_refused_as_everywhere(kind, tmp_path):
    images = [png(seed, 40 if seed == 3 else 8) for seed in range(8)]
    if kind == "tar":
        tar_of(
            tmp_path / "train-00000.tar",
            [each for n, image in enumerate(images) for each in ((f"{n}.png", image), (f"{n}.cls", b"%d" % (n % 2)))],
        )
    else:
        write_table(tmp_path / "train-0-of-1.parquet", [{"bytes": each, "path": None} for each in images])
    with pytest.raises(ValueError, match=r"has 0\.0 megapixels, larger than the limit of 0\.001 megapixels"):
        load(tmp_path, max_megapixels=0.001)
    assert len(load(tmp_path, max_megapixels=0.001, skip_corrupt=True)) == 7


# ---- what is broken, and what is no such folder


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda folder: (folder / "metadata.jsonl").write_text("{"), "line 1 is no JSON"),
        (lambda folder: (folder / "metadata.jsonl").write_text("[1]"), "line 1 should be a JSON object, got list"),
        (lambda folder: (folder / "metadata.jsonl").write_bytes(b"\xff\xfe"), "is not text in UTF-8"),
        (lambda folder: (folder / "metadata.jsonl").write_text("\n"), "it has no lines"),
        (
            lambda folder: (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "label": ["a"]}'),
            "line 1: label should be a name or a number, got",
        ),
        (lambda folder: (folder / "train-00000.tar").write_bytes(b"no tar" * 200), "is not a readable tar file"),
        (
            lambda folder: tar_of(folder / "train-00000.tar", [("0.json", b"{}")]),
            "0 should have one image, got 0",
        ),
        (
            lambda folder: tar_of(folder / "train-00000.tar", [("0.png", b""), ("0.jpg", b"")]),
            "0 should have one image, got 2",
        ),
        (
            lambda folder: tar_of(folder / "train-00000.tar", [("0.png", b""), ("0.json", b"[")]),
            r"0\.json is no JSON",
        ),
        (
            lambda folder: [tar_of(folder / f"{name}-00000.tar", []) for name in ("train", "odd")],
            "of the split 'odd', expected train, val or test",
        ),
        (lambda folder: (folder / "train-0-of-1.parquet").write_bytes(b"PAR1"), "is not a readable parquet file"),
        (
            lambda folder: pq.write_table(pa.table({"a": [1], "b": [1]}), folder / "train-0-of-1.parquet"),
            r"has no image column \(bytes, image or img\); got a, b",
        ),
        (
            lambda folder: pq.write_table(pa.table({"image": [b"x"]}), folder / "train-0-of-1.parquet"),
            "has no column 'label'; got image",
        ),
    ],
)
def test_a_broken_folder_is_one_line(write, said, tmp_path):
    write(tmp_path)
    with pytest.raises(ValueError, match=said) as refused:
        tailsmith.load(tmp_path)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: (folder / "train" / "cat" / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "a"}'),
        lambda folder: (folder / "train" / "metadata.jsonl").write_text('{"file_name": "cat/0.png", "text": "a cat"}'),
        lambda folder: tar_of(folder / "photos-2020.tar", [("cat/0.png", png(0))]),
        lambda folder: pq.write_table(pa.table({"feature": [1.0]}), folder / "train.parquet"),
        lambda folder: write_table(folder / "features.parquet", held([1])),
    ],
)
def test_other_files_in_a_folder_per_class_change_nothing(write, tmp_path):
    before = tailsmith.load(write_folder(tmp_path)).table
    write(tmp_path)
    assert tailsmith.load(tmp_path).table.equals(before)
