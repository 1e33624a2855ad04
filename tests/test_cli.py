"""The commands, end to end on tiny data: what they print, write and refuse to parse."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

import tailsmith
from folders import write_folder
from tailsmith import experiment
from tailsmith.classification.config import TrainConfig
from tailsmith.cli.main import COMMANDS, build_parser, main
from tailsmith.cli.text import accuracy_text, aligned, arms_text, plan_text
from tailsmith.data.writers import write_parquet
from tailsmith.files import write_json
from tailsmith.generation.fit.config import FitGeneratorConfig
from tailsmith.guidance.config import FeedbackConfig
from tailsmith.runs.config import RunConfig, SearchConfig
from tailsmith.settings import from_dict, to_dict
from tailsmith.synthesis.config import SynthesisConfig
from tailsmith.synthesis.cost import PNG_RATIO, cost
from tailsmith.synthesis.sets import chosen_shards

QUICK_TRAIN = ["--train.steps=4", "--train.batch-size=8", "--train.evaluate-every=2", "--train.image-size=16"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("pets"))


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny import tiny_pipeline

    folder = tmp_path_factory.mktemp("generator")
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "classifier"
    assert main(["train", str(data), "--out", str(folder), *QUICK_TRAIN]) == 0
    return folder


# --- help, parsing


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    """In a process of its own; by what it imports, since seconds depend on the machine."""
    heavy = ("torch", "diffusers", "transformers", "pandas", "timm", "sklearn", "numpy", "matplotlib")
    code = (
        "import sys; from tailsmith.cli.main import main\n"
        "codes = [main(['--help']), main(['run', '--help']), main(['fit-generator', '--help'])]\n"
        f"print(codes, [name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[0, 0, 0] []"
    assert done.stderr == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_every_option_described(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    printed = capsys.readouterr().out
    assert f"usage: tailsmith {command}" in printed
    assert "YAML file with any of these options" in printed
    assert "<class 'tailsmith" not in printed
    assert "--search.*:" not in printed  # a section that may be absent is an option of the whole
    assert "noqa" not in printed
    for action in build_parser(command)._actions:
        if action.dest in ("out", "data", "data_seed", "generator", "target", "skip_corrupt"):
            assert action.help


def test_overview_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    overview = capsys.readouterr().out
    assert all(f"\n  {name} " in overview for name in COMMANDS)
    assert main([]) == 2
    assert capsys.readouterr().out == overview
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("tailsmith 0.")


class Called(dict[str, Any]):
    """What a command function was called with."""


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Called:
    """`tailsmith run` records its arguments and leaves made-up results; nothing is loaded."""
    seen = Called()

    def run(config: RunConfig, out: Path, command: str) -> Path:
        seen["run"] = (config, out, command)
        for number, arm in enumerate(config.arms):
            write_json(out / "arms" / arm / "evaluation.json", accuracy(50.0 + number))
            write_json(out / "arms" / arm / "history.json", [])
        return out / "report.html"

    monkeypatch.setattr(experiment, "run", run)
    monkeypatch.setattr("tailsmith.data.sources.named.load", lambda *_, **options: seen.update(load=options))
    return seen


def accuracy(overall: float) -> dict[str, Any]:
    """An accuracy table as JSON has it: null where there is nothing to average."""
    cell = {"accuracy": overall, "n": 10, "low": overall - 1, "high": overall + 1}
    absent = {"accuracy": None, "n": 0, "low": None, "high": None}
    return {
        "overall": cell,
        "shots": {"many": cell, "medium": cell, "few": absent},
        "classes": {"cat": cell, "dog": absent},
        "groups": {"cat in rock": cell},
        "worst_group": {**cell, "group": "cat in rock"},
        "group_shots": {"majority": cell},
    }


def fed(**settings: Any) -> dict[str, SynthesisConfig]:
    """A run's settings with these of feedback."""
    return {"synthesis": SynthesisConfig(feedback=FeedbackConfig(**settings))}


