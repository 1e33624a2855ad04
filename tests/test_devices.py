"""One place decides the device and the precision: classifiers, generators and fit-generator all meet there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import tailsmith
from folders import write_folder
from rendering import DATASET, largest_difference, pixels, render, tiny_plan
from tailsmith import devices
from tailsmith.classification import stage_run
from tailsmith.classification.classifier import on_accelerator, wrap_classifier
from tailsmith.classification.config import TrainConfig
from tailsmith.cli.main import main
from tailsmith.devices import chosen_device, chosen_dtype, has_bf16_arithmetic, use
from tailsmith.generation.fit import recipe
from tailsmith.generation.fit.autoencoder import autoencoder_loss, create_autoencoder
from tailsmith.generation.fit.captions import CaptionedImages, Captions, build_tokenizer
from tailsmith.generation.fit.clip import clip_loss, create_clip, tokenize
from tailsmith.generation.fit.config import FitGeneratorConfig, StageConfig
from tailsmith.generation.fit.decoder import create_criticised, decoder_loss
from tailsmith.generation.fit.denoiser import create_denoiser, denoiser_loss
from tailsmith.generation.fit.stage import Fitting, draw_step
from tailsmith.generation.generator import load_decoder, load_generator, no_loading_bars
from tailsmith.guidance.config import FeedbackConfig
from tailsmith.synthesis.config import SynthesisConfig
from tailsmith.synthesis.fitting import fit_generator
from tailsmith.synthesis.memory import BatchSize
from tailsmith.synthesis.plan import Plan
from tailsmith.synthesis.worker import Worker
from tiny import CLASSES, CONTEXTS, TinyClassifier, tiny_pipeline

Patch = pytest.MonkeyPatch
META = torch.device("meta")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    use("auto")


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generator")
    with no_loading_bars():
        tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def accelerator(monkeypatch: Patch) -> torch.device:
    """A machine whose accelerator is called "meta": tensors there have a device, and no values."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: META)
    return META


def machine(monkeypatch: Patch, kind: str | None, count: int = 1) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: kind is not None)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind) if kind else None)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: count if kind else 0)


# ---- the choice


@pytest.mark.parametrize("kind", ["cuda", "mps", "xpu"])
def test_auto_is_the_accelerator_of_any_kind(kind: str, monkeypatch: Patch) -> None:
    machine(monkeypatch, kind)
    assert chosen_device() == chosen_device("auto") == chosen_device(kind) == torch.device(kind)
    assert chosen_device("cpu") == torch.device("cpu")
    machine(monkeypatch, None)
    assert chosen_device() == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("gpu", None, "should be auto, cpu, or an accelerator such as cuda, cuda:1, mps or xpu; got 'gpu'"),
        ("", None, "should be auto, cpu, or an accelerator"),
        ("meta", None, "should be auto, cpu, or an accelerator"),
        ("cuda", None, "'cuda' is not on this machine: it has no accelerator that PyTorch can use; use cpu or auto"),
        ("cuda", "mps", "'cuda' is not on this machine: its accelerator is 'mps'; use mps or auto"),
        ("cuda:2", "cuda", "'cuda:2' is not on this machine: it has 2 of cuda, counted from 0"),
    ],
)
def test_devices_that_are_not_here(name: str, kind: str | None, message: str, monkeypatch: Patch) -> None:
    machine(monkeypatch, kind, count=2)
    with pytest.raises(ValueError, match=message):
        chosen_device(name)
    with pytest.raises(ValueError, match=message):
        use(name)
    assert chosen_device() == (torch.device(kind) if kind else torch.device("cpu"))


def test_a_numbered_accelerator_becomes_the_current_one(monkeypatch: Patch) -> None:
    """Whoever asks PyTorch for "cuda" afterwards, as accelerate does, gets this one."""
    machine(monkeypatch, "cuda", count=2)
    numbers: list[int] = []
    monkeypatch.setattr(torch.accelerator, "set_device_index", numbers.append)
    assert use("cuda:1") == chosen_device() == torch.device("cuda:1")
    assert numbers == [1]


def test_precisions(monkeypatch: Patch) -> None:
    assert [chosen_dtype(name) for name in ("fp32", "bf16")] == [torch.float32, torch.bfloat16]
    with pytest.raises(ValueError, match="dtype fp16 needs an accelerator, and this runs on the CPU; use fp32 or bf16"):
        chosen_dtype("fp16")
    machine(monkeypatch, "mps")
    assert chosen_dtype("fp16") == torch.float16
    with pytest.raises(ValueError, match="dtype should be one of fp32, fp16, bf16, got 'float16'"):
        chosen_dtype("float16")


