"""What bad input gets, through the command line: exit code 2, one line that names the thing, and nothing lost."""

from __future__ import annotations

import errno
import itertools
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from folders import SOUND, write_folder
from tailsmith import experiment
from tailsmith.cli.main import COMMANDS, main
from tailsmith.errors import UserError
from tailsmith.runs.outputs import check_classifier_folder, check_file, check_folder

Capture = pytest.CaptureFixture[str]
QUICK = ["--synthesis.num_inference_steps=2", "--synthesis.shard_size=2", "--synthesis.feedback_scale=0"]


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> str:
    from tiny import tiny_pipeline

    folder = tmp_path_factory.mktemp("generator")
    tiny_pipeline().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "pets")


@pytest.fixture
def plan(pets: Path, generator: str, tmp_path: Path, capsys: Capture) -> Path:
    """Of three requests in two shards."""
    path = tmp_path / "plan.parquet"
    assert main(["plan", str(pets), "--out", str(path), "--generator", generator, *QUICK]) == 0
    capsys.readouterr()
    return path


def refused(capsys: Capture, *argv: object, code: int = 2) -> str:
    """Run a command that should fail; its one line on stderr (progress bars, drawn with \\r, aside)."""
    assert main([str(each) for each in argv]) == code
    printed = capsys.readouterr().err
    lines = [line for line in printed.splitlines() if line.strip() and "it/s" not in line and "image/s" not in line]
    lines = [line for line in lines if "?image" not in line and "s/image" not in line]
    assert len(lines) == 1, printed
    assert "Traceback" not in printed
    return lines[0]


def save_classifier(folder: Path, *class_names: str) -> Path:
    """An untrained classifier of these classes."""
    from tailsmith.classification.backbones import create_backbone
    from tailsmith.classification.classifier import Classifier

    backbone = create_backbone("resnet-small", len(class_names))
    Classifier(
        backbone.module,
        class_names=class_names,
        image_size=32,
        mean=backbone.mean,
        std=backbone.std,
        backbone_name="resnet-small",
    ).save(folder)
    return folder


# --- data


