"""Every complaint about user data, by name; and images and tables themselves."""

from __future__ import annotations

import re
import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tailsmith.data.checks import check_conditionable, check_dataset, class_difference
from tailsmith.data.dataset import Dataset, make_table
from tailsmith.data.decoding import decode
from tailsmith.data.images import Images


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where lists of duplicates are written."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def pixels(seed: int, height: int = 12, width: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(seed: int, height: int = 12, width: int = 12) -> bytes:
    return _saved(Image.fromarray(pixels(seed, height, width)), "PNG")


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def sound(n: int = 6, **columns: object) -> Dataset:
    """n images of two classes in turn, half of them train, then val, then test."""
    splits = (["train"] * 4 + ["val", "test"] * n)[:n]
    table = make_table(
        [i % 2 for i in range(n)],
        image_ids=[f"id{i}" for i in range(n)],
        encoded=[png(i) for i in range(n)],
        splits=splits,
    )
    return Dataset(table.assign(**columns), ("cat", "dog"), name="pets")


# --- check_dataset


def test_a_sound_dataset_passes_unchanged() -> None:
    dataset, skipped = check_dataset(sound())
    assert skipped == []
    pd.testing.assert_frame_equal(dataset.table, sound().table)


def test_no_images() -> None:
    with pytest.raises(ValueError, match="pets: no images"):
        check_dataset(sound(0))


def test_one_class_only() -> None:
    table = make_table([0], image_ids=["x"], encoded=[png(0)])
    with pytest.raises(ValueError, match="one class only \\('cat'\\)"):
        check_dataset(Dataset(table, ("cat",)))


def test_duplicate_ids() -> None:
    with pytest.raises(ValueError, match="duplicate image_id 'id1' \\(1 rows repeat an id\\)"):
        check_dataset(sound(image_id=["id0", "id1", "id1", "id3", "id4", "id5"]))


def test_synthetic_images_in_test() -> None:
    with pytest.raises(ValueError, match="image_id 'id5' is synthetic and in test"):
        check_dataset(sound(source=["real"] * 5 + ["synthetic"]))


def test_a_label_of_test_that_train_lacks() -> None:
    with pytest.raises(ValueError, match="label 'dog' is in test but not in train"):
        check_dataset(sound(label=[0, 0, 0, 0, 0, 1]))


def test_one_image_in_two_splits() -> None:
    images = [png(0), png(1), png(2), png(3), png(1), png(0)]
    expected = (
        r"val overlaps train: image_id 'id4' has the content of image_id 'id1' "
        rf"\(2 such pairs, all listed in {re.escape(str(Path.cwd()))}/duplicates-across-splits\.csv\)"
    )
    with pytest.raises(ValueError, match=expected):
        check_dataset(sound(bytes=images))
    assert pd.read_csv("duplicates-across-splits.csv").to_dict("split")["data"] == [
        ["image_id 'id4'", "val", "image_id 'id1'", "train"],
        ["image_id 'id5'", "test", "image_id 'id0'", "train"],
    ]


def test_the_list_of_duplicates_replaces_its_predecessor_and_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [png(0), png(1), png(2), png(3), png(1), png(5)]
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    listed = Path("duplicates-across-splits.csv")
    for before in ("image,split,same_content_as,in_split\nold,val,older,train\n", "my own list\n"):
        listed.write_text(before)
        with pytest.raises(ValueError, match=r"1 such pair, all listed in .*duplicates-across-splits\.csv"):
            check_dataset(sound(bytes=images))
    assert listed.read_text() == "my own list\n"
    assert "id4" in (tmp_path / "temporary" / listed).read_text()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing" / "\0"))
    with pytest.raises(ValueError, match=r"\(1 such pair\); remove each"):
        check_dataset(sound(bytes=images))


def test_one_image_in_val_and_test() -> None:
    with pytest.raises(ValueError, match="test overlaps val"):
        check_dataset(sound(bytes=[png(0), png(1), png(2), png(3), png(9), png(9)]))


