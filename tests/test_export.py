"""What is exported: the same images, ids and labels for other programs, each synthetic image saying what it is."""

import io
import json
import platform
import re
import weakref
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

import tailsmith
from folders import write_folder
from rendering import DATASET, tiny_plan
from tailsmith.cli.main import main
from tailsmith.data.dataset import Dataset, make_table
from tailsmith.data.marks import mark_of
from tailsmith.data.packed import read_packed
from tailsmith.data.sources.readers import load
from tailsmith.exporting import formats
from tailsmith.exporting.examples import Example, Export
from tailsmith.exporting.export import export
from tailsmith.exporting.formats import FORMATS
from tailsmith.exporting.fulfilled import public_name
from tailsmith.synthesis.shards import read_shards
from tailsmith.synthesis.worker import Worker

PLAN = tiny_plan((4, 2, 4), feedback_scale=0.0)
NAMES = DATASET.class_names


@pytest.fixture(scope="module")
def samples(tmp_path_factory, pipe):
    folder = tmp_path_factory.mktemp("set")
    tailsmith.synthesize(PLAN, DATASET, folder, pipe=pipe)
    return folder


@pytest.fixture(scope="module")
def exported(samples, tmp_path_factory):
    """The set and its data in each format, a folder each."""
    folder = tmp_path_factory.mktemp("exported")
    for name in FORMATS:
        export(folder / name, name, samples=samples, data=DATASET)
    return folder


def image_of(kind, seed=0, **options):
    rng, buffer = np.random.default_rng(seed), io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (9, 7, 3), dtype=np.uint8)).save(buffer, kind, **options)
    return buffer.getvalue()


def of(kinds, *, sources="real", split="train", names=NAMES):
    """A dataset of an image in each of the formats."""
    encoded = [image_of(kind, seed) for seed, kind in enumerate(kinds)]
    labels = [number % len(names) for number in range(len(kinds))]
    ids = [f"a folder/{kind}.{kind.lower()}" for kind in kinds]
    table = make_table(labels, image_ids=ids, encoded=encoded, splits=split, sources=sources)
    return Dataset(table, names, (), "odd")


def keyed(dataset):
    """image_id -> all else that is known, and the hash of the bytes."""
    table = dataset.table
    labels = [dataset.class_names[label] for label in table["label"]]
    attributes = [None if each < 0 else dataset.attribute_names[each] for each in table["attribute"]]
    known = zip(table["image_id"], labels, attributes, table["split"], table["source"], strict=True)
    return {name: (*rest, dataset.content_hash(row)) for row, (name, *rest) in enumerate(known)}


# ---- round trips


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_written_is_read_back_by_tailsmith(name, exported, samples, caplog):
    back = tailsmith.load(exported / name)
    assert not [each for each in caplog.messages if "count as such" in each]  # the table says so already
    assert back.class_names == NAMES and back.attribute_names == DATASET.attribute_names and back.name == DATASET.name
    found, expected = keyed(back), keyed(DATASET)
    assert {key: value for key, value in found.items() if value[3] == "real"} == expected  # byte for byte
    made = {key: value for key, value in found.items() if value[3] == "synthetic"}
    results = read_shards(samples, PLAN)
    assert set(made) == {f"synthetic-{request}" for request in results["request_id"]}
    row_of = {key: row for row, key in enumerate(back.table["image_id"])}
    requests = PLAN.table.set_index("request_id")
    for request, where, label in zip(results["request_id"], results["path"], results["label"], strict=True):
        row = row_of[f"synthetic-{request}"]
        assert back.labels[row] == label and back.table["split"][row] == "train"
        one, other = (np.asarray(Image.open(io.BytesIO(each))) for each in (read_packed(where), back.encoded(row)))
        assert np.array_equal(one, other)
        said = json.loads(mark_of(back.encoded(row)))
        assert said["synthetic"] is True and said["request_id"] == request and said["class"] == NAMES[label]
        assert said["generator"] == "tiny" and said["plan"] == PLAN.identity
        for column in ("noise_seed", "dropout_seed", "prompt", "conditioning_id", "conditioning_sha256", "criterion"):
            assert said[column] == requests[column][request]
    assert all(mark_of(back.encoded(row_of[key])) is None for key in expected)


