"""docs/adding-a-method.md, run as written there."""

import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from colours import colours
from tailsmith.classification.config import TrainConfig
from tailsmith.classification.methods import METHODS
from tailsmith.classification.methods.contract import Batch, Task
from tailsmith.classification.training import train_classifier

DOCUMENT = (Path(__file__).parents[1] / "docs" / "adding-a-method.md").read_text(encoding="utf-8")
(CODE,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
CONFIG = TrainConfig(image_size=8, steps=10, batch_size=16, learning_rate=0.05, evaluate_every=5)


@pytest.fixture
def poly(tmp_path, monkeypatch):
    (tmp_path / "poly.py").write_text(CODE)
    spec = importlib.util.spec_from_file_location("poly", tmp_path / "poly.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "poly", module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(METHODS, "poly", module.Poly)
    return module.Poly


def test_it_is_short():
    assert len(CODE.splitlines()) < 40


def test_the_method_of_the_document_trains(poly):
    images, labels = colours((40, 20, 10))
    config = replace(CONFIG, steps=30, method="poly:epsilon=2,reweight_from=0.5")
    *_, last = train_classifier(config, images, labels, labels < 0, ("red", "green", "blue"))
    assert last.step == 30 and last.loss < 0.5


def test_it_computes_what_it_says(poly):
    labels = np.repeat([0, 1, 2], [40, 20, 10])
    task = Task(CONFIG, labels, labels - 9, labels < 0, ("red", "green", "blue"))
    (stage,) = poly(epsilon=2.0, reweight_from=0.5).stages(task)
    logits, own = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 2])
    p = logits.softmax(1)[range(4), own]
    expected = -p.log() + 2 * (1 - p)
    batch = Batch(torch.zeros(4), own, np.arange(4))
    torch.testing.assert_close(stage.objective(logits, logits, batch, 0.4), expected)
    rarity = torch.tensor([1 / 40, 1 / 20, 1 / 10])
    torch.testing.assert_close(stage.objective(logits, logits, batch, 0.5), expected * (rarity / rarity.mean())[own])


def test_its_settings_are_checked(poly):
    with pytest.raises(ValueError, match="poly:epsilon should not be negative, got -1"):
        train_classifier(replace(CONFIG, method="poly:epsilon=-1"), *colours((4, 4, 4)), np.zeros(12, bool), "abc")


@pytest.mark.parametrize("name", METHODS)
def test_the_document_lists_every_method_with_its_settings(name):
    (row,) = [line for line in DOCUMENT.splitlines() if line.startswith(f"| `{name}` |")]
    for setting in METHODS[name].__dataclass_fields__.values():
        shown = setting.name if setting.default is None else f"{setting.name}={setting.default}"
        assert f"`{shown}`" in row
