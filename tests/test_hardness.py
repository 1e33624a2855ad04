"""Class Gaussians of real images: fitted once, kept with what they are of, and read again."""

import logging

import numpy as np
import pytest
import torch
from safetensors import safe_open

import tailsmith
from rendering import DATASET
from tailsmith.classification.classifier import wrap_classifier
from tailsmith.data.dataset import Dataset
from tailsmith.guidance.class_gaussians import fit_class_gaussians
from tailsmith.guidance.config import FeedbackConfig
from tailsmith.synthesis import hardness
from tailsmith.synthesis.config import SynthesisConfig
from tailsmith.synthesis.hardness import FILE, class_gaussians
from tailsmith.synthesis.prediction import predict
from tiny import CLASSES, TinyClassifier, tiny_pipeline


class Logits(torch.nn.Module):
    def __init__(self, seed):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.body, self.fc = torch.nn.Linear(3 * 16 * 16, 6), torch.nn.Linear(6, 3)

    def forward(self, images):
        return self.fc(torch.tanh(self.body(images.flatten(1))))


def small_classifier(seed=0):
    plain = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    return wrap_classifier(Logits(seed), class_names=CLASSES, image_size=16, **plain).eval()


def assert_same(one, other):
    for name in vars(one):
        torch.testing.assert_close(vars(one)[name], vars(other)[name], rtol=1e-4, atol=1e-5)


@pytest.fixture
def fits(monkeypatch):
    """How often features were asked for, class by class."""
    asked = []
    real = hardness.fit_class_by_class
    monkeypatch.setattr(hardness, "fit_class_by_class", lambda *given: (asked.append(1), real(*given))[1])
    return asked


def test_they_are_those_of_all_features_at_once():
    training, classifier = DATASET.split("train"), small_classifier()
    features = predict(classifier, training).features
    expected = fit_class_gaussians(features.numpy(), training.labels, len(CLASSES))
    found = class_gaussians(DATASET, classifier)
    torch.testing.assert_close(found.means, expected.means)
    for label in range(len(CLASSES)):
        torch.testing.assert_close(
            found.mahalanobis(label, features), expected.mahalanobis(label, features), rtol=1e-3, atol=1e-3
        )


def test_they_are_fitted_once(tmp_path, fits):
    first = class_gaussians(DATASET, small_classifier(), tmp_path / FILE)
    again = class_gaussians(DATASET, small_classifier(), tmp_path / FILE)
    assert len(fits) == 1
    for name in vars(first):
        assert torch.equal(vars(first)[name], vars(again)[name])
    class_gaussians(DATASET, TinyClassifier().eval(), tmp_path / "other")  # which has no hash
    assert not (tmp_path / "other").exists()


def changed(what):
    table = DATASET.table.copy()
    rows = np.flatnonzero(table["split"] == "train")
    if what == "image":
        table.loc[rows[0], "bytes"] = table["bytes"][rows[1]]
    elif what == "label":
        table.loc[rows[0], "label"] = 1
    elif what == "one less":
        table = table.drop(index=rows[0]).reset_index(drop=True)
    return Dataset(table, DATASET.class_names, DATASET.attribute_names, DATASET.name)


@pytest.mark.parametrize("what", ["image", "label", "one less", "classifier", "half a file", "none of ours"])
def test_what_is_kept_of_something_else_is_made_again(what, tmp_path, fits, caplog):
    path = tmp_path / FILE
    kept = class_gaussians(DATASET, small_classifier(), path)
    if what == "half a file":
        path.write_bytes(path.read_bytes()[:200])
    if what == "none of ours":
        path.write_bytes(b"[]")
    dataset, classifier = changed(what), small_classifier(seed=int(what == "classifier"))
    with caplog.at_level(logging.WARNING, "tailsmith"):
        found = class_gaussians(dataset, classifier, path)
    assert len(fits) == 2
    assert ("is damaged" in caplog.text) == (what in ("half a file", "none of ours"))
    assert_same(found, class_gaussians(dataset, classifier))
    same = what in ("half a file", "none of ours")
    assert torch.equal(found.means, kept.means) == same
    class_gaussians(dataset, classifier, path)
    assert len(fits) == 3  # and that of the line above, which was to be kept nowhere


def test_other_splits_and_places_are_the_same_training_images(tmp_path, fits):
    class_gaussians(DATASET, small_classifier(), tmp_path / FILE)
    moved = Dataset(
        DATASET.table.assign(image_id=[f"moved/{each}" for each in DATASET.table["image_id"]]),
        DATASET.class_names,
        DATASET.attribute_names,
        "moved",
    )
    class_gaussians(moved.select(np.flatnonzero(moved.table["split"] == "train")), small_classifier(), tmp_path / FILE)
    assert len(fits) == 1


def test_synthesis_keeps_them_beside_its_shards_or_reads_those_of_a_folder_above(tmp_path, fits):
    classifier = small_classifier()
    config = SynthesisConfig(
        num_inference_steps=2, shard_size=2, feedback=FeedbackConfig(criterion="hardness", every=1)
    )
    plan, pipe = tailsmith.plan(DATASET, 6, config=config, classifier=classifier), tiny_pipeline()
    options = {"classifier": classifier, "pipe": pipe}
    tailsmith.synthesize(plan, DATASET, tmp_path / "a", shards=[0], **options)
    tailsmith.synthesize(plan, DATASET, tmp_path / "a", **options)
    assert len(fits) == 1
    with safe_open(tmp_path / "a" / FILE, "pt") as file:
        assert file.metadata()["classifier_sha256"] == classifier.sha256()
    class_gaussians(DATASET, classifier, tmp_path / "run" / FILE)
    for folder in ("b", "c"):
        tailsmith.synthesize(plan, DATASET, tmp_path / "run" / "synthetic" / folder, shards=[0], **options)
        assert not (tmp_path / "run" / "synthetic" / folder / FILE).exists()
    assert len(fits) == 2