def run_config(called: Called, *argv: str) -> RunConfig:
    assert main(["run", *argv]) == 0
    config: RunConfig = called["run"][0]
    return config


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], {}),
        (["--real.steps", "300"], {"real": TrainConfig(steps=300)}),
        (["--synthesis.feedback_scale", "0.05"], fed(scale=0.05)),
        (["--synthesis.feedback-scale=0.05"], fed(scale=0.05)),
        (["--synthesis.prompt", "{label} in"], {"synthesis": SynthesisConfig(prompt="{label} in")}),
        (["--synthesis.feedback.scale", "0.05"], fed(scale=0.05)),
        (["--synthesis.feedback.scale=0.05"], fed(scale=0.05)),
        (["--synthesis.feedback.decode-size=8"], fed(decode_size=8)),
        (["--synthesis.feedback.reuse"], fed(reuse=True)),
        (["--synthesis.feedback_reuse"], fed(reuse=True)),
        (["--synthesis.criterion", '{"loss": 0.5}'], fed(criterion={"loss": 0.5})),
        (["--synthesis.feedback-steps", "0,5,10"], fed(steps=(0, 5, 10))),
        (["--synthesis.feedback-steps=[3]"], fed(steps=(3,))),
        (["--synthesis.feedback_steps", "null"], {}),
        (["--target", '{"sandal": 250}'], {"target": {"sandal": 250}}),
        (["--target.t-shirt", "250"], {"target": {"t-shirt": 250}}),
        (["--target", "250"], {"target": 250}),
        (["--target", "max"], {}),
        (["--arms", "erm,text"], {"arms": ("erm", "text")}),
        (["--arms=[erm, text]"], {"arms": ("erm", "text")}),
        (["--skip-corrupt"], {"skip_corrupt": True}),
        (["--skip-corrupt", "--batch-size", "8"], {"skip_corrupt": True, "batch_size": 8}),
        (["--skip_corrupt", "false"], {}),
        (["--skip-corrupt=true"], {"skip_corrupt": True}),
        (
            ["--search.learning-rate", "1e-4,1e-2", "--search.batch_size=8,9"],
            {"search": SearchConfig(learning_rate=(1e-4, 1e-2), batch_size=(8, 9))},
        ),
        (["--data", "~/pets"], {"data": os.path.expanduser("~/pets")}),
    ],
)  # fmt: skip
def test_options_become_the_configuration(
    called: Called, tmp_path: Path, argv: list[str], expected: dict[str, Any]
) -> None:
    config = run_config(called, "--out", str(tmp_path), *argv)
    assert config == from_dict(RunConfig, expected)
    assert type(config.target) is type(from_dict(RunConfig, expected).target)


def test_a_config_file_and_options_after_it(called: Called, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"target": 9, "synthesis": {"feedback_scale": 0.1, "seed": 4}}))
    config = run_config(called, "--out", str(tmp_path), "--config", str(path), "--synthesis.seed", "5")
    assert config == RunConfig(target=9, synthesis=SynthesisConfig(seed=5, feedback=FeedbackConfig(scale=0.1)))


def test_the_config_of_a_run_directory_is_a_config_file(called: Called, tmp_path: Path) -> None:
    expected = RunConfig(
        target={"cat": 9}, arms=("erm", "text"), synthesis=SynthesisConfig(feedback=FeedbackConfig(steps=(1, 2)))
    )
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(to_dict(expected)))
    assert run_config(called, "--out", str(tmp_path), "--config", str(path)) == expected


def test_keys_of_yaml_stay_as_they_are_written(called: Called, tmp_path: Path) -> None:
    """Classes may be called 10, no, or null; YAML alone reads a number, False and None."""
    path = tmp_path / "run.yaml"
    path.write_text("target: {10: 20, no: 21, null: 22, 1e3: 23}\nreal: {learning_rate: 1e-3}\n")
    config = run_config(called, "--out", str(tmp_path), "--config", str(path))
    assert config.target == {"10": 20, "no": 21, "null": 22, "1e3": 23}
    assert config.real.learning_rate == 0.001
    assert run_config(called, "--out", str(tmp_path), "--target", "{no: 21}").target == {"no": 21}


def test_names_that_a_terminal_can_not_show_stop_nothing_and_json_stays_json(data: Path, tmp_path: Path) -> None:
    (tmp_path / "pets.csv").write_text(
        "path,label,split\n"
        + "".join(
            f"{data}/{split}/{name}/{number}.png,{label},{split}\n"
            for split, count in (("train", 3), ("val", 2), ("test", 2))
            for name, label in (("cat", "chât"), ("dog", "dog"))
            for number in range(count)
        ),
        encoding="utf-8",
    )
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "tailsmith", "inspect", str(tmp_path / "pets.csv"), "--json"]
    done = subprocess.run(command, capture_output=True, env=environment, check=True)
    assert list(json.loads(done.stdout.decode("utf-8"))["classes"]) == ["chât", "dog"]


