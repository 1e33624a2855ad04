"""Images of another kind, 64 pixels, by the command line alone: fit a generator, adapt it, top up, report."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from tailsmith.cli.main import main

SMALL = ["--autoencoder_channels", "8,8,16", "--denoiser_channels", "16,32", "--clip_width", "16"]
SHORT = [
    f"--{stage}.{setting}"
    for stage in ("clip", "autoencoder", "denoiser", "decoder")
    for setting in ("steps=3", "batch_size=8")
]
TUNE = ["--finetune.steps=40", "--finetune.evaluate_every=20", "--finetune.batch_size=8", "--finetune.prior_images=1"]
QUICK = [f"--{part}.{setting}" for part in ("real", "mixed") for setting in ("steps=4", "batch_size=8")]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Crops of two photographs that scikit-learn ships: 24 of one, 6 of the other to train on."""
    root, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for name, counts in {"china": (24, 4, 4), "flower": (6, 4, 4)}.items():
        picture = Image.fromarray(load_sample_image(f"{name}.jpg"))
        for split, count in zip(("train", "val", "test"), counts, strict=True):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                left, top = (int(rng.integers(0, side - 128)) for side in picture.size)
                crop = picture.crop((left, top, left + 128, top + 128)).resize((64, 64))
                crop.save(folder / f"{number}.png")
    return root


def test_a_stranger_fits_adapts_tops_up_and_reads_the_report(photographs, tmp_path, capsys):
    data, fitted, tuned, out = str(photographs), tmp_path / "fitted", tmp_path / "tuned", tmp_path / "run"
    assert main(["fit-generator", data, "--out", str(fitted), *SMALL, *SHORT]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Images of 64 x 64 pixels. About ") and "on two idle CPU cores (clip" in said
    assert json.loads((fitted / "training" / "config.json").read_text())["config"]["image_size"] == 64
    assert (
        main(["fit-generator", data, "--from", str(fitted), "--out", str(tuned), *TUNE, "--finetune.most_copies=1"])
        == 0
    )
    assert f"Generator: {tuned}" in capsys.readouterr().out
    run = ["run", "--data", data, "--out", str(out), "--generator", str(tuned), "--target", "12", *QUICK]
    run += ["--synthesis.num_inference_steps=2", "--arms", "erm,image_text", "--real.backbone=resnet-small"]
    assert main([*run, "--mixed.backbone=resnet-small"]) == 0
    assert "How near are they to real images?" in (out / "report.html").read_text(encoding="utf-8")
    assert main(["inspect-samples", str(out / "synthetic" / "image_text"), "--data", data]) == 0
    assert "6 synthetic images; 6 compared with as many real ones" in capsys.readouterr().out
