"""A synthetic set as others read it: the same images, ids and labels, each saying what it is."""

import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

import tailsmith
from rendering import DATASET, tiny_plan
from tailsmith.cli.main import main
from tailsmith.data.packed import read_packed
from tailsmith.exporting.export import export_set
from tailsmith.exporting.formats import FORMATS
from tailsmith.exporting.marks import extension_of, mark_of, marked
from tailsmith.synthesis.shards import read_shards
from tailsmith.synthesis.worker import Worker

PLAN = tiny_plan((4, 2, 4), feedback_scale=0.0)


@pytest.fixture(scope="module")
def samples(tmp_path_factory, pipe):
    folder = tmp_path_factory.mktemp("set")
    tailsmith.synthesize(PLAN, DATASET, folder, pipe=pipe)
    return folder


@pytest.fixture(scope="module")
def exported(samples, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    for name in FORMATS:
        export_set(samples, folder / name, name, DATASET)
    return folder


# ---- marks


def image_of(kind, size=(9, 7), **options):
    rng, buffer = np.random.default_rng(0), io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "encoded",
    [
        image_of("PNG"),
        image_of("JPEG"),
        image_of("JPEG", progressive=True),
        image_of("WEBP"),
        image_of("WEBP", lossless=True),
        image_of("WEBP", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"),
    ],
    ids=["png", "jpeg", "progressive jpeg", "webp", "lossless webp", "webp with exif"],
)
def test_a_mark_is_read_back_and_no_pixel_changes(encoded):
    text = json.dumps({"synthetic": True, "prompt": "a cät -- <b>; --> \n in the house"})
    again = marked(encoded, text)
    assert json.loads(mark_of(again)) == json.loads(text) and mark_of(encoded) is None
    assert extension_of(again) == extension_of(encoded)
    before, after = (np.asarray(Image.open(io.BytesIO(each)).convert("RGB")) for each in (encoded, again))
    assert np.array_equal(before, after)


def test_what_can_not_be_marked_is_refused():
    with pytest.raises(ValueError, match="expected an image in PNG, JPEG or WebP, got one that begins with b'BM"):
        marked(image_of("BMP"), "x")
    with pytest.raises(ValueError, match=r"a text in an image has at most 60,000 bytes, got 70,0"):
        marked(image_of("PNG"), "x" * 70_000)


# ---- what is written


def keyed(dataset):
    table = dataset.table
    names = [dataset.class_names[label] for label in table["label"]]
    return {
        name: (label, split, source, dataset.content_hash(row))
        for row, (name, label, split, source) in enumerate(
            zip(table["image_id"], names, table["split"], table["source"], strict=True)
        )
    }


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_written_is_read_back_by_tailsmith(name, exported, samples):
    back = tailsmith.load(exported / name)
    assert back.class_names == DATASET.class_names and back.attribute_names == DATASET.attribute_names
    found, expected = keyed(back), keyed(DATASET)
    real = {key: value for key, value in found.items() if value[2] == "real"}
    assert real.keys() == expected.keys() and real == expected  # byte for byte, in their splits
    made = {key: value for key, value in found.items() if value[2] == "synthetic"}
    results = read_shards(samples, PLAN)
    assert set(made) == {f"synthetic-{request}" for request in results["request_id"]}
    assert {value[1] for value in made.values()} == {"train"}
    row_of = {key: row for row, key in enumerate(back.table["image_id"])}
    for request, where, label in zip(results["request_id"], results["path"], results["label"], strict=True):
        row = row_of[f"synthetic-{request}"]
        assert back.labels[row] == label
        one, other = (np.asarray(Image.open(io.BytesIO(each))) for each in (read_packed(where), back.encoded(row)))
        assert np.array_equal(one, other)
        said = json.loads(mark_of(back.encoded(row)))
        assert said["synthetic"] is True and said["request_id"] == request and said["generator"] == "tiny"
        assert said["noise_seed"] == PLAN.table.set_index("request_id")["noise_seed"][request]
    assert all(mark_of(back.encoded(row_of[key])) is None for key in real)


@pytest.mark.parametrize("name", ["parquet", "imagefolder"])
def test_hugging_face_opens_it(name, exported, tmp_path):
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(str(exported / name), cache_dir=str(tmp_path))
    ours = tailsmith.load(exported / name)
    assert sum(len(each) for each in loaded.values()) == len(ours)
    train, names = loaded["train"], list(DATASET.class_names)
    if name == "parquet":
        assert train.features["label"].names == names and train.features["attribute"].names
    label_of = dict(zip(ours.table["image_id"], ours.labels.tolist(), strict=True))
    for each in train:
        assert (each["label"] if name == "parquet" else names.index(each["label"])) == label_of[each["image_id"]]
        assert each["source"] == ("synthetic" if each["image_id"].startswith("synthetic-") else "real")
    assert train[0]["image"].size == (16, 16)


def test_a_parquet_folder_that_datasets_wrote_is_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    names = ["cat", "dog"]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    pictures = [Image.fromarray(np.full((8, 8, 3), each, dtype=np.uint8)) for each in range(0, 240, 20)]
    rows = datasets.Dataset.from_dict({"image": pictures, "label": [0, 1] * 6}, features=features)
    (tmp_path / "data").mkdir()
    rows.to_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    back = tailsmith.load(tmp_path)
    assert back.class_names == ("cat", "dog") and len(back) == 12
    assert {str(each) for each in back.table["split"]} == {"train", "val", "test"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves its files open
def test_webdataset_opens_the_tar_files(exported):
    webdataset = pytest.importorskip("webdataset")
    files = sorted(str(each) for each in (exported / "webdataset").glob("train-*.tar"))
    seen = [json.loads(each["json"]) for each in webdataset.WebDataset(files, shardshuffle=False)]
    assert len(seen) == (DATASET.table["split"] == "train").sum() + len(PLAN)
    assert all(DATASET.class_names[each["label_index"]] == each["label"] for each in seen)


def test_the_same_bytes_whenever_it_is_written(exported, samples, tmp_path):
    export_set(samples, tmp_path / "again", "webdataset", DATASET)
    for each in (exported / "webdataset").iterdir():
        assert (tmp_path / "again" / each.name).read_bytes() == each.read_bytes()


@pytest.mark.parametrize("name", FORMATS)
def test_the_card_counts_what_is_there(name, exported):
    text = (exported / name / "README.md").read_text()
    front, body = text.split("---\n", 2)[1:]
    assert yaml.safe_load(front)["tags"] == ["synthetic", "tailsmith"]
    training = np.bincount(DATASET.labels, minlength=3)
    for label, class_name in enumerate(DATASET.class_names):
        assert f"| {class_name} | {training[label]:,} | {(PLAN.table['label'] == label).sum()} |" in body
    assert f"{len(DATASET) + len(PLAN):,} images, {len(PLAN)} of them synthetic" in body
    assert "generator: `tiny`" in body and "arXiv:2310.00158" in body and "don't test or select a model on them" in body
    assert f"{len(PLAN):,} requests, identity `{PLAN.identity}`" in body


def test_names_are_no_markup_in_the_card(samples, tmp_path, pipe):
    names = ("<script>x</script>", "a | b", "[c](http://d)")
    dataset = replace(DATASET, class_names=names)
    plan = replace(PLAN, meta={**PLAN.meta, "class_names": list(names)})
    tailsmith.synthesize(plan, dataset, tmp_path / "set", pipe=pipe)
    export_set(tmp_path / "set", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert not any(name in text for name in names) and "&#60;script&#62;" in text


def test_what_shows_nothing_or_was_given_up_is_left_out_and_counted(tmp_path, pipe, monkeypatch):
    make = Worker._make

    def some_fail(worker, batch, *rest):
        if PLAN.table["request_id"][1] in set(batch["request_id"]):
            raise FloatingPointError("it fails")
        return make(worker, batch, *rest).assign(black=batch["request_id"] == PLAN.table["request_id"][5])

    monkeypatch.setattr(Worker, "_make", some_fail)
    tailsmith.synthesize(PLAN, DATASET, tmp_path / "set", pipe=pipe)
    written = export_set(tmp_path / "set", tmp_path / "out")
    assert len(written) == len(pd.read_parquet(tmp_path / "out" / "data")) == len(PLAN) - 2
    text = (tmp_path / "out" / "README.md").read_text()
    assert (
        "1 of the images that were asked for show nothing" in text
        and "1 of the images that were asked for were given" in text
    )


def test_the_command(samples, tmp_path, capsys):
    assert main(["export", str(samples), "--out", str(tmp_path / "out"), "--format", "imagefolder"]) == 0
    assert f"{len(PLAN)} images, {len(PLAN)} of them synthetic" in capsys.readouterr().out
    assert len(list((tmp_path / "out").rglob("*.png"))) == len(PLAN)
    for options, said in (
        (["--out", str(tmp_path / "out")], "is not an empty folder; choose a new one"),
        (
            ["--out", str(tmp_path / "new"), "--format", "zip"],
            "format should be one of parquet, imagefolder, webdataset",
        ),
        (["--out", str(tmp_path / "new"), "--data", "fashion-lt"], "are not the data's: the data"),
    ):
        assert main(["export", str(samples), *options]) == 2
        heard = capsys.readouterr().err
        assert said in heard and len(heard.strip().splitlines()) == 1
    assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".*"))


# ---- what a stranger's folder may not do


def tar_of(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content, kind in members:
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname = kind, len(content), "/etc/passwd"
            archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../out.png", tarfile.REGTYPE),
        ("/etc/out.png", tarfile.REGTYPE),
        ("a/../../out.png", tarfile.REGTYPE),
        ("0.png", tarfile.SYMTYPE),
        ("0.png", tarfile.LNKTYPE),
        ("C:\\out.png", tarfile.REGTYPE),
    ],
)
def test_a_tar_file_can_not_lead_out_of_its_folder(name, kind, tmp_path):
    tar_of(tmp_path / "train-00000.tar", [(name, b"" if kind != tarfile.REGTYPE else image_of("PNG"), kind)])
    with pytest.raises(ValueError, match=r"has the member .* expected files inside of at most"):
        tailsmith.load(tmp_path)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/secret.png", "a/../../secret.png", 3, None])
