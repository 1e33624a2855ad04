"""Pretrained weights: from a file, out of reach, unfitting; and the backbones of the paper by name."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from tailsmith.classification.backbones import RESNET_SMALL, create_backbone, last_layer
from tailsmith.classification.config import TrainConfig
from tailsmith.classification.training import check_train_config, untrained_classifier


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the hub holds for test_resnet: a file with 1000 classes."""
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), path)
    return path


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No hub and nothing in its cache: timm's download fails as it does without a network, but at once."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))


def test_a_file_fills_all_but_the_last_layer(weights, offline):
    stored = timm.create_model("test_resnet")
    timm.models.load_checkpoint(stored, str(weights))
    config = TrainConfig(backbone="test_resnet", pretrained_file=str(weights))  # alone: no flag beside it
    model = untrained_classifier(config, ("cat", "dog")).module.model
    for name, value in model.state_dict().items():
        assert name.startswith("fc.") or torch.equal(value, stored.state_dict()[name]), name
    assert model.fc.out_features == 2


def test_weights_out_of_reach_are_named_with_the_way_around_the_hub(offline):
    expected = (
        r"no pretrained weights for resnet50\.tv_in1k from the hub .*; connect to the hub, or fetch "
        r"https://huggingface\.co/timm/resnet50\.tv_in1k/resolve/main/model\.safetensors elsewhere and name the file "
        r"in pretrained_file, or set pretrained=False"
    )
    with pytest.raises(ValueError, match=expected):
        create_backbone("resnet50.tv_in1k", 3, pretrained=True)


def test_files_that_do_not_hold_the_weights_are_refused(weights, tmp_path):
    (tmp_path / "broken.safetensors").write_text("weights")
    for name, path, message in (
        ("test_convnext", weights, "no pretrained weights for test_convnext from .*model.safetensors"),
        ("test_resnet", tmp_path / "broken.safetensors", "no pretrained weights for test_resnet from .*broken"),
        ("test_resnet", tmp_path / "absent.safetensors", "pretrained_file .*absent.safetensors is no file; connect"),
        (RESNET_SMALL, weights, "resnet-small has no pretrained weights"),
    ):
        with pytest.raises(ValueError, match=message):
            create_backbone(name, 3, pretrained_file=str(path))


def test_a_file_that_lacks_weights_is_refused_rather_than_filled_up_at_random(weights, tmp_path):
    stored = load_file(weights)
    some = {name: value for name, value in stored.items() if not name.startswith("layer2.0.conv1")}
    save_file(some, tmp_path / "some.safetensors")
    save_file({f"student.{name}": value for name, value in stored.items()}, tmp_path / "prefixed.safetensors")
    for name, message in (
        ("some", "lacks 1 of the weights of test_resnet, the first is layer2.0.conv1.weight"),
        ("prefixed", r"lacks \d+ of the weights of test_resnet, the first is conv1"),
    ):
        with pytest.raises(ValueError, match=message):
            create_backbone("test_resnet", 3, pretrained_file=str(tmp_path / f"{name}.safetensors"))


def test_models_and_tags_without_weights_are_refused():
    with pytest.raises(ValueError, match="timm has none for botnet50ts_256: choose another backbone"):
        create_backbone("botnet50ts_256", 3, pretrained=True)
    with pytest.raises(
        ValueError, match=r"unknown weights in backbone 'resnet50\.v1': expected one of .*resnet50\.tv_in1k"
    ):
        check_train_config(TrainConfig(backbone="resnet50.v1"))


@pytest.mark.parametrize(
    ("name", "millions"), [("resnext50_32x4d", 25.0), ("resnet152.tv_in1k", 60.2), ("resnet50.tv_in1k", 25.6)]
)
def test_the_backbones_of_the_paper_are_built_by_name(name, millions):
    """He et al. (2016) and Xie et al. (2017) count these parameters with 1000 classes; no memory is used."""
    with torch.device("meta"):
        backbone = create_backbone(name, 1000)
        logits, features = backbone.module(torch.zeros(2, 3, 224, 224))
    assert sum(each.numel() for each in backbone.module.parameters()) == pytest.approx(millions * 1e6, rel=0.01)
    assert backbone.image_size == 224 and backbone.mean == pytest.approx((0.485, 0.456, 0.406))
    assert logits.shape == (2, 1000) and features.shape == (2, 2048)
    assert last_layer(backbone.module).weight.shape == (1000, 2048)


@pytest.mark.parametrize("name", [RESNET_SMALL, "test_convnext", "test_vit", "test_efficientnet"])
def test_the_last_layer_makes_the_logits_of_the_features(name):
    backbone = create_backbone(name, 3)
    size = backbone.image_size
    with torch.no_grad():
        logits, features = backbone.module.eval()(torch.rand(2, 3, size, size))
        torch.testing.assert_close(last_layer(backbone.module)(features), logits)