@pytest.mark.parametrize("name", FORMATS)
def test_an_export_is_data_like_any_other_and_can_be_exported_again(name, exported, tmp_path):
    first = tailsmith.load(exported / name)
    for other in FORMATS:
        export(tmp_path / other, other, data=first)
        assert keyed(tailsmith.load(tmp_path / other)) == keyed(first)  # marks, too: they are in the bytes
    card = (tmp_path / "parquet" / "README.md").read_text()
    assert f"- {len(PLAN)} images by the generator `tiny`" in card and PLAN.identity in card


@pytest.mark.parametrize("name", FORMATS)
def test_images_of_every_format_are_copied_and_called_what_they_are(name, tmp_path):
    kinds = ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "TGA", "JPEG2000", "PCX", "SGI", "QOI"]
    Image.init()
    kinds = [each for each in kinds if each in Image.SAVE]
    data = of(kinds)
    tally = export(tmp_path / "out", name, data=data)
    assert tally.count() == len(kinds) == len(tally.extensions)
    back = load(tmp_path / "out", val_fraction=0, test_fraction=0)
    assert keyed(back) == keyed(data)
    assert {Image.registered_extensions()[f".{each}"] for each in tally.extensions} == set(kinds)


def test_files_are_as_many_as_needed_and_few_images_are_in_memory(samples, tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "FILE_IMAGES", 12)
    monkeypatch.setattr(formats, "GROUP_BYTES", 1_500)  # two images
    alive, most = weakref.WeakSet(), []
    own = Example.__init__

    def counted(example, *values, **named):
        own(example, *values, **named)
        alive.add(example)
        most.append(len(alive))

    monkeypatch.setattr(Example, "__init__", counted)
    monkeypatch.setattr(Example, "__hash__", lambda example: id(example))
    for name in FORMATS:
        most.clear()
        export(tmp_path / name, name, samples=samples, data=DATASET)
        assert len(most) == 28 and max(most) <= 6
        assert len(tailsmith.load(tmp_path / name)) == 28
    files = sorted(each.name for each in (tmp_path / "parquet" / "data").iterdir())
    assert [f"train-0000{n}-of-00002.parquet" for n in range(2)] == [each for each in files if "train" in each]
    assert pq.read_metadata(tmp_path / "parquet" / "data" / files[1]).num_row_groups > 1
    assert len(list((tmp_path / "webdataset").glob("train-*.tar"))) == 2


@pytest.mark.parametrize("name", ["parquet", "webdataset"])
def test_what_is_read_back_stays_in_its_files(name, exported):
    assert tailsmith.load(exported / name).table["bytes"].isna().all()


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_bytes_whenever_it_is_written(name, exported, samples, tmp_path):
    export(tmp_path / "again", name, samples=samples, data=DATASET)
    files = [each for each in (exported / name).rglob("*") if each.is_file()]
    for each in files:
        assert (tmp_path / "again" / each.relative_to(exported / name)).read_bytes() == each.read_bytes()
    assert len(files) == sum(each.is_file() for each in (tmp_path / "again").rglob("*"))


def test_names_that_are_alike_or_long_stay_apart(tmp_path):
    names, ids = ("a/b", "a_b", "A_b"), ["x/1.png", "x_1.png", "X/1", "é" * 300, "..", "\N{SNOWMAN}" * 90]
    table = make_table(
        [0, 0, 1, 2, 1, 2], image_ids=ids, encoded=[image_of("PNG", seed) for seed in range(6)], splits="train"
    )
    data = Dataset(table, names, (), "alike")
    export(tmp_path / "out", "imagefolder", data=data)
    back = load(tmp_path / "out", val_fraction=0, test_fraction=0)
    assert keyed(back) == keyed(data) and back.class_names == names
    folders = {each.parent.name for each in (tmp_path / "out").rglob("*.png")}
    assert len({each.lower() for each in folders}) == 3


# ---- Hugging Face and WebDataset


