"""Classifiers: the contract at any image size, gradients, save and load, and modules of other libraries."""

import copy
import json
import math

import numpy as np
import pytest
import timm
import torch
import torchvision.transforms.v2
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import nn

from tailsmith.classification.backbones import SmallResNet, create_backbone
from tailsmith.classification.classifier import Classifier, load_classifier, resize_and_crop, wrap_classifier
from tailsmith.data import images as data_images

NAMES = ("sandal", "coat", "bag")
PIXELS = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3)}


def small(seed: int = 0, backbone: str = "resnet-small") -> Classifier:
    torch.manual_seed(seed)
    made = create_backbone(backbone, len(NAMES))
    return Classifier(
        made.module,
        class_names=NAMES,
        image_size=made.image_size,
        mean=made.mean,
        std=made.std,
        backbone_name=backbone,
    ).eval()


def images(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 32), (64, 97), (17, 20), (1, 1)])
def test_images_of_any_size_give_logits_features_and_gradients(height, width):
    batch = images(2, 3, height, width).requires_grad_()
    logits, features = small()(batch)
    logits[:, 0].sum().backward()
    assert (logits.shape, features.shape) == ((2, 3), (2, 128))
    assert batch.grad.abs().sum() > 0
    assert torch.isfinite(batch.grad).all()


def test_preprocessing_of_a_fitting_image_is_normalisation_alone():
    batch = images(2, 3, 32, 32)
    expected = torch.stack([(batch[:, c] - 0.5) / 0.25 for c in range(3)], dim=1)
    assert torch.equal(small().preprocess(batch), expected)


@pytest.mark.parametrize(("height", "width"), [(96, 64), (427, 640), (640, 427), (33, 50), (20, 31)])
def test_resizing_equals_torchvision(height, width):
    batch = images(2, 3, height, width)
    resized = torchvision.transforms.v2.functional.resize(batch, [32], antialias=True)
    top, left = (resized.shape[-2] - 32) // 2, (resized.shape[-1] - 32) // 2
    expected = resized[..., top : top + 32, left : left + 32]
    torch.testing.assert_close(resize_and_crop(batch, 32), expected)


@pytest.mark.parametrize("name", ["china.jpg", "flower.jpg"])
@pytest.mark.parametrize("size", [16, 32, 96, 224, 427, 512])
@pytest.mark.parametrize("turned", [False, True])
def test_feedback_sees_what_training_and_evaluation_see(name, size, turned):
    """At most a grey level (Pillow rounds after either direction) between the two views of a photograph."""
    photograph = load_sample_image(name)
    pixels = (photograph[:, 30:-1].swapaxes(0, 1) if turned else photograph).copy()
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    guide = resize_and_crop(tensor, size)[0].permute(1, 2, 0).numpy() * 255
    training = np.asarray(data_images.resize_and_crop(Image.fromarray(pixels), size), dtype=float)
    assert guide.shape == training.shape == (size, size, 3)
    assert np.abs(guide - training).max() < 1.1
    assert np.abs(guide - training).mean() < 0.3


def test_half_precision_images_are_computed_in_the_precision_of_the_classifier():
    classifier, batch = small(), images(2, 3, 48, 48)
    logits, _ = classifier(batch.half())
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, classifier(batch)[0], atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), r"divide uint8 by 255\), got torch.uint8 "),
        (
            torch.zeros(3, 32, 32),
            r"float images \[N, 3, H, W\] in \[0, 1\] .*, got torch.float32 \[3, 32, 32\]",
        ),
        (torch.zeros(2, 1, 32, 32), r"got torch.float32 \[2, 1, 32, 32\]"),
    ],
)
def test_other_images_are_refused(batch, message):
    with pytest.raises(ValueError, match=message):
        small()(batch)