def test_print_config_comes_back_as_a_config_file(
    called: Called, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--out", str(tmp_path), "--target", "7", "--real.steps=5", "--print_config"]) == 0
    path = tmp_path / "printed.yaml"
    path.write_text(capsys.readouterr().out)
    assert run_config(called, "--out", str(tmp_path), "--config", str(path)) == RunConfig(
        target=7, real=TrainConfig(steps=5)
    )


def test_run_is_told_its_command_line(called: Called, tmp_path: Path) -> None:
    run_config(called, "--out", str(tmp_path), "--synthesis.prompt", "a {label}")
    _, out, command = called["run"]
    assert out == tmp_path
    assert command == f"tailsmith run --out {tmp_path} --synthesis.prompt 'a {{label}}'"


def test_fit_generator_options(
    called: Called, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tailsmith.synthesis import fitting

    monkeypatch.setattr(fitting, "fit_generator", lambda _, out, config: called.update(fit=(out, config)) or out)
    monkeypatch.setattr(fitting, "settled_for", lambda _, config: config.settled(1000, 32))
    argv = ["--clip.steps", "3", "--denoiser-channels", "32,64", "--bf16", "false", "--skip-corrupt"]
    assert main(["fit-generator", "D", "--out", "~/g", *argv]) == 0
    out, config = called["fit"]
    assert out == Path("~/g").expanduser()
    plain = to_dict(FitGeneratorConfig())
    plain["clip"]["steps"] = 3
    given = from_dict(FitGeneratorConfig, {**plain, "denoiser_channels": [32, 64], "bf16": False})
    assert config == given.settled(1000, 32)
    assert called["load"] == {"skip_corrupt": True, "seed": 0, "max_megapixels": None}
    assert f"--generator {out}" in capsys.readouterr().out


# --- commands


def test_inspect(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(data)]) == 0
    printed = capsys.readouterr().out
    assert "17 images" in printed
    assert "imbalance factor 2" in printed
    assert [line.split() for line in printed.splitlines() if line.startswith(("cat", "dog"))] == [
        ["cat", "few", "6", "2", "2"],
        ["dog", "few", "3", "2", "2", "+3"],
    ]
    assert "3 requests for an image each in 1 shard\n" in printed


def test_inspect_json(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--json", "--target", '{"dog": 1000}', "--seconds-per-image", "3.6", "--generator", "sd2.1-unclip"]
    assert main(["inspect", str(data), *argv]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["classes"]["dog"] == {"train": 3, "val": 2, "test": 2, "shot": "few"}
    plan = described["plan"]
    assert plan["to_add"] == {"cat": 0, "dog": 997}
    assert plan["images"] == 997
    assert plan["shards"] == 4
    assert plan["hours"] == pytest.approx(0.997)
    assert plan["bytes"] == pytest.approx(997 * 3 * 768**2 * PNG_RATIO, abs=1)


def test_inspect_groups_names_the_empty_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tailsmith.data.writers import write_image_folder
    from tiny import tiny_dataset

    write_image_folder(tiny_dataset(), tmp_path / "tiny")
    assert main(["inspect", str(tmp_path / "tiny"), "--per", "group"]) == 0
    printed = capsys.readouterr().out
    assert "Groups without a training image (1): sandal in water" in printed
    table = [line.split() for line in printed.splitlines() if " + " in line]
    assert table[1] == ["sandal", "5", "0", "+", "5"]
    assert table[-1] == ["bag", "1", "+", "4", "1", "+", "4"]
    assert "18 requests" in printed  # 6 groups to 5: 0 + 5 + 2 + 3 + 4 + 4


def test_inspect_of_balanced_data_has_nothing_to_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = {split: {"cat": 2, "dog": 2} for split in ("train", "val", "test")}
    assert main(["inspect", str(write_folder(tmp_path / "even", counts))]) == 0
    assert "all counts are equal already" in capsys.readouterr().out


def test_demo_writes_its_data_as_an_ordinary_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tailsmith.data.sources import embedded
    from tiny import tiny_dataset

    monkeypatch.setattr(embedded, "load_embedded", lambda task: tiny_dataset())
    assert main(["demo", "--write-data", str(tmp_path / "data")]) == 0
    assert f"tailsmith inspect {tmp_path / 'data'}" in capsys.readouterr().out
    rows = pd.read_csv(tmp_path / "data" / "metadata.csv")
    assert len(rows) == len(tiny_dataset())
    assert all((tmp_path / "data" / path).is_file() for path in rows["path"])
    assert main(["inspect", str(tmp_path / "data")]) == 0


def test_demo_runs_the_demo_config_and_says_where_the_report_is(
    called: Called, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--task", "fashion-groups", "--out", str(out)]) == 0
    config = experiment.demo_config("fashion-groups")
    assert called["run"] == (config, out, f"tailsmith demo --task fashion-groups --out {out}")
    *_, first, second, third, fourth, _, headline, lead, last = capsys.readouterr().out.splitlines()
    assert last == f"Report: {out / 'report.html'}"
    assert "accuracy" in headline and lead.startswith("“image_text” against “balanced_softmax”")
    assert [line.split()[:2] for line in (first, second, third, fourth)] == [
        [arm, f"{50 + number}.0"] for number, arm in enumerate(config.arms)
    ]


def test_train_writes_a_classifier_with_its_history(
    trained: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"config.json", "model.safetensors", "seen.safetensors", "history.json"}
    assert {each.name for each in trained.iterdir()} == names
    history = json.loads((trained / "history.json").read_text())
    assert [entry["step"] for entry in history] == [2, 4]


def test_evaluate_refuses_images_that_were_trained_on(
    trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The training folder alone is split anew, and its "test" images are old acquaintances."""
    assert main(["evaluate", str(trained), "--data", str(data)]) == 0
    capsys.readouterr()
    rows = tailsmith.load(data).split("train")
    again = rows.table.assign(split=["test" if row % 3 == 0 else "train" for row in range(len(rows))])
    write_parquet(replace(rows, table=again), tmp_path / "again.parquet")
    assert main(["evaluate", str(trained), "--data", str(tmp_path / "again.parquet")]) == 2
    line, n = capsys.readouterr().err.splitlines()[-1], -(-len(rows) // 3)
    assert f"{n} of {n} test images are among those that this classifier was trained or selected on (first: " in line
    assert main(["evaluate", str(trained), "--data", str(tmp_path / "again.parquet"), "--split", "train"]) == 0
    shutil.copytree(trained, tmp_path / "arm" / "classifier")
    (tmp_path / "arm" / "classifier" / "seen.safetensors").unlink()
    assert main(["evaluate", str(tmp_path / "arm"), "--data", str(tmp_path / "again.parquet")]) == 0
    assert "doesn't say what it was trained on" in caplog.text


def test_a_plan_replaces_no_other_plan(
    data: Path, generator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["plan", str(data), "--out", str(tmp_path / "p.parquet"), "--generator", str(generator)]
    assert main([*argv, "--target=20"]) == 0
    before = (tmp_path / "p.parquet").read_bytes()
    assert main([*argv, "--target=20"]) == 0
    assert main([*argv, "--target=21"]) == 2
    assert "is another plan (requests: not the same); use another --out, or --overwrite" in capsys.readouterr().err
    assert (tmp_path / "p.parquet").read_bytes() == before
    assert main([*argv, "--target=21", "--overwrite"]) == 0
    assert (tmp_path / "p.parquet").read_bytes() != before


def test_train_says_what_it_reached_and_refuses_to_overwrite(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["train", str(data), "--out", str(tmp_path / "f"), *QUICK_TRAIN]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    best = max(entry["validation"] for entry in json.loads((tmp_path / "f" / "history.json").read_text()))
    assert f"Validation accuracy (mean over classes): {best:.1f} %" in printed
    before = (tmp_path / "f" / "model.safetensors").read_bytes()
    assert main(argv) == 2
    assert "holds a classifier already" in capsys.readouterr().err
    assert (tmp_path / "f" / "model.safetensors").read_bytes() == before


def test_under_torchrun_only_the_first_process_writes(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Untouchable:
        history: tuple[dict[str, float], ...] = ()

        def save(self, folder: Path) -> None:
            raise AssertionError("process 1 should not write")

    ended = []
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 1)
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: ended.append(True))
    monkeypatch.setattr("tailsmith.runs.training.train", lambda *_, **__: Untouchable())
    assert main(["train", str(data), "--out", str(tmp_path / "f")]) == 0
    assert not (tmp_path / "f").exists() and ended
    assert capsys.readouterr().out == ""


def test_a_variable_called_rank_keeps_no_single_process_from_writing(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert main(["train", str(data), "--out", str(tmp_path / "f"), *QUICK_TRAIN]) == 0
    assert (tmp_path / "f" / "model.safetensors").is_file()


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "train"])
def test_commands_of_one_process_are_refused_under_torchrun(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([command, "--out", str(tmp_path / "out")]) == 2
    assert f"tailsmith {command} works in one process, and torchrun started 2; start it without" in (
        capsys.readouterr().err
    )
    assert list(tmp_path.iterdir()) == []


def test_a_classifier_that_can_not_be_saved_is_kept_elsewhere(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tailsmith.classification.classifier import load_classifier
    from tailsmith.files import os as files_os

    replace = files_os.replace

    def full(source: Path, target: Path) -> None:
        if target == tmp_path / "f" / "model.safetensors":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(files_os, "replace", full)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["train", str(data), "--out", str(tmp_path / "f"), *QUICK_TRAIN]) == 2
    printed = capsys.readouterr().err
    (kept,) = tmp_path.glob("tailsmith-classifier-*")
    assert "could not be written" in printed and "disk full" in printed and f"it is kept in {kept}: move" in printed
    assert load_classifier(kept).class_names == ("cat", "dog")
    assert json.loads((kept / "history.json").read_text())


def test_evaluate(trained: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "table.json"
    assert main(["evaluate", str(trained), "--data", str(data), "--split", "val", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    table = json.loads(out.read_text())
    assert table["overall"]["n"] == 4
    assert printed.startswith("val accuracy in %")
    assert f"{table['classes']['dog']['accuracy']:.1f}" in next(
        line for line in printed.splitlines() if line.startswith("dog")
    )


@pytest.mark.parametrize("command", ["evaluate", "grid"])
def test_a_loaded_classifier_works_where_the_generator_does(
    command: str, trained: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, object] = {}
    elsewhere = "tailsmith.classification.classifier.on_accelerator"
    monkeypatch.setattr(elsewhere, lambda classifier: seen.setdefault("moved", classifier))

    def draw(_: object, judge: object, *__: object, **___: object) -> SimpleNamespace:
        seen["used"] = judge
        return SimpleNamespace(figures=(), cells="", page="")

    monkeypatch.setattr("tailsmith.studies.grid.draw.draw_grids", draw)
    monkeypatch.setattr("tailsmith.runs.training.evaluate", lambda judge, *_: draw(None, judge) and accuracy(50.0))
    argv = {"evaluate": [str(trained)], "grid": [str(data), "--classifier", str(trained), "--out", str(tmp_path)]}
    assert main([command, *argv[command], *(["--data", str(data)] if command == "evaluate" else [])]) == 0
    assert seen["used"] is seen["moved"]


def test_plan_synthesize_and_train_on_it(
    trained: Path, data: Path, generator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, images = tmp_path / "plan.parquet", tmp_path / "images"
    quick = ["--synthesis.num-inference-steps", "2", "--synthesis.feedback-every", "1"]
    options = ["--generator", str(generator), "--target=9", "--synthesis.shard-size=4", *quick]
    planning = ["plan", str(data), "--out", str(plan), "--classifier", str(trained), *options]
    assert main([*planning, "--dry-run"]) == 0
    assert not plan.exists()
    printed = capsys.readouterr().out
    assert "9 requests for an image each in 3 shards" in printed
    assert "nothing written" in printed
    assert "unknown; give --seconds-per-image" in printed
    assert main(planning) == 0
    assert plan.is_file()

    making = ["synthesize", str(plan), "--data", str(data), "--out", str(images), "--classifier", str(trained)]
    assert main([*making, "--shards", "0-1"]) == 0
    assert "8 images in 2 shards" in capsys.readouterr().out
    assert sorted(each.name for each in images.glob("shard-*")) == [f"shard-0000{n}.parquet" for n in (0, 1)]
    training = ["train", str(data), "--synthetic", str(images), "--out", str(tmp_path / "f"), *QUICK_TRAIN]
    assert main(training) == 2
    assert "has 2 of its plan's 3 shards; finish it" in capsys.readouterr().err

    stamps = {each: each.stat().st_mtime_ns for each in images.glob("shard-*")}
    assert main(making) == 0
    assert "9 images in 3 shards" in capsys.readouterr().out
    assert all(each.stat().st_mtime_ns == stamp for each, stamp in stamps.items())
    assert np.isfinite(pq.read_table(images / "shard-00002.parquet")["criterion_value"].to_numpy()).all()
    assert main([*training, "--train.resampling", "half_and_half"]) == 0


def test_loading_and_saving_a_generator_draws_no_bars(
    generator: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from tailsmith.generation.generator import load_generator, no_loading_bars

    pipe = load_generator(str(generator))
    with no_loading_bars():
        pipe.save_pretrained(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_warnings_of_ours_are_lines_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(
        COMMANDS, "report", lambda: logging.getLogger("tailsmith.data.sources.readers").warning("skipped: %s", "x.png")
    )
    assert main(["report"]) == 0
    assert main(["report"]) == 0
    assert capsys.readouterr().err == "tailsmith: skipped: x.png\n" * 2


def test_a_reader_that_leaves_is_no_error(data: Path) -> None:
    """As in `tailsmith inspect DATA | head -1`: the pipe is closed before anything is printed."""
    reading, writing = os.pipe()
    os.close(reading)
    argv = [sys.executable, "-m", "tailsmith", "--help"]
    done = subprocess.run(argv, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


# --- what they share


@pytest.mark.parametrize(
    ("text", "expected"),
    [("3", [3]), ("0,1,2", [0, 1, 2]), ("0-2", [0, 1, 2]), ("2, 0-1,1", [0, 1, 2]), ("4-4", [4])],
)
def test_chosen_shards(text: str, expected: list[int]) -> None:
    assert chosen_shards(text, range(5)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "shards should be numbers"),
        ("1-", "shards should be numbers"),
        ("-1", "shards should be numbers"),
        ("", "shards should be numbers"),
        ("5", "the plan has the shards 0-4, got 5"),
        ("3-1", "the plan has the shards 0-4, got 3-1"),
    ],
)
def test_shards_that_are_not(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chosen_shards(text, range(5))


def test_cost_of_a_folder_takes_its_image_size(generator: Path) -> None:
    from tiny import SIZE

    spent = cost(300, str(generator), 2.0, SynthesisConfig())
    assert spent["shards"] == 2
    assert spent["hours"] == pytest.approx(300 * 2 / 3600)
    assert spent["bytes"] == pytest.approx(300 * SIZE**2 * 3 * PNG_RATIO, abs=1)
    with pytest.raises(ValueError, match="seconds_per_image should be above 0, got 0"):
        cost(300, str(generator), 0.0, SynthesisConfig())


def test_a_known_speed_says_where_it_was_measured_and_a_given_one_does_not() -> None:
    def told(seconds: float | None, **settings: Any) -> str:
        spent = cost(1000, "sd2.1-unclip", seconds, from_dict(SynthesisConfig, settings))
        return plan_text({"target": 1300, "per": "class", "to_add": {}, **spent})

    known = told(None)
    hours = f"about {1000 * 21.9 / 3600:.1f} GPU-hours at 21.9 s per image, as in fp16"
    assert f"{hours}, not in fp32 as here, on one V100" in known
    assert f"{hours}, on one V100" in told(None, dtype="fp16")
    assert "target 1,300 per class, 1,000 requests" in known
    assert "about 63 minutes at 3.8 s per image, as in fp16, on one" in told(None, feedback_scale=0.0, dtype="fp16")
    given = told(3.6)
    assert "about 60 minutes at 3.6 s per image\n" in given
    assert "V100" not in given


def test_aligned() -> None:
    assert aligned([("name", "n"), ("a", 10), ("bcdef", 2)]) == "name    n\na      10\nbcdef   2"


def test_tables_show_what_is_absent_as_a_dash() -> None:
    lines = accuracy_text(accuracy(50.0), "test").splitlines()
    assert next(line for line in lines if line.startswith("few")).split()[-4:] == ["-", "..", "-", "0"][-4:]
    assert any(line.startswith("worst group: cat in rock") for line in lines)
    assert arms_text({"erm": accuracy(50.0)}).splitlines()[1].split() == ["erm", "50.0", "50.0", "50.0", "-", "50.0"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.001, "about 1 second at"),
        (0.6, "about 1 minute at"),
        (0.5, "about 50 seconds"),
        (36.0, "about 60 minutes"),
        (360.0, "about 10.0 GPU-hours"),
        (None, "unknown"),
    ],
)
def test_time_in_readable_units(seconds: float | None, said: str) -> None:
    spent = cost(100, "sdxl", seconds, SynthesisConfig())
    assert said in plan_text({"target": "max", "per": "class", "to_add": {"cat": 100}, **spent})
