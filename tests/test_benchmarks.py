"""Readers of the published benchmarks on miniature trees, their complaints, and the published numbers themselves."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmark_trees import CONTEXTS, IMAGENET, NICO, PLACES, write_label_map, write_lists, write_nico
from tailsmith.data.counts import class_counts, group_counts
from tailsmith.data.sources.benchmarks import Benchmark, counts_hash, differences, missing_from_totals, published, read
from tailsmith.runs.recipe import read_recipe
from tailsmith.strata import shots
from tailsmith.synthesis.allocation import missing_counts

IMAGENET_LT = read_recipe("imagenet-lt").benchmark
PLACES_LT = read_recipe("places-lt").benchmark
NICOPP = read_recipe("nico++").benchmark
MINI_NICO = replace(NICOPP, classes=2, contexts=CONTEXTS, images={}, largest_group=None)


def mini(benchmark: Benchmark) -> Benchmark:
    """Three classes, and nothing to compare the counts with."""
    return replace(benchmark, classes=3, images={}, counts_sha256="")


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    return write_lists(tmp_path / "imagenet", "ImageNet_LT", IMAGENET)


@pytest.fixture(scope="module")
def nico(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nico(tmp_path_factory.mktemp("nico"))


# --- lists


def test_lists_become_a_dataset_with_names_splits_and_files(imagenet: Path) -> None:
    dataset = read(mini(IMAGENET_LT), imagenet)
    assert (dataset.name, dataset.licence) == ("imagenet-lt", IMAGENET_LT.licence)
    assert dataset.class_names == ("tench", "goldfish", "great white shark")
    for split, counts in IMAGENET.items():
        lines = (imagenet / f"ImageNet_LT_{split}.txt").read_text().split("\n")[:-1]
        rows = dataset.split(split).table
        assert class_counts(dataset, split).tolist() == list(counts.values())
        assert {f"{path} {label}" for path, label in zip(rows["image_id"], rows["label"], strict=True)} == set(lines)
        assert all(Path(path).is_file() for path in rows["path"])
    assert dataset.image(0).size == (12, 12)


def test_places_are_called_by_the_words_of_their_folders(tmp_path: Path) -> None:
    dataset = read(mini(PLACES_LT), write_lists(tmp_path, "Places_LT", PLACES, ".jpg"))
    assert dataset.class_names == ("airfield", "apartment building outdoor", "bank vault")


def test_the_order_of_the_lines_does_not_matter(imagenet: Path) -> None:
    before = read(mini(IMAGENET_LT), imagenet)
    path = imagenet / "ImageNet_LT_train.txt"
    lines = path.read_text().splitlines()
    random.Random(1).shuffle(lines)
    path.write_text("\r\n".join(lines) + "\r\n\r\n")  # as Windows has it, and an empty line
    assert read(mini(IMAGENET_LT), imagenet).table.equals(before.table)


TRAIN = "ImageNet_LT_train.txt"
BROKEN_LISTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no list": (
        lambda root: (root / TRAIN).unlink(),
        r"no list .*train\.txt; imagenet-lt needs .* \(lists: https://github\.com/facebookresearch/classifier-bal",
    ),
    "another encoding": (
        lambda root: (root / TRAIN).write_bytes(b"caf\xe9 0\n"),
        r"train\.txt is not UTF-8 text .*again",
    ),
    "empty list": (lambda root: (root / TRAIN).write_text("\n"), r"train\.txt lists no image"),
    "one field": (
        lambda root: append(root, "train/n01440764/x.JPEG"),
        r"line 12: expected a path, a space and",
    ),
    "three fields": (lambda root: append(root, "train/n01440764/x y.JPEG 0"), r"line 12: expected .*got 'train/n0"),
    "no number": (lambda root: append(root, "train/n01440764/x.JPEG cat"), r"line 12: expected a path, a space and"),
    "negative": (lambda root: append(root, "train/n01440764/x.JPEG -1"), r"line 12: expected a path, a space and"),
    "out of range": (lambda root: append(root, "train/n01440764/x.JPEG 3"), r"line 12: .* within 0\.\.2, got 3"),
    "two folders": (lambda root: append(root, "train/n01443537/x.JPEG 0"), r"listed under class 0, but .* class 1"),
    "a new folder": (lambda root: append(root, "train/n9/x.JPEG 0"), r"class 0, but that class has .*'n01440764'"),
    "no folder": (lambda root: append(root, "x.JPEG 0"), r"'x\.JPEG' should lie in a folder of its class"),
    "listed twice": (
        lambda root: append(root, "train/n01440764/n01440764_val_0.JPEG 0"),
        r"duplicate image_id 'train/n01440764/n01440764_val_0\.JPEG'",
    ),
    "missing files": (
        lambda root: append(root, "train/n01440764/a.JPEG 0", "train/n01440764/b.JPEG 0"),
        r"2 of the 25 images of imagenet-lt do not exist, the first is .*a\.JPEG; put them below .*https://image-net",
    ),
    "no root": (
        lambda root: root.rename(root.with_name("moved")),
        r"no folder .*expected the root of imagenet-lt: .*images: https://image-net",
    ),
}


def append(root: Path, *lines: str) -> None:
    with open(root / TRAIN, "a") as file:
        file.writelines(f"{line}\n" for line in lines)


@pytest.mark.parametrize("name", BROKEN_LISTS)
def test_what_is_wrong_with_lists_is_said_before_anything_is_done(imagenet: Path, name: str) -> None:
    spoil, message = BROKEN_LISTS[name]
    spoil(imagenet)
    with pytest.raises(ValueError, match=message):
        read(mini(IMAGENET_LT), imagenet)


def test_a_class_without_any_line(imagenet: Path) -> None:
    with pytest.raises(ValueError, match=r"no image of class 3 \(997 such classes of 1000\)"):
        read(IMAGENET_LT, imagenet)


def test_skip_corrupt_leaves_out_what_can_not_be_read(imagenet: Path, caplog: pytest.LogCaptureFixture) -> None:
    append(imagenet, "train/n01440764/absent.JPEG 0")
    broken = imagenet / "train/n01440764/n01440764_train_0.JPEG"
    broken.write_bytes(broken.read_bytes()[:50])
    with caplog.at_level(logging.WARNING):
        dataset = read(mini(IMAGENET_LT), imagenet, skip_corrupt=True)
    assert class_counts(dataset).tolist() == [5, 3, 2]
    assert [re.findall(r"absent|train_0", line) for line in caplog.messages] == [["absent"], ["train_0"]]


def test_counts_that_are_not_the_published_ones_are_a_warning(imagenet: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        read(replace(IMAGENET_LT, classes=3), imagenet)
    (line,) = caplog.messages
    assert line.startswith("not as published, so results won't compare: imagenet-lt has 11 train images, published are")
    assert re.findall(r"published are ([\d,]+\d)", line) == ["115,846", "20,000", "50,000", "50"]
    assert line.endswith("per class of imagenet-lt are not the published ones: 'tench' has 6, published are 50")
    right = replace(mini(IMAGENET_LT), images={"train": 11, "val": 6, "test": 6}, counts_sha256=counts_hash([6, 3, 2]))
    assert differences(right, read(mini(IMAGENET_LT), imagenet)) == []


# --- the published numbers


def test_class_names_of_imagenet_are_timms() -> None:
    """timm's own table is the oracle; three of our words tell apart what WordNet calls alike."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    names = IMAGENET_LT.names()
    assert list(names) == [info.index_to_label_name(index) for index in range(1000)]
    lemmas = [[word.strip() for word in info.index_to_description(index).split(",")] for index in range(1000)]
    different = {name for name, words in zip(names.values(), lemmas, strict=True) if name != words[0]}
    assert different == {"crane (bird)", "crane (machine)", "tank suit"}
    assert "tank suit" in lemmas[list(names.values()).index("tank suit")]
    assert len(set(names.values())) == 1000


