"""What a dataset was, and what is said of one that changed."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from folders import write_folder, write_image
from tailsmith.data.dataset import Dataset, make_table
from tailsmith.data.fingerprint import WHOLE, Fingerprint, changes, content_keys, fingerprint
from tailsmith.data.sources.readers import read_unchecked
from tailsmith.data.writers import write_parquet


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "pets")


def test_a_moved_copied_and_touched_folder_is_the_same_data(pets: Path, tmp_path: Path) -> None:
    before = fingerprint(read_unchecked(pets))
    before.write(tmp_path / "data.parquet")
    shutil.copytree(pets, tmp_path / "copy")
    os.utime(tmp_path / "copy" / "train" / "cat" / "0.png", (0, 0))
    shutil.move(tmp_path / "copy", tmp_path / "elsewhere")
    stored = Fingerprint.read(tmp_path / "data.parquet")
    assert changes(stored, fingerprint(read_unchecked(tmp_path / "elsewhere"))) == ""
    assert len(stored.table) == 17 and stored.class_names == ("cat", "dog")


def test_what_changed_is_said_with_counts_and_the_first_example(pets: Path) -> None:
    before = fingerprint(read_unchecked(pets))
    write_folder(pets, {"test": {"cat": 0, "dog": 9}})  # 0 and 1 get other contents
    (pets / "val" / "dog" / "1.png").unlink()
    (pets / "train" / "cat" / "3.png").rename(pets / "test" / "cat" / "9.png")
    assert changes(before, fingerprint(read_unchecked(pets))) == (
        "8 images were added to test (first: test/cat/9.png), 1 image is gone from train (first: train/cat/3.png), "
        "1 image is gone from val (first: val/dog/1.png), 2 images have other contents (first: test/dog/0.png)"
    )


def test_labels_attributes_splits_sources_and_order_count() -> None:
    labels, contexts = [0, 0, 1, 1, 1], [0, 1, 0, -1, 1]
    pixels = [bytes([number]) for number in range(5)]
    made = make_table(labels, image_ids=list("vwxyz"), encoded=pixels, attributes=contexts)
    dataset = Dataset(made, ("trouser", "bag"), ("rock", "water"))
    before, table = fingerprint(dataset), dataset.table

    def now(**columns: object) -> str:
        return changes(before, fingerprint(replace(dataset, table=table.assign(**columns))))

    assert now(label=[1, 1, 1, 1, 1]) == "2 images have another class (first: v, from trouser to bag)"
    assert now(attribute=[-1, 1, 0, 0, 1]) == "2 images have another attribute (first: v, from rock to none)"
    assert now(split=["train", "val", *["train"] * 3]) == "1 image has another split (first: w, from train to val)"
    assert now(source=["synthetic", *["real"] * 4]) == "1 image has another source (first: v, from real to synthetic)"
    backwards = dataset.select(np.arange(len(dataset))[::-1])
    assert changes(before, fingerprint(backwards)) == "its images are in another order"
    names = (*dataset.class_names, "cow")
    assert changes(before, fingerprint(replace(dataset, class_names=names))) == "of class names it has 'cow'"
    assert changes(before, before) == ""


def test_bytes_in_a_table_count_wherever_they_differ(pets: Path, tmp_path: Path) -> None:
    write_parquet(read_unchecked(pets), tmp_path / "data.parquet")
    dataset = read_unchecked(tmp_path / "data.parquet")
    other = dataset.table["bytes"].copy()
    other[3] = other[3][:60] + bytes([other[3][60] ^ 1]) + other[3][61:]
    said = changes(fingerprint(dataset), fingerprint(replace(dataset, table=dataset.table.assign(bytes=other))))
    assert said == f"1 image has other contents (first: {dataset.table['image_id'][3]})"


@pytest.mark.parametrize("place", [0, WHOLE // 4, -1, None], ids=["beginning", "near it", "end", "length"])
def test_large_files_are_told_apart_without_reading_them_whole(place: int | None, tmp_path: Path) -> None:
    content = bytearray(np.random.default_rng(0).bytes(10 * WHOLE))
    write_image(tmp_path / "train" / "cat" / "0.png", np.zeros((2, 2, 3)))
    path = tmp_path / "train" / "cat" / "0.png"
    path.write_bytes(content)
    dataset = read_unchecked(tmp_path)
    before = content_keys(dataset)
    if place is None:
        content += b"x"
    else:
        content[place] ^= 1
    path.write_bytes(content)
    assert content_keys(dataset) != before


def test_a_damaged_fingerprint_says_so(tmp_path: Path) -> None:
    (tmp_path / "data.parquet").write_bytes(b"PAR1 not")
    with pytest.raises(ValueError, match=r"data\.parquet is damaged, so what the data were can't be told"):
        Fingerprint.read(tmp_path / "data.parquet")
