"""Images that show nothing: found, made again with a seed that the request determines, counted, flagged, left out."""

import logging

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageDraw

import tailsmith
from rendering import DATASET, largest_difference, render, tiny_plan
from tailsmith.data.images import Images
from tailsmith.synthesis.black_images import RETRIES, is_black, retry_seed
from tailsmith.synthesis.worker import Worker

SIDE = 64


def noise(seed=0):
    return torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def flat(*colour):
    return torch.tensor(colour, dtype=torch.float32).view(3, 1, 1).expand(3, SIDE, SIDE).clone()


def with_pixel(image, value):
    image[:, 3, 5] = value
    return image


def drawn(background, shape, colour):
    """A shape without soft edges, as PIL draws it."""
    canvas = Image.new("RGB", (SIDE, SIDE), background)
    ImageDraw.Draw(canvas).ellipse(shape, fill=colour)
    return torch.from_numpy(np.asarray(canvas).copy()).permute(2, 0, 1) / 255


NOTHING = {
    "black": flat(0, 0, 0),
    "white": flat(1, 1, 1),
    "one colour": flat(0.2, 0.5, 0.7),
    "beyond white": flat(3, 3, 3),
    "black but for one hot pixel": with_pixel(flat(0, 0, 0), 0.5),
    "grey with rounding noise": flat(0.5, 0.5, 0.5) + (noise() - 0.5) / 255,
    "one NaN": with_pixel(noise(), float("nan")),
    "all NaN": noise() * float("nan"),
    "infinite": with_pixel(noise(), float("inf")),
    "blotches of pure colours": (noise() > 0.5).float(),
}
SOMETHING = {
    "noise": noise(),
    "a small product on white": drawn("white", (30, 30, 34, 33), "black"),
    "a coloured product on white": drawn("white", (10, 10, 50, 50), (200, 30, 40)),
    "a black silhouette": drawn("white", (10, 10, 50, 50), "black"),
    "a chessboard": (torch.arange(SIDE)[None] // 8 + torch.arange(SIDE)[:, None] // 8).remainder(2).expand(3, -1, -1),
    "a night sky": (noise()[:1] > 0.998).float().expand(3, -1, -1),
    "fog": 0.8 + 0.05 * torch.linspace(0, 1, SIDE).expand(3, SIDE, SIDE),
    "a dark room": 0.03 * noise(),
}


@pytest.mark.parametrize("name", NOTHING)
def test_shows_nothing(name):
    assert is_black(torch.stack([noise(1), NOTHING[name].float()])).tolist() == [False, True]


@pytest.mark.parametrize("name", SOMETHING)
def test_shows_something(name):
    assert not is_black(SOMETHING[name].float()[None]).any()


def test_no_real_image_is_taken_for_nothing():
    real = Images(tailsmith.load("fashion-lt").split("train"), 32)[np.arange(0, 1242, 4)]
    assert not is_black(real.float() / 255).any()


def test_seeds_of_retries_are_fixed_and_differ():
    assert retry_seed(123, 1) == 5308472710703660647  # a request means the same image in any version
    seeds = {retry_seed(seed, attempt) for seed in (0, 1, 2**63 - 1) for attempt in (1, 2, 3)}
    assert len(seeds) == 9
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.fixture
def blacken(pipe, monkeypatch):
    """Call it with noise seeds: images of these come out black."""
    bad: set[int] = set()
    current: list[int] = []
    prepare, decode = type(pipe).prepare_latents, type(pipe.vae).decode

    def remembering(self, *arguments, generator=None, **options):
        given = generator if generator is not None else next(each for each in arguments if isinstance(each, list))
        current[:] = [each.initial_seed() for each in given]
        if generator is not None:
            options["generator"] = generator
        return prepare(self, *arguments, **options)

    def decoding(self, latents, *arguments, **options):
        (images,) = decode(self, latents, return_dict=False)
        return (torch.where(torch.tensor([seed in bad for seed in current])[:, None, None, None], -1.0, images),)

    monkeypatch.setattr(type(pipe), "prepare_latents", remembering)
    monkeypatch.setattr(type(pipe.vae), "decode", decoding)
    return bad.update


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_a_black_image_is_made_again_and_the_others_are_left_alone(batch_size, pipe, blacken):
    plan = tiny_plan(feedback_scale=0.0)
    expected = render(Worker(pipe, DATASET, None), plan)
    seeds = plan.table["noise_seed"].tolist()
    blacken([seeds[2], seeds[7], retry_seed(seeds[7], 1)])
    results = render(Worker(pipe, DATASET, None, batch_size=batch_size), plan)
    assert results["retries"].tolist() == [0, 0, 1, 0, 0, 0, 0, 2, 0, 0]
    assert not results["black"].any()
    assert results["noise_seed"].tolist() == seeds  # the request as it was planned
    again = plan.table.assign(
        noise_seed=[*seeds[:2], retry_seed(seeds[2], 1), *seeds[3:7], retry_seed(seeds[7], 2), *seeds[8:]]
    )
    assert largest_difference(results, render(Worker(pipe, DATASET, None), plan, again)) <= 1
    others = expected["retries"].index.difference([2, 7])
    assert largest_difference(results.loc[others], expected.loc[others]) <= 1


def test_an_image_that_stays_black_is_kept_flagged_told_and_not_trained_on(pipe, blacken, caplog, tmp_path):
    plan = tiny_plan(feedback_scale=0.0)
    seed = plan.table["noise_seed"].iloc[4]
    blacken([seed, *(retry_seed(seed, attempt) for attempt in range(1, RETRIES + 1))])
    with caplog.at_level(logging.WARNING, "tailsmith"):
        synthetic = tailsmith.synthesize(plan, DATASET, tmp_path, pipe=pipe)
    lost = plan.table["request_id"].iloc[4]
    assert f"1 of 4 images show nothing after 3 retries, and are flagged (column black): {lost}" in caplog.text
    assert "1 of 10 synthetic images show nothing and are left out" in caplog.text
    results = pd.concat([pd.read_parquet(path) for path in sorted(tmp_path.glob("shard-*"))], ignore_index=True)
    assert results["black"].tolist() == [row == 4 for row in range(10)]
    assert results["retries"].tolist() == [3 * (row == 4) for row in range(10)]
    assert len(synthetic) == 9
    assert f"synthetic-{lost}" not in set(synthetic.table["image_id"])
    kept = [row for row in range(10) if row != 4]
    assert synthetic.labels.tolist() == plan.table["label"].iloc[kept].tolist()
    assert [synthetic.encoded(row) for row in range(9)] == results["image"].iloc[kept].tolist()