def test_metadata_can_not_lead_out_of_its_folder(name, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(image_of("PNG"))
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": name, "label": "a"}))
    with pytest.raises(ValueError, match="line 1 should have a file_name inside the folder, got"):
        tailsmith.load(folder)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda folder: (folder / "metadata.jsonl").write_text("{"), "line 1 is no JSON"),
        (lambda folder: (folder / "metadata.jsonl").write_text("[1]"), "line 1 should be a JSON object, got list"),
        (lambda folder: (folder / "metadata.jsonl").write_bytes(b"\xff\xfe"), "is not text in UTF-8"),
        (lambda folder: (folder / "metadata.jsonl").write_text("\n"), "it has no lines"),
        (lambda folder: (folder / "train-00000.tar").write_bytes(b"no tar" * 200), "is not a readable tar file"),
        (lambda folder: tar_of(folder / "odd-00000.tar", [("0.png", b"", tarfile.REGTYPE)]), "of the split 'odd'"),
        (
            lambda folder: tar_of(folder / "train-00000.tar", [("0.json", b"{}", tarfile.REGTYPE)]),
            "should have one image",
        ),
        (
            lambda folder: (folder / "train-00000-of-00001.parquet").write_bytes(b"PAR1"),
            "is not a readable parquet file",
        ),
    ],
)
def test_a_broken_folder_is_one_line(write, said, tmp_path):
    write(tmp_path)
    with pytest.raises(ValueError, match=said):
        tailsmith.load(tmp_path)
