"""fit-generator --from: tiny random pipelines of the real classes are adapted, by LoRA or as a whole."""

import json

import numpy as np
import pytest
import torch

from tailsmith.cli.main import main
from tailsmith.generation.fit import finetune, tuning_loss
from tailsmith.generation.fit.config import FineTuneConfig
from tailsmith.generation.fit.lora import TARGETS, add_lora, merge_lora
from tailsmith.generation.fit.tuning_loss import balanced_rows
from tailsmith.generation.generator import load_generator
from tailsmith.synthesis import fitting
from tailsmith.synthesis.fitting import fine_tune_generator
from tiny import tiny_dataset, tiny_pipeline
from tiny_families import tiny_kandinsky22, tiny_sd15, tiny_sdxl

DATA = tiny_dataset(((9, 3), (6, 2), (2, 1)))
CONFIG = FineTuneConfig(
    steps=6,
    batch_size=4,
    evaluate_every=2,
    prior_images=2,
    learning_rate=2e-2,
    lora_rank=2,
    most_copies=1.0,
    bf16=False,
)


@pytest.fixture(autouse=True)
def _few_samples(monkeypatch):
    monkeypatch.setattr(finetune, "SAMPLES", 4)


@pytest.fixture(scope="module")
def generators(tmp_path_factory):
    """Name -> folder of a generator to start from."""
    root = tmp_path_factory.mktemp("generators")
    made = {
        "unclip": tiny_pipeline(),
        "sd15": tiny_sd15(),
        "sdxl": tiny_sdxl("v_prediction"),
        "other": tiny_kandinsky22(),
    }
    for name, pipe in made.items():
        pipe.save_pretrained(root / name)
    return root


@pytest.mark.parametrize("adapters", [False, True])
@pytest.mark.parametrize("name", ["unclip", "sd15", "sdxl"])
def test_a_tuned_generator_is_a_pipeline_like_the_one_before(name, adapters, generators, tmp_path, monkeypatch):
    better = iter([1.0, 0.9, 0.8, 0.7])  # a few steps from random weights may bring nothing
    monkeypatch.setattr(finetune, "held_out_loss", lambda *_: next(better))
    if adapters:
        monkeypatch.setattr(finetune, "SMALL", 0)
    out = fine_tune_generator(DATA, str(generators / name), tmp_path / "out", CONFIG)
    before, after = load_generator(str(generators / name)), load_generator(str(out))
    assert type(after) is type(before)
    old, new = before.unet.state_dict(), after.unet.state_dict()
    assert old.keys() == new.keys()
    moved = {key for key in old if not torch.allclose(old[key], new[key].float(), rtol=2e-3, atol=2e-3)}
    assert moved if not adapters else all(any(target in key for target in TARGETS) for key in moved)
    assert all(
        torch.allclose(a, b.float(), atol=2e-3)
        for a, b in zip(before.vae.parameters(), after.vae.parameters(), strict=True)
    )
    assert f"--from {generators / name}" in (out / "README.md").read_text(encoding="utf-8")
    assert sorted(path.name for path in (out / "training").iterdir()) == [
        "config.json", "denoiser.jsonl", "held_out.json", "lock",
    ]  # fmt: skip


