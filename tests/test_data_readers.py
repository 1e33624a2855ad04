"""Image folders, CSV and Parquet in; the same dataset out."""

from __future__ import annotations

import json
import logging
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from tailsmith.data.counts import class_counts
from tailsmith.data.dataset import COLUMNS, Dataset, make_table
from tailsmith.data.sources.readers import load, load_folder
from tailsmith.data.sources.tables import load_table
from tailsmith.data.writers import write_image_folder, write_parquet
from tailsmith.errors import UserError


def encoded(seed: int, kind: str = "PNG") -> bytes:
    """A small image that no other seed has."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind)
    return buffer.getvalue()


def write_images(folder: Path, counts: dict[str, int], start: int = 0) -> None:
    """counts: sub-folder -> number of images; every one is different."""
    seed = start
    for name, n in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            (folder / name / f"{i:03d}.png").write_bytes(encoded(seed))
            seed += 1


def small() -> Dataset:
    """Class names out of order, one class without images, ids and names that file systems dislike."""
    table = make_table(
        [0, 0, 2, 2, 2, 0],
        image_ids=["a/1", "a:1", "a?1", "x", "y", "..z"],
        encoded=[encoded(i, "JPEG" if i == 4 else "PNG") for i in range(6)],
        attributes=[1, 1, 0, -1, 0, -1],
        splits=["train", "train", "train", "val", "test", "test"],
        sources=["real", "synthetic", "real", "real", "real", "real"],
    )
    return Dataset(table, ("zebra", "empty", "T-shirt/top"), ("rock", "dim light"), name="small", licence="MIT")


def assert_same(got: Dataset, expected: Dataset) -> None:
    assert (got.class_names, got.attribute_names) == (expected.class_names, expected.attribute_names)
    assert (got.name, got.licence) == (expected.name, expected.licence)
    for column in ("label", "attribute", "split", "source"):
        assert got.table[column].tolist() == expected.table[column].tolist()
    for row in range(len(expected)):
        np.testing.assert_array_equal(np.asarray(got.image(row)), np.asarray(expected.image(row)))


# --- folders


def test_a_flat_folder(tmp_path: Path) -> None:
    write_images(tmp_path / "pets", {"dog": 3, "cat": 2, "cat/deeper": 1})
    (tmp_path / "pets" / ".hidden").mkdir()
    for junk in (".DS_Store", "dog/.DS_Store", "dog/Thumbs.db", "README.md", ".hidden/x.png"):
        (tmp_path / "pets" / junk).write_bytes(b"junk")
    dataset = load_folder(tmp_path / "pets")
    assert dataset.class_names == ("cat", "dog")
    assert dataset.name == "pets"
    assert tuple(dataset.table.columns) == COLUMNS
    assert dataset.table["image_id"].tolist() == [
        "cat/000.png",
        "cat/001.png",
        "cat/deeper/000.png",
        "dog/000.png",
        "dog/001.png",
        "dog/002.png",
    ]
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.attributes.tolist() == [-1] * 6
    assert set(dataset.table["split"]) == {"train"}
    assert dataset.encoded(3) == encoded(0)


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_split_folders(tmp_path: Path, val: str) -> None:
    write_images(tmp_path, {"train/b": 2, "train/a": 1, f"{val}/a": 1, "test/b": 2})
    dataset = load(tmp_path)
    assert dataset.class_names == ("a", "b")
    assert {split: class_counts(dataset, split).tolist() for split in ("train", "val", "test")} == {
        "train": [1, 2],
        "val": [1, 0],
        "test": [0, 2],
    }


def test_train_may_be_a_class(tmp_path: Path) -> None:
    write_images(tmp_path, {"train": 2, "bus": 2})
    assert load_folder(tmp_path).class_names == ("bus", "train")


def test_a_stranger_among_split_folders_is_named(tmp_path: Path) -> None:
    write_images(tmp_path, {"train/a": 1, "train/b": 1, "docs/a": 1})
    with pytest.raises(ValueError, match=r"has train/ with class folders, and also docs/"):
        load_folder(tmp_path)


def test_links_are_followed_once(tmp_path: Path) -> None:
    write_images(tmp_path / "elsewhere", {"dogs": 2})
    write_images(tmp_path / "pets", {"cat": 1}, start=10)
    (tmp_path / "pets" / "dog").symlink_to(tmp_path / "elsewhere" / "dogs")
    (tmp_path / "pets" / "cat" / "round").symlink_to(tmp_path / "pets" / "cat")
    dataset = load_folder(tmp_path / "pets")
    assert class_counts(dataset).tolist() == [1, 2]


def test_no_such_folder_and_no_images(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder or file"):
        load(tmp_path / "missing")
    with pytest.raises(ValueError, match="no such folder"):
        load_folder(tmp_path / "missing")
    with pytest.raises(ValueError, match="no images in"):
        load(tmp_path)
    (tmp_path / "loose.png").write_bytes(encoded(0))
    with pytest.raises(ValueError, match=r"no images in .*one folder of images per class"):
        load(tmp_path)


# --- written and read back


def test_a_written_folder_comes_back(tmp_path: Path) -> None:
    write_image_folder(small(), tmp_path / "out")
    got = load_folder(tmp_path / "out")
    assert_same(got, small())
    assert (tmp_path / "out/train/zebra/dim_light--a_1.png").is_file()
    for row in (0, 1, 2, 3, 5):  # what is PNG already keeps its bytes
        assert got.content_hash(row) == small().content_hash(row)


def test_a_written_folder_may_move_and_needs_no_names_file(tmp_path: Path) -> None:
    write_image_folder(small(), tmp_path / "out")
    shutil.move(tmp_path / "out", tmp_path / "moved")
    (tmp_path / "moved" / "dataset.json").unlink()
    got = load_folder(tmp_path / "moved")
    assert got.class_names == ("T-shirt/top", "zebra")
    assert got.attribute_names == ("dim light", "rock")
    assert got.name == "moved"
    assert [got.class_names[label] for label in got.labels] == [small().class_names[label] for label in small().labels]


def test_a_folder_with_something_in_it_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match="not an empty folder"):
        write_image_folder(small(), tmp_path)


def test_a_written_parquet_file_comes_back(tmp_path: Path) -> None:
    write_parquet(small(), tmp_path / "small.parquet")
    got = load_table(tmp_path / "small.parquet")
    assert_same(got, small())
    assert got.table["image_id"].tolist() == small().table["image_id"].tolist()
    assert [got.encoded(row) for row in range(6)] == [small().encoded(row) for row in range(6)]
    assert got.table["path"].tolist() == [None] * 6


# --- tables


def write_csv(folder: Path, text: str, n: int = 4) -> Path:
    write_images(folder / "images", {"all": n})
    (folder / "list.csv").write_text(text)
    return folder / "list.csv"


def test_a_csv_file(tmp_path: Path) -> None:
    outside = tmp_path / "outside.png"
    outside.write_bytes(encoded(99))
    path = write_csv(
        tmp_path / "data",
        "path,label,attribute,split\n"
        "images/all/000.png,NA,rock,training\n"
        "images/all/001.png,007,,train\n"
        "images/all/002.png,NA,grass,valid\n"
        f"{outside},007,-1,test\n",
    )
    dataset = load_table(path)
    assert dataset.class_names == ("007", "NA")  # text that pandas would make a number and a NaN of
    assert dataset.labels.tolist() == [1, 0, 1, 0]
    assert dataset.attribute_names == ("grass", "rock")
    assert dataset.attributes.tolist() == [1, -1, 0, -1]
    assert dataset.table["split"].tolist() == ["train", "train", "val", "test"]
    assert dataset.table["image_id"].iat[0] == "images/all/000.png"
    assert dataset.encoded(3) == encoded(99)
    assert dataset.name == "list"


def test_spaces_around_names_are_no_part_of_them(tmp_path: Path) -> None:
    rows = [
        " path , label , split , attribute ",
        "images/all/000.png,ash,train,dim",
        "images/all/001.png, ash ,train ,dim ",
    ]
    rows += [" images/all/002.png , birch\t,test,", " images/all/003.png,birch ,  test, -1"]
    path = write_csv(tmp_path, "\n".join(rows))
    spaced = tmp_path / " images" / "all" / "003.png"  # a name that begins with a space
    spaced.parent.mkdir(parents=True)
    spaced.write_bytes(encoded(77))
    dataset = load_table(path)
    assert dataset.class_names == ("ash", "birch")
    assert dataset.labels.tolist() == [0, 0, 1, 1]
    assert dataset.table["split"].tolist() == ["train", "train", "test", "test"]
    assert (dataset.attribute_names, dataset.attributes.tolist()) == (("dim",), [0, 0, -1, -1])
    assert [dataset.encoded(row) for row in range(4)] == [encoded(0), encoded(1), encoded(2), encoded(77)]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv_files_as_spreadsheets_save_them(separator: str, start: str, end: str, tmp_path: Path) -> None:
    rows = [["path", "label"], ["images/all/000.png", '"a, b; c"'], ["images/all/001.png", "d"], []]
    text = start + end.join(separator.join(row) for row in rows)
    write_csv(tmp_path, "")
    (tmp_path / "list.csv").write_bytes(text.encode())
    assert load_table(tmp_path / "list.csv").class_names == ("a, b; c", "d")


def test_a_csv_file_of_another_encoding(tmp_path: Path) -> None:
    write_csv(tmp_path, "")
    for encoding in ("latin-1", "utf-16"):
        (tmp_path / "list.csv").write_bytes("path,label\nimages/all/000.png,for\u00eat\n".encode(encoding))
        with pytest.raises(ValueError, match=r"it is not UTF-8 text .*; save it as UTF-8"):
            load_table(tmp_path / "list.csv")


def test_names_with_spaces_that_a_file_lists_stay(tmp_path: Path) -> None:
    names = (" cat", "cat ", "dog")
    table = make_table([0, 1, 2], image_ids=["a", "b", "c"], encoded=[encoded(i) for i in range(3)])
    write_parquet(Dataset(table, names), tmp_path / "x.parquet")
    assert load_table(tmp_path / "x.parquet").labels.tolist() == [0, 1, 2]
    frame = pd.DataFrame({"bytes": [encoded(i) for i in range(3)], "label": ["cat ", "cat", "dog"]})
    frame.to_parquet(tmp_path / "y.parquet")
    assert load_table(tmp_path / "y.parquet").class_names == ("cat", "dog")


@pytest.mark.parametrize("content", ["[1, 2]", '{"images": 3}'])
def test_anothers_names_file_says_nothing(content: str, tmp_path: Path) -> None:
    path = write_csv(tmp_path, "path,label\nimages/all/000.png,horse\n")
    (tmp_path / "dataset.json").write_text(content)
    assert load_table(path).class_names == ("horse",)
    (tmp_path / "dataset.json").write_text(content[:-1])
    with pytest.raises(ValueError, match=r"dataset\.json is not a JSON file"):
        load_table(path)


@pytest.mark.parametrize("wrong", [{"ranges": {"u": [1, "a"]}}, {"ranges": {"u": [1, 2, 3]}}, {"class_names": 3}])
def test_a_names_file_that_holds_something_else_is_named(wrong: dict[str, object], tmp_path: Path) -> None:
    path = write_csv(tmp_path, "path,label\nimages/all/000.png,horse\n")
    (tmp_path / "dataset.json").write_text(json.dumps({"class_names": ["horse"], **wrong}))
    with pytest.raises(UserError, match=r"dataset\.json should have class_names .* as lists .*; mend it, or move it"):
        load_table(path)


def test_numbers_as_labels_are_in_order_of_number(tmp_path: Path) -> None:
    rows = "".join(f"images/all/{i:03d}.png,{label}\n" for i, label in enumerate([10, 9, 10, 2]))
    dataset = load_table(write_csv(tmp_path, "path,label\n" + rows))
    assert dataset.class_names == ("2", "9", "10")
    assert dataset.labels.tolist() == [2, 1, 2, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,class\nx.png,a\n", "has no column 'label'; got path, class"),
        ("label,size\na,3\n", "has no image column; expected one of bytes, image, img, path"),
        ("path,label\n", "no images in"),
        ("path,label\nx.png,a\ny.png,\n", "row 1 has no label"),
        ("path,label,split\nx.png,a,train\ny.png,a,\n", "row 1 has no split"),
        ("path,label,split\nx.png,a,held-out\n", "split should be train, val or test; got 'held-out'"),
        ("path,label,source\nx.png,a,made-up\n", "'source' should hold real, synthetic; got 'made-up'"),
        ("path,label\n,a\n", "row 0 has no image in column 'path'"),
        ("path,label\nx.png,  \n", "row 0 has no label"),
        (
            "path,label\nx.png,a,\ny.png,a,\n",
            r"line 2 has 3 fields, and the header has 2 \(path, label\); 2 lines are so",
        ),
        ("path,label\n\nx.png,a\nx.png\n", r"line 4 has 1 field, and the header has 2"),
        ('path,label\nx.png,a\n"b\nc",a,b\n', r"line 4 has 3 fields"),
        ("path,label,label \n", "has two columns 'label'"),
        ("\npath,label\n", "its first line should name the columns, and is empty"),
        ("path;label\nx.png;a;b\n", r"line 2 has 3 fields, and the header has 2 \(path, label\)"),
        ("", "is not a readable csv file"),
        ('path,label\n"x.png,a\n', "is not a readable csv file"),
    ],
)
def test_csv_files_that_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_table(write_csv(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_files_of_other_kinds(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("hello")
    (tmp_path / "x.parquet").write_text("hello")
    with pytest.raises(ValueError, match="can't tell what"):
        load(tmp_path / "x.txt")
    with pytest.raises(ValueError, match="is not a readable parquet file"):
        load(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="no such file"):
        load_table(tmp_path / "y.csv")


def test_a_label_that_the_names_file_lacks(tmp_path: Path) -> None:
    path = write_csv(tmp_path, "path,label\nimages/all/000.png,horse\n")
    (tmp_path / "dataset.json").write_text(json.dumps({"class_names": ["zebra", "dog"]}))
    with pytest.raises(ValueError, match="label 'horse' is none of the names"):
        load_table(path)


def test_parquet_as_hugging_face_writes_it(tmp_path: Path) -> None:
    """The layout of `datasets.Dataset.to_parquet`: struct images, ClassLabel numbers, features."""
    (tmp_path / "beside.png").write_bytes(encoded(2))
    images: list[dict[str, Any]] = [
        {"bytes": encoded(0), "path": "0.png"},
        {"bytes": encoded(1), "path": None},
        {"bytes": None, "path": "beside.png"},
    ]
    features = {
        "image": {"_type": "Image"},
        "label": {"names": ["zebra", "ant", "bee"], "_type": "ClassLabel"},
        "attribute": {"names": ["water", "dim"], "_type": "ClassLabel"},
        "tags": [{"dtype": "string", "_type": "Value"}],
    }
    table = pyarrow.table({"image": images, "label": [1, 0, 1], "attribute": [0, None, -1]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    dataset = load_table(tmp_path / "train.parquet")
    assert dataset.class_names == ("zebra", "ant", "bee")
    assert dataset.labels.tolist() == [1, 0, 1]
    assert dataset.attribute_names == ("water", "dim")
    assert dataset.attributes.tolist() == [0, -1, -1]
    assert [dataset.encoded(row) for row in range(3)] == [encoded(0), encoded(1), encoded(2)]
    assert dataset.table["image_id"].is_unique


def test_parquet_as_pandas_writes_it(tmp_path: Path) -> None:
    frame = pd.DataFrame({"bytes": [encoded(i) for i in range(3)], "label": [5.0, 11.0, 5.0]})
    frame["attribute"] = pd.Series([3, None, 4])  # a float column, for its gap
    frame.to_parquet(tmp_path / "x.parquet")
    dataset = load_table(tmp_path / "x.parquet")
    assert dataset.class_names == ("5", "11")
    assert dataset.attribute_names == ("3", "4")
    assert dataset.attributes.tolist() == [0, -1, 1]


def test_a_hugging_face_label_outside_its_names(tmp_path: Path) -> None:
    features = {"label": {"names": ["a", "b"], "_type": "ClassLabel"}}
    table = pyarrow.table({"image": [encoded(0)], "label": [-1]})  # as in test sets without labels
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="label -1 is none of the names"):
        load_table(tmp_path / "x.parquet")


# --- load


def test_load_splits_and_checks(tmp_path: Path) -> None:
    write_images(tmp_path, {"a": 10, "b": 10})
    dataset = load(tmp_path)
    assert class_counts(dataset, "train").tolist() == [6, 6]
    (tmp_path / "a" / "000.png").write_bytes(encoded(0)[:100])
    with pytest.raises(ValueError, match=r"a.000\.png is corrupt or truncated"):
        load(str(tmp_path))


def test_load_names_what_it_skips(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_csv(tmp_path, "path,label\n" + "".join(f"images/all/{i:03d}.png,{'ab'[i % 2]}\n" for i in range(5)))
    with pytest.raises(ValueError, match=r"004\.png does not exist"):
        load(path)
    with caplog.at_level(logging.WARNING):
        dataset = load(path, skip_corrupt=True)
    assert len(dataset) == 4
    assert "004.png does not exist" in caplog.text