@pytest.mark.parametrize("backbone", ["resnet-small", "test_efficientnet"])
def test_saved_and_loaded_classifiers_are_bitwise_the_same(tmp_path, backbone):
    classifier = small(backbone=backbone)
    classifier.save(tmp_path / "deep" / "folder")
    state = torch.random.get_rng_state()
    loaded = load_classifier(tmp_path / "deep" / "folder")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not loaded.training
    assert (loaded.class_names, loaded.image_size) == (NAMES, classifier.image_size)
    assert loaded.sha256() == classifier.sha256()
    batch = images(2, 3, 50, 40)
    assert all(torch.equal(one, other) for one, other in zip(loaded(batch), classifier(batch), strict=True))


def test_the_hash_sees_weights_and_config_but_not_memory_layout():
    classifier = small()
    other_weight, other_name = copy.deepcopy(classifier), copy.deepcopy(classifier)
    with torch.no_grad():
        other_weight.module.head.bias[0] += 1e-6
    other_name.class_names = ("sandal", "coat", "hat")
    plain = copy.deepcopy(classifier).to(memory_format=torch.contiguous_format)
    assert plain.sha256() == classifier.sha256()
    assert len({classifier.sha256(), other_weight.sha256(), other_name.sha256(), small(1).sha256()}) == 4


def test_loading_what_is_not_a_classifier_names_the_reason(tmp_path):
    with pytest.raises(ValueError, match=r"no classifier folder .*nowhere"):
        load_classifier(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"not a classifier folder: config.json and model.safetensors missing"):
        load_classifier(tmp_path)
    small().save(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:1000])
    with pytest.raises(ValueError, match=r"model.safetensors is damaged"):
        load_classifier(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(whole)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"class_names": ["one", "two"]}))
    with pytest.raises(ValueError, match=r"damaged or of another model"):
        load_classifier(tmp_path)
    (tmp_path / "config.json").write_text('{"backbone": "resnet-small"}')
    with pytest.raises(ValueError, match=r"not of a tailsmith classifier: expected backbone, class_names"):
        load_classifier(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json is not JSON"):
        load_classifier(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("backbone", None, "backbone should be a name, got None"),
        ("backbone", "resnet51", r"config\.json: unknown backbone 'resnet51'"),
        ("image_size", "16", r"image_size should be a number of pixels in 1\.\.4096, got '16'"),
        ("image_size", 10**9, r"pixels in 1\.\.4096, got 1000000000"),
        ("image_size", True, r"pixels in 1\.\.4096, got True"),
        ("class_names", 5, "class_names should be one name per class, got 5"),
        ("class_names", "abc", "class_names should be one name per class, got 'abc'"),
        ("class_names", ["a", None, "b"], "class_names should be one name per class, got"),
        ("class_names", [], "each once, got none"),
        ("std", ["a", "b", "c"], r"std should be three finite numbers, one per colour, got \['a', 'b', 'c'\]"),
        ("std", [1, 1, -1], r"std should be above 0, got \[1\.0, 1\.0, -1\.0\]"),
        ("mean", None, "mean should be three finite numbers, one per colour, got None"),
        ("mean", [0, 0], "mean should be three finite numbers"),
        ("mean", [0, 0, math.nan], "mean should be three finite numbers"),
    ],
)
def test_a_damaged_configuration_is_one_line_that_names_file_and_key(tmp_path, key, value, message):
    small().save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(ValueError, match=message) as raised:
        load_classifier(tmp_path)
    assert "\n" not in str(raised.value)
    assert str(tmp_path / "config.json") in str(raised.value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_refused(tmp_path, value):
    classifier = small()
    with torch.no_grad():
        classifier.module.head.weight[1, 2] = value
    classifier.save(tmp_path)
    expected = r"model\.safetensors has NaN or infinite weights in 1 of \d+ tensors, the first is head\.weight"
    with pytest.raises(ValueError, match=expected):
        load_classifier(tmp_path)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_timm_backbones_give_timms_logits_and_what_its_last_layer_sees(name):
    backbone = create_backbone(name, 5)
    module, batch = backbone.module.eval(), images(2, 3, backbone.image_size, backbone.image_size)
    logits, features = module(batch)
    torch.testing.assert_close(logits, module.model(batch))
    torch.testing.assert_close(module.model.get_classifier()(features), logits)


def test_backbones_that_do_not_exist_or_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"unknown backbone 'resnet_small'.*close: resnet-small"):
        create_backbone("resnet_small", 3)
    with pytest.raises(ValueError, match="resnet-small has no pretrained weights"):
        create_backbone("resnet-small", 3, pretrained=True)
    with pytest.raises(ValueError, match="at least one class"):
        create_backbone("resnet-small", 0)
    with pytest.raises(ValueError, match="test_vit takes images of size 160 only, got image_size=32"):
        create_backbone("test_vit", 3, image_size=32)


