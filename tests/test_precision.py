"""Half precision in training: what is refused, what is warned of, the loss scale, and the layout of weights."""

import dataclasses
import logging

import numpy as np
import pytest
import torch

from colours import colours
from tailsmith.classification import precision
from tailsmith.classification.backbones import create_backbone
from tailsmith.classification.config import TrainConfig
from tailsmith.classification.precision import LossScale, autocast, laid_out
from tailsmith.classification.training import check_train_config, train_classifier

TINY = TrainConfig(image_size=8, steps=2, batch_size=4)
CPU = torch.device("cpu")
ON_CPU = pytest.mark.skipif(torch.accelerator.is_available(), reason="of the CPU")


def test_unknown_precisions_and_fp16_on_a_cpu_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="unknown precision 'fp8': expected one of fp32, bf16, fp16"):
        check_train_config(dataclasses.replace(TINY, precision="fp8"))
    monkeypatch.setattr(precision, "chosen_device", lambda: CPU)
    with pytest.raises(ValueError, match="fp16 needs an accelerator, and this trains on the CPU; use fp32"):
        check_train_config(dataclasses.replace(TINY, precision="fp16"))
    monkeypatch.setattr(precision, "chosen_device", lambda: torch.device("cuda"))
    check_train_config(dataclasses.replace(TINY, precision="fp16"))


@pytest.mark.parametrize(("name", "arithmetic", "lines"), [("bf16", False, 1), ("bf16", True, 0), ("fp32", False, 0)])
def test_bf16_that_is_emulated_is_warned_of_once(name, arithmetic, lines, monkeypatch, caplog):
    monkeypatch.setattr(precision, "has_bf16_arithmetic", lambda device: arithmetic)
    images, labels = colours((2, 2, 2))
    with caplog.at_level(logging.WARNING):
        config = dataclasses.replace(TINY, precision=name)
        list(train_classifier(config, images, labels, np.zeros(6, dtype=bool), ("a", "b", "c")))
    assert ["is emulated on this" in each.getMessage() for each in caplog.records] == [True] * lines


def test_autocast_is_of_the_precision():
    kinds = {}
    for name in ("fp32", "bf16"):
        with autocast(dataclasses.replace(TINY, precision=name), CPU):
            kinds[name] = (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    assert kinds == {"fp32": torch.float32, "bf16": torch.bfloat16}


def test_a_loss_scale_goes_on_where_it_was():
    """fp16 itself needs an accelerator, its scale doesn't: the scaler is torch's, told to work on the CPU."""

    def stepped(scale, weight, optimizer, steps):
        for step in steps:
            optimizer.zero_grad()
            scale.scale(weight.sum() * (float("inf") if step in (2, 5) else 0.1)).backward()
            scale.step(optimizer)
            scale.update()

    def begun():
        weight = torch.nn.Parameter(torch.ones(3))
        return LossScale(dataclasses.replace(TINY, precision="fp16"), CPU), weight, torch.optim.SGD([weight], 0.1)

    whole = begun()
    stepped(*whole, range(8))
    first, second = begun(), begun()
    stepped(*first, range(4))
    second[0].load_tensors(first[0].tensors())
    with torch.no_grad():
        second[1].copy_(first[1])
    stepped(*second, range(4, 8))
    assert torch.equal(second[1], whole[1])
    assert whole[0].tensors() == second[0].tensors()
    assert whole[0].tensors()["scale"] == 2**14  # halved twice, from 2 ** 16


def test_other_precisions_have_no_loss_scale():
    scale = LossScale(TINY, CPU)
    assert scale.tensors() == {}
    scale.load_tensors({})
    assert scale.scale(torch.tensor(3.0)) == 3.0


@pytest.mark.parametrize(("device", "last"), [("cpu", False), ("cuda", True), ("xpu", True), ("mps", False)])
def test_convolutions_of_timm_models_have_their_channels_last_where_it_is_faster(device, last):
    module = create_backbone("resnet10t", 3).module
    laid_out(module, torch.device(device))
    weight = next(
        each.weight for each in module.modules() if isinstance(each, torch.nn.Conv2d) and each.in_channels > 3
    )
    assert weight.is_contiguous(memory_format=torch.channels_last) == last


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_half_precision_learns_on_a_gpu_and_goes_on(name, tmp_path):
    images, labels = colours((20, 20, 20))
    images = images.repeat(4, 2).repeat(4, 3)
    config = dataclasses.replace(
        TINY, backbone="resnet10t", image_size=32, steps=30, batch_size=16, precision=name, checkpoint_every=1
    )

    def training():
        return train_classifier(
            config, images, labels, np.zeros(60, dtype=bool), ("a", "b", "c"), validation=(images, labels)
        )

    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    whole = list(training())
    assert whole[-1].selected > 90
    records = training().resumable(tmp_path / "c.safetensors", "")
    while next(records).step < 17:
        pass
    records.close()
    *_, last = training().resumable(tmp_path / "c.safetensors", "")
    torch.testing.assert_close(last.loss, whole[-1].loss, rtol=1e-2, atol=1e-3)