def test_one_image_twice_in_train_is_allowed() -> None:
    dataset, _ = check_dataset(sound(bytes=[png(0), png(0), png(2), png(3), png(4), png(5)]))
    assert len(dataset) == 6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png(1)[:100], "is corrupt or truncated"),
        (_saved(Image.fromarray(pixels(1, 40, 40)), "JPEG")[:-400], "is corrupt or truncated"),
        (b"just some text", "is not an image file"),
        (b"", "is not an image file"),
    ],
)
def test_images_that_cannot_be_read_are_named_or_skipped(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    paths = [None, str(tmp_path / "bad.png"), None, str(tmp_path / "gone.png"), None, None]
    images = [None if path else png(i) for i, path in enumerate(paths)]
    dataset = sound(path=paths, bytes=images, label=[0, 0, 1, 1, 0, 1])
    with pytest.raises(ValueError, match=rf"bad\.png {message}.*--skip-corrupt \(and 1 more like it\)"):
        check_dataset(dataset)
    kept, skipped = check_dataset(dataset, skip_corrupt=True)
    assert kept.table["image_id"].tolist() == ["id0", "id2", "id4", "id5"]
    assert [line.split(" ")[0] for line in skipped] == paths[1::2][:2]
    assert all("\n" not in line for line in skipped)


def test_a_class_that_skipping_takes_away(tmp_path: Path) -> None:
    dataset = sound(bytes=[png(0), b"x", png(2), b"y", png(4), b"z"])
    with pytest.raises(
        ValueError, match=r"class 'dog' has no image left .*\(1 such classes\), the first: image_id 'id1'"
    ):
        check_dataset(dataset, skip_corrupt=True)


@pytest.mark.parametrize("column", ["image_id", "path"])
def test_a_name_that_is_not_utf8_is_named_or_skipped(column: str, tmp_path: Path) -> None:
    name = str(tmp_path / b"caf\xe9.png".decode(errors="surrogateescape"))
    Path(name).write_bytes(png(1))
    values = [name if i == 1 else f"id{i}" if column == "image_id" else None for i in range(6)]
    dataset = sound(**{column: pd.Series(values, dtype=object)})
    with pytest.raises(ValueError, match=r"caf\\xe9\.png.*the path is not UTF-8; rename the file or folder") as caught:
        check_dataset(dataset)
    str(caught.value).encode()
    kept, skipped = check_dataset(dataset, skip_corrupt=True)
    assert (len(kept), len(skipped)) == (5, 1)


@pytest.mark.parametrize(("name", "classes"), [("pets", ("caf\udce9", "dog")), ("caf\udce9", ("cat", "dog"))])
def test_names_that_no_file_could_hold(name: str, classes: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"^caf\\xe9: this name, of the data, a class or an attribute, is not UTF-8"):
        check_dataset(Dataset(sound().table, classes, name=name), skip_corrupt=True)


def test_nothing_left_after_skipping() -> None:
    with pytest.raises(ValueError, match="no images"):
        check_dataset(sound(bytes=[b"x"] * 6), skip_corrupt=True)


# --- check_conditionable


def test_one_image_is_enough_to_condition_on() -> None:
    check_conditionable(sound(label=[0, 0, 0, 1, 0, 0]))


def test_a_class_without_a_real_training_image() -> None:
    with pytest.raises(ValueError, match="class 'dog' has no training image, and so nothing to condition on"):
        check_conditionable(sound(label=[0, 0, 0, 0, 1, 1]))
    only_synthetic = sound(label=[0, 0, 0, 1, 0, 0], source=["real"] * 3 + ["synthetic"] + ["real"] * 2)
    with pytest.raises(ValueError, match="class 'dog' has no training image"):
        check_conditionable(only_synthetic)


# --- Dataset


def test_groups_are_label_times_attributes_plus_attribute() -> None:
    dataset = Dataset(sound().table.assign(attribute=[0, 1, 2, -1, 0, 2]), ("cat", "dog"), ("x", "y", "z"))
    assert dataset.groups.tolist() == [0, 4, 2, -1, 0, 5]
    assert dataset.group_names[4] == "dog in y"
    assert sound().groups.tolist() == [-1] * 6


def test_selection_by_mask_rows_and_split() -> None:
    dataset = sound()
    assert dataset.select([5, 0]).table["image_id"].tolist() == ["id5", "id0"]
    assert dataset.select(dataset.labels == 1).table["image_id"].tolist() == ["id1", "id3", "id5"]
    assert dataset.split("val").table["image_id"].tolist() == ["id4"]
    assert len(dataset.select([])) == 0
    assert dataset.select([3]).table.index.tolist() == [0]
    with pytest.raises(ValueError, match="a mask over this dataset has 6 entries, got 2"):
        dataset.select(np.array([True, False]))
    with pytest.raises(ValueError, match="split should be one of"):
        dataset.split("validation")


def test_concatenation() -> None:
    both = Dataset.concatenate([sound(4), sound()])
    assert len(both) == 10
    assert both.table.index.tolist() == list(range(10))
    assert both.table["path"].tolist() == [None] * 10
    with pytest.raises(ValueError, match="same class names"):
        Dataset.concatenate([sound(), Dataset(sound().table, ("dog", "cat"))])
    with pytest.raises(ValueError, match="nothing to concatenate"):
        Dataset.concatenate([])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": [0, 1, 2, 0, 1, 0]}, "column 'label' should be within 0..1, one per name; got 2"),
        ({"label": [0.0] * 6}, "column 'label' should hold whole numbers, got float64"),
        ({"attribute": [0] * 6}, "column 'attribute' should be within"),
        ({"split": ["dev"] * 6}, "column 'split' should hold train, val, test; got 'dev'"),
        ({"extra": [0] * 6}, "a Dataset's table has columns"),
    ],
)
def test_tables_that_cannot_be(columns: dict[str, list[object]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sound(**columns)


def test_none_stays_none_beside_strings() -> None:
    table = sound().table.assign(path=pd.Series(["a", None, "b", None, None, None], dtype="str"))
    assert Dataset(table, ("cat", "dog")).table["path"].tolist() == ["a", None, "b", None, None, None]


# --- images


def test_decoding_turns_images_upright_and_rescales_16_bits() -> None:
    image = Image.fromarray(pixels(0, 8, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    turned = decode(_saved(image, "PNG", exif=exif), "x")
    np.testing.assert_array_equal(np.asarray(turned), np.rot90(pixels(0, 8, 4), -1))
    deep = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    grey = decode(_saved(Image.fromarray(deep), "PNG"), "x")
    np.testing.assert_array_equal(np.asarray(grey)[..., 0], np.arange(256).reshape(16, 16))
    assert grey.mode == decode(_saved(Image.new("P", (3, 3)), "PNG"), "x").mode == "RGB"


@pytest.mark.parametrize("cache_budget", [0, 10**6])
def test_image_array_gives_the_pixels_in_any_order(cache_budget: int) -> None:
    images = Images(sound(), 12, cache_budget=cache_budget)
    expected = torch.stack([torch.from_numpy(pixels(i)).permute(2, 0, 1) for i in range(6)])
    assert len(images) == 6
    for rows in ([4, 1, 1], np.array([5]), torch.tensor([0, 2]), np.array([4, 0])):
        got = images[rows]
        assert got.dtype == torch.uint8
        assert torch.equal(got, expected[torch.as_tensor(rows)])
    assert torch.equal(images[:], expected)
    assert torch.equal(images[[-1]], expected[[5]])
    assert images[[]].shape == (0, 3, 12, 12)
    with pytest.raises(IndexError):
        images[[6]]


def test_image_array_decodes_once_what_it_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    original = Dataset.image
    monkeypatch.setattr(Dataset, "image", lambda self, row: (decoded.append(row), original(self, row))[1])
    images = Images(sound(), 8)
    first = images[[0, 1, 1]]
    first.zero_()  # what is handed out is the caller's
    assert images[[1, 0]].float().mean() > 50
    assert sorted(decoded) == [0, 1]


@pytest.mark.parametrize(("height", "width"), [(12, 30), (30, 12), (12, 13)])
def test_image_array_crops_the_centre(height: int, width: int) -> None:
    dataset = sound(bytes=[png(i, height, width) for i in range(6)])
    top, left = (height - 12) // 2, (width - 12) // 2
    expected = pixels(3, height, width)[top : top + 12, left : left + 12]
    np.testing.assert_array_equal(Images(dataset, 12)[[3]][0].permute(1, 2, 0), expected)


def test_image_array_resizes_the_short_side() -> None:
    flat = _saved(Image.new("RGB", (40, 20), (10, 200, 30)), "PNG")
    got = Images(sound(bytes=[flat] * 6), 8)[[0]]
    assert torch.equal(got, torch.tensor([10, 200, 30], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 8, 8))


def test_image_array_names_a_corrupt_image() -> None:
    dataset = sound(bytes=[b"text"] + [png(i) for i in range(5)])
    with pytest.raises(ValueError, match="image_id 'id0' is not an image file"):
        Images(dataset, 8)[[1, 0]]
    with pytest.raises(ValueError, match="size should be a positive"):
        Images(dataset, 0)


def test_other_classes_are_named_a_few_at_a_time() -> None:
    thousand = [f"class {number:03}" for number in range(1000)]
    assert class_difference(["cat", "cow"], ["cat", "dog"]) == "lacks 'dog' and has 'cow'"
    assert class_difference(["cat"], ["cat", "dog"]) == "lacks 'dog'"
    assert class_difference(["cat", *thousand], ["cat"]) == ("has 'class 000', 'class 001', 'class 002' and 997 more")
    assert class_difference([*thousand[1:], "class 000"], thousand) == (
        "has the same classes in another order, first 'class 001' in place of 'class 000'"
    )