def no_such_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def no_images(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        path.unlink()


def one_class_only(folder: Path) -> None:
    for path in folder.glob("*/dog"):
        shutil.rmtree(path)


def truncated_image(folder: Path) -> None:
    path = folder / "train" / "dog" / "1.png"
    path.write_bytes(path.read_bytes()[:90])


def no_image_file(folder: Path) -> None:
    (folder / "train" / "dog" / "notes.pages").write_text("walk him")


def postscript(folder: Path) -> None:
    (folder / "train" / "dog" / "x.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n")


def name_not_utf8(folder: Path) -> None:
    (folder / "train" / "dog" / "1.png").rename(folder / "train" / "dog" / "caf\udce9.png")


def class_not_utf8(folder: Path) -> None:
    for split in ("train", "val", "test"):
        (folder / split / "cat").rename(folder / split / "caf\udce9")


def too_many_pixels(folder: Path) -> None:
    Image.new("1", (13400, 13400)).save(folder / "train" / "dog" / "map.png")


def control_characters(folder: Path) -> None:
    (folder / "train" / "dog" / "a\x1b[2J\nb.png").write_text("no image")


def label_only_in_test(folder: Path) -> None:
    (folder / "train" / "dog").rename(folder / "train" / "cow")
    shutil.rmtree(folder / "val" / "dog")


def test_overlaps_train(folder: Path) -> None:
    shutil.copy(folder / "train" / "cat" / "4.png", folder / "test" / "cat" / "copy.png")


test_overlaps_train.__test__ = False  # type: ignore[attr-defined]  # a way to break data, not a test


def val_overlaps_train(folder: Path) -> None:
    shutil.copy(folder / "train" / "cat" / "4.png", folder / "val" / "cat" / "copy.png")


BROKEN: dict[Callable[[Path], None], tuple[str, ...]] = {
    no_such_folder: ("no such folder or file: ", "pets", "expected an image folder"),
    no_images: ("no images in", "pets", "expected one folder of images per class"),
    one_class_only: ("pets: one class only ('cat')", "two or more"),
    truncated_image: ("train/dog/1.png is corrupt or truncated", "replace it or pass --skip-corrupt"),
    no_image_file: ("train/dog/notes.pages is not an image file", "remove it or pass --skip-corrupt"),
    postscript: ("train/dog/x.png is not an image file",),
    name_not_utf8: ("train/dog/caf\\xe9.png: the path is not UTF-8", "rename the file"),
    class_not_utf8: ("caf\\xe9: this name, of the data, a class or an attribute, is not UTF-8",),
    too_many_pixels: ("map.png has 179.6 megapixels, larger than the limit of 178.9", "raise it with --max-megapixels"),
    control_characters: ("train/dog/a\\x1b[2J b.png is not an image file",),
    label_only_in_test: ("label 'dog' is in test but not in train", "add training images of it"),
    test_overlaps_train: ("test overlaps train", "test/cat/copy.png", "train/cat/4.png", "remove each"),
    val_overlaps_train: ("val overlaps train", "val/cat/copy.png", "train/cat/4.png", "remove each"),
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_broken_data(
    broken: Callable[[Path], None], pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    broken(pets)
    monkeypatch.chdir(tmp_path)  # where duplicates are listed
    line = refused(capsys, "inspect", pets)
    assert line.startswith("tailsmith: error: ")
    for part in BROKEN[broken]:
        assert part in line


@pytest.mark.parametrize("command", ["plan", "train", "run", "evaluate", "synthesize", "fit-generator"])
def test_every_command_refuses_broken_data_before_it_writes(
    command: str, pets: Path, plan: Path, tmp_path: Path, capsys: Capture
) -> None:
    truncated_image(pets)
    out = tmp_path / "out"
    leading = {
        "run": ["--data", pets],
        "evaluate": [save_classifier(tmp_path / "f", "cat", "dog"), "--data", pets],
        "synthesize": [plan, "--data", pets],
    }
    last = ["--json", out] if command == "evaluate" else ["--out", out]
    line = refused(capsys, command, *leading.get(command, [pets]), *last)
    assert "train/dog/1.png is corrupt or truncated" in line
    assert not out.exists()


def test_skip_corrupt_goes_on_and_lists_what_it_left_out(pets: Path, capsys: Capture) -> None:
    truncated_image(pets)
    no_image_file(pets)
    assert main(["inspect", str(pets), "--skip-corrupt"]) == 0
    printed = capsys.readouterr()
    assert "16 images" in printed.out
    first, second = sorted(printed.err.splitlines())
    assert first.startswith("tailsmith: skipped: ")
    assert "train/dog/1.png is corrupt or truncated" in first
    assert "train/dog/notes.pages is not an image file" in second


def test_duplicate_ids(pets: Path, capsys: Capture) -> None:
    table = pets / "images.csv"
    table.write_text("image_id,path,label\na,train/cat/0.png,cat\na,train/dog/0.png,dog\n")
    line = refused(capsys, "inspect", table)
    assert "duplicate image_id 'a' (1 rows repeat an id)" in line
    assert "an id, or path, of its own" in line


def test_a_class_without_a_training_image(tmp_path: Path, generator: str, capsys: Capture) -> None:
    """Named beside a table: there is nothing to condition on, unless by text alone. An empty folder names no class."""
    pets = write_folder(tmp_path / "pets", {**SOUND, "train": {**SOUND["train"], "unicorn": 0}})
    assert main(["inspect", str(pets)]) == 0
    printed = capsys.readouterr()
    assert "unicorn" not in printed.out
    assert "left out 1 folder without an image (train/unicorn)" in printed.err
    rows = [f"{path.relative_to(pets)},{path.parent.name},{path.parts[-3]}" for path in sorted(pets.rglob("*.png"))]
    (pets / "metadata.csv").write_text("\n".join(["path,label,split", *rows]))
    (pets / "dataset.json").write_text('{"class_names": ["cat", "dog", "unicorn"]}')
    out = tmp_path / "plan.parquet"
    argv = ["plan", pets, "--out", out, "--generator", generator]
    line = refused(capsys, *argv)
    assert "class 'unicorn' has no training image, and so nothing to condition on" in line
    assert "add at least one image, remove the class, or condition on text alone" in line
    assert not out.exists()
    line = refused(capsys, "run", "--data", pets, "--out", tmp_path / "run", "--generator", generator)
    assert "class 'unicorn' has no training image" in line
    assert not (tmp_path / "run").exists()
    assert main([*map(str, argv), "--synthesis.conditioning", "text"]) == 0


# --- configuration


def test_unknown_key_in_yaml(pets: Path, tmp_path: Path, capsys: Capture) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump({"synthesis": {"feedback": {"scal": 0.1}}}))
    line = refused(capsys, "run", "--data", pets, "--out", tmp_path / "run", "--config", config)
    assert "unknown key 'synthesis.feedback.scal', did you mean synthesis.feedback.scale" in line
    assert "`tailsmith run --help` lists all" in line
    config.write_text(yaml.safe_dump({"targets": 3}))
    line = refused(capsys, "run", "--data", pets, "--out", tmp_path / "run", "--config", config)
    assert "unknown key 'targets', did you mean target" in line


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (
            ["run", "--out", "o", "--synthesis.feedback-scal", "1"],
            ("unknown option --synthesis.feedback-scal", "did you mean synthesis.feedback.scale"),
        ),
        (["run", "--out", "o", "--real.stepz=1"], ("unknown option --real.stepz", "did you mean real.steps")),
        (["run", "--out", "o", "--real.steps=many"], ("real.steps should be int, got 'many'",)),
        (
            ["run", "--out", "o", "--synthesis.guidance_scale=high"],
            ("synthesis.guidance_scale should be float | None, got 'high'",),
        ),
        (["run", "--out", "o", "--search.trials", "x"], ("search.trials should be int, got 'x'",)),
        (["run", "--out", "o", "--search.batch-size", "a,b"], ("search.batch_size should be a list of int, got",)),
        (["run", "--out", "o", "--search.trails", "3"], ("unknown key 'search.trails', did you mean search.trials",)),
        (["run", "--out", "o", "--search", "5"], ("search should be a section of --search.trials, ", "got '5'")),
        (
            ["run", "--out", "o", "--mixed.stage_two.epochs", "x"],
            ("mixed.stage_two.epochs should be int | None, got 'x'",),
        ),
        (["grid", "d", "--out", "o", "--dropouts", "a"], ("dropouts should be a list of float, got 'a'",)),
        (["plan", "d", "--synthesis.feedback_steps=a"], ("feedback.steps should be a list of int | None, got",)),
        (["run", "photos", "--out", "o"], ("unrecognized arguments: photos, did you mean --data photos?",)),
        (["reproduce", "f", "--out", "o", "--results", "r"], ("table-1, table-2", "gap, pool, got 'f'")),
        (["run", "--out", "o", "--real.steps=-1"], ("steps should be above 0, got -1",)),
        (["run", "--out", "o", "--arms", "erm,magic"], ("arms should be among", "'feedback_entropy'", "got 'magic'")),
        (["run", "--out", "o", "--per", "clas"], ("per should be 'class' or 'group', got 'clas'",)),
        (["run"], ("missing: --out", "`tailsmith run --help`")),
        (["plan"], ("missing: DATA",)),
        (["plan", "--out"], ("--out", "expected one argument")),
        (["inspect", "a", "b"], ("unrecognized arguments: b",)),
        (["rum"], ("unknown command 'rum', did you mean run?",)),
        (["run", "--out", "o", "--config", "nowhere.yaml"], ("--config: ", "does not exist", "nowhere.yaml")),
        (["evaluate", "f", "--data", "d", "--split", "tset"], ("split should be one of train, val, test, got 'tset'",)),
        (["demo", "--task", "fashion"], ("task should be one of fashion-lt, fashion-groups, got 'fashion'",)),
        (["report", "nowhere"], ("nowhere is no run directory", "make one with `tailsmith run`")),
    ],
)  # fmt: skip
def test_command_lines_that_make_no_sense(argv: list[str], parts: tuple[str, ...], capsys: Capture) -> None:
    line = refused(capsys, *argv)
    assert line.startswith("tailsmith: error: ")
    for part in parts:
        assert part in line