@pytest.mark.parametrize(
    ("benchmark", "classes", "least", "most"), [(IMAGENET_LT, 1000, 5, 1280), (PLACES_LT, 365, 5, 4980)]
)
def test_published_counts_are_whole(benchmark: Benchmark, classes: int, least: int, most: int) -> None:
    counts = benchmark.train_counts()
    assert (len(counts), sum(counts), min(counts), max(counts)) == (classes, benchmark.images["train"], least, most)
    assert counts_hash(counts) == benchmark.counts_sha256
    assert len(set(benchmark.class_names())) == classes == benchmark.classes
    assert benchmark.images["val"] == 20 * classes
    dataset = published(benchmark)
    assert class_counts(dataset).tolist() == counts
    assert dataset.class_names == benchmark.class_names()
    assert differences(replace(benchmark, images={"train": sum(counts)}), dataset) == []


def test_classes_are_numbered_as_in_the_published_lists() -> None:
    """Places-LT counts '-' and '_' as one character when it sorts its folders; ImageNet-LT sorts WordNet ids."""
    names = PLACES_LT.class_names()
    expected = {116: "desert road", 117: "desert sand", 118: "desert vegetation", 141: "field road", 142: "field wild"}
    assert {number: names[number] for number in expected} == expected
    folders = list(PLACES_LT.names())
    assert folders == sorted(folders, key=lambda folder: folder.replace("-", "_"))
    assert folders.index("railroad_track") == 278  # a line of the test list: docs/recipes.md
    folders = list(IMAGENET_LT.names())
    assert folders == sorted(folders)
    assert (folders[0], folders[-1]) == ("n01440764", "n15075141")
    assert IMAGENET_LT.class_names()[-1] == "toilet tissue"


