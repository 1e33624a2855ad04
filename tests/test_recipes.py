"""Recipes: the paper's settings in them, plans on published numbers, and whole runs on miniature trees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

import tailsmith
from benchmark_trees import CONTEXTS, IMAGENET, PLACES, write_lists, write_nico
from tailsmith.cli.main import main
from tailsmith.data.sources.benchmarks import published
from tailsmith.data.sources.recipes import data_of, known_recipes, split_data
from tailsmith.experiment import report_run
from tailsmith.files import read_json
from tailsmith.generation.generator import Generator, no_loading_bars
from tailsmith.runs.config import RunConfig
from tailsmith.runs.recipe import defaults, read_recipe
from tailsmith.settings import from_dict, to_dict
from tailsmith.studies import samples
from tailsmith.synthesis.plan import Plan

Capture = pytest.CaptureFixture[str]


def config_of(name: str) -> RunConfig:
    config: RunConfig = from_dict(RunConfig, read_recipe(name).settings)
    return config


# --- what is in them


def test_every_recipe_is_a_run_that_could_start(capsys: Capture) -> None:
    assert known_recipes() == ["imagenet-lt", "nico++", "places-lt"]
    for name in known_recipes():
        config = config_of(name)
        assert read_recipe(name).benchmark.name == name
        assert Generator.find(config.generator).sha256().startswith("hub:")
        assert config.synthesis.num_inference_steps == 30  # Appendix G, as the next two
        assert (config.synthesis.feedback.every, config.synthesis.feedback.criterion) == (5, "entropy")
        assert (config.real.momentum, config.mixed.momentum) == (0.9, 0.9)


def test_the_papers_settings_for_imagenet_lt() -> None:
    config = config_of("imagenet-lt")
    assert (config.target, config.per, config.augmentation) == (1300, "class", "paper")
    guide, final = config.real, config.mixed
    assert (guide.method, guide.learning_rate, guide.weight_decay, guide.batch_size) == ("erm", 0.1, 5e-4, 32)
    assert (final.backbone, final.epochs, final.batch_size) == ("resnext50_32x4d", 150, 512)
    assert (final.method, final.resampling) == ("balanced_softmax", "half_and_half")


def test_the_papers_settings_for_places_lt() -> None:
    config = config_of("places-lt")
    assert config.target == max(read_recipe("places-lt").benchmark.train_counts())
    first, second = config.mixed, config.mixed.stage_two
    assert first.backbone.startswith("resnet152") and first.pretrained and config.real.pretrained
    assert (first.epochs, first.batch_size, first.learning_rate, first.weight_decay) == (30, 512, 0.1, 5e-4)
    assert second is not None
    assert (second.epochs, second.method, second.sampler) == (10, "balanced_softmax", "meta")


def test_the_papers_settings_for_nico() -> None:
    config = config_of("nico++")
    assert config.real.select_by == config.mixed.select_by == "image_mean"
    assert (config.target, config.per, config.augmentation) == (811, "group", "none")
    assert (config.synthesis.prompt, config.synthesis.conditioning_from) == ("{label} in {attribute}", "class")
    assert config.synthesis.feedback.scale == 0.03  # Table 6
    assert config.search is not None
    assert (config.search.trials, config.search.seeds) == (10, 5)
    assert (config.search.learning_rate, config.search.batch_size) == ((1e-4, 1e-2), (64, 128))
    for training in (config.real, config.mixed):
        assert training.backbone.startswith("resnet50") and training.pretrained
        assert (training.method, training.epochs) == ("erm", 50)


# --- plans on published numbers


def dry_run(recipe: str, requests: str, shards: str, out: Path, capsys: Capture, *options: str) -> None:
    argv = ["plan", "--recipe", recipe, "--dry-run", "--out", str(out), "--seconds-per-image", "3.6", *options]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert f"{requests} requests for an image each in {shards} shards" in printed
    assert f"about {int(requests.replace(',', '')) / 1000:,.1f} GPU-hours at 3.6 s per image" in printed
    assert "Disk: about " in printed and "nothing written" in printed
    assert not out.exists()


def test_a_dry_run_needs_no_image(tmp_path: Path, capsys: Capture) -> None:
    dry_run("nico++", "229,303", "896", tmp_path / "plan.parquet", capsys)
    # All 1,755,200 requests of places-lt take seconds: `inspect` counts them below
    lacking = sum(max(0, 100 - count) for count in read_recipe("places-lt").benchmark.train_counts())
    shards = -(-lacking // 256)
    dry_run("places-lt", f"{lacking:,}", str(shards), tmp_path / "plan.parquet", capsys, "--target", "100")


def test_the_requests_of_a_full_dry_run_are_real_ones(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Plan] = []
    plans = tailsmith.plan

    def watched(*arguments: Any, **options: Any) -> Plan:
        made.append(plans(*arguments, **options))
        return made[-1]

    monkeypatch.setattr("tailsmith.synthesis.planning.plan", watched)
    dry_run("imagenet-lt", "1,184,154", "4,626", tmp_path / "plan.parquet", capsys)
    (plan,) = made
    benchmark = read_recipe("imagenet-lt").benchmark
    dataset, table = published(benchmark), plan.table
    assert len(plan) == 1_184_154
    assert table["request_id"].is_unique and table["noise_seed"].is_unique
    assert (np.bincount(table["label"]) + np.array(benchmark.train_counts()) == 1300).all()
    label_of = dict(zip(dataset.table["image_id"], dataset.labels, strict=True))
    assert (table["conditioning_id"].map(label_of) == table["label"]).all()
    assert table["conditioning_sha256"].isna().all()
    assert table["prompt"].iloc[0] == "tench"
    assert [plan.shard_size(number) for number in (0, 4625)] == [256, 1_184_154 - 4625 * 256]
    assert plan.shard(4625).equals(table[table["shard"] == 4625].reset_index(drop=True))


def test_options_and_files_win_over_a_recipe(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"target": 20, "synthesis": {"shard_size": 100}}))
    argv = ["plan", "--recipe", "imagenet-lt", "--dry-run", "--config", str(path)]
    counts = read_recipe("imagenet-lt").benchmark.train_counts()
    for target, more in ((20, []), (10, ["--target", "10"])):
        assert main([*argv, *more]) == 0
        lacking = sum(max(0, target - count) for count in counts)
        expected = f"target {target} per class, {lacking:,} requests for an image each in {-(-lacking // 100)} shards"
        assert expected in capsys.readouterr().out


def test_inspect_shows_the_published_counts(capsys: Capture) -> None:
    assert main(["inspect", "--recipe", "places-lt"]) == 0
    printed = capsys.readouterr().out
    assert "places-lt: 106,300 images (Places365: " in printed
    assert "train 62,500, val 7,300, test 36,500" in printed
    assert "target 4,980 per class, 1,755,200 requests" in printed
    assert "  images: http://data.csail.mit.edu/places/places365/places365standard_easyformat.tar\n" in printed


def test_a_recipe_gives_only_what_a_command_has_options_for() -> None:
    found = defaults("imagenet-lt", {"data", "target", "synthesis.feedback.scale", "search", "real"})
    assert set(found) == {"data", "target", "synthesis.feedback.scale", "real"}
    assert (found["data"], found["target"], found["real"]["batch_size"]) == ("", 1300, 32)


def test_how_data_of_a_recipe_is_named(tmp_path: Path) -> None:
    assert data_of("nico++", "/data/nico") == "nico++:/data/nico"
    assert data_of("nico++", "nico++:/data/nico") == "nico++:/data/nico"
    assert data_of(None, "pets") == "pets"
    assert data_of("mini.yaml", "pets") == f"{Path('mini.yaml').resolve()}:pets"
    assert split_data("nico++:/data/nico") == ("nico++", Path("/data/nico"))
    assert split_data("imagenet-lt:C:\\images") == ("imagenet-lt", Path("C:\\images"))
    assert split_data("a/mini.yaml:~/pets") == ("a/mini.yaml", Path("~/pets").expanduser())
    for other in ("fashion-lt", "C:\\images", "pets/photos", "nicoxx:/data", "images.parquet"):
        assert split_data(other) is None


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["plan", "--recipe", "imagenet"], "unknown recipe 'imagenet': expected one of imagenet-lt, nico++, places-lt"),
        (["plan", "--recipe", "no.yaml"], "unknown recipe 'no.yaml'"),
        (["plan", "--recipe", "{tmp}/list.yaml"], "list.yaml should hold the keys of a run and 'benchmark', got list"),
        (["plan", "--recipe", "{tmp}/broken.yaml"], "broken.yaml is not a YAML file"),
        (["plan", "--recipe", "{tmp}/key.yaml"], "key.yaml has an unknown key 'tarket'"),
        (["plan", "--recipe", "{tmp}/bare.yaml", "--data", "{tmp}"], "bare.yaml has no section 'benchmark'"),
        (["plan", "--recipe", "{tmp}/reader.yaml", "--data", "{tmp}"], "benchmark has an unknown key 'reeder'"),
        (["plan", "--recipe", "imagenet-lt"], "recipe imagenet-lt needs its images: give their root with --data"),
        (["run", "--recipe", "imagenet-lt", "--out", "{tmp}/run"], "recipe imagenet-lt needs its images"),
        (["plan", "--recipe", "imagenet-lt", "--data", "{tmp}/absent"], "expected the root of imagenet-lt"),
        (["inspect", "--recipe", "nico++"], "nico++ publishes no count per class or group, only totals"),
        (["inspect", "imagenet-lt:{tmp}"], "ImageNet_LT_train.txt; imagenet-lt needs"),
        (["plan"], "missing: DATA; give a folder or a table of images, or --recipe NAME and --data ROOT"),
    ],
)  # fmt: skip
def test_what_can_be_wrong_is_one_line(argv: list[str], message: str, tmp_path: Path, capsys: Capture) -> None:
    files = {
        "list": "[1, 2]",
        "broken": "a: [",
        "key": "tarket: 3",
        "bare": "target: 3",
        "reader": "{benchmark: {reeder: x}}",
    }
    for name, content in files.items():
        (tmp_path / f"{name}.yaml").write_text(content)
    assert main([each.format(tmp=tmp_path) for each in argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


# --- whole runs


def mini_recipe(name: str, folder: Path) -> list[str]:
    """A recipe of the package with a benchmark that has three classes (or four groups), and training that is short.

    All else is the recipe's own. Returns --recipe and --data.
    """
    recipe = yaml.safe_load((Path(tailsmith.__file__).parent / "recipes" / f"{name}.yaml").read_text())
    if name == "nico++":
        recipe["benchmark"] |= {"classes": 2, "contexts": list(CONTEXTS)}
        recipe["search"] |= {"trials": 2, "seeds": 2, "batch_size": [4, 8]}
        root = write_nico(folder / "data")
    else:
        recipe["benchmark"]["classes"] = 3
        lists = {"imagenet-lt": ("ImageNet_LT", IMAGENET), "places-lt": ("Places_LT", PLACES)}
        root = write_lists(folder / "data", *lists[name])
    short = {"backbone": "resnet-small", "pretrained": False, "image_size": 16, "epochs": 1, "batch_size": 8}
    for training in (recipe["real"], recipe["mixed"]):
        training |= {**short, "evaluate_every": 2, "precision": "fp32"}
        if "stage_two" in training:
            training["stage_two"] |= {"epochs": 1, "batch_size": 4, "meta_batch_size": 4}
    path = folder / "mini.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return ["--recipe", str(path), "--data", str(root)]


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two steps of a tiny generator, which lists no classes."""
    from tiny import tiny_pipeline

    folder = tmp_path_factory.mktemp("generator")
    with no_loading_bars():
        tiny_pipeline().save_pretrained(folder)
    return ["--synthesis.num-inference-steps", "2", "--synthesis.feedback-every", "1", "--generator", str(folder)]


