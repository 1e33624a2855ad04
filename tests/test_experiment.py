"""The whole recipe at toy size: what a run leaves behind, resuming, killing, and what it refuses."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

import tailsmith
from folders import write_folder, write_image
from tailsmith.classification.config import TrainConfig
from tailsmith.cli.main import main
from tailsmith.errors import UserError
from tailsmith.experiment import World, demo_config, report_run, run, train_arm
from tailsmith.files import read_json, write_json
from tailsmith.guidance.config import FeedbackConfig
from tailsmith.runs.arms import ARMS, Arm, arm_of
from tailsmith.runs.config import RunConfig, SearchConfig, check_settled, sets_of
from tailsmith.runs.directory import RunDirectory
from tailsmith.settings import from_dict, to_dict
from tailsmith.synthesis.config import SynthesisConfig

SCRIPT = """
import sys
from pathlib import Path
import yaml
from tailsmith.runs.config import RunConfig
from tailsmith.settings import from_dict
from tailsmith.experiment import run
run(from_dict(RunConfig, yaml.safe_load(sys.argv[1])), Path(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A dataset file and a generator folder, as a user has them."""
    from tailsmith.data.writers import write_parquet
    from tiny import tiny_dataset, tiny_pipeline

    folder = tmp_path_factory.mktemp("world")
    tiny_pipeline().save_pretrained(folder / "generator")
    write_parquet(tiny_dataset(((9, 6), (4, 2), (1, 0))), folder / "data.parquet")
    return {"data": str(folder / "data.parquet"), "generator": str(folder / "generator")}


def small(world: dict[str, str], **changes: object) -> RunConfig:
    training = TrainConfig(steps=4, batch_size=8, image_size=16, evaluate_every=2)
    config = RunConfig(
        data=world["data"],
        generator=world["generator"],
        target=12,
        real=training,
        mixed=replace(training, method="balanced_softmax", resampling="half_and_half"),
        synthesis=SynthesisConfig(
            num_inference_steps=6, guidance_scale=2.0, shard_size=4, feedback=FeedbackConfig(scale=0.05)
        ),
        study_scales=(0.0, 0.05),
    )
    return replace(config, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def finished(world: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run; not to be changed."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert run(small(world), folder, "tailsmith run ...") == folder / "report.html"
    return folder


def test_a_run_leaves_everything_it_knew_and_made(finished):
    page = (finished / "report.html").read_text()
    assert "tailsmith run ..." in page and "ankle boot" in page
    results = read_json(finished / "evaluation.json")
    assert list(results["arms"]) == ["erm", "balanced_softmax", "image_text", "feedback_entropy"]
    assert set(results["samples"]) == {"text only", "image + text", "feedback ω = 0.05"}
    for name in (
        "config.yaml",
        "environment.json",
        "dataset.json",
        "timings.json",
        "arms/erm/classifier/model.safetensors",
    ):
        assert (finished / name).is_file()
    shards = sorted((finished / "synthetic" / "feedback_entropy").glob("shard-*.parquet"))
    made = pd.concat([pd.read_parquet(shard) for shard in shards])
    assert made["label"].value_counts().to_dict() == {1: 6, 2: 11}  # 12 - (4 + 2) and 12 - 1; class 0 has 15
    assert made["criterion_value"].notna().all() and (made["feedback_scale"] == 0.05).all()


def test_the_same_call_again_trains_and_renders_nothing(world, finished, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    before |= {path: path.stat().st_mtime_ns for path in tmp_path.rglob("shard-*.parquet")}
    monkeypatch.setattr("tailsmith.runs.training.train_classifier", lambda *_, **__: pytest.fail("trained again"))
    run(small(world), tmp_path / "run")
    assert before and all(path.stat().st_mtime_ns == then for path, then in before.items())
    assert report_run(tmp_path / "run").is_file()


def test_a_run_keeps_how_near_its_sets_are_and_one_of_before_has_none(finished, tmp_path):
    near = read_json(finished / "nearness.json")
    assert near.keys() == {path.name for path in (finished / "synthetic").iterdir()}
    for found in near.values():
        assert found["overall"]["images"] == sum(each["images"] for each in found["classes"].values())
    assert "How near are they" in (finished / "report.html").read_text(encoding="utf-8")
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "nearness.json").unlink()
    assert "How near are they" not in report_run(tmp_path / "run").read_text(encoding="utf-8")


def test_a_run_per_group_reports_groups(world, tmp_path):
    config = small(world, per="group", target="max", arms=("erm", "feedback_hardness"))
    config = replace(config, synthesis=replace(config.synthesis, prompt="{label} in {attribute}"))
    run(config, tmp_path / "run")
    table = read_json(tmp_path / "run" / "evaluation.json")["arms"]["feedback_hardness"]
    assert table["groups"]["bag in rock"]["n"] == 1 and table["groups"]["bag in water"]["accuracy"] is None
    assert table["group_shots"]["unseen"]["n"] == 0  # no test image of the group without training images
    study = read_json(tmp_path / "run" / "samples.json")["feedback ω = 0.05"]
    assert list(study["criteria"]) == ["entropy", "hardness"]  # of the study itself, and of the arm
    shards = (tmp_path / "run" / "study").glob("feedback-0.05/shard-*.parquet")
    values = pd.concat([pd.read_parquet(shard) for shard in sorted(shards)])["criterion_value"]
    assert study["criteria"]["entropy"]["guiding"] == pytest.approx(values.tolist(), abs=0.02)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    for criterion, rows in {"Entropy": ["feedback ω = 0.05"], "Hardness": ["feedback_hardness"]}.items():
        (chart,) = re.findall(rf'<svg[^>]*aria-label="{criterion} under.*?</svg>', page, flags=re.DOTALL)
        assert all(f">{row}<" in chart for row in rows)
    assert ">feedback_hardness<" not in re.findall(r'aria-label="Entropy under.*?</svg>', page, flags=re.DOTALL)[0]


def test_a_generator_that_takes_text_alone_is_studied_on_text_alone(world, tmp_path):
    from tiny_families import tiny_sd15

    tiny_sd15().save_pretrained(tmp_path / "sd15")
    config = small(world, generator=str(tmp_path / "sd15"), arms=("erm", "text"))
    config = replace(
        config, synthesis=replace(config.synthesis, feedback=FeedbackConfig(scale=0.03))
    )  # no arm uses another
    with pytest.raises(ValueError, match=r"can't be conditioned on 'image\+text', only on text"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    run(replace(config, synthesis=replace(config.synthesis, conditioning="text")), tmp_path / "run")
    assert set(read_json(tmp_path / "run" / "samples.json")) == {"text only", "feedback ω = 0.05"}


def test_another_configuration_is_refused(world, finished):
    with pytest.raises(ValueError, match=r"holds a run of another configuration \(differs in: target\)"):
        run(small(world, target=13), finished)


def test_of_a_section_the_settings_that_differ_are_named(world, finished):
    other = small(world, search=SearchConfig(), real=replace(small(world).real, seed=3))
    with pytest.raises(ValueError, match=r"another configuration \(differs in: real.seed, search\)"):
        run(other, finished)


def test_what_changes_no_result_may_be_another_one(world, finished, tmp_path):
    """Memory was short, a disk has another name: the run goes on, and its configuration follows."""
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    moved = Path(shutil.copytree(world["generator"], tmp_path / "generator"))
    config = small(world)
    arms = {path: path.read_bytes() for path in folder.glob("arms/*/*.*")}
    other = replace(
        config,
        generator=str(moved),
        batch_size=3,
        skip_corrupt=True,
        max_megapixels=50.0,
        real=replace(config.real, checkpoint_every=7),
        synthesis=replace(
            config.synthesis, feedback=replace(config.synthesis.feedback, checkpointing=True, decode_batch_size=2)
        ),
    )
    run(other, folder)
    assert RunDirectory(folder).config() == other
    assert {path: path.read_bytes() for path in folder.glob("arms/*/*.*")} == arms
    write_json(moved / "unet" / "other.json", {})  # another generator's hash
    with pytest.raises(ValueError, match=r"another configuration \(differs in: generator\)"):
        RunDirectory(folder).check(config=replace(other, generator=os.path.relpath(moved)))


@pytest.mark.parametrize("gone", [False, True])
def test_before_there_are_plans_a_generator_is_known_by_its_weights_or_not_at_all(gone, world, tmp_path):
    config, folder = replace(small(world), generator=str(tmp_path / "gone")), tmp_path / "run"
    shutil.copytree(world["generator"], config.generator)
    RunDirectory.claim(folder, config, "tailsmith run")
    if gone:
        shutil.rmtree(config.generator)
        with pytest.raises(ValueError, match=r"another configuration \(differs in: generator\)"):
            RunDirectory.claim(folder, small(world), "tailsmith run")
    else:
        RunDirectory.claim(folder, small(world), "tailsmith run")
        assert RunDirectory(folder).config() == small(world)


def quick(world: dict[str, str], **changes: object) -> RunConfig:
    """Two arms, few samples."""
    synthesis = SynthesisConfig(
        num_inference_steps=2, shard_size=64, conditioning="text", feedback=FeedbackConfig(scale=0.0)
    )
    return small(world, **{"arms": ("erm", "text"), "study_scales": (), "synthesis": synthesis, **changes})


def test_data_that_changed_are_refused_with_what_changed(world, tmp_path):
    pets = write_folder(tmp_path / "pets")
    config = quick(world, data=str(pets))
    run(config, tmp_path / "run")
    for name in ("new0", "new1"):
        write_image(pets / "test" / "dog" / f"{name}.png", np.random.default_rng(len(name)).uniform(0, 255, (9, 9, 3)))
    write_image(pets / "test" / "dog" / "new1.png", np.zeros((7, 7, 3)))
    write_image(pets / "val" / "dog" / "0.png", np.zeros((8, 8, 3)))
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    changed = (
        r"run holds a run on the data as they were: since then 2 images were added to test \(first: test/dog/new0"
        r".png\), 1 image has other contents \(first: val/dog/0.png\); use another --out"
    )
    with pytest.raises(ValueError, match=changed):
        run(config, tmp_path / "run")
    with pytest.raises(ValueError, match=changed):
        report_run(tmp_path / "run", str(pets))
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_a_report_needs_no_data_and_says_what_was_trained_on(world, tmp_path):
    pets = write_folder(
        tmp_path / "pets",
        {"train": {"cat": 6, "dog": 3}, "val": {"cat": 2, "dog": 2}, "test": {"cat": 2, "dog": 2}},
        120,
    )
    report = run(quick(world, data=str(pets)), tmp_path / "run")
    first = report.read_text(encoding="utf-8")
    write_folder(pets, {"train": {"cat": 6, "dog": 30}})  # what came later is nothing that was trained on
    assert report_run(tmp_path / "run").read_text(encoding="utf-8") == first
    assert "also trained on 15 synthetic images" in first  # 12 - 6 cats and 12 - 3 dogs
    shutil.rmtree(pets)
    assert report_run(tmp_path / "run").read_text(encoding="utf-8") == first
    pictures = [
        Image.open(io.BytesIO(path.read_bytes())) for path in sorted((tmp_path / "run" / "pictures").glob("*.png"))
    ]
    assert [picture.size for picture in pictures] == [(96, 96)] * 9


def test_moved_data_are_the_same_data(world, tmp_path):
    pets = write_folder(tmp_path / "pets")
    config = quick(world, data=str(pets))
    run(config, tmp_path / "run")
    shutil.move(pets, tmp_path / "animals")
    moved = str(tmp_path / "animals")
    before = (tmp_path / "run" / "synthetic" / "text" / "plan.parquet").read_bytes()
    run(replace(config, data=f"{moved}/"), tmp_path / "run")
    assert RunDirectory(tmp_path / "run").config().data == f"{moved}/"
    assert report_run(tmp_path / "run", moved).is_file()
    assert RunDirectory(tmp_path / "run").config().data == moved
    assert (tmp_path / "run" / "synthetic" / "text" / "plan.parquet").read_bytes() == before


def test_a_run_that_kept_no_fingerprint_goes_on_where_its_data_still_lie(world, tmp_path):
    """As versions before this file left it."""
    config = quick(world)
    RunDirectory.claim(tmp_path / "run", config, "tailsmith run")
    (tmp_path / "run" / "command.json").unlink()  # killed after config.yaml, as it then was
    dataset = tailsmith.load(world["data"])
    with pytest.raises(ValueError, match=r"differs in: data\), and no data.parquet that could tell"):
        RunDirectory.claim(tmp_path / "run", replace(config, data="elsewhere"), "tailsmith run", dataset)
    directory = RunDirectory.claim(tmp_path / "run", config, "tailsmith run again", dataset)
    assert directory.command()["command"] == "tailsmith run again"
    assert (tmp_path / "run" / "data.parquet").is_file()


CLAIM = """
import sys
from pathlib import Path
from tailsmith import files
from tailsmith.runs.config import RunConfig
from tailsmith.runs.directory import RunDirectory
import os, signal
replace = files.os.replace
def die(source, target):
    if sys.argv[2] == "before" and str(target).endswith(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
    if sys.argv[2] == "after" and str(target).endswith(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
files.os.replace = die
RunDirectory.claim(Path(sys.argv[1]), RunConfig(), "killed")
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", ["command.json", "config.yaml"])
def test_a_claim_that_was_killed_can_be_made_again(when, name, tmp_path):
    out = tmp_path / "run"
    killed = subprocess.run([sys.executable, "-c", CLAIM, str(out), when, name], check=False)
    assert killed.returncode == -signal.SIGKILL
    for _ in range(2):
        directory = RunDirectory.claim(out, RunConfig(), "again")
    assert directory.config() == RunConfig() and directory.command()["command"] in ("again", "killed")
    assert {path.name for path in out.iterdir()} == {".tailsmith-lock", "command.json", "config.yaml"}


def test_a_folder_with_a_file_of_a_name_that_a_run_has_is_not_claimed(tmp_path):
    (tmp_path / "data.parquet").write_text("precious")
    with pytest.raises(ValueError, match="exists and is no run directory"):
        RunDirectory.claim(tmp_path, RunConfig(), "")
    assert [path.name for path in tmp_path.iterdir()] == ["data.parquet"]


def test_text_of_a_run_is_utf8_whatever_the_locale(tmp_path):
    code = (
        "import sys; from pathlib import Path; from tailsmith.runs.config import RunConfig; "
        "from tailsmith.runs.directory import RunDirectory\n"
        "config = RunConfig(data='caf\\u00e9')\n"
        "for _ in range(2): directory = RunDirectory.claim(Path(sys.argv[1]), config, 'caf\\u00e9')\n"
        "assert directory.config().data in directory.config_text() and directory.config().data == 'caf\\u00e9'"
    )
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], env=environment, check=True)
    assert "café" in (tmp_path / "run" / "config.yaml").read_text(encoding="utf-8")


def test_one_process_trains_and_the_other_waits_and_takes_its_classifier(world, tmp_path, caplog):
    """Two threads are to a lock of open files what two processes are."""
    config, dataset = quick(world, arms=("erm",)), tailsmith.load(world["data"])
    directory = RunDirectory.claim(tmp_path / "run", config, "", dataset)
    trained = []
    train = tailsmith.train

    def slowly(*arguments: object, **options: object) -> object:
        trained.append(1)
        time.sleep(0.5)
        return train(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr("tailsmith.experiment.train", slowly)
        world = World(directory, config, dataset, lambda: None)
        ours = [pool.submit(train_arm, world, ARMS["erm"]) for _ in range(2)]
        assert ours[0].result().sha256() == ours[1].result().sha256()
    assert len(trained) == 1
    assert "another process trains a classifier; waiting for it" in caplog.text


def test_a_folder_that_is_no_run_is_refused(world, tmp_path):
    (tmp_path / "photo.png").write_bytes(b"")
    with pytest.raises(ValueError, match="is no run directory"):
        run(small(world), tmp_path)
    with pytest.raises(ValueError, match="is no run directory"):
        report_run(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "photo.png"]


def test_what_can_not_work_is_refused_before_anything_is_written(world, tmp_path):
    for changes, message in (
        ({"mixed": TrainConfig(method="magic")}, "unknown method 'magic'"),
        ({"target": 1}, "nothing to add"),
        ({"synthesis": SynthesisConfig(embedding_dropout=2)}, "embedding_dropout should be within 0..1"),
        ({"per": "group", "target": {"bag in mud": 3}}, "which is not one of"),
        ({"study_scales": (0.0, -1.0)}, "feedback.scale should be finite and not negative, got -1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            run(small(world, **changes), tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_arms_need_the_guiding_classifier():
    with pytest.raises(ValueError, match="arms should include 'erm'"):
        RunConfig(arms=("text",))
    with pytest.raises(ValueError, match=r"arms should be among .* got 'magic'"):
        RunConfig(arms=("erm", "magic"))


def test_arms_are_methods_sets_and_both():
    assert arm_of("crt") == Arm("crt", "crt", None)
    assert arm_of("image_text") == Arm("image_text", None, "image_text")
    assert arm_of("cmo:probability=0.7+mine", ["mine"]) == Arm(
        "cmo:probability=0.7+mine", "cmo:probability=0.7", "mine"
    )
    for name in ("crt+magic", "magic+text", "+text", "crt+", "mine", ""):
        with pytest.raises(
            ValueError, match=r"arms should be among the methods \['erm', .*'lws'.*\] and the sets \['text'.*got"
        ):
            arm_of(name)
    with pytest.raises(ValueError, match="method 'cmo' has no setting 'size=1': expected one of"):
        RunConfig(arms=("erm", "cmo:size=1+text"))


def test_sets_of_ones_own_change_some_settings():
    config = RunConfig(arms=("erm", "strong"), sets={"strong": {"feedback_scale": 0.5, "feedback_steps": [0, 2]}})
    assert sets_of(config) == {"strong": replace(config.synthesis, feedback=FeedbackConfig(scale=0.5, steps=(0, 2)))}
    assert from_dict(RunConfig, json.loads(json.dumps(to_dict(config)))) == config
    check_settled(config)
    for changes, message in (
        ({"sets": {"text": {}}}, "sets should not redefine 'text', which is a set already"),
        ({"sets": {"crt": {}}}, "sets should not redefine 'crt', which is a method already"),
        ({"sets": {"a/b": {}}}, "a set's name should be of letters"),
        ({"sets": {"mine": {"omega": 1}}}, "sets.mine has an unknown key 'omega'"),
        ({"sets": {"mine": 3}}, "sets.mine should be settings of synthesis and their values, got 3"),
    ):
        with pytest.raises(ValueError, match=message):
            RunConfig(**changes)
    with pytest.raises(ValueError, match="no arm trains on the set 'mine'; name it among --arms"):
        check_settled(RunConfig(sets={"mine": {"feedback_scale": 0.5}}))


def test_arms_share_a_set_and_any_method_takes_one(world, tmp_path, capsys):
    options = [
        *("run", "--data", world["data"], "--generator", world["generator"], "--out", tmp_path / "run", "--target", 12),
        *("--arms", "erm,cmo,plain,crt:head_steps=2+plain,group_dro", "--study_scales", "[]"),
        *("--sets", "{plain: {conditioning: text, feedback_scale: 0.0, guidance_scale: 2.0}}"),
        *("--synthesis.num_inference_steps", 2, "--synthesis.conditioning", "text"),
    ]
    for stage in ("real", "mixed"):
        options += [
            f"--{stage}.{name}={value}" for name, value in {"steps": 2, "batch_size": 8, "image_size": 16}.items()
        ]
    assert main(list(map(str, options))) == 0, capsys.readouterr().err
    results = read_json(tmp_path / "run" / "evaluation.json")["arms"]
    assert list(results) == ["erm", "cmo", "plain", "crt:head_steps=2+plain", "group_dro"]
    assert [path.name for path in (tmp_path / "run" / "synthetic").iterdir()] == ["plain"]
    assert (tmp_path / "run" / "arms" / "crt-head_steps=2+plain" / "evaluation.json").is_file()
    timings = read_json(tmp_path / "run" / "timings.json")
    assert [name for name in timings if name.startswith("synthesize")] == ["synthesize plain"]
    refused = [*map(str, options), "--arms", "erm,group_dro+plain", "--out", str(tmp_path / "refused")]
    assert main(refused) == 2 and not (tmp_path / "refused").exists()
    assert "needs a group for every training image, 17 of" in capsys.readouterr().err


def test_a_run_of_an_earlier_version_goes_on_with_the_images_of_its_arms(world, finished, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path / "run")
    for folder in (tmp_path / "run" / "synthetic").iterdir():
        folder.rename(tmp_path / "run" / "arms" / folder.name / "synthetic")
    (tmp_path / "run" / "synthetic").rmdir()
    (tmp_path / "run" / "arms" / "image_text" / "evaluation.json").unlink()
    monkeypatch.setattr("tailsmith.synthesis.worker.Worker.render", lambda *_: pytest.fail("rendered again"))
    run(small(world), tmp_path / "run")
    assert read_json(tmp_path / "run" / "evaluation.json")["arms"] == read_json(finished / "evaluation.json")["arms"]
    assert not (tmp_path / "run" / "synthetic").exists()


def test_a_configuration_survives_yaml_and_refuses_unknown_keys():
    config = demo_config("fashion-groups")
    assert from_dict(RunConfig, json.loads(json.dumps(to_dict(config)))) == config
    with pytest.raises(ValueError, match=r"configuration.synthesis has an unknown key 'omega'"):
        from_dict(RunConfig, {"synthesis": {"omega": 1}})
    for values, where in (({"synthesis": 3}, "synthesis"), ({"synthesis": {"feedback": 3}}, "synthesis.feedback")):
        with pytest.raises(UserError, match=rf"configuration\.{where} should be a section of .* values, got 3"):
            from_dict(RunConfig, values)
    assert from_dict(RunConfig, {"search": None}) == RunConfig()


def test_a_run_whose_configuration_has_the_names_of_before_is_reported_and_goes_on(world, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    path = tmp_path / "run" / "config.yaml"
    stored = yaml.safe_load(path.read_text())
    feedback = stored["synthesis"].pop("feedback")
    before = {name if name == "criterion" else f"feedback_{name}": value for name, value in feedback.items()}
    stored["synthesis"] |= before
    path.write_text(yaml.safe_dump(stored))
    assert RunDirectory(tmp_path / "run").config() == small(world)
    assert report_run(tmp_path / "run").exists()
    assert run(small(world), tmp_path / "run").exists()


@pytest.mark.parametrize("search", [None, SearchConfig(trials=2, seeds=1, batch_size=(8, 8))])
def test_a_run_goes_on_in_the_middle_of_a_training(world, tmp_path, monkeypatch, search):
    from tailsmith.classification import stage_run

    config = small(world, arms=("erm",), study_scales=(), search=search)
    config = replace(config, real=replace(config.real, checkpoint_every=1, steps=5))
    step, taken = stage_run.StageRun.step, []

    def interrupted(self, number, before, stop):
        if len(taken) == 3:
            raise KeyboardInterrupt
        taken.append(number)
        return step(self, number, before, stop)

    monkeypatch.setattr(stage_run.StageRun, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "run")
    (checkpoint,) = (tmp_path / "run" / "arms" / "erm" / "training").iterdir()
    assert checkpoint.name == ("trial-0.safetensors" if search else "checkpoint.safetensors")
    taken.append(0)
    run(config, tmp_path / "run")
    assert taken == [1, 2, 3, 0, 4, 5, *([1, 2, 3, 4, 5] * 2 if search else [])]  # the second trial, and another seed
    assert not checkpoint.parent.exists()
    run(config, tmp_path / "whole")
    for name in ("history.json", "evaluation.json", "classifier/model.safetensors"):
        one, other = (tmp_path / each / "arms" / "erm" / name for each in ("run", "whole"))
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_a_run_killed_in_the_middle_ends_as_if_it_had_not_been(world, finished, tmp_path):
    """Of the arms that it shares with the finished run."""
    config = small(world, arms=("erm", "feedback_entropy"), study_scales=())
    whole, killed = finished, tmp_path / "killed"
    command = [sys.executable, "-c", SCRIPT, json.dumps(to_dict(config)), str(killed)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    shards = killed / "synthetic" / "feedback_entropy"
    deadline = time.monotonic() + 200
    while not (shards / "shard-00000.parquet").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "report.html").exists()
    run(config, killed)
    for path in sorted((whole / "synthetic" / "feedback_entropy").glob("shard-*.parquet")):
        one, other = pd.read_parquet(path), pd.read_parquet(shards / path.name)
        pd.testing.assert_frame_equal(
            one.drop(columns=["seconds", "image"]), other.drop(columns=["seconds", "image"]), rtol=1e-3
        )
        assert (one["image"] == other["image"]).mean() > 0.7  # bits may differ where threads do
    assert _accuracies(whole) == _accuracies(killed)


def _accuracies(folder: Path) -> dict[str, float]:
    table = read_json(folder / "evaluation.json")["arms"]["erm"]
    return {name: cell["accuracy"] for name, cell in table["classes"].items()}