def test_the_small_resnet_is_small():
    assert 0.3e6 < sum(parameter.numel() for parameter in SmallResNet(10).parameters()) < 0.6e6
    assert create_backbone("resnet-small", 10, image_size=64).image_size == 64


def test_a_torchvision_resnet_is_wrapped_with_the_features_before_its_last_layer():
    module = torchvision.models.resnet18(num_classes=3)
    classifier = wrap_classifier(module, class_names=NAMES, image_size=64, **PIXELS)
    assert module.training
    logits, features = classifier.eval()(images(2, 3, 80, 64))
    assert features.shape == (2, 512)
    torch.testing.assert_close(module.fc(features), logits)
    torch.testing.assert_close(module(classifier.preprocess(images(2, 3, 80, 64))), logits)
    copied, _ = copy.deepcopy(classifier)(images(2, 3, 80, 64))
    assert torch.equal(copied, logits)
    assert not module.fc._forward_pre_hooks


def test_a_timm_model_is_wrapped_with_its_pooled_features():
    module = timm.create_model("test_resnet", num_classes=3).eval()
    classifier = wrap_classifier(module, class_names=NAMES, image_size=64, **PIXELS)
    logits, features = classifier(images(2, 3, 64, 64))
    torch.testing.assert_close(module.get_classifier()(features), logits)


def test_features_can_be_named():
    module = nn.Sequential(nn.Flatten(), nn.Linear(48, 7), nn.ReLU(), nn.Linear(7, 3))
    named = wrap_classifier(module, class_names=NAMES, image_size=4, features="1", **PIXELS)
    found = wrap_classifier(module, class_names=NAMES, image_size=4, **PIXELS)
    batch = images(2, 3, 4, 4)
    assert torch.equal(named(batch)[1], named.preprocess(batch).flatten(1))
    assert found(batch)[1].shape == (2, 7)


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (nn.Conv2d(3, 3, 4), {}, "Conv2d has no linear layer with 3 outputs, one per class"),
        (nn.Sequential(nn.Flatten(), nn.Linear(48, 9)), {}, "no linear layer with 3 outputs"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(48, 3)),
            {"features": "fc"},
            "no layer 'fc'; its last layers are 0, 1",
        ),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(48, 9)),
            {"features": "1"},
            r"expected logits \[1, 3\] for one image and 3 class_names, got \[1, 9\]",
        ),
        (nn.Sequential(nn.Flatten(), nn.Linear(48, 3)), {"class_names": ()}, "got none"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(48, 3)),
            {"class_names": ("a", "a", "b")},
            "each once, got a more than once",
        ),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(48, 3)),
            {"std": (1, 0, 1)},
            r"std should be above 0, got \[1\.0, 0\.0, 1\.0\]",
        ),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(48, 3)),
            {"image_size": 0},
            r"number of pixels in 1\.\.4096, got 0",
        ),
    ],
)
def test_modules_that_do_not_fit_are_refused(module, options, message):
    with pytest.raises(ValueError, match=message):
        wrap_classifier(module, **({"class_names": NAMES, "image_size": 4} | PIXELS | options))


def test_a_wrapped_classifier_is_saved_but_loading_asks_for_the_module(tmp_path):
    module = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    wrap_classifier(module, class_names=NAMES, image_size=4, **PIXELS).save(tmp_path)
    with pytest.raises(ValueError, match="saved from a module of your own: rebuild it"):
        load_classifier(tmp_path)