def test_an_interrupted_tuning_goes_on_and_a_finished_one_is_left_alone(generators, tmp_path, monkeypatch):
    whole = fine_tune_generator(DATA, str(generators / "unclip"), tmp_path / "whole", CONFIG)
    looks, real_look = [], finetune.held_out_loss

    def look(*arguments):
        looks.append(1)
        if len(looks) == 3:
            raise KeyboardInterrupt
        return real_look(*arguments)

    monkeypatch.setattr(finetune, "held_out_loss", look)
    with pytest.raises(KeyboardInterrupt):
        fine_tune_generator(DATA, str(generators / "unclip"), tmp_path / "out", CONFIG)
    assert (tmp_path / "out/training/best.pt").exists() and not (tmp_path / "out/model_index.json").exists()
    out = fine_tune_generator(DATA, str(generators / "unclip"), tmp_path / "out", CONFIG)
    assert len(looks) == 5  # the first two were kept: before the fit, and after two steps
    one, other = (load_generator(str(folder)).unet.state_dict() for folder in (whole, out))
    assert all(torch.equal(one[key], other[key]) for key in one)
    monkeypatch.setattr(fitting, "fine_tune", lambda *_: pytest.fail("it trained again"))
    kept = json.loads((out / "training/config.json").read_text())
    assert kept["config"].pop("method") == "auto"
    (out / "training/config.json").write_text(json.dumps(kept))  # as fits before there were methods
    assert fine_tune_generator(DATA, str(generators / "unclip"), out, CONFIG) == out
    with pytest.raises(ValueError, match="fitted with another configuration or dataset; use another --out"):
        fine_tune_generator(DATA.select(DATA.labels < 2), str(generators / "unclip"), out, CONFIG)


def test_without_validation_images_a_tenth_of_the_training_images_stops_it(generators, tmp_path, monkeypatch):
    seen = {}

    def tuned(pipe, tuning, folder, config):
        seen.update(training=len(tuning.training), held_out=len(tuning.held_out))
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "fine_tune", tuned)
    for data, expected in ((DATA, (23, 3)), (DATA.split("train"), (21, 2))):
        with pytest.raises(KeyboardInterrupt):
            fine_tune_generator(data, str(generators / "unclip"), tmp_path / str(expected[0]), CONFIG)
        assert (seen["training"], seen["held_out"]) == expected


def test_a_tuning_stops_where_held_out_images_get_worse(generators, tmp_path, monkeypatch):
    values = iter([1.0, 0.8, 0.9, 0.95, 0.7])
    monkeypatch.setattr(finetune, "held_out_loss", lambda *_: next(values))
    config = FineTuneConfig(**{**vars(CONFIG), "steps": 100, "patience": 2})
    monkeypatch.setattr(fitting, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    for _ in range(2):  # again after it has stopped, it doesn't go on
        with pytest.raises(KeyboardInterrupt):
            fine_tune_generator(DATA, str(generators / "unclip"), tmp_path / "out", config)
    assert (tmp_path / "out/training/held_out.json").read_text().count(":") == 4  # 0.7 was never seen


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([1.0, 0.9, float("nan")], r"the fit diverges: .* was 1\.0000 before it and is nan at step 4; lower finetune"),
        ([1.0, 1.6], r"is 1\.6000 at step 2; .* The best state is kept in .*best\.pt"),
        ([1.0, 1.1, 1.2, 1.2], r"never got better than before the fit \(1\.0000, then 1\.1000, 1\.2000, 1\.2000\)"),
    ],
)
def test_a_fit_that_goes_wrong(values, said, generators, tmp_path, monkeypatch):
    given = iter(values)
    monkeypatch.setattr(finetune, "held_out_loss", lambda *_: next(given))
    with pytest.raises(ValueError, match=said):
        fine_tune_generator(DATA, str(generators / "unclip"), tmp_path / "out", CONFIG)
    assert (tmp_path / "out/training/best.pt").exists() and not (tmp_path / "out/model_index.json").exists()


def test_a_fit_that_copies(generators, tmp_path, monkeypatch):
    def copies(pipe, data, real, config):
        features = real.latents.flatten(1)
        return features, features + 1e-6

    monkeypatch.setattr(fitting, "sampled_latents", copies)
    config = FineTuneConfig(**{**vars(CONFIG), "most_copies": 0.25})
    with pytest.raises(ValueError, match=r"copies its training images: 100% of 23 samples lie nearer .*best\.pt"):
        fine_tune_generator(DATA, str(generators / "unclip"), tmp_path / "out", config)
    assert not (tmp_path / "out/model_index.json").exists()


