"""The embedded world: deterministic, nested, as many images as promised, none of which the generator saw."""

import io
import lzma
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from tailsmith.data.counts import class_counts, group_counts
from tailsmith.data.sources import embedded
from tailsmith.data.sources.contexts import CONTEXTS, STYLES, cut_out, render
from tailsmith.data.sources.embedded import CLASS_NAMES, load_embedded, load_photographs, photograph_hashes

ROOT = Path(__file__).parents[1]
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # Debian: dataset-fashion-mnist
LONG_TAIL = [500, 300, 180, 108, 65, 39, 23, 14, 8, 5]


@pytest.fixture(scope="module")
def fashion_lt():
    return load_embedded("fashion-lt")


@pytest.fixture(scope="module")
def fashion_groups():
    return load_embedded("fashion-groups")


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("style", STYLES)
def test_rendering_is_a_function_of_its_arguments(context, style):
    photograph = load_photographs().pixels[0]
    first, again = (render(photograph, context, seed=7, style=style) for _ in range(2))
    assert first.dtype == np.uint8
    assert first.shape == (32, 32, 3)
    assert (first == again).all()
    assert (first != render(photograph, context, seed=8, style=style)).mean() > 0.1
    assert (first != render(load_photographs().pixels[1], context, seed=7, style=style)).any()


def test_contexts_and_styles_look_different():
    photograph = load_photographs().pixels[0]
    images = [render(photograph, context, seed=7, style=style).astype(int) for context in CONTEXTS for style in STYLES]
    for i, one in enumerate(images):
        for other in images[:i]:
            assert np.abs(one - other).mean() > 10


def test_an_unknown_style_is_no_drawing():
    with pytest.raises(ValueError, match="style should be one of photograph, drawing, got 'sketch'"):
        render(np.zeros((28, 28), np.uint8), "rock", seed=0, style="sketch")


def test_only_garments_that_keep_their_holes_show_the_background_through_them():
    ring = np.zeros((28, 28), np.uint8)
    ring[6:22, 6:22] = 200
    ring[11:17, 11:17] = 0
    assert cut_out(ring, keep_holes=False)[13, 13] > 0.9
    assert cut_out(ring, keep_holes=True)[13, 13] == 0


def test_fashion_lt_has_the_promised_counts(fashion_lt):
    counts = class_counts(fashion_lt)
    assert sorted(counts.tolist(), reverse=True) == LONG_TAIL
    exact = 500 * (5 / 500) ** (np.arange(10) / 9)
    np.testing.assert_allclose(sorted(counts, reverse=True), exact, atol=0.6)
    assert fashion_lt.class_names == CLASS_NAMES


def test_fashion_groups_has_the_promised_counts_and_empty_groups(fashion_groups):
    counts = group_counts(fashion_groups)
    assert counts.shape == (10, 6)
    assert (counts == embedded.group_counts()).all()
    assert [sorted(row.tolist(), reverse=True) for row in counts] == [[150, 16, 8, 4, 2, 0]] * 10
    assert (counts == 0).sum() == 10
    for label, name in enumerate(CLASS_NAMES):
        assert CONTEXTS[counts[label].argmax()] == embedded.MAJORITY_CONTEXT[name]


@pytest.mark.parametrize(("split", "per_class"), [("val", 120), ("test", 480)])
def test_validation_and_test_are_balanced_over_classes_and_groups(split, per_class, fashion_lt, fashion_groups):
    for dataset in (fashion_lt, fashion_groups):
        rows = dataset.split(split)
        assert np.bincount(rows.labels).tolist() == [per_class] * 10
        assert np.bincount(rows.groups, minlength=60).tolist() == [per_class // 6] * 60


def test_another_seed_draws_other_training_images_and_the_same_validation_and_test(fashion_lt):
    other = load_embedded("fashion-lt", seed=1)
    assert class_counts(other).tolist() == class_counts(fashion_lt).tolist()
    for split in ("val", "test"):
        assert other.split(split).table.equals(fashion_lt.split(split).table)
    shared = set(other.split("train").table["image_id"]) & set(fashion_lt.split("train").table["image_id"])
    assert len(shared) < 0.5 * len(fashion_lt.split("train"))


def test_larger_counts_keep_every_image_of_the_smaller(fashion_lt, fashion_groups):
    topped_up = load_embedded("fashion-lt", counts=[500] * 10)
    assert class_counts(topped_up).tolist() == [500] * 10
    assert_kept(fashion_lt, topped_up)
    topped_up = load_embedded("fashion-groups", counts=np.maximum(embedded.group_counts(), 40))
    assert group_counts(topped_up).min() == 40
    assert_kept(fashion_groups, topped_up)


def assert_kept(smaller, larger):
    """Every image of the smaller dataset is in the larger one, byte for byte."""
    bytes_of = larger.table.set_index("image_id")["bytes"]
    assert smaller.table["image_id"].isin(bytes_of.index).all()
    assert (bytes_of[smaller.table["image_id"]].to_numpy() == smaller.table["bytes"].to_numpy()).all()


def test_splits_share_no_photograph(fashion_lt, fashion_groups):
    for dataset in (fashion_lt, fashion_groups):
        assert dataset.table["image_id"].is_unique
        origins = [
            {name.split("-")[1] for name in dataset.split(split).table["image_id"]}
            for split in ("train", "val", "test")
        ]
        assert len(set.union(*origins)) == sum(map(len, origins)) == len(dataset)
    photographs = load_photographs()
    hashes = photograph_hashes(photographs.pixels)
    assert len(np.unique(hashes)) == len(hashes) == len(np.unique(photographs.origin))


def test_the_generator_saw_no_photograph_of_any_task():
    with files("tailsmith.assets").joinpath("generator_photographs.npy").open("rb") as file:
        seen = np.load(io.BytesIO(file.read()))
    assert seen.dtype == np.uint64
    assert len(seen) > 40_000
    assert (np.diff(seen.astype(object)) >= 0).all()
    assert not np.isin(photograph_hashes(load_photographs().pixels), seen).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "fashion"}, r"embedded task should be one of \['fashion-lt', 'fashion-groups'\], got 'fashion'"),
        ({"task": "fashion-lt", "counts": [1] * 9}, r"counts for fashion-lt should have shape \(10,\), got \(9,\)"),
        ({"task": "fashion-groups", "counts": [1] * 10}, r"shape \(10, 6\), got \(10,\)"),
        (
            {"task": "fashion-lt", "counts": [601] * 10},
            "class 't-shirt' has 600 photographs to draw from, asked for 601",
        ),
        ({"task": "fashion-groups", "counts": np.full((10, 6), 91)}, "group 't-shirt' in 'autumn' has 90 photographs"),
    ],
)
def test_what_cannot_be_loaded(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_embedded(**arguments)


@pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_script_rebuilds_the_subset_bit_for_bit():
    code = (
        "import sys, pathlib, numpy, lzma, build_embedded as b;"
        "b.lzma.compress = lambda data, preset: data;"  # the archive's contents, without minutes of compression
        "sys.stdout.buffer.write(b.build_subset(pathlib.Path(sys.argv[1])))"
    )
    built = subprocess.run(
        [sys.executable, "-c", code, str(FASHION_MNIST)], cwd=ROOT / "tools", capture_output=True, check=True
    ).stdout
    shipped = lzma.decompress(files("tailsmith.assets").joinpath("fashion.npz.xz").read_bytes())
    with np.load(io.BytesIO(built)) as own, np.load(io.BytesIO(shipped)) as other:
        assert sorted(own) == sorted(other)
        for name in own:
            assert own[name].dtype == other[name].dtype
            assert (own[name] == other[name]).all()