@pytest.mark.parametrize("name", FORMATS)
def test_hugging_face_opens_it(name, exported, tmp_path):
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(str(exported / name), cache_dir=str(tmp_path))
    ours = tailsmith.load(exported / name)
    assert {split: len(each) for split, each in loaded.items()} == {"train": 22, "validation": 3, "test": 3}
    features = loaded["train"].features["json"] if name == "webdataset" else loaded["train"].features
    assert features["label"].names == list(NAMES)
    if name == "parquet":
        assert features["attribute"].names == list(DATASET.attribute_names)
    label_of = dict(zip(ours.table["image_id"], ours.labels.tolist(), strict=True))
    for each in loaded["train"]:
        about, image = (each["json"], each["png"]) if name == "webdataset" else (each, each["image"])
        assert about["label"] == label_of[about["image_id"]] and image.size == (16, 16)
        synthetic = about["image_id"].startswith("synthetic-")
        assert about["source"] == ("synthetic" if synthetic else "real")
        assert not synthetic or json.loads(about["provenance"])["request_id"] == about["image_id"][len("synthetic-") :]


@pytest.mark.parametrize("name", FORMATS)
def test_hugging_face_loses_no_image_where_their_formats_differ(name, tmp_path):
    """Left to itself, it knows the formats of a tar file's first images only, and drops the others."""
    datasets = pytest.importorskip("datasets")
    data = of(["JPEG"] * 8, names=("a", "b"))
    pngs = of(["PNG"] * 4, names=("a", "b"))
    ids = [str(row) for row in range(12)]
    data = Dataset.concatenate([data, pngs])
    export(tmp_path / "out", name, data=replace(data, table=data.table.assign(image_id=ids)))
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))["train"]
    images = [each.get("image") or each.get("jpg") or each.get("png") for each in loaded]
    assert [each.format for each in images] == ["JPEG"] * 8 + ["PNG"] * 4


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves its files open
def test_webdataset_opens_the_tar_files(exported):
    webdataset = pytest.importorskip("webdataset")
    files = sorted(str(each) for each in (exported / "webdataset").glob("train-*.tar"))
    seen = list(webdataset.WebDataset(files, shardshuffle=False).decode("pil"))
    assert len(seen) == (DATASET.table["split"] == "train").sum() + len(PLAN)
    assert all(NAMES[each["json"]["label_index"]] == each["json"]["label"] for each in seen)
    assert {each["png"].size for each in seen} == {(16, 16)}


# ---- the card


def rows_of(body):
    """First cell -> the others, of a table's lines."""
    cells = [[each.strip() for each in line.strip("|").split("|")] for line in body.splitlines() if line[:1] == "|"]
    return {first: rest for first, *rest in cells}


@pytest.mark.parametrize("name", FORMATS)
def test_the_card_counts_what_is_there(name, exported):
    front, body = (exported / name / "README.md").read_text().split("---\n", 2)[1:]
    back = tailsmith.load(exported / name)
    about, table, written = yaml.safe_load(front), rows_of(body), back.table
    assert table["class"] == ["train, real", "train, synthetic", "val", "test"] == table["group"]
    columns = [("train", "real"), ("train", "synthetic"), ("val", "real"), ("test", "real")]
    for label, class_name in enumerate(NAMES):
        of_class = written[written["label"] == label]
        counts = [((of_class["split"] == a) & (of_class["source"] == b)).sum() for a, b in columns]
        assert table[class_name] == list(map(str, counts))
    assert table["all"] == ["12", "10", "3", "3"]
    for group, group_name in enumerate(DATASET.group_names):
        there = written[back.groups == group]
        assert int(table[group_name][0]) == ((there["split"] == "train") & (there["source"] == "real")).sum()
    assert f"{len(written)} images, {len(PLAN)} of them synthetic" in body
    assert about["tags"] == ["synthetic", "tailsmith"] and about["size_categories"] == ["n<1K"]
    assert about["license"] == "other" and about["task_categories"] == ["image-classification"]
    assert [each["split"] for each in about["configs"][0]["data_files"]] == ["train", "validation", "test"]


