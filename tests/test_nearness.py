"""How near synthetic images lie to real ones: statistics, probe, neighbours, and the command that prints them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from tailsmith.cli.main import main
from tailsmith.data.dataset import Dataset
from tailsmith.guidance.config import FeedbackConfig
from tailsmith.metrics.nearness import neighbours, probe, simple_statistics
from tailsmith.studies.nearness import nearness
from tailsmith.synthesis.config import SynthesisConfig
from tailsmith.synthesis.fulfilment import synthesize
from tailsmith.synthesis.planning import plan
from tiny import TinyClassifier, tiny_dataset, tiny_pipeline

RNG = np.random.default_rng(0)


def images(n: int, size: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 3, size, size), dtype=np.uint8)


def test_simple_statistics_are_those_of_a_slow_loop():
    pixels = images(3)
    found = simple_statistics(pixels)
    for row, image in enumerate(pixels / 255):
        grey = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
        saturation = image.max(0) - image.min(0)
        expected = [*(c.mean() for c in image), *(c.std() for c in image), saturation.mean(), saturation.std()]
        expected += [np.quantile(grey, q) for q in (0.05, 0.25, 0.5, 0.75, 0.95)]
        expected += [((grey - grey.mean()) ** 3).mean() / grey.std() ** 3, (grey < 0.02).mean(), (grey > 0.98).mean()]
        rough = []
        for size in (16, 8, 4):
            small = np.array([[grey[16 // size * y :, 16 // size * x :][: 16 // size, : 16 // size].mean()
                               for x in range(size)] for y in range(size)])  # fmt: skip
            steps = np.mean([abs(small[y + 1, x] - small[y, x]) for y in range(size - 1) for x in range(size)])
            steps += np.mean([abs(small[y, x + 1] - small[y, x]) for y in range(size) for x in range(size - 1)])
            inner = [(y, x) for y in range(1, size - 1) for x in range(1, size - 1)]
            around = [(small[y - 1, x] + small[y + 1, x] + small[y, x - 1] + small[y, x + 1]) / 4 for y, x in inner]
            rough += [steps, np.mean([abs(small[p] - a) for p, a in zip(inner, around, strict=True)])]
        ratios = [np.log((rough[0] + 1e-3) / (rough[2] + 1e-3)), np.log((rough[1] + 1e-3) / (rough[3] + 1e-3))]
        assert found[row] == pytest.approx([*expected, *rough, *ratios], abs=1e-9)


def test_one_colour_and_a_few_pixels_have_finite_statistics():
    assert np.isfinite(simple_statistics(np.full((2, 3, 8, 8), 7, dtype=np.uint8))).all()
    assert np.isfinite(simple_statistics(images(2, size=2))).all()
    assert simple_statistics(np.empty((0, 3, 8, 8), dtype=np.uint8)).shape == (0, 24)
    with pytest.raises(ValueError, match=r"images uint8 \[N, 3, H, W\], got float64 \[2, 3, 8, 8\]"):
        simple_statistics(np.zeros((2, 3, 8, 8)))  # type: ignore[arg-type]


def test_a_probe_of_what_is_alike_guesses_and_of_what_differs_knows():
    real, same = RNG.normal(size=(400, 5)), RNG.normal(size=(400, 5))
    assert probe(real, same).accuracy == pytest.approx(0.5, abs=0.07)
    far = same + np.array([3, 0, 0, 0, 0])
    found = probe(real, far)
    assert found.accuracy == pytest.approx(0.933, abs=0.03)  # the normal distribution function of 1.5
    nearest = KNeighborsClassifier(15).fit(np.concatenate([real, far]), np.repeat([1, 0], 400))
    assert np.corrcoef(found.real_looking, nearest.predict_proba(far)[:, 1])[0, 1] > 0.7


def test_a_probe_weighs_both_kinds_alike_and_needs_a_fold_of_each():
    assert probe(RNG.normal(size=(900, 3)), RNG.normal(size=(50, 3))).accuracy == pytest.approx(0.5, abs=0.15)
    few = probe(RNG.normal(size=(50, 3)), RNG.normal(size=(4, 3)))
    assert np.isnan(few.accuracy) and np.isnan(few.real_looking).all() and len(few.real_looking) == 4
    with pytest.raises(ValueError, match=r"equal D, got \[5, 3\] and \[5, 2\]"):
        probe(np.zeros((5, 3)), np.zeros((5, 2)))


def test_neighbours_are_those_of_a_slow_loop():
    real, made = RNG.normal(size=(40, 3)), RNG.normal(size=(7, 3))
    found = neighbours(real, made)
    distances = np.array([[np.linalg.norm(r - m) for r in real] for m in made])
    assert found.rows.tolist() == distances.argmin(1).tolist()
    assert found.distances == pytest.approx(distances.min(1))
    own = [min(np.linalg.norm(a - b) for j, b in enumerate(real) if j != i) for i, a in enumerate(real)]
    assert found.copied_below == pytest.approx(np.quantile(own, 0.01))
    assert found.real_median == pytest.approx(np.median(own))
    assert neighbours(real, real + 1e-9).copies == 1
    assert np.isnan(neighbours(real, np.empty((0, 3))).copies)
    with pytest.raises(ValueError, match="at least two real images"):
        neighbours(real[:1], made)


# ---- a synthetic set against a dataset


DATA = tiny_dataset(((30, 0), (8, 2), (3, 1)))


def as_synthetic(dataset: Dataset) -> Dataset:
    ids = [f"s-{each}" for each in dataset.table["image_id"]]
    table = dataset.table.assign(source="synthetic", split="train", image_id=ids)
    return Dataset(table, dataset.class_names, dataset.attribute_names)


def test_copies_of_the_training_images_are_found_with_what_they_copy():
    training = DATA.split("train")
    found = nearness(as_synthetic(training.select(training.labels == 0)), DATA)
    assert found.overall["copies"] == 1
    assert found.overall["nearest_distance"] == pytest.approx(0, abs=1e-5)
    for made, known in found.nearest:
        assert training.select(training.labels == 0).encoded(made) == DATA.encoded(known)
    assert found.overall["real_images"] == 31  # of its class; with validation, without test
    assert found.overall["compared"] == 30
    assert set(found.classes) == {"sandal"}
    assert np.isnan(found.overall["judge_agreement"])


def test_with_a_judge_agreement_is_said_and_distances_are_of_its_features():
    judge, made = TinyClassifier().eval(), as_synthetic(DATA.split("train"))
    found = nearness(made, DATA, judge)
    seen = judge(
        torch.stack([torch.from_numpy(np.array(made.image(r))).permute(2, 0, 1) / 255 for r in range(len(made))])
    )
    right = seen[0].argmax(1).numpy() == made.labels
    assert found.overall["judge_agreement"] == pytest.approx(right.mean())
    assert found.classes["bag"]["judge_agreement"] == pytest.approx(right[made.labels == 2].mean())
    assert found.overall["features"] == "the judge's"


def test_one_image_of_a_class_is_no_reason_to_fail():
    made = as_synthetic(DATA.split("train").select([0]))
    found = nearness(made, DATA)
    assert np.isnan(found.overall["probe_accuracy"]) and found.classes["sandal"]["coverage"] >= 0
    assert len(found.real_looking) == 1


UNGUIDED = SynthesisConfig(feedback=FeedbackConfig(scale=0.0), num_inference_steps=2)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rendered")
    pipe = tiny_pipeline()
    pipe.save_pretrained(folder / "generator")
    made = plan(DATA, 12, config=UNGUIDED, generator=str(folder / "generator"))
    synthesize(made, DATA, folder / "set")
    return folder / "set"


def test_the_command_prints_and_draws(rendered, tmp_path, capsys, monkeypatch):
    from tailsmith.data.sources import named

    monkeypatch.setattr(named, "load", lambda *_, **__: DATA)
    picture = tmp_path / "pictures.png"
    assert main(["inspect-samples", str(rendered), "--data", "tiny", "--pictures", str(picture)]) == 0
    said = capsys.readouterr().out
    assert "a probe tells them from real images by simple statistics, %" in said
    assert "thumbnails of 16 x 16 pixels" in said
    with Image.open(picture) as drawn:
        assert drawn.width > 1000
    assert main(["inspect-samples", str(rendered), "--data", "tiny", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {"probe_accuracy", "copies", "density", "coverage", "classes"} <= printed.keys()


def test_the_command_refuses_what_it_can_not_judge(rendered, tmp_path, capsys):
    assert main(["inspect-samples", str(rendered), "--data", "fashion-lt"]) == 2
    assert "the classes of the images in" in capsys.readouterr().err
    assert main(["inspect-samples", str(tmp_path / "none"), "--data", "fashion-lt"]) == 2
    assert str(tmp_path / "none") in capsys.readouterr().err