@pytest.mark.parametrize("name", ["imagenet-lt", "places-lt", "nico++"])
def test_a_recipe_runs_from_images_to_report(
    name: str, quick: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(samples, "PER_CLASS", 1)
    out = tmp_path / "run"
    mini = mini_recipe(name, tmp_path)
    options = ["--target", "5", "--arms", "erm,feedback_entropy", "--study-scales", "0,0.03"]
    assert main(["run", *mini, "--out", str(out), *quick, *options]) == 0
    assert f"Report: {out / 'report.html'}" in capsys.readouterr().out
    stored = yaml.safe_load((out / "config.yaml").read_text())
    assert stored["data"] == f"{mini[1]}:{mini[3]}"
    assert stored == to_dict(from_dict(RunConfig, stored))
    assert stored["synthesis"]["prompt"] == config_of(name).synthesis.prompt
    licence = read_json(out / "environment.json")["licences"]["data"]
    assert licence == read_recipe(name).benchmark.licence
    shards = sorted((out / "synthetic" / "feedback_entropy").glob("shard-*.parquet"))
    made = [row for shard in shards for row in pq.read_table(shard).to_pylist()]
    # imagenet-lt has 6, 3, 2 and places-lt 6, 4, 2 training images; the groups of nico++ have 0, 2, 4, 0
    assert len(made) == {"imagenet-lt": 5, "places-lt": 4, "nico++": 14}[name]
    assert {row["prompt"] for row in made} == {
        "imagenet-lt": {"goldfish", "great white shark"},
        "places-lt": {"apartment building outdoor", "bank vault"},
        "nico++": {f"{label} in {context}" for label in ("dog", "hot air balloon") for context in CONTEXTS},
    }[name]
    assert all(row["conditioning_sha256"] for row in made)
    assert report_run(out).is_file()  # reads the data again, by the name in the configuration
    if name == "nico++":
        result = read_json(out / "arms" / "feedback_entropy" / "search.json")
        assert (len(result["trials"]), len(result["training_seeds"])) == (2, 2)
        for row in made:  # in-class conditioning crosses contexts
            assert row["conditioning_id"].split("/")[1] == row["prompt"].split(" in ")[0]


def test_a_recipes_plan_on_its_images_and_its_synthesis_by_another_process(
    quick: list[str], tmp_path: Path, capsys: Capture
) -> None:
    """Each worker names the data as RECIPE:ROOT; `plan` takes the root as --data or in its place."""
    mini = mini_recipe("imagenet-lt", tmp_path)
    plans = [tmp_path / "one.parquet", tmp_path / "two.parquet"]
    quick = [*quick, "--target", "4", "--synthesis.feedback-scale", "0"]
    for argv, out in (([*mini], plans[0]), ([*mini[:2], mini[3]], plans[1])):
        assert main(["plan", *argv, "--out", str(out), *quick]) == 0
    assert "target 4 per class, 3 requests" in capsys.readouterr().out
    first, second = (pq.read_table(path).to_pandas() for path in plans)
    assert first.equals(second)
    assert first["conditioning_sha256"].str.len().eq(64).all()
    data = f"{mini[1]}:{mini[3]}"
    assert main(["synthesize", str(plans[0]), "--data", data, "--out", str(tmp_path / "images")]) == 0
    assert "3 images in 1 shard" in capsys.readouterr().out


def test_a_recipes_settings_survive_print_config(tmp_path: Path, capsys: Capture) -> None:
    argv = ["run", "--recipe", "nico++", "--data", "D", "--out", str(tmp_path)]
    assert main([*argv, "--print_config"]) == 0
    printed: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    assert (printed["recipe"], printed["target"], printed["search"]["trials"]) == ("nico++", 811, 10)
    assert main([*argv, "--print_config=skip_unset"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["target"] == 811