def test_the_card_says_how_images_were_made_and_what_they_are_not_for(samples, tmp_path, pipe, classifier):
    guided = tiny_plan((2, 1, 1), feedback_scale=0.05, criterion="loss", guidance_scale=3.5)
    tailsmith.synthesize(guided, DATASET, tmp_path / "set", pipe=pipe, classifier=classifier)
    data = replace(DATASET, licence="MIT")
    export(tmp_path / "out", samples=tmp_path / "set", data=data)
    text = (tmp_path / "out" / "README.md").read_text()
    assert "4 images by the generator `tiny` (SHA-256 `unknown: given by the caller`)" in text
    assert f"plan `{guided.identity}`, tailsmith {tailsmith.__version__}, fp32" in text
    assert "guidance scale 3.5, 4 steps" in text and "text and a real image of the class: 4; on text alone: 0" in text
    assert "criterion loss, feedback scale 0.05" in text
    assert "real images (tiny): MIT" in text and "arXiv:2310.00158" in text
    assert "Don't test or select a model on them" in text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("sd1.5", "sd1.5"),
        ("owner/name@rev", "owner/name@rev"),
        ("/home/me/secret/generator", "generator"),
        ("sdxl=/home/me/mine", "sdxl=mine"),
        ("C:\\me\\generator", "generator"),
    ],
)
def test_no_folder_of_ours_is_published(name, shown):
    assert public_name(name) == shown


def test_a_hub_generators_revision_and_licence_are_told(tmp_path, pipe):
    meta = {**PLAN.meta, "generator": "sd1.5"}
    tailsmith.synthesize(replace(PLAN, meta=meta), DATASET, tmp_path / "set", pipe=pipe)
    tally = export(tmp_path / "out", samples=tmp_path / "set")
    (said,) = tally.makers
    assert "CreativeML Open RAIL-M" in said
    assert "licence, CreativeML Open RAIL-M" in (tmp_path / "out" / "README.md").read_text()


def test_names_are_no_markup_in_the_card(tmp_path, pipe):
    names = ("<script>x</script>", "a | b", "[c](http://d)")
    dataset = replace(DATASET, class_names=names)
    plan = replace(PLAN, meta={**PLAN.meta, "class_names": list(names)})
    tailsmith.synthesize(plan, dataset, tmp_path / "set", pipe=pipe)
    export(tmp_path / "out", samples=tmp_path / "set")
    front, body = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)[1:]
    assert not any(name in body for name in names) and "&#60;script&#62;" in body
    features = {each["name"]: each["dtype"] for each in yaml.safe_load(front)["dataset_info"]["features"]}
    assert list(features["label"]["class_label"]["names"].values()) == list(names)


def test_what_shows_nothing_or_was_given_up_is_left_out_and_counted(tmp_path, pipe, monkeypatch):
    make = Worker._make

    def some_fail(worker, batch, *rest):
        if PLAN.table["request_id"][1] in set(batch["request_id"]):
            raise FloatingPointError("it fails")
        return make(worker, batch, *rest).assign(black=batch["request_id"] == PLAN.table["request_id"][5])

    monkeypatch.setattr(Worker, "_make", some_fail)
    tailsmith.synthesize(PLAN, DATASET, tmp_path / "set", pipe=pipe)
    tally = export(tmp_path / "out", samples=tmp_path / "set")
    assert tally.count() == len(pd.read_parquet(tmp_path / "out" / "data")) == len(PLAN) - 2
    text = (tmp_path / "out" / "README.md").read_text()
    assert "1 of the images that were asked for show nothing" in text
    assert "1 of the images that were asked for were given up" in text


# ---- synthetic images that others made


def test_a_synthetic_image_of_others_is_marked_with_what_is_known(tmp_path):
    export(tmp_path / "out", "imagefolder", data=of(["PNG", "JPEG", "WEBP"], sources="synthetic"))
    back = tailsmith.load(tmp_path / "out")
    for row in range(3):
        said = json.loads(mark_of(back.encoded(row)))
        assert said == {"synthetic": True, "class": NAMES[back.labels[row]], "image_id": back.table["image_id"][row]}
    assert "3 images: neither their files nor the data say how." in (tmp_path / "out" / "README.md").read_text()


def test_a_synthetic_image_that_can_not_say_so_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"TIFF\.tiff' is synthetic and can't say so inside .* convert it to PNG"):
        export(tmp_path / "out", data=of(["PNG", "TIFF"], sources="synthetic"))
    assert not list(tmp_path.iterdir())


def test_a_marked_image_is_not_exported_as_real(exported, tmp_path):
    back = tailsmith.load(exported / "parquet")
    lying = replace(back, table=back.table.assign(source="real"))
    with pytest.raises(ValueError, match="says inside that it is synthetic, and is listed as real; list it as"):
        export(tmp_path / "out", data=lying)


