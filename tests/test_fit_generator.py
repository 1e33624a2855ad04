"""fit-generator on a handful of tiny images: resumable, logged, and an ordinary diffusers folder at the end."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableUnCLIPImg2ImgPipeline
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_sample_image

from tailsmith.data.dataset import Dataset
from tailsmith.data.images import resize_and_crop
from tailsmith.files import write_atomically, write_json
from tailsmith.generation.fit import captions, saving, stage
from tailsmith.generation.fit.captions import Captions, build_tokenizer
from tailsmith.generation.fit.config import FitGeneratorConfig, StageConfig
from tailsmith.generation.fit.stage import Fitting, draw_step, learning_rate_factor, run_stage
from tailsmith.generation.generator import load_generator
from tailsmith.synthesis.fitting import fit_generator
from tiny import CLASSES, CONTEXTS, tiny_dataset

STAGES = ("clip", "autoencoder", "denoiser", "decoder")
CONFIG = FitGeneratorConfig(
    image_size=16,
    latent_channels=4,
    autoencoder_channels=(8, 8, 16),
    denoiser_channels=(16, 32),
    clip_width=16,
    clip_embedding=8,
    clip=StageConfig(4, batch_size=4),
    autoencoder=StageConfig(6, batch_size=4, ema_decay=0.9, warmup_steps=2),
    denoiser=StageConfig(5, batch_size=4, ema_decay=0.9),
    decoder=StageConfig(4, batch_size=4, ema_decay=0.9),
    bf16=False,
)


@pytest.fixture(scope="module")
def dataset():
    return tiny_dataset()


@pytest.fixture(scope="module")
def fitted(dataset, tmp_path_factory):
    """The folder of an uninterrupted fit."""
    return fit_generator(dataset, tmp_path_factory.mktemp("fitted") / "pipeline", CONFIG)


def weights(folder):
    return {
        f"{path.parent.name}.{name}": value
        for path in sorted(folder.glob("*/*.safetensors"))
        for name, value in load_file(path).items()
    }


def assert_same_weights(folder, other):
    one, two = weights(folder), weights(other)
    assert one.keys() == two.keys()
    assert len({name.split(".")[0] for name in one}) == 5  # two encoders, normaliser, autoencoder, denoiser
    for name in one:
        assert torch.equal(one[name], two[name]), name


@pytest.mark.parametrize("interrupted", STAGES)
def test_a_fit_interrupted_in_any_stage_goes_on_from_its_checkpoint(
    interrupted, dataset, fitted, tmp_path, monkeypatch
):
    out, real_draw, drawn = tmp_path / "pipeline", stage.draw_step, []
    seed = STAGES.index(interrupted)

    def power_cut(n, batch_size, stage_seed, step):
        if (stage_seed, step) == (seed, 3):
            raise KeyboardInterrupt
        return real_draw(n, batch_size, stage_seed, step)

    def counted(n, batch_size, stage_seed, step):
        drawn.append((stage_seed, step))
        return real_draw(n, batch_size, stage_seed, step)

    monkeypatch.setattr(run_stage, "__kwdefaults__", {**run_stage.__kwdefaults__, "checkpoint_seconds": 0.0})
    monkeypatch.setattr(stage, "draw_step", power_cut)
    with pytest.raises(KeyboardInterrupt):
        fit_generator(dataset, out, CONFIG)
    assert not (out / "model_index.json").exists()
    monkeypatch.setattr(stage, "draw_step", counted)
    fit_generator(dataset, out, CONFIG)
    assert drawn[0] == (seed, 3)  # nothing is trained twice
    assert_same_weights(out, fitted)


FILES = 15  # of a pipeline, but for its index


@pytest.mark.parametrize("written", [0, 1, 7, FILES, FILES + 1])
def test_a_fit_that_ends_while_its_pipeline_is_written_is_whole_or_not_there(
    written, dataset, fitted, tmp_path, monkeypatch
):
    """As after kill -9 or on a full disk: the n-th file of the pipeline is the last one."""
    out, files = tmp_path / "pipeline", []

    def until(path, write):
        if len(files) == written:
            raise KeyboardInterrupt
        files.append(path)
        return write_atomically(path, write)

    with monkeypatch.context() as patched:
        patched.setattr(saving, "write_atomically", until)
        patched.setattr(saving, "write_json", lambda path, value: until(path, lambda each: write_json(each, value)))
        if written <= FILES:
            with pytest.raises(KeyboardInterrupt):
                fit_generator(dataset, out, CONFIG)
            assert not (out / "model_index.json").exists()
            assert sorted(path.name for path in out.glob("training/*.pt")) == sorted(f"{name}.pt" for name in STAGES)
        else:
            fit_generator(dataset, out, CONFIG)
    monkeypatch.setattr(stage, "draw_step", lambda *arguments: pytest.fail("it trained again"))
    assert fit_generator(dataset, out, CONFIG) == out
    assert_same_weights(out, fitted)
    assert len(files) == min(written, FILES + 1)
    assert relative_files(out) == relative_files(fitted)


def test_a_fit_that_goes_on_in_another_process_reads_its_captions_with_the_same_vocabulary(
    dataset, tmp_path, monkeypatch
):
    """Byte-pair encoding numbers equally frequent words in a random order."""
    monkeypatch.setattr(stage, "draw_step", lambda *arguments: [(1.0, None)])  # nothing that can be trained on
    with pytest.raises(AttributeError):
        fit_generator(dataset, tmp_path, CONFIG)
    monkeypatch.setattr(captions, "_learn", lambda texts: pytest.fail("it learned another vocabulary"))
    with pytest.raises(AttributeError):
        fit_generator(dataset, tmp_path, CONFIG)
    texts = Captions(CLASSES, CONTEXTS).texts
    kept = build_tokenizer(texts, kept=tmp_path / "training" / "tokenizer.json")
    monkeypatch.undo()
    assert set(kept.get_vocab()) == set(build_tokenizer(texts).get_vocab())
    assert [kept.decode(kept(text).input_ids, skip_special_tokens=True).strip() for text in texts] == texts


@pytest.mark.parametrize("damage", ["empty", "half", "without a part"])
def test_an_index_that_an_earlier_version_left_half_written_is_written_again(
    damage, dataset, fitted, tmp_path, monkeypatch
):
    out = tmp_path / "pipeline"
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", lambda path, **_: None)  # its checkpoints are still there
        fit_generator(dataset, out, CONFIG)
    index = out / "model_index.json"
    if damage == "without a part":
        shutil.rmtree(out / "unet")
    else:
        index.write_text(index.read_text()[: {"empty": 0, "half": 99}[damage]])
    monkeypatch.setattr(stage, "draw_step", lambda *arguments: pytest.fail("it trained again"))
    fit_generator(dataset, out, CONFIG)
    assert_same_weights(out, fitted)
    assert relative_files(out) == relative_files(fitted)
    assert json.loads(index.read_text()) == json.loads((fitted / "model_index.json").read_text())


def test_the_written_folder_is_what_save_pretrained_writes(fitted, tmp_path):
    pipe = StableUnCLIPImg2ImgPipeline.from_pretrained(fitted)
    pipe.save_pretrained(tmp_path)
    names = [path.relative_to(tmp_path) for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    assert names == [path for path in relative_files(fitted) if path.parts[0] != "training"]
    index, own = (json.loads((folder / "model_index.json").read_text()) for folder in (tmp_path, fitted))
    assert {name: value for name, value in index.items() if name != "_name_or_path"} == own
    assert_same_weights(fitted, tmp_path)


def relative_files(folder):
    return [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]


def test_the_precision_of_a_fit_is_not_what_makes_it_another_one(dataset, fitted):
    """None depends on the machine, which a fit that goes on may have changed."""
    other = FitGeneratorConfig(**{**vars(CONFIG), "bf16": None})
    assert fit_generator(dataset, fitted, other) == fitted


def test_a_finished_fit_is_not_trained_again(dataset, fitted, monkeypatch):
    monkeypatch.setattr(stage, "draw_step", lambda *arguments: pytest.fail("it trained"))
    assert fit_generator(dataset, fitted, CONFIG) == fitted
    assert not list(fitted.glob("training/*.pt"))


def test_losses_are_logged(fitted):
    for name, steps, parts in [
        ("clip", 4, {"caption", "instance"}), ("autoencoder", 6, {"l1", "kl"}), ("denoiser", 5, {"v"}),
        ("decoder", 4, {"l1", "critic", "fooled"}),
    ]:  # fmt: skip
        lines = [json.loads(line) for line in (fitted / "training" / f"{name}.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [steps]
        assert set(lines[0]) == {"step", "loss", *parts}
        assert all(np.isfinite(list(lines[0].values())))


def test_the_log_has_the_mean_of_every_fifty_steps(tmp_path):
    model = torch.nn.Linear(1, 1)

    def loss(model, draw):
        calls.append(1)
        return {"loss": model.weight.sum() * 0 + len(calls)}

    calls = []
    run_stage(Fitting(tmp_path, 3), "line", model, loss, StageConfig(120, batch_size=1), seed=0)
    lines = [json.loads(line) for line in (tmp_path / "line.jsonl").read_text().splitlines()]
    assert lines == [{"step": 50, "loss": 25.5}, {"step": 100, "loss": 75.5}, {"step": 120, "loss": 110.5}]


def test_plain_diffusers_loads_and_samples_the_folder_without_tailsmith(fitted):
    code = (
        "import sys, torch; from diffusers import StableUnCLIPImg2ImgPipeline;"
        "pipe = StableUnCLIPImg2ImgPipeline.from_pretrained(sys.argv[1]);"
        "from PIL import Image;"
        "generator = torch.Generator().manual_seed(0);"
        "image = Image.new('RGB', (20, 30));"
        "images = pipe(image, 'sandal in rock', num_inference_steps=2, generator=generator).images;"
        "assert images[0].size == (16, 16), images[0].size;"
        "assert not [name for name in sys.modules if name.startswith('tailsmith')];"
        "assert type(pipe.scheduler).__name__ == 'DDIMScheduler';"
        "assert pipe.scheduler.config.prediction_type == 'v_prediction'"
    )
    subprocess.run([sys.executable, "-c", code, str(fitted)], check=True, capture_output=True, text=True)


def test_load_generator_reads_the_folder_and_gives_what_the_file_says(fitted):
    pipe = load_generator(str(fitted), device="cpu")
    state, saved = pipe.unet.state_dict(), weights(fitted)
    assert all(torch.equal(state[name], saved[f"unet.{name}"]) for name in state)
    assert pipe.vae.config.scaling_factor > 0
    assert pipe.vae.config.scaling_factor != 0.18215


def test_a_conditioning_image_is_embedded_as_the_fit_saw_it(fitted):
    """The extractor that is saved resizes and crops as Images does, on a photograph of another size."""
    photograph = Image.fromarray(load_sample_image("china.jpg"))
    pixels = load_generator(str(fitted), device="cpu").feature_extractor(images=photograph, return_tensors="pt")
    seen = np.asarray(resize_and_crop(photograph, CONFIG.image_size)).transpose(2, 0, 1) / 127.5 - 1
    np.testing.assert_allclose(pixels["pixel_values"][0], seen, atol=1.1 / 127.5)


def test_a_folder_that_is_no_pipeline(tmp_path):
    with pytest.raises(ValueError, match=r"is not a diffusers pipeline: it has no model_index\.json; give a folder"):
        load_generator(str(tmp_path))


def test_the_latents_of_the_training_images_have_unit_spread(dataset, fitted):
    pipe = load_generator(str(fitted), device="cpu")
    training = dataset.split("train")
    pixels = np.stack([np.asarray(training.image(row)) for row in range(len(training))])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        latents = pipe.vae.encode(images).latent_dist.mean * pipe.vae.config.scaling_factor
    assert latents.std().item() == pytest.approx(1, rel=1e-3)


def test_the_global_random_state_is_left_alone(dataset, tmp_path):
    before = torch.random.get_rng_state()
    short = {name: StageConfig(1, batch_size=2) for name in STAGES}
    fit_generator(dataset, tmp_path / "p", FitGeneratorConfig(**{**vars(CONFIG), **short}))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_folder_fitted_with_another_configuration(dataset, fitted):
    other = FitGeneratorConfig(**{**vars(CONFIG), "text_dropout": 0.2})
    with pytest.raises(ValueError, match="fitted with another configuration or dataset; use another --out"):
        fit_generator(dataset, fitted, other)


def test_a_folder_fitted_to_other_images_of_the_same_names(dataset, fitted):
    rows = dataset.table.copy()
    rows.loc[0, "bytes"] = rows.loc[len(rows) - 1, "bytes"]
    other = Dataset(rows, dataset.class_names, dataset.attribute_names, dataset.name)
    with pytest.raises(ValueError, match="fitted with another configuration or dataset"):
        fit_generator(other, fitted, CONFIG)


def test_a_folder_fitted_to_another_dataset(fitted):
    with pytest.raises(ValueError, match="fitted with another configuration or dataset"):
        fit_generator(tiny_dataset(((5, 0), (3, 2), (1, 0))), fitted, CONFIG)


def test_a_folder_with_somebody_elses_pipeline(dataset, tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ValueError, match="holds a pipeline that fit-generator didn't write"):
        fit_generator(dataset, tmp_path, CONFIG)
    assert (tmp_path / "model_index.json").read_text() == "{}"


def test_data_that_no_generator_can_be_fitted_to(dataset, tmp_path):
    few = dataset.select(np.r_[0:2, np.flatnonzero(dataset.labels == 1)[:1]])
    few = few.select(np.flatnonzero(few.table["split"] == "train"))
    n = len(few)
    with pytest.raises(
        ValueError, match=rf"at least a batch of training images \(4, clip.batch_size\), got {n} in 'tiny'"
    ):
        fit_generator(few, tmp_path, CONFIG)
    with pytest.raises(ValueError, match="two classes to tell apart, and the training data have one class, 'sandal'"):
        fit_generator(dataset.select(dataset.labels == 0), tmp_path, CONFIG)
    with pytest.raises(ValueError, match="and the training data have no image"):
        fit_generator(dataset.select([]), tmp_path, CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_without_attributes(dataset, tmp_path):
    table = dataset.table.assign(attribute=-1)
    plain = Dataset(table, CLASSES, (), "plain")
    short = {name: StageConfig(1, batch_size=2) for name in STAGES}
    out = fit_generator(plain, tmp_path / "p", FitGeneratorConfig(**{**vars(CONFIG), **short}))
    assert (out / "model_index.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": -1}, "steps should be above 0, got -1"),
        ({"batch_size": 10**9}, "batch_size should be 65,536 at most"),
        ({"learning_rate": float("nan")}, "learning_rate should be above 0 and finite"),
        ({"warmup_steps": -1}, "warmup_steps should not be negative"),
        ({"ema_decay": 1.0}, "ema_decay should be at least 0 and below 1"),
    ],
)
def test_settings_of_a_stage_that_mean_nothing(changes, message):
    with pytest.raises(ValueError, match=message):
        StageConfig(**{"steps": 1, **changes})


def test_learning_rate_warms_up_then_falls_to_one_percent():
    factors = [learning_rate_factor(step, 1000, 100) for step in range(1000)]
    assert factors[0] == pytest.approx(0.01)
    assert factors[99] == factors[100] == 1
    assert factors[550] == pytest.approx(0.505)
    assert factors[999] == pytest.approx(0.01, abs=1e-4)
    assert factors[100:] == sorted(factors[100:], reverse=True)


def test_the_moving_average_is_the_slow_loops(tmp_path):
    model, seen = torch.nn.Linear(1, 1, bias=False), []

    def loss(model, draw):
        seen.append(model.weight.item())
        return {"loss": (model.weight - 3).square().sum()}

    expected = model.weight.item()
    config = StageConfig(30, batch_size=1, learning_rate=0.1, warmup_steps=1, ema_decay=0.8)
    average = run_stage(Fitting(tmp_path, 1), "ema", model, loss, config, seed=0)
    after = [*seen[1:], model.weight.item()]
    for step, weight in enumerate(after):
        decay = min(0.8, (step + 1) / (step + 10))
        expected = decay * expected + (1 - decay) * weight
    assert average.weight.item() == pytest.approx(expected, rel=1e-5)


def test_a_half_batchs_randomness_depends_on_seed_step_and_half_alone():
    config = StageConfig(10, batch_size=9)
    drawn = [draw_step(50, config, *each) for each in ((0, 7), (0, 7), (0, 8), (1, 7))]
    assert [share for share, _ in drawn[0]] == [5 / 9, 4 / 9]
    (_, one), (_, other_half) = drawn[0]
    (_, again), (_, later), (_, other) = (halves[0] for halves in drawn[1:])
    assert one.rows.tolist() == again.rows.tolist()
    assert one.rows.tolist()[:4] not in (later.rows.tolist()[:4], other.rows.tolist()[:4], other_half.rows.tolist())
    assert torch.equal(torch.rand(3, generator=one.torch), torch.rand(3, generator=again.torch))
    assert one.numpy.random() == again.numpy.random()
    assert len(draw_step(50, StageConfig(10, batch_size=1), 0, 0)) == 1


# ---- captions and tokens ----


def test_known_words_are_one_token_each_and_any_other_text_still_encodes():
    tokenizer = build_tokenizer(Captions(CLASSES, CONTEXTS).texts)
    for text in ("sandal", "ankle boot", "Bag in WATER", "ankle boot in rock"):
        assert len(tokenizer(text).input_ids) == len(text.split()) + 2  # start and end
    unknown = tokenizer("a zebra's 3 crêpes, 靴!").input_ids
    assert max(unknown) < len(tokenizer)
    assert len(set(unknown)) > 10
    assert tokenizer.unk_token_id not in unknown[1:-1]
    assert tokenizer("").input_ids == [tokenizer.bos_token_id, tokenizer.eos_token_id]


def test_different_captions_have_different_tokens_of_the_same_length():
    texts = Captions(CLASSES, CONTEXTS).texts
    tokenizer = build_tokenizer(texts)
    encoded = tokenizer(texts, padding="max_length", max_length=16, truncation=True).input_ids
    assert len({tuple(ids) for ids in encoded}) == len(texts) == 1 + 3 + 6
    assert {len(ids) for ids in encoded} == {16}


def test_captions_name_the_class_always_and_the_attribute_as_often_as_asked():
    captions, rng = Captions(CLASSES, CONTEXTS), np.random.default_rng(0)
    labels, attributes = np.repeat([0, 1, 2], 2000), np.tile([0, 1, -1], 2000)
    numbers = captions.draw(labels, attributes, rng, attribute_probability=0.4, dropout=0.1)
    texts = np.array(captions.texts)[numbers]
    for label, attribute, text in zip(labels, attributes, texts, strict=True):
        named = f"{CLASSES[label]} in {CONTEXTS[attribute]}" if attribute >= 0 else CLASSES[label]
        assert text in ("", CLASSES[label], named)
    assert (texts == "").mean() == pytest.approx(0.1, abs=0.02)
    grouped = np.array([" in " in text for text in texts])
    assert grouped[attributes >= 0].mean() == pytest.approx(0.4 * 0.9, abs=0.04)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_size": 18}, r"a multiple of 4, as the autoencoder halves it 2 times; got 18, near it are 16 and 20"),
        ({"image_size": 4}, r"image_size should be within 8\.\.4096 pixels, got 4"),
        ({"image_size": -8}, "image_size should be above 0, got -8"),
        ({"preset": "large"}, "preset should be one of small, medium, got 'large'"),
        ({"embedding_entries": 4}, "embedding_entries should be at least clip_embedding"),
        ({"autoencoder_channels": (12, 24)}, r"autoencoder_channels should be multiples of 8, got \[12, 24\]"),
        ({"autoencoder_channels": ()}, "width of at least one level, got none"),
        ({"denoiser_channels": (24,)}, r"denoiser_channels should be multiples of 16, got \[24\]"),
        ({"clip_width": 24}, "clip_width should be a multiple of 16, got 24"),
        ({"text_dropout": 2.0}, r"text_dropout should be in 0\.\.1, got 2\.0"),
        ({"kl_weight": -1.0}, "kl_weight should not be negative or infinite"),
    ],
)
def test_sizes_that_can_not_be_built_are_refused_before_any_work(changes, said):
    with pytest.raises(ValueError, match=said):
        FitGeneratorConfig(**changes)


@pytest.mark.parametrize("size", [20, 24])
def test_odd_latents_are_no_trouble(size, dataset, tmp_path):
    short = {name: StageConfig(1, batch_size=2) for name in STAGES}
    assert (
        fit_generator(dataset, tmp_path, FitGeneratorConfig(**{**vars(CONFIG), **short, "image_size": size}))
        == tmp_path
    )