@pytest.mark.parametrize("text", ["a: [", "hello", "- 1\n- 2", "a: 1\n\tb: 2"])
def test_a_config_file_that_is_none(text: str, tmp_path: Path, capsys: Capture) -> None:
    config = tmp_path / "broken.yaml"
    config.write_text(text)
    assert "config" in refused(capsys, "run", "--out", tmp_path / "run", "--config", config)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in itertools.pairwise("abcdefghi")
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB.encode(), "expected at most 200,000 values, 50 deep, aliases written out"),
        (b"target: " + b"[" * 100_000, "expected at most 200,000 values, 50 deep, aliases written out"),
        (b"target: &a [*a]", "alias *a stands for something that it is part of itself"),
        (b"target: 9\n#" + b"x" * 3_000_000, "has 3,000,011 bytes, expected at most 2,097,152: is it the right file?"),
        ("target: {café: 9}".encode("latin-1"), "is not text in UTF-8 (invalid continuation byte); save it as UTF-8"),
        (b"{[1]: 2}", "a key should be one word"),
        (b"- 1", "should hold options and their values, as in `target: 20`"),
    ],
    ids=["bomb", "deep", "loop", "long", "latin-1", "key", "list"],
)
def test_config_files_out_of_bounds(content: bytes, message: str, tmp_path: Path, capsys: Capture) -> None:
    config = tmp_path / "run.yaml"
    config.write_bytes(content)
    assert message in refused(capsys, "run", "--out", tmp_path / "run", "--config", config)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["plan", "--target=1000000000000"], "target should be at most 2,147,483,647 images, got 1,000,000,000,000"),
        (["plan", "--target=100000000"], "asks for 199,999,991 images, expected at most 50,000,000 in one plan"),
        (["plan", "--synthesis.seed=9223372036854775808"], "seed should be at most 9223372036854775807 (2^63 - 1)"),
        (["train", "--train.seed=99999999999999999999"], "seed should be at most 9223372036854775807 (2^63 - 1)"),
        (["fit-generator", "--seed=99999999999999999999"], "seed should be at most 9223372036854775807 (2^63 - 1)"),
        (["train", "--train.image-size=100000"], "image_size should be within 1..4096 pixels, got 100000"),
        (["fit-generator", "--image-size=100000"], "image_size should be within 8..4096 pixels, got 100000"),
        (["grid", "--seeds=1,2", "--synthesis.seed=3"], "seeds are an axis of the grid, [1, 2]; give it with --seeds"),
    ],
)
def test_numbers_out_of_bounds(
    argv: list[str], message: str, pets: Path, generator: str, tmp_path: Path, capsys: Capture
) -> None:
    options = [*argv[1:], *(["--generator", generator] if argv[0] == "plan" else [])]
    assert message in refused(capsys, argv[0], pets, "--out", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--real.method=balanced_softmax"],
            "real.method is 'balanced_softmax', but each arm of real images has its own",
        ),
        (
            ["--synthesis.criterion=loss"],
            "synthesis.feedback.criterion is loss, but no arm uses it (image_text: unguided, feedback_entropy: entropy",
        ),
        (
            ["--synthesis.conditioning=text", "--arms=erm,image_text"],
            "synthesis.conditioning is text, but no arm uses it (image_text: image+text); leave it out, or name other",
        ),
        (
            ["--synthesis.feedback-scale=0.1", "--arms=erm,text,image_text"],
            "synthesis.feedback.scale is 0.1, but no arm",
        ),
    ],
)
def test_settings_that_every_arm_replaces(
    options: list[str], message: str, pets: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert message in refused(capsys, "run", "--data", pets, "--out", tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--synthesis.criterion=novelty", "criterion should be one of ['entropy', 'loss', 'hardness'], got 'novelty'"),
        ('--synthesis.criterion={"entropy": 1, "novelty": 1}', "criterion should be one of"),
        ("--synthesis.feedback_scale=-1", "feedback.scale should be finite and not negative, got -1"),
        ("--synthesis.prompt={colour} {label}", "prompt may hold {label} and {attribute} only"),
        ("--synthesis.conditioning=sound", "conditioning should be one of"),
        ("--target={'dog': 2}", "target 2 for 'dog' is below its current count 3; tailsmith only adds images"),
        ("--target=6", "nothing to add: target 6 is not above any current count (3 to 6); give a larger target"),
        ("--target=0", "target should be at least 1 image, got 0"),
        ("--target=all", "target should be 'max', a number, a dict"),
        ("--target={'cow': 9}", "target names 'cow', which is not one of: cat, dog"),
        ("--per=group", "a plan per group needs attributes, and this dataset has none; plan per class"),
        ("--seconds-per-image=0", "seconds_per_image should be above 0, got 0"),
    ],
)
def test_plans_that_cannot_be(
    option: str, message: str, pets: Path, generator: str, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "plan.parquet"
    options = ["--target=6", option] if option == "--target=6" else [option]
    if option == "--target=6":  # bring dogs up to what there is
        write_folder(pets, {"train": {"cat": 6, "dog": 6}}, size=14)
        message = message.replace("(3 to 6)", "(6 to 6)")
    assert message in refused(capsys, "plan", pets, "--out", out, "--generator", generator, *options)
    assert not out.exists()


@pytest.mark.parametrize("option", ["--train.backbone", "--train.method", "--train.resampling", "--augmentation"])
def test_unknown_names_for_training(option: str, pets: Path, tmp_path: Path, capsys: Capture) -> None:
    line = refused(capsys, "train", pets, "--out", tmp_path / "f", option, "resnet-smal")
    assert "'resnet-smal'" in line
    assert not (tmp_path / "f").exists()


def test_an_unknown_backbone_is_found_before_a_run_starts(
    pets: Path, generator: str, tmp_path: Path, capsys: Capture
) -> None:
    argv = ["run", "--data", pets, "--out", tmp_path / "run", "--generator", generator]
    line = refused(capsys, *argv, "--mixed.backbone", "resnet51")
    assert "unknown backbone 'resnet51'" in line
    assert "close: " in line
    assert not (tmp_path / "run").exists()


# --- generators, classifiers, plans


def test_a_generator_folder_that_is_no_pipeline(pets: Path, tmp_path: Path, capsys: Capture) -> None:
    line = refused(capsys, "plan", pets, "--out", tmp_path / "plan", "--generator", pets)
    assert f"{pets} is not a diffusers pipeline: it has no model_index.json; give a folder" in line


@pytest.mark.parametrize("name", ["mini-unclap", "./nowhere", "/no/where/at/all"])
def test_a_generator_that_is_nothing(name: str, pets: Path, tmp_path: Path, capsys: Capture) -> None:
    for argv in (["plan", pets], ["run", "--data", pets]):
        line = refused(capsys, *argv, "--out", tmp_path / "out", "--generator", name)
        assert f"generator '{name}' is no preset (mini-unclip, sd2.1-unclip, " in line
        assert "), no folder here, and no hub id (owner/name); give one of these" in line
        assert not (tmp_path / "out").exists()


def test_a_classifier_of_other_classes(pets: Path, plan: Path, generator: str, tmp_path: Path, capsys: Capture) -> None:
    other = save_classifier(tmp_path / "other", "cat", "cow")
    out = tmp_path / "out"
    line = refused(capsys, "synthesize", plan, "--data", pets, "--out", out, "--classifier", other)
    assert "the plan's classes are not the classifier's: the classifier lacks 'dog' and has 'cow'; make" in line
    line = refused(capsys, "evaluate", other, "--data", pets, "--json", out)
    assert "the classifier's classes are not the dataset's: it lacks 'dog' and has 'cow'; evaluate on" in line
    line = refused(capsys, "plan", pets, "--out", out, "--classifier", other, "--generator", generator)
    assert "the classifier's classes are not the dataset's: it lacks 'dog' and has 'cow'; plan for the data" in line
    assert not out.exists()


def test_folders_that_hold_something_else(pets: Path, plan: Path, tmp_path: Path, capsys: Capture) -> None:
    line = refused(capsys, "synthesize", pets / "no.parquet", "--data", pets, "--out", tmp_path / "out")
    assert "no plan at" in line
    assert "make one with `tailsmith plan`" in line
    line = refused(capsys, "evaluate", pets, "--data", pets)
    assert str(pets) in line
    line = refused(capsys, "train", pets, "--out", tmp_path / "f", "--synthetic", pets)
    assert "no plan at" in line
    line = refused(capsys, "synthesize", plan, "--data", pets, "--out", tmp_path / "out", "--shards", "7")
    assert "the plan has the shards 0-1, got 7" in line
    (tmp_path / "file").write_text("")
    line = refused(capsys, "synthesize", plan, "--data", pets, "--out", tmp_path / "file")
    assert f"{tmp_path / 'file'}" in line


def test_a_plan_where_a_folder_is(pets: Path, generator: str, capsys: Capture) -> None:
    printed = refused(capsys, "plan", pets, "--out", pets, "--generator", generator, *QUICK)
    assert f"error: {pets} is a folder, and the result is a file; give its name as well" in printed


# --- where results go


def test_a_place_that_can_not_be_written_is_found_before_the_work(
    pets: Path, plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr("tailsmith.data.sources.named.load", lambda *_, **__: pytest.fail("began to work"))
    (tmp_path / "notes.txt").write_text("precious")
    classifier = save_classifier(tmp_path / "classifier", "cat", "dog")
    before = sorted(tmp_path.rglob("*"))
    for place, reason in ((tmp_path / "notes.txt" / "x", "is a file"), (tmp_path / ("x" * 300), "File name too long")):
        for argv in (
            ["train", pets, "--out", place],
            ["plan", pets, "--out", place],
            ["synthesize", plan, "--data", pets, "--out", place],
            ["run", "--data", pets, "--out", place],
            ["demo", "--out", place],
            ["demo", "--write-data", place],
            ["fit-generator", pets, "--out", place],
            ["grid", pets, "--classifier", classifier, "--out", place],
            ["evaluate", classifier, "--data", pets, "--json", place],
            ["reproduce", "fashion-lt", "--out", place, "--results", tmp_path / "r.json"],
            ["reproduce", "fashion-lt", "--out", tmp_path / "r", "--results", place],
        ):
            assert main([str(each) for each in argv]) == 2
            printed = capsys.readouterr().err
            assert reason in printed and len(printed.splitlines()) <= 2, printed
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_where_one_may_not_write(pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write everywhere, so the system's answer is made up."""

    def denied(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "touch", denied)
    with pytest.raises(ValueError, match=f"clf can't be written: Permission denied in {tmp_path}; choose another"):
        check_folder(tmp_path / "clf")


def test_weights_that_one_may_not_read_are_not_said_to_be_absent(
    pets: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = save_classifier(tmp_path / "classifier", "cat", "dog")

    def denied(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("tailsmith.classification.saved.check_readable", denied)
    line = refused(capsys, "evaluate", classifier, "--data", pets)
    assert f"{classifier / 'model.safetensors'}: Permission denied; check the path and its permissions" in line


@pytest.mark.parametrize("place", ["clf", "train/clf", "train/cat/clf", "."])
def test_results_among_the_images_are_refused(
    place: str, pets: Path, plan: Path, generator: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = save_classifier(pets.parent / "classifier", "cat", "dog")
    before = sorted(pets.rglob("*"))
    monkeypatch.chdir(pets)
    for argv in (
        ["train", ".", "--out", place],
        ["run", "--data", ".", "--out", place],
        ["synthesize", plan, "--data", pets, "--out", place],
        ["fit-generator", ".", "--out", place],
        ["grid", pets, "--classifier", classifier, "--out", place],
    ):
        line = refused(capsys, *argv)
        assert f"{place} lies in the data folder" in line and "use a place outside, as in ../" in line
    if place != ".":
        line = refused(capsys, "plan", ".", "--out", f"{place}/plan.parquet", "--generator", generator)
        assert "plan.parquet lies in the data folder" in line
    assert sorted(pets.rglob("*")) == before


def test_results_beside_class_folders_or_listed_images_are_fine(pets: Path, tmp_path: Path) -> None:
    check_file(pets / "plan.parquet", str(pets))
    check_folder(pets / ".results" / "run", str(pets))
    check_folder(tmp_path / "petshop", str(pets))
    (pets / "metadata.csv").write_text("path,label\n")
    check_folder(pets / "run", str(pets))


def test_only_plans_for_the_same_data_are_replaced(pets: Path, generator: str, tmp_path: Path, capsys: Capture) -> None:
    from tailsmith.data.sources.readers import read_unchecked
    from tailsmith.data.writers import write_parquet

    mine, other, out = tmp_path / "mine.parquet", tmp_path / "other.parquet", tmp_path / "plan.parquet"
    write_parquet(read_unchecked(pets), mine)
    shutil.copy(mine, other)
    kept = mine.read_bytes()
    planning = ["plan", mine, "--generator", generator, *QUICK, "--out"]
    for overwrite in ([], ["--overwrite"]):
        assert f"{mine} is the data set itself" in refused(capsys, *planning, mine, *overwrite)
    assert f"{other} exists and is no plan; use another --out, or --overwrite" in refused(capsys, *planning, other)
    assert mine.read_bytes() == other.read_bytes() == kept
    for _ in range(2):
        assert main([str(each) for each in (*planning, out)]) == 0
    assert main([str(each) for each in (*planning, other, "--overwrite")]) == 0
    write_folder(tmp_path / "birds", {"train": {"owl": 3, "jay": 2}, "val": {"owl": 1}, "test": {"owl": 1}})
    capsys.readouterr()
    line = refused(capsys, "plan", tmp_path / "birds", "--generator", generator, "--out", out)
    assert f"{out} is a plan for other data, 'pets'; use another --out, or --overwrite" in line


def test_files_that_are_not_ours_are_not_replaced(pets: Path, tmp_path: Path, capsys: Capture) -> None:
    classifier = save_classifier(tmp_path / "classifier", "cat", "dog")
    mine = tmp_path / "mine.json"
    for content in ('{"my": "notes"}', "[1]", "no JSON"):
        mine.write_text(content)
        (tmp_path / "grid").mkdir(exist_ok=True)
        (tmp_path / "grid" / "grid.json").write_text(content)
        for argv, option in (
            (["evaluate", classifier, "--data", pets, "--json", mine], "--json"),
            (["reproduce", "fashion-lt", "--out", tmp_path / "r", "--results", mine], "--results"),
            (["grid", pets, "--classifier", classifier, "--out", tmp_path / "grid"], "--out"),
        ):
            line = refused(capsys, *argv)
            assert f"json exists and is nothing that this command wrote; use another {option}" in line
        assert mine.read_text() == content
    out = tmp_path / "f"
    out.mkdir()
    (out / "history.json").write_text("[]")  # what a killed training leaves
    check_classifier_folder(out, str(pets))
    (out / "history.json").write_text('{"1066": "Hastings"}')
    assert "holds a history.json that is not of a training of ours" in refused(capsys, "train", pets, "--out", out)


def test_no_advice_is_to_delete_results() -> None:
    source = Path(experiment.__file__).parent
    texts = {path: path.read_text(encoding="utf-8") for path in source.rglob("*.py")}
    assert [path.name for path, text in texts.items() if re.search(r"or delete|delete (it|that|them)", text)] == []


def test_images_of_another_plan(pets: Path, plan: Path, generator: str, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    making = ["synthesize", plan, "--data", pets, "--out", out]
    assert main([str(each) for each in making]) == 0
    other = tmp_path / "other.parquet"
    planning = ["plan", str(pets), "--out", str(other), "--generator", generator, *QUICK]
    assert main([*planning, "--synthesis.seed=1"]) == 0
    capsys.readouterr()
    kept = [path.read_bytes() for path in sorted(out.iterdir())]
    line = refused(capsys, "synthesize", other, "--data", pets, "--out", out)
    assert f"{out} holds images of another plan; use another folder" in line
    assert [path.read_bytes() for path in sorted(out.iterdir())] == kept


def test_a_run_directory_of_another_configuration(pets: Path, generator: str, tmp_path: Path, capsys: Capture) -> None:
    from tailsmith.runs.config import RunConfig
    from tailsmith.runs.directory import RunDirectory

    out = tmp_path / "run"
    RunDirectory.claim(out, RunConfig(data=str(pets), generator=generator), "tailsmith run")
    before = (out / "config.yaml").read_bytes()
    argv = ["run", "--data", pets, "--generator", generator, "--out", out, "--target", "9"]
    line = refused(capsys, *argv)
    assert f"{out} holds a run of another configuration (differs in: target); use another --out" in line
    assert (out / "config.yaml").read_bytes() == before
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "x.png").touch()
    line = refused(capsys, *argv[:5], "--out", tmp_path / "photos")
    assert f"{tmp_path / 'photos'} exists and is no run directory" in line
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["x.png"]


# --- interruptions


def test_a_full_disk_while_writing_a_shard_loses_nothing(
    pets: Path, plan: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tailsmith.data import packed

    write_table = packed.pq.write_table

    def full(table: Any, path: Path, **options: object) -> None:
        if "shard-00001" in path.name:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        write_table(table, path)

    out = tmp_path / "out"
    argv = ["synthesize", plan, "--data", pets, "--out", out]
    with monkeypatch.context() as patch:
        patch.setattr(packed.pq, "write_table", full)
        line = refused(capsys, *argv)
    assert f"disk full while writing {out / 'shard-00001.parquet'}" in line
    assert "free space and run the same command again, nothing already written is lost" in line
    assert sorted(each.name for each in out.iterdir()) == ["plan.parquet", "shard-00000.parquet"]
    first = (out / "shard-00000.parquet").read_bytes()
    assert main([str(each) for each in argv]) == 0
    assert (out / "shard-00000.parquet").read_bytes() == first
    assert "3 images in 2 shards" in capsys.readouterr().out


def test_ctrl_c_loses_no_shard(
    pets: Path, plan: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tailsmith.synthesis import worker

    render = worker.Worker.render

    def interrupted(self: Any, requests: Any, settings: Any) -> Any:
        if (requests["shard"] == 1).all():
            raise KeyboardInterrupt
        return render(self, requests, settings)

    out = tmp_path / "out"
    argv = ["synthesize", plan, "--data", pets, "--out", out]
    with monkeypatch.context() as patch:
        patch.setattr(worker.Worker, "render", interrupted)
        line = refused(capsys, *argv, code=130)
    assert line == ("tailsmith: interrupted; nothing already written is lost: run the same command again to go on")
    assert sorted(each.name for each in out.iterdir()) == ["plan.parquet", "shard-00000.parquet"]
    assert main([str(each) for each in argv]) == 0
    assert "3 images in 2 shards" in capsys.readouterr().out


def raising(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


def test_a_full_disk_anywhere(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors import SafetensorError

    python = OSError(errno.ENOSPC, "No space left on device", "/data/x.json")
    rust = SafetensorError("I/O error: No space left on device (os error 28)")
    for error, where in ((python, " while writing /data/x.json"), (rust, "")):
        monkeypatch.setitem(COMMANDS, "report", raising(error))
        assert refused(capsys, "report") == (
            f"tailsmith: error: disk full{where}; free space and run the same command again, "
            "nothing already written is lost"
        )


def test_a_path_one_may_not_write(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "report", raising(PermissionError(errno.EACCES, "no", "/root/x")))
    line = refused(capsys, "report")
    assert line == "tailsmith: error: /root/x: Permission denied; check the path and its permissions"


def test_a_disk_or_network_that_fails(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    for error, said in (
        (OSError(errno.EIO, "no", "shard.parquet"), "fails with shard.parquet: Input/output error"),
        (OSError(errno.ESTALE, "no"), "fails: Stale file handle"),
    ):
        monkeypatch.setitem(COMMANDS, "report", raising(error))
        again = "check the disk or network, and run the same command again, nothing already written is lost"
        assert refused(capsys, "report") == f"tailsmith: error: the file system {said}; {again}"


@pytest.mark.parametrize(
    "error", [RuntimeError("bug"), ValueError("of numpy"), OSError(errno.ENXIO, "no such device"), KeyError("x")]
)
def test_what_is_our_fault_keeps_its_traceback_and_asks_to_be_reported(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setitem(COMMANDS, "report", raising(error))
    with pytest.raises(type(error)):
        main(["report"])
    (line,) = capsys.readouterr().err.splitlines()
    assert "fault of tailsmith and not yours; please report it with the command you gave and the traceback" in line


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")]
)
def test_out_of_memory_is_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setitem(COMMANDS, "report", raising(error))
    assert refused(capsys, "report").startswith("tailsmith: error: out of memory; give smaller images")


def test_tracebacks_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "report", raising(UserError("two\nlines")))
    monkeypatch.setenv("TAILSMITH_TRACEBACK", "1")
    with pytest.raises(ValueError, match="two"):
        main(["report"])


def test_a_complaint_of_many_lines_is_printed_as_one(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "report", raising(UserError("two\n  lines")))
    assert refused(capsys, "report") == "tailsmith: error: two lines"
