"""Features of sets of images, by name: our classifiers, timm models, Inception and DINOv2, all from files on disk."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torchvision.models.inception import Inception3

from tailsmith.classification.backbones import create_backbone
from tailsmith.classification.classifier import Classifier, resize_and_crop
from tailsmith.data.dataset import Dataset
from tailsmith.studies.features import OtherPooling, feature_extractor
from tailsmith.studies.nearness import nearness
from tailsmith.synthesis.prediction import predict
from tiny import CLASSES, tiny_dataset

DATA = tiny_dataset()


def pixels(dataset: Dataset, size: int) -> torch.Tensor:
    """[N, 3, size, size] in [0, 1], resized by torch: to a grey level what an extractor is given."""
    images = np.stack([np.asarray(dataset.image(row)) for row in range(len(dataset))])
    return resize_and_crop(torch.tensor(images).permute(0, 3, 1, 2).float() / 255, size)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def resnet(folder: Path) -> Path:
    """What the hub holds: a file with 1000 classes."""
    save_file(timm.create_model("test_resnet").state_dict(), folder / "resnet.safetensors")
    return folder / "resnet.safetensors"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))


# ---- a classifier of ours, timm


def test_a_classifiers_features_are_those_it_predicts_with(tmp_path):
    backbone = create_backbone("resnet-small", len(CLASSES))
    classifier = Classifier(
        backbone.module,
        class_names=CLASSES,
        image_size=32,
        mean=backbone.mean,
        std=backbone.std,
        backbone_name="resnet-small",
    )
    classifier.save(tmp_path / "arm" / "classifier")
    for given in (tmp_path / "arm", tmp_path / "arm" / "classifier", str(tmp_path / "arm")):
        found = feature_extractor(given)(DATA)
        assert found.shape == (len(DATA), 128) and found.dtype == np.float64
        np.testing.assert_array_equal(found, predict(classifier, DATA).features.double().numpy())


def test_a_timm_models_features_are_those_of_timm_from_the_file(resnet, folder):
    model = timm.create_model("test_resnet", num_classes=0).eval()
    timm.models.load_checkpoint(model, str(resnet), strict=False)
    settings = timm.data.resolve_model_data_config(model)
    mean, std = (torch.tensor(settings[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        expected = model((pixels(DATA, settings["input_size"][-1]) - mean) / std).numpy()
    state = torch.random.get_rng_state()
    extractor = feature_extractor(f"timm:test_resnet@{resnet}")
    assert torch.equal(torch.random.get_rng_state(), state)
    found = extractor(DATA)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=0.01 * expected.std())
    # the same weights as torch saves them, inside a checkpoint
    torch.save({"state_dict": timm.models.load_state_dict(str(resnet))}, folder / "resnet.pth")
    np.testing.assert_array_equal(feature_extractor(f"timm:test_resnet@{folder / 'resnet.pth'}")(DATA), found)


@pytest.mark.parametrize("name", ["test_convnext", "test_vit"])
def test_other_families_of_timm_work_alike(name, tmp_path):
    model = timm.create_model(name)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    found = feature_extractor(f"timm:{name}@{tmp_path / 'model.safetensors'}")(DATA)
    assert found.shape == (len(DATA), model.num_features) and found.std() > 0


def test_timm_weights_that_do_not_fit_are_refused(resnet, tmp_path, offline):
    whole = timm.models.load_state_dict(str(resnet))
    save_file({name: each for name, each in whole.items() if "layer3" not in name}, tmp_path / "part.safetensors")
    save_file({f"student.{name}": each for name, each in whole.items()}, tmp_path / "renamed.safetensors")
    (tmp_path / "broken.safetensors").write_text("weights")
    for name, message in (
        (
            f"timm:test_resnet@{tmp_path / 'part.safetensors'}",
            r"part.* lacks 4 of the weights of test_resnet",
        ),
        (
            f"timm:test_resnet@{tmp_path / 'renamed.safetensors'}",
            r"renamed.* lacks \d+ of the weights of test_r",
        ),
        (f"timm:test_resnet@{tmp_path / 'broken.safetensors'}", "no pretrained weights for test_resnet from .*broken"),
        (f"timm:test_convnext@{resnet}", "no pretrained weights for test_convnext .* like timm:test_convnext@FILE"),
        (f"timm:test_resnet@{tmp_path}", "features timm:test_resnet@.* is no file; fetch the weights there"),
        ("timm:resnet50.tv_in1k", "connect to the hub, or fetch .*as features, a file is named like timm:resnet50.tv_"),
        ("timm:resnet5000", "unknown backbone 'resnet5000'"),
    ):
        with pytest.raises(ValueError, match=message):
            feature_extractor(name)


def test_what_is_no_name_of_features_is_refused(tmp_path):
    known = r"expected the folder of a classifier, timm:NAME, timm:NAME@FILE, inception@FILE or dinov2@FILE"
    for name in ("resnet50", str(tmp_path / "absent"), "timm:", "timm:resnet50@", ""):
        with pytest.raises(ValueError, match=known):
            feature_extractor(name)
    with pytest.raises(ValueError, match=r"unknown features 'incepton@a.pth', did you mean inception\?"):
        feature_extractor("incepton@a.pth")
    with pytest.raises(ValueError, match="features 'inception' need a file of weights: inception@FILE"):
        feature_extractor("inception")
    with pytest.raises(ValueError, match=r"dinov2@.*absent.pth: .*absent.pth is no file"):
        feature_extractor(f"dinov2@{tmp_path / 'absent.pth'}")
    with pytest.raises(ValueError, match="not a classifier folder"):
        feature_extractor(tmp_path)


# ---- Inception


def inception(classes: int, aux_logits: bool = False) -> Inception3:
    """Random weights whose activations neither vanish nor explode."""
    torch.manual_seed(0)
    network = Inception3(num_classes=classes, aux_logits=aux_logits, init_weights=False).eval()
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
    return network


def test_inceptions_features_are_what_torchvisions_last_layer_sees(folder):
    network = inception(1000, aux_logits=True)
    network.transform_input = True  # as with torchvision's own weights, on images normalised for ImageNet
    torch.save(network.state_dict(), folder / "inception.pth")
    few = DATA.select([0, 5, 9])
    mean, std = (
        torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1),
        torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1),
    )
    network.fc = torch.nn.Identity()
    with torch.no_grad():
        expected = network((pixels(few, 299) - mean) / std).numpy()
    found = feature_extractor(f"inception@{folder / 'inception.pth'}")(few)
    assert found.shape == (3, 2048) and found.std(axis=0).mean() > 0.1 * found.std()  # images differ
    np.testing.assert_allclose(found, expected, atol=0.02 * expected.std())


def test_weights_ported_from_tensorflow_are_pooled_as_they_were_trained(folder):
    """Known by their 1008 classes."""
    network = inception(1008)
    save_file(network.state_dict(), folder / "ported.safetensors")
    found = feature_extractor(f"inception@{folder / 'ported.safetensors'}").network.module.network
    other = {name for name, block in found.named_modules() if isinstance(block, OtherPooling)}
    assert other == {f"Mixed_{each}" for each in ("5b", "5c", "5d", "6b", "6c", "6d", "6e", "7b", "7c")}
    x = torch.rand(1, 2048, 4, 4)
    with torch.no_grad():
        last, before = found.Mixed_7c(x), network.Mixed_7c(x)
        assert torch.equal(last[:, :-192], before[:, :-192])
        largest = F.unfold(F.pad(x, (1, 1, 1, 1), value=-1), 3).view(1, 2048, 9, 4, 4).amax(2)
        torch.testing.assert_close(last[:, -192:], network.Mixed_7c.branch_pool(largest))
        x = torch.rand(1, 192, 4, 4)
        counts = (
            F.unfold(F.pad(torch.ones(1, 1, 4, 4), (1, 1, 1, 1)), 3).sum(1).view(1, 1, 4, 4)
        )  # 4, 6 or 9 neighbours
        sums = F.unfold(F.pad(x, (1, 1, 1, 1)), 3).view(1, 192, 9, 4, 4).sum(2)
        first = found.Mixed_5b(x)
        torch.testing.assert_close(first[:, -32:], network.Mixed_5b.branch_pool(sums / counts))
        assert torch.equal(first[:, :-32], network.Mixed_5b(x)[:, :-32])


def test_files_that_are_not_of_inception_or_dinov2_are_refused(resnet, folder, tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")  # code, which is never run
    (tmp_path / "text.pth").write_text("weights")
    save_file({"fc.weight": torch.full((1000, 2048), torch.nan)}, tmp_path / "nan.safetensors")
    for kind, path, message in (
        ("inception", resnet, r"resnet.safetensors is not of Inception v3: .*; give torchvision's file"),
        ("dinov2", resnet, r"resnet.safetensors is not of DINOv2: its cls_token should have 384, 768, 1024, 1536"),
        ("inception", tmp_path / "list.pth", r"list.pth holds no state dict of weights; save module.state_dict\(\)"),
        ("inception", tmp_path / "module.pth", r"module.pth holds no weights \(.*weights_only"),
        ("dinov2", tmp_path / "text.pth", r"text.pth holds no weights \(.*\); fetch it again"),
        ("inception", tmp_path / "nan.safetensors", "NaN or infinite weights, the first in fc.weight"),
    ):
        with pytest.raises(ValueError, match=message):
            feature_extractor(f"{kind}@{path}")


# ---- DINOv2


@pytest.mark.parametrize("registers", ["", "_reg4"])
def test_dinov2_is_known_by_its_file_and_looks_at_224_pixels(registers, tmp_path):
    name = f"vit_small_patch14{registers}_dinov2"
    model = timm.create_model(name, num_classes=0, img_size=518)
    torch.nn.init.normal_(model.pos_embed)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    overlay = {"file": str(tmp_path / "model.safetensors")}
    small = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, img_size=224).eval()
    few = DATA.select([0, 5])
    mean, std = (
        torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1),
        torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1),
    )
    with torch.no_grad():
        expected = small((pixels(few, 224) - mean) / std).numpy()
    extractor = feature_extractor(f"dinov2@{tmp_path / 'model.safetensors'}")
    assert extractor.network.image_size == 224
    found = extractor(few)
    assert found.shape == (2, 384)
    np.testing.assert_allclose(found, expected, atol=0.05 * expected.std())


# ---- where they are used


def test_nearness_measures_distances_in_the_features_it_is_given(resnet):
    synthetic = tiny_dataset(((4, 4), (4, 4), (4, 4)), seed=3)
    real = tiny_dataset(((4, 4), (4, 4), (4, 4)), seed=4)
    extractor = feature_extractor(f"timm:test_resnet@{resnet}")
    found = nearness(synthetic, real, features=extractor).overall
    assert found["features"] == f"timm:test_resnet@{resnet}" and np.isnan(found["judge_agreement"])
    plain = nearness(synthetic, real).overall
    assert plain["features"].startswith("thumbnails")
    assert found["frechet_distance"] != plain["frechet_distance"]
    made, known = extractor(synthetic), extractor(real.select(real.table["split"].to_numpy() == "train"))
    nearest = np.linalg.norm(made[:, None] - known[None], axis=2).min(axis=1)
    assert found["nearest_distance"] == pytest.approx(np.median(nearest))
    assert 0 <= found["precision"] <= 1 and 0 <= found["recall"] <= 1