# ---- what is refused, and what stays behind


def test_other_data_than_the_sets_are_refused(samples, exported, tmp_path):
    others = replace(DATASET, class_names=tuple(reversed(NAMES)))
    for data, said in (
        (others, "the classes of the images in .* are not the data's: the data has the same classes in another order"),
        (replace(DATASET, attribute_names=("water", "rock")), "the attributes of the images in .* are not the data's"),
        (tailsmith.load(exported / "parquet"), r"'synthetic-.*' is an image of the data and of .* \(10 ids are\)"),
        (None, "there is nothing to export"),
    ):
        with pytest.raises(ValueError, match=said):
            export(tmp_path / "out", samples=None if data is None else samples, data=data)
    with pytest.raises(ValueError, match="no plan at"):
        export(tmp_path / "out", samples=tmp_path)
    assert not list(tmp_path.iterdir())


def test_half_of_a_plan_is_refused(tmp_path, pipe):
    tailsmith.synthesize(PLAN, DATASET, tmp_path / "set", pipe=pipe, shards=[0])
    with pytest.raises(ValueError, match="has 1 of its plan's 3 shards; finish it"):
        export(tmp_path / "out", samples=tmp_path / "set")
    assert not (tmp_path / "out").exists()


def test_an_export_that_fails_or_is_killed_leaves_nothing(samples, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()  # an empty one is welcome

    def stops(chosen, split):
        yield from [example for example, _ in zip(examples(chosen, split), range(3), strict=False)]
        raise KeyboardInterrupt

    examples = Export.examples
    monkeypatch.setattr(Export, "examples", stops)
    with pytest.raises(KeyboardInterrupt):
        export(out, samples=samples)
    assert [each.name for each in tmp_path.iterdir()] == ["out"] and not list(out.iterdir())
    monkeypatch.undo()
    host = re.sub(r"[^\w-]", "-", platform.node())
    left = tmp_path / f".out.{host}+{2**22 + 1}+0123abcd.tmp"  # a process that never was
    (left / "data").mkdir(parents=True)
    others = tmp_path / f".other.{host}+{2**22 + 1}+0123abcd.tmp"
    others.mkdir()
    export(out, samples=samples)
    assert {each.name for each in tmp_path.iterdir()} == {"out", others.name}


def test_the_command(samples, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    assert main(["export", str(samples), *out, "--format", "imagefolder"]) == 0
    assert f"{len(PLAN)} images, {len(PLAN)} of them synthetic" in capsys.readouterr().out
    assert len(list((tmp_path / "out").rglob("*.png"))) == len(PLAN)
    run = tmp_path / "run" / "synthetic"
    run.mkdir(parents=True)
    (run / "text").symlink_to(samples)
    photos = str(write_folder(tmp_path / "photos"))
    new = ["--out", str(tmp_path / "new")]
    for arguments, said in (
        ([str(samples), *out], "is not an empty folder; choose a new one"),
        (["no such data", *new, "--format", "zip"], "format should be one of parquet, imagefolder, webdataset"),
        (["no such data", *new, "--format", "parquett"], "did you mean parquet"),
        (["no such data", *new], "no such folder or file"),
        ([str(run.parent), *new], "is a run directory; give one of its sets, as in"),
        ([str(samples), *new, "--data", photos], "are not the data's: the data"),
        ([str(tmp_path / "out"), *new, "--data", photos], "is no folder of shards with a plan.parquet; mend the path"),
        ([str(tmp_path / "out"), "--out", str(tmp_path / "out" / "in")], "lies in the data folder"),
    ):
        assert main(["export", *arguments]) == 2
        heard = capsys.readouterr().err
        assert said in heard and len(heard.strip().splitlines()) == 1
    assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".*"))


def test_the_command_takes_data_alone(exported, tmp_path, capsys):
    assert main(["export", str(exported / "webdataset"), "--out", str(tmp_path / "out"), "--format", "parquet"]) == 0
    assert "28 images, 10 of them synthetic; card:" in capsys.readouterr().out
    assert keyed(tailsmith.load(tmp_path / "out")) == keyed(tailsmith.load(exported / "parquet"))