def test_classes_in_another_order_are_a_difference() -> None:
    dataset = published(PLACES_LT)
    ascii_order = sorted(PLACES_LT.names())
    other = replace(dataset, class_names=tuple(PLACES_LT.names()[folder] for folder in ascii_order))
    (line,) = differences(replace(PLACES_LT, images={}), other)
    assert line.endswith("published lists, in their order: class 116 is 'desert sand', not 'desert road'")


def test_shots_of_imagenet_lt_are_the_published_ones() -> None:
    found = shots(IMAGENET_LT.train_counts()).tolist()
    assert [found.count(shot) for shot in ("many", "medium", "few")] == [385, 479, 136]


@pytest.mark.parametrize(
    ("benchmark", "target", "requests"), [(IMAGENET_LT, 1300, 1_184_154), (PLACES_LT, 4980, 1_755_200)]
)
def test_how_many_images_the_papers_targets_lack(benchmark: Benchmark, target: int, requests: int) -> None:
    by_hand = sum(max(0, target - count) for count in benchmark.train_counts())
    lacking = missing_counts(class_counts(published(benchmark)), target, benchmark.class_names())
    assert lacking.sum() == by_hand == requests


def test_how_many_images_nico_lacks_follows_from_its_totals() -> None:
    assert missing_from_totals(NICOPP, 811, "group") == missing_from_totals(NICOPP, "max", "group") == 229_303
    assert missing_from_totals(NICOPP, 812, "group") == 229_303 + 360
    for target, per in ((810, "group"), ({"dog in dim": 900}, "group"), (811, "class")):
        with pytest.raises(ValueError, match=r"counts that aren't published; .*at least 811, the largest group"):
            missing_from_totals(NICOPP, target, per)
    with pytest.raises(ValueError, match="imagenet-lt publishes no totals of its groups"):
        missing_from_totals(IMAGENET_LT, 1300, "group")
    with pytest.raises(ValueError, match=r"nico\+\+ publishes no count per class or group"):
        published(NICOPP)


# --- NICO++


def split_by_hand(root: Path) -> dict[str, str]:
    """SubpopBench's split, step by step, with names sorted: image -> split."""
    random.seed(666)
    split = {}
    for context in CONTEXTS:
        for name in ("hot air balloon", "dog"):
            folder = root / "public_dg_0416" / "train" / context / name
            images = sorted(f"{context}/{name}/{path.name}" for path in folder.iterdir())
            random.shuffle(images)
            m = min(len(images), 75)
            for position, image in enumerate(images):
                split[image] = "val" if position < m // 3 else "test" if position < m else "train"
    return split


def test_nico_in_subpopbenchs_split(nico: Path) -> None:
    dataset = read(MINI_NICO, nico)
    assert (dataset.name, dataset.licence) == ("nico++", NICOPP.licence)
    assert (dataset.class_names, dataset.attribute_names) == (("hot air balloon", "dog"), CONTEXTS)
    assert dict(zip(dataset.table["image_id"], dataset.table["split"], strict=True)) == split_by_hand(nico)
    sizes = {split: group_counts(dataset, split).tolist() for split in ("train", "val", "test")}
    assert sizes == {"train": [[0, 2], [4, 0]], "val": [[25, 25], [25, 1]], "test": [[50, 50], [50, 2]]}
    parts = dataset.table["image_id"].str.split("/", expand=True)
    assert [CONTEXTS[attribute] for attribute in dataset.attributes] == parts[0].tolist()
    assert [dataset.class_names[label] for label in dataset.labels] == parts[1].tolist()
    assert sum(sum(map(sum, each)) for each in sizes.values()) == len(dataset) == sum(NICO.values())