@pytest.mark.parametrize(
    ("text", "has"),
    [
        ("processor : 0\nflags\t\t: fpu avx2 avx512_bf16 sse\n", True),
        ("flags\t\t: fpu amx_bf16\n", True),
        ("Features\t: fp asimd bf16 i8mm\n", True),
        ("flags\t\t: fpu avx2 avx512f\nmodel name: bf16\n", False),
        ("", False),
    ],
)
def test_a_cpu_has_bf16_where_it_says_so(text: str, has: bool, tmp_path: Path, monkeypatch: Patch) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    flags = devices._cpu_flags(tmp_path / "cpuinfo")
    assert devices._cpu_flags(tmp_path / "no such file") == set()
    monkeypatch.setattr(devices, "_cpu_flags", lambda: flags)
    assert has_bf16_arithmetic(torch.device("cpu")) is has
    assert has_bf16_arithmetic(torch.device("mps"))


# ---- everything lands there


def test_classifier_generator_and_decoder_land_on_the_same_device(generator: Path, accelerator: torch.device) -> None:
    classifier = wrap_classifier(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 3)),
        class_names=CLASSES,
        image_size=16,
        mean=(0, 0, 0),
        std=(1, 1, 1),
    )
    moved, pipe = on_accelerator(classifier), load_generator(str(generator))
    assert {each.device for each in (*moved.parameters(), *moved.buffers())} == {META}
    assert {each.device for part in (pipe.unet, pipe.vae, pipe.image_encoder) for each in part.parameters()} == {META}
    decoder = load_decoder("tiny", "mini-unclip", device=pipe.device)
    assert decoder is not None
    assert next(decoder.parameters()).device == META


@pytest.mark.parametrize(("name", "kind", "cpu"), [("auto", "mps", False), ("cpu", "mps", True), ("auto", None, True)])
def test_training_is_where_the_rest_is(name: str, kind: str | None, cpu: bool, monkeypatch: Patch) -> None:
    machine(monkeypatch, kind)

    def accelerate(cpu: bool) -> None:
        raise RuntimeError(f"cpu={cpu}")

    monkeypatch.setattr(stage_run, "Accelerator", accelerate)
    use(name)
    with pytest.raises(RuntimeError, match=f"cpu={cpu}"):
        tailsmith.train(DATASET, config=TrainConfig(steps=2, batch_size=4, image_size=16))


def test_memory_is_given_back_to_the_accelerator_that_ran_out(monkeypatch: Patch) -> None:
    machine(monkeypatch, "mps")
    emptied = []
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: emptied.append(1))

    def make(rows: slice) -> int:
        if rows.stop - rows.start > 1:
            raise RuntimeError("MPS backend out of memory")
        return rows.start

    assert [made for _, made in BatchSize(2).over(2, make, list)] == [0, 1]
    assert emptied == [1]


def captioned(device: torch.device) -> CaptionedImages:
    """Four images that lie on a device."""
    images = lambda rows: torch.zeros(len(rows), 3, 16, 16, device=device)  # noqa: E731
    return CaptionedImages(images, np.array([0, 1, 2, 0]), np.array([0, 1, 0, 1]), Captions(CLASSES, CONTEXTS), 0.5)


def test_the_losses_of_fit_generator_compute_on_the_device_of_their_model() -> None:
    """On the meta device, where a tensor left on the CPU is an error."""
    data, (_, draw) = captioned(META), draw_step(4, StageConfig(1, batch_size=8), 0, 0)[0]
    tokenizer = build_tokenizer(data.captions.texts)
    tokens = tokenize(tokenizer, data.captions.texts).to(META)
    clip = create_clip(tokenizer, image_size=16, width=16, embedding=8).to(META)
    autoencoder = create_autoencoder(image_size=16, channels=(8, 16), latent_channels=4).to(META)
    denoiser = create_denoiser(latent_size=8, latent_channels=4, channels=(16, 32), text_width=12, embedding=8)
    normalizer = tiny_pipeline().image_normalizer.to(META)
    states = torch.zeros(len(data.captions.texts), 16, 12, device=META)
    denoise = denoiser_loss(
        data,
        torch.zeros(4, 4, 8, 8),
        torch.zeros(4, 8),
        states,
        normalizer,
        text_dropout=0.1,
        embedding_dropout=0.5,
        entry_dropout=0.5,
    )
    for losses in (
        clip_loss(data, tokens, entry_dropout=0.5)(clip, draw),
        autoencoder_loss(data.images, kl_weight=1e-3)(autoencoder, draw),
        decoder_loss(data.images, torch.zeros(4, 4, 8, 8), critic_weight=0.1)(
            create_criticised(autoencoder, 8, 0).to(META), draw
        ),
        denoise(denoiser.to(META), draw),
    ):
        assert {value.device for value in losses.values()} == {META}


