"""Folders as people have them: which are splits, which are refused, what is left out and said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tailsmith.data.counts import class_counts
from tailsmith.data.sources.readers import load, load_folder
from tailsmith.data.sources.split_names import may_be_split, split_name
from test_data_readers import write_images


def counts(folder: Path) -> dict[str, dict[str, int]]:
    """split -> class -> images, without the zeros."""
    dataset = load_folder(folder)
    return {
        split: {
            name: n for name, n in zip(dataset.class_names, class_counts(dataset, split).tolist(), strict=True) if n
        }
        for split in sorted(set(dataset.table["split"]))
    }


# --- names of splits


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *(
            (name, "train")
            for name in ("train", "Train", "TRAINING", "training_set", "train-set", "trainset", "seg_train")
        ),
        *(
            (name, "val")
            for name in ("val", "valid", "Validation", "validation_set", "val images", "valset", "val_data")
        ),
        *((name, "test") for name in ("test", "testing", "test_set", "Test Set", "seg_test", "imgs.test")),
        *(
            (name, None)
            for name in ("set", "images", "training shoes", "train_old", "train2017", "dev", "contest", "cat")
        ),
    ],
)
def test_known_names_of_splits(name: str, split: str | None) -> None:
    assert split_name(name) == split


@pytest.mark.parametrize("name", ["train_old", "train2017", "dev", "hold-out test", "training shoes", "seg_pred"])
def test_names_that_may_be_splits(name: str) -> None:
    assert may_be_split(name)
    assert not may_be_split("contest")


@pytest.mark.parametrize("names", [("training_set", "test_set"), ("seg_train", "seg_test"), ("Train", "TEST")])
def test_usual_names_are_splits(names: tuple[str, str], tmp_path: Path) -> None:
    train, test = names
    write_images(tmp_path, {f"{train}/cat": 3, f"{train}/dog": 2, f"{test}/cat": 1, f"{test}/dog": 1})
    assert counts(tmp_path) == {"train": {"cat": 3, "dog": 2}, "test": {"cat": 1, "dog": 1}}


def test_a_split_within_a_folder_of_its_name(tmp_path: Path) -> None:
    write_images(tmp_path, {"seg_train/seg_train/cat": 2, "seg_train/seg_train/dog": 2, "seg_test/seg_test/cat": 1})
    assert counts(tmp_path) == {"train": {"cat": 2, "dog": 2}, "test": {"cat": 1}}


def test_a_class_called_as_its_split_is_a_class(tmp_path: Path) -> None:
    write_images(tmp_path, {"train/train": 2, "train/bus": 2, "test/train": 1})
    assert counts(tmp_path) == {"train": {"train": 2, "bus": 2}, "test": {"train": 1}}


def test_no_training_folder(tmp_path: Path) -> None:
    write_images(tmp_path, {"val/cat": 2, "val/dog": 2, "test/cat": 2, "test/dog": 2})
    with pytest.raises(ValueError, match=r"has test/ and val/ with class folders, and no train/ .*name the folder"):
        load(tmp_path)


@pytest.mark.parametrize(
    "folders",
    [
        ["train", "test"],  # images directly inside
        ["train"],
        ["cat", "dog", "test"],
        ["cat", "training_set"],
        ["train2017/cat", "train2017/dog", "val2017/cat", "val2017/dog"],
        ["cat", "dev/cat", "dev/dog"],
    ],
)
def test_doubtful_names_are_refused(folders: list[str], tmp_path: Path) -> None:
    write_images(tmp_path, dict.fromkeys(folders, 2))
    with pytest.raises(
        ValueError, match=r"/: is it a split or a class\? A split is called train, val or test.*metadata\.csv"
    ):
        load(tmp_path)


def test_classes_with_a_word_of_a_split_in_their_names(tmp_path: Path) -> None:
    write_images(tmp_path, {"training shoes": 2, "test tubes/large": 2, "train": 2})
    assert counts(tmp_path) == {"train": {"training shoes": 2, "test tubes": 2, "train": 2}}


@pytest.mark.parametrize("stranger", ["docs/cat", "seg_pred", "holdout/cat"])
def test_a_stranger_beside_splits_is_refused(stranger: str, tmp_path: Path) -> None:
    write_images(tmp_path, {"train/cat": 2, "train/dog": 2, stranger: 2})
    with pytest.raises(
        ValueError, match=rf"and also {stranger.split('/')[0]}/; expected train, val and test folders only"
    ):
        load(tmp_path)


# --- images without a class


def test_images_in_no_class_folder_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_images(tmp_path, {"train/cat": 8, "train/dog": 8, "test": 5, "train": 2})
    assert counts(tmp_path) == {"train": {"cat": 8, "dog": 8}}
    assert "5 images directly in test/ are in no class folder, and left out; the first is test/000.png" in caplog.text
    assert "2 images directly in train/ are in no class folder" in caplog.text


def test_images_beside_class_folders_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_images(tmp_path, {"cat": 2, "dog": 2, ".": 3})
    (tmp_path / "notes.pages").write_text("no image")
    assert counts(tmp_path) == {"train": {"cat": 2, "dog": 2}}
    assert "3 images in no class folder are left out; the first is 000.png" in caplog.text


# --- what is left out


def test_what_systems_leave_behind(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_images(
        tmp_path, {"cat": 2, "dog": 2, "__MACOSX/cat": 2, "lost+found": 1, "cat/@eaDir/0.png": 1, "$RECYCLE.BIN": 1}
    )
    write_images(tmp_path, {".ipynb_checkpoints": 1, "cat/.thumbnails": 1}, start=50)
    for name in ("Thumbs.db", "Icon\r", "desktop.ini", "._0.png", ".DS_Store"):
        (tmp_path / "dog" / name).write_bytes(b"x")
    assert counts(tmp_path) == {"train": {"cat": 2, "dog": 2}}
    (line,) = [record.getMessage() for record in caplog.records]
    assert "left out 4 folders of the system (" in line
    assert {name in line for name in ("__MACOSX", "lost+found", "@eaDir", "$RECYCLE.BIN")} == {True}
    assert "3 files that are no images (" in line
    assert {name in line for name in (".db", ".ini", "Icon\r")} == {True}


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read every folder")
def test_a_lost_and_found_that_only_root_reads(tmp_path: Path) -> None:
    write_images(tmp_path, {"cat": 2, "dog": 2, "lost+found": 0})
    (tmp_path / "lost+found").chmod(0)
    assert counts(tmp_path) == {"train": {"cat": 2, "dog": 2}}


def test_texts_beside_images_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_images(tmp_path, {"cat": 3, "dog": 2})
    for number in range(3):
        (tmp_path / "cat" / f"{number:03d}.txt").write_text("a photo of a cat")
    (tmp_path / "dog" / "annotations.JSON").write_text("{}")
    (tmp_path / "README.md").write_text("beside the classes: not said")
    assert counts(tmp_path) == {"train": {"cat": 3, "dog": 2}}
    assert caplog.messages == [f"{tmp_path}: left out 4 files that are no images (.txt, .json)"]


def test_another_file_in_a_class_folder_should_be_an_image(tmp_path: Path) -> None:
    write_images(tmp_path, {"cat": 2, "dog": 2})
    (tmp_path / "cat" / "walk.mov").write_bytes(b"film")
    with pytest.raises(ValueError, match=r"walk\.mov is not an image file"):
        load(tmp_path)


def test_folders_without_an_image_are_no_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_images(tmp_path, {"train/cat": 2, "train/dog": 2, "train/new": 0, "train/texts": 0, "test/cat": 1, "val": 0})
    (tmp_path / "train" / "texts" / "a.txt").write_text("x")
    assert counts(tmp_path) == {"train": {"cat": 2, "dog": 2}, "test": {"cat": 1}}
    assert caplog.messages == [
        f"{tmp_path}: left out 2 folders without an image (train/new, train/texts), 1 file that is no image (.txt)"
    ]


def test_a_class_with_images_in_test_alone_is_an_error_still(tmp_path: Path) -> None:
    write_images(tmp_path, {"train/cat": 2, "train/dog": 2, "train/new": 0, "test/new": 1})
    with pytest.raises(ValueError, match="label 'new' is in test but not in train"):
        load(tmp_path)


def test_spaces_around_the_name_of_a_class_folder(tmp_path: Path) -> None:
    write_images(tmp_path, {"train/cat": 2, "train/dog ": 2, "test/cat ": 1, "test/dog": 1})
    assert counts(tmp_path) == {"train": {"cat": 2, "dog": 2}, "test": {"cat": 1, "dog": 1}}


def test_links_to_a_folder_above_end(tmp_path: Path) -> None:
    write_images(tmp_path, {"cat": 1, "dog": 2, "cat/inside": 1})
    (tmp_path / "cat" / "inside" / "all").symlink_to(tmp_path)
    (tmp_path / "cat" / "again").symlink_to(tmp_path / "cat" / "inside")
    assert counts(tmp_path) == {"train": {"cat": 2, "dog": 2}}


def test_rows_are_in_order_of_their_paths(tmp_path: Path) -> None:
    write_images(tmp_path, {"b/z": 2, "b": 2, "a-1": 1, "a": 1, "b/000.d": 1})
    ids = load_folder(tmp_path).table["image_id"].tolist()
    assert [Path(each) for each in ids] == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.png"))