def test_nicos_split_does_not_depend_on_the_file_system(nico: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read(MINI_NICO, nico)
    listed = Path.glob

    def in_another_order(self: Path, pattern: str) -> list[Path]:
        found = list(listed(self, pattern))
        random.Random(3).shuffle(found)
        return found

    monkeypatch.setattr(Path, "glob", in_another_order)
    assert read(MINI_NICO, nico).table.equals(before.table)


def test_nico_may_lie_in_track_1(tmp_path: Path) -> None:
    write_nico(tmp_path / "track_1", {("autumn", "dog"): 76, ("autumn", "hot air balloon"): 76, ("dim", "dog"): 1})
    (tmp_path / "track_1/public_dg_0416/train/dim/unknown").mkdir()
    dataset = read(MINI_NICO, tmp_path)
    assert class_counts(dataset).tolist() == [1, 1]
    assert (group_counts(dataset, "test")[:, 1] == [0, 1]).all()


def test_folders_that_the_label_map_does_not_name_are_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_nico(tmp_path, {("autumn", "dog"): 76, ("autumn", "hot air balloon"): 76, ("dim", "dog"): 1})
    (tmp_path / "public_dg_0416/train/dim/unknown").mkdir()
    with caplog.at_level(logging.WARNING):
        read(MINI_NICO, tmp_path)
    assert re.search(r"1 folders that dg_label_id_mapping\.json doesn't name, left out: unknown", caplog.text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"no label map .*nico\+\+ needs dg_label_id_mapping\.json: .*label map: https://www\.dropbox"),
        ({"dog": 0, "hot air balloon": 2}, r"should map 2 class names to the numbers 0\.\.1, one each"),
        ({"dog": 0}, r"should map 2 class names"),
        (["dog", "hot air balloon"], r"should map 2 class names"),
        ("{", r"should map 2 class names"),
    ],
)
def test_label_maps_that_are_not(tmp_path: Path, content: object, message: str) -> None:
    if content is not None:
        write_label_map(tmp_path, content)
    with pytest.raises(ValueError, match=message):
        read(MINI_NICO, tmp_path)


def test_a_label_map_that_is_not_json(tmp_path: Path) -> None:
    (tmp_path / "dg_label_id_mapping.json").write_text("{dog")
    with pytest.raises(ValueError, match=r"is not a JSON file \(.*\); download it again"):
        read(MINI_NICO, tmp_path)


def test_a_context_that_is_not_there(tmp_path: Path) -> None:
    write_nico(tmp_path, {("autumn", "dog"): 76})
    with pytest.raises(
        ValueError, match=r"no folder .*dim; nico\+\+ has one per context: unpack track_1\.zip .*images: https://www"
    ):
        read(MINI_NICO, tmp_path)


def test_nicos_largest_group_is_checked(nico: Path) -> None:
    lines = differences(NICOPP, read(MINI_NICO, nico))
    assert lines[-1] == "the largest group of nico++ has 4 training images, published are 811"
    assert len(lines) == 4


def test_the_published_sizes_of_nico_go_together() -> None:
    """62,657 + 8,726 + 17,483 images in 360 groups: test takes twice what validation takes, up to rounding."""
    groups = NICOPP.classes * len(NICOPP.contexts)
    assert NICOPP.images["val"] <= groups * 25
    assert 0 <= NICOPP.images["test"] - 2 * NICOPP.images["val"] <= 2 * groups


def test_an_unknown_reader() -> None:
    with pytest.raises(ValueError, match=r"benchmark\.reader should be one of list_files, nico, got 'csv'"):
        Benchmark("mine", "csv", 2)


def test_hash_of_counts_is_of_their_decimal_digits() -> None:
    import hashlib

    assert counts_hash(np.array([1, 20, 3]).tolist()) == hashlib.sha256(b"1,20,3").hexdigest()