def test_what_can_not_be_tuned_is_refused_before_any_work(generators, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"can fine-tune StableDiffusionPipeline, .* got a KandinskyV22Pipeline"):
        fine_tune_generator(DATA, str(generators / "other"), out, CONFIG)
    with pytest.raises(ValueError, match=r"at least a batch of training images \(64, finetune\.batch_size\), got 23"):
        fine_tune_generator(DATA, str(generators / "sd15"), out, FineTuneConfig(batch_size=64))
    with pytest.raises(ValueError, match=r"two classes to tell apart, .* one class, 'sandal'"):
        fine_tune_generator(DATA.select(DATA.labels == 0), str(generators / "sd15"), out, CONFIG)
    assert not out.exists()
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(ValueError, match="GB free, and the pipeline and its checkpoints take up to"):
        fine_tune_generator(DATA, str(generators / "sd15"), out, CONFIG)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--from", "mini-unclip", "--image_size", "64"], "--image_size has no effect with --from"),
        (["--finetune.steps", "5"], "--finetune.steps has no effect without --from"),
        (["--from", "mini-unclip", "--finetune.steps", "0"], "steps should be above 0, got 0"),
    ],
)
def test_settings_without_an_effect_are_refused(options, said, tmp_path, capsys):
    assert main(["fit-generator", "fashion-lt", "--out", str(tmp_path / "out"), *options]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_adapters_that_are_merged_change_nothing_of_what_the_denoiser_says():
    pipe = tiny_sd15()
    add_lora(pipe.unet, 2)
    with torch.no_grad():
        for name, weight in pipe.unet.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
        given = torch.randn(2, 4, 8, 8), torch.tensor([10, 500])
        states = torch.randn(2, 5, pipe.unet.config.cross_attention_dim)
        before = pipe.unet(*given, encoder_hidden_states=states).sample
        merge_lora(pipe.unet)
        after = pipe.unet(*given, encoder_hidden_states=states).sample
    assert torch.allclose(before, after, atol=1e-5)
    assert not [name for name in pipe.unet.state_dict() if "lora" in name or "base_layer" in name]


@pytest.mark.parametrize(
    ("method", "small", "expected"),
    [("auto", True, "all"), ("auto", False, "lora"), ("lora", True, "lora"), ("all", False, "all")],
)
def test_the_size_of_a_denoiser_decides_what_is_trained_unless_a_method_is_named(method, small, expected, monkeypatch):
    pipe = tiny_sd15()
    size = sum(weight.numel() for weight in pipe.unet.parameters())
    monkeypatch.setattr(finetune, "SMALL", size if small else size - 1)
    config = FineTuneConfig(method=method)
    assert finetune.method_for(pipe, config) == expected
    assert (finetune.parameters(pipe, config)[1] == size) == (expected == "all")


def test_draws_are_balanced_over_the_classes_that_there_are():
    labels = np.repeat([0, 2, 5], [900, 90, 10])
    rows = balanced_rows(labels, 9000, np.random.default_rng(0))
    assert np.bincount(labels[rows], minlength=6) / 9000 == pytest.approx([1 / 3, 0, 1 / 3, 0, 0, 1 / 3], abs=0.02)
    assert set(rows[labels[rows] == 5]) == set(range(990, 1000))


def test_weights_of_the_loss_are_min_snr_for_both_predictions():
    """Hang et al. 2023: min(SNR, 5) / SNR of the noise, min(SNR, 5) / (SNR + 1) of the velocity; both one x0 error."""
    for pipe in (tiny_sd15(), tiny_sd15("v_prediction")):
        kind = pipe.scheduler.config.prediction_type
        ratio = pipe.scheduler.alphas_cumprod / (1 - pipe.scheduler.alphas_cumprod)
        of_x0 = 1 / ratio if kind == "epsilon" else 1 / (ratio + 1)  # error of x0 per error of the prediction
        assert torch.allclose(tuning_loss.min_snr_weights(pipe.scheduler), of_x0 * ratio.clamp(max=5), rtol=1e-5)