@pytest.mark.parametrize(
    ("asked", "arithmetic", "used"), [(None, True, True), (None, False, False), (True, False, True)]
)
def test_fit_generator_uses_bf16_where_the_device_has_it(
    asked: bool | None, arithmetic: bool, used: bool, tmp_path: Path, monkeypatch: Patch
) -> None:
    def stage(fitting: Fitting, *_: object, **__: object) -> None:
        raise RuntimeError(f"bf16={fitting.bf16} on {fitting.device}")

    monkeypatch.setattr(recipe, "has_bf16_arithmetic", lambda device: arithmetic)
    monkeypatch.setattr(recipe, "run_stage", stage)
    one = StageConfig(1, batch_size=2)
    config = FitGeneratorConfig(
        None, 16, 4, (8, 8, 16), (16, 32), 16, 8, clip=one, autoencoder=one, denoiser=one, decoder=one, bf16=asked
    )
    with pytest.raises(RuntimeError, match=f"bf16={used} on cpu"):
        fit_generator(DATASET, tmp_path, config)


# ---- precision


def test_another_precision_makes_slightly_other_images(generator: Path) -> None:
    plan, classifier = tiny_plan(feedback_scale=0.02), TinyClassifier().eval()
    full = render(Worker(load_generator(str(generator)), DATASET, classifier), plan)
    half = render(Worker(load_generator(str(generator), dtype=torch.bfloat16), DATASET, classifier), plan)
    assert largest_difference(full, half) > 0
    close = [np.abs(a - b).mean() for a, b in zip(pixels(full).values(), pixels(half).values(), strict=True)]
    assert max(close) < 8


def test_a_pipe_in_another_precision_than_planned_is_refused(generator: Path, tmp_path: Path) -> None:
    config = SynthesisConfig(num_inference_steps=2, dtype="bf16", feedback=FeedbackConfig(scale=0.0))
    plan = tailsmith.plan(DATASET, 6, config=config, generator=str(generator))
    with pytest.raises(
        ValueError, match="plan is for a generator in bf16, this pipe is in fp32; plan with dtype='fp32'"
    ):
        tailsmith.synthesize(plan, DATASET, tmp_path / "a", pipe=tiny_pipeline())
    made = tailsmith.synthesize(plan, DATASET, tmp_path / "b")
    assert len(made) == len(plan)
    with pytest.raises(ValueError, match="dtype should be one of fp32, fp16, bf16, got 'half'"):
        tailsmith.plan(DATASET, 6, config=SynthesisConfig(dtype="half"), generator=str(generator))


def test_the_command_line_chooses_device_and_precision(
    generator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Patch
) -> None:
    machine(monkeypatch, None)
    data, plan = str(write_folder(tmp_path / "data")), tmp_path / "plan.parquet"
    options = ["--generator", str(generator), "--target=7", "--synthesis.feedback-scale=0"]
    options += ["--synthesis.num-inference-steps=2", "--dtype", "fp16"]
    assert main(["plan", data, "--out", str(plan), *options]) == 0  # for another machine
    assert Plan.read(plan).meta["synthesis"]["dtype"] == "fp16"
    making = ["synthesize", str(plan), "--data", data, "--out"]
    for wrong, message in (
        ([], "dtype fp16 needs an accelerator, and this runs on the CPU"),
        (["--device", "cuda"], "device 'cuda' is not on this machine"),
        (["--dtype", "float"], "dtype should be one of fp32, fp16, bf16, got 'float'"),
    ):
        assert main([*making, str(tmp_path / "none"), *wrong]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    assert main([*making, str(tmp_path / "images"), "--dtype", "bf16", "--device=cpu"]) == 0
    assert Plan.read(tmp_path / "images" / "plan.parquet").meta["synthesis"]["dtype"] == "bf16"
    assert pq.read_table(tmp_path / "images" / "shard-00000.parquet").num_rows == 5
    assert main([*making, str(tmp_path / "images"), "--dtype", "fp32"]) == 2  # other images: another plan
    assert "another plan" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["demo", "train", "synthesize", "evaluate", "run", "fit-generator", "grid"])
def test_every_command_that_computes_takes_a_device(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"train": ["d"], "synthesize": ["p"], "evaluate": ["c"], "fit-generator": ["d"], "grid": ["d"]}
    data = ["--data", "d"] if command in ("synthesize", "evaluate") else []
    out = [] if command == "evaluate" else ["--out", str(tmp_path / "out")]
    more = ["--classifier", "c"] if command == "grid" else []
    assert main([command, *places.get(command, []), *data, *out, *more, "--device", "abacus"]) == 2
    assert "device should be auto, cpu, or an accelerator" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_run_refuses_fp16_on_a_cpu_before_it_trains(
    generator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Patch
) -> None:
    machine(monkeypatch, None)
    data = str(write_folder(tmp_path / "data"))
    argv = ["run", "--data", data, "--generator", str(generator), "--dtype=fp16", "--out", str(tmp_path / "run")]
    assert main(argv) == 2
    assert "dtype fp16 needs an accelerator" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
