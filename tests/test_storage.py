"""Finished images as they are stored: sizes and formats, what is refused, and that nothing else of a shard changes."""

import io

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import tailsmith
from rendering import DATASET
from tailsmith.data.packed import ROW_GROUP_BYTES, location, read_packed, write_packed
from tailsmith.guidance.config import FeedbackConfig
from tailsmith.synthesis.config import SynthesisConfig
from tailsmith.synthesis.plan_checks import check_settings
from tailsmith.synthesis.storage import Storage, stored_size


def smooth(height: int = 48, width: int = 64) -> torch.Tensor:
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 3, y * 4, x + y], axis=0)
    return torch.from_numpy(pixels.astype(np.uint8))


def opened(storage: Storage, image: torch.Tensor) -> Image.Image:
    return Image.open(io.BytesIO(storage.encode(image)))


def test_by_default_it_is_the_image_as_it_was_made():
    stored = opened(Storage(), smooth())
    assert stored.format == "PNG"
    assert (np.asarray(stored) == smooth().permute(1, 2, 0).numpy()).all()


@pytest.mark.parametrize(("size", "expected"), [(24, (32, 24)), (48, (64, 48)), (100, (64, 48)), (1, (1, 1))])
def test_the_short_side_is_made_smaller_never_larger(size, expected):
    assert opened(Storage(size), smooth()).size == expected


def test_a_smaller_one_is_pillows():
    picture = Image.fromarray(smooth().permute(1, 2, 0).numpy()).resize((32, 24), Image.Resampling.BICUBIC)
    assert (np.asarray(opened(Storage(24), smooth())) == np.asarray(picture)).all()


@pytest.mark.parametrize("name", ["jpeg", "webp"])
def test_formats_that_lose_a_little_by_their_quality(name):
    fine, coarse = Storage(None, name, 95), Storage(None, name, 20)
    assert opened(fine, smooth()).format == name.upper()
    assert len(coarse.encode(smooth())) < len(fine.encode(smooth()))
    assert np.abs(np.asarray(opened(fine, smooth())) - smooth().permute(1, 2, 0).numpy().astype(int)).mean() < 3
    assert fine.encode(smooth()) == fine.encode(smooth())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"store_format": "gif"}, "store_format should be one of png, jpeg, webp, got 'gif'"),
        ({"store_size": -1}, r"store_size should be a whole number within 1\.\.65536, got -1"),
        ({"store_quality": 101}, r"store_quality should be a whole number within 1\.\.100, got 101"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_planned(changes, said):
    with pytest.raises(ValueError, match=said):
        check_settings(SynthesisConfig(guidance_scale=3.0, num_inference_steps=4, **changes))


@pytest.mark.parametrize("each", [2_000, 20_000, 200_000])
def test_reading_an_image_of_a_shard_reads_about_that_image(each, tmp_path):
    """By the sizes that the file itself states."""
    import pyarrow.parquet as pq

    draws = np.random.default_rng(0)
    images = [draws.bytes(each) for _ in range(60)]
    write_packed(pd.DataFrame({"request_id": range(60), "image": images}), tmp_path / "shard.parquet", {})
    directory = pq.read_metadata(tmp_path / "shard.parquet")
    most = max(
        directory.row_group(number).column(column).total_compressed_size
        for number in range(directory.num_row_groups)
        for column in range(directory.num_columns)
    )
    assert most < max(ROW_GROUP_BYTES, each) + 1_000
    assert [read_packed(location(tmp_path / "shard.parquet", row)) for row in (0, 31, 59)] == [
        images[row] for row in (0, 31, 59)
    ]


@pytest.mark.parametrize(
    ("wanted", "classifier", "generator", "stored"),
    [
        (None, 224, 768, 256),  # what a crop of 224 is cut from
        (None, 32, 32, None),
        (None, None, 768, None),
        (0, 224, 768, None),
        (512, 224, 768, 512),
        (900, 224, 768, None),  # never larger
    ],
)
def test_by_default_it_is_what_the_classifier_trains_on(wanted, classifier, generator, stored):
    assert stored_size(wanted, classifier, generator) == stored


def test_a_plan_says_what_is_stored_and_its_shards_hold_it(pipe, tmp_path):
    config = SynthesisConfig(
        num_inference_steps=2,
        guidance_scale=2.0,
        feedback=FeedbackConfig(scale=0.0),
        store_size=12,
        store_format="jpeg",
    )
    plan = tailsmith.plan(DATASET, 6, config=config)
    made = tailsmith.synthesize(plan, DATASET, tmp_path, pipe=pipe)
    assert plan.meta["synthesis"]["store_size"] == 12
    assert made.image(0).size == (12, 12) and made.encoded(0).startswith(b"\xff\xd8")
    assert Storage.of({"store_size": 0}) == Storage()
