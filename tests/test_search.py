"""Random search: its draws, that validation alone chooses, seeds, resuming, refusals; a whole run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tailsmith.classification.classifier import Classifier
from tailsmith.classification.training import Diverged, TrainConfig, untrained_classifier
from tailsmith.experiment import run
from tailsmith.files import read_json
from tailsmith.runs.config import RunConfig, SearchConfig
from tailsmith.runs.search import best_of_trials, drawn_settings, over_seeds, seed_tables
from tailsmith.settings import from_dict, to_dict
from tailsmith.synthesis.config import SynthesisConfig

NAMES = ("cat", "dog")
TRAINING = TrainConfig(image_size=8, seed=40)
SEARCH = SearchConfig(trials=5, seeds=3)


class Fit:
    """Stands for hours of training: a validation accuracy per call, and a classifier that can be told by its bias."""

    def __init__(self, *accuracies: float | BaseException) -> None:
        self.accuracies = list(accuracies)
        self.asked: list[tuple[TrainConfig, str]] = []

    def __call__(self, settings: TrainConfig, what: str) -> Classifier:
        self.asked.append((settings, what))
        accuracy = self.accuracies.pop(0) if self.accuracies else 50.0
        if isinstance(accuracy, BaseException):
            raise accuracy
        classifier = untrained_classifier(TRAINING, NAMES).eval()
        with torch.no_grad():
            classifier.module.head.bias.fill_(accuracy)
        classifier.history = [{"step": 1, "validation": accuracy - 1}, {"step": 2, "validation": accuracy}]
        return classifier


def told(classifier: Classifier) -> float:
    return classifier.module.head.bias[0].item()


def table(accuracy: float) -> dict[str, Any]:
    return {"overall": {"accuracy": accuracy, "n": 4}, "worst_group": {"accuracy": accuracy / 2, "n": 1, "group": None}}


def test_draws_are_log_uniform_even_and_belong_to_the_trial():
    drawn = [drawn_settings(SEARCH, TRAINING, trial) for trial in range(2000)]
    rates = np.log10([each.learning_rate for each in drawn])
    sizes = np.array([each.batch_size for each in drawn])
    assert rates.min() >= -4 and rates.max() <= -2
    assert np.quantile(rates, [0.25, 0.5, 0.75]) == pytest.approx([-3.5, -3, -2.5], abs=0.06)
    assert sizes.min() >= 64 and sizes.max() <= 128 and not (sizes % 2).any()
    assert np.quantile(np.log2(sizes), [0.25, 0.5, 0.75]) == pytest.approx([6.25, 6.5, 6.75], abs=0.03)
    assert abs(np.corrcoef(rates, sizes)[0, 1]) < 0.07
    assert drawn[3] == drawn_settings(replace(SEARCH, trials=99, seeds=1), TRAINING, 3)
    assert drawn[3] != drawn_settings(replace(SEARCH, seed=1), TRAINING, 3)
    assert replace(drawn[3], learning_rate=TRAINING.learning_rate, batch_size=TRAINING.batch_size) == TRAINING


def test_a_range_of_one_value_is_that_value():
    fixed = replace(SEARCH, learning_rate=(0.01, 0.01), batch_size=(32, 32))
    drawn = drawn_settings(fixed, TRAINING, 0)
    assert (drawn.learning_rate, drawn.batch_size) == (pytest.approx(0.01), 32)


def test_the_best_on_validation_is_kept_of_equals_the_first(tmp_path):
    fit = Fit(60.0, 80.0, 70.0, 80.0, 75.0)
    classifier = best_of_trials(SEARCH, TRAINING, fit, tmp_path)
    assert told(classifier) == 80.0 and classifier.history[-1] == {"step": 2, "validation": 80.0}
    assert [settings for settings, _ in fit.asked] == [drawn_settings(SEARCH, TRAINING, trial) for trial in range(5)]
    result = read_json(tmp_path / "trial-01.json")
    settings = fit.asked[1][0]
    assert (result["learning_rate"], result["batch_size"]) == (settings.learning_rate, settings.batch_size)
    kept = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert kept == {"trial-00", "trial-01"}  # the best so far, no others


def test_the_chosen_setting_is_tested_over_new_seeds_and_the_chosen_trial_is_none_of_them(tmp_path):
    fit = Fit(60.0, 80.0, 70.0, 80.0, 75.0, 10.0, 90.0, 35.0)
    best_of_trials(SEARCH, TRAINING, fit, tmp_path)
    result = over_seeds(SEARCH, TRAINING, fit, lambda each: table(told(each)), tmp_path)
    chosen = drawn_settings(SEARCH, TRAINING, 1)
    assert [settings for settings, _ in fit.asked[5:]] == [replace(chosen, seed=seed) for seed in (41, 42, 43)]
    assert result["chosen"] == 1 and result["training_seeds"] == [41, 42, 43]
    assert [trial["validation"] for trial in result["trials"]] == [60.0, 80.0, 70.0, 80.0, 75.0]
    values = [10.0, 90.0, 35.0]  # without 80, which was selected
    assert result["test"]["overall"] == {
        "accuracy": pytest.approx(np.mean(values)),
        "std": pytest.approx(np.std(values, ddof=1)),
        "standard_error": pytest.approx(np.std(values, ddof=1) / np.sqrt(3)),
        "seeds": 3,
    }
    assert result["test"]["worst_group"]["accuracy"] == pytest.approx(22.5)
    assert seed_tables(SEARCH, tmp_path) == [table(value) for value in values]


def test_one_trial_and_one_seed_are_a_search_too(tmp_path):
    search, fit = replace(SEARCH, trials=1, seeds=1), Fit(60.0, 70.0)
    best_of_trials(search, TRAINING, fit, tmp_path)
    result = over_seeds(search, TRAINING, fit, lambda each: table(told(each)), tmp_path)
    assert (result["chosen"], len(fit.asked), result["test"]["overall"]["accuracy"]) == (0, 2, 70.0)


def test_an_interrupted_search_goes_on_at_its_trial(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        best_of_trials(SEARCH, TRAINING, Fit(60.0, 80.0, KeyboardInterrupt()), tmp_path)
    assert {path.name for path in tmp_path.glob("*.json")} == {"trial-00.json", "trial-01.json"}
    rest = Fit(70.0, 65.0, 75.0)
    assert told(best_of_trials(SEARCH, TRAINING, rest, tmp_path)) == 80.0
    assert [what for _, what in rest.asked] == ["trial 2", "trial 3", "trial 4"]
    assert [settings for settings, _ in rest.asked] == [drawn_settings(SEARCH, TRAINING, trial) for trial in (2, 3, 4)]
    assert told(best_of_trials(SEARCH, TRAINING, pytest.fail, tmp_path)) == 80.0  # nothing is left to train


def test_interrupted_seeds_go_on_at_their_seed(tmp_path):
    best_of_trials(SEARCH, TRAINING, Fit(60.0, 80.0, 70.0, 65.0, 75.0), tmp_path)

    def rest_of(fit: Callable[..., Classifier]) -> dict[str, Any]:
        return over_seeds(SEARCH, TRAINING, fit, lambda each: table(told(each)), tmp_path)

    with pytest.raises(KeyboardInterrupt):
        rest_of(Fit(50.0, KeyboardInterrupt()))
    fit = Fit(20.0, 5.0)
    result = rest_of(fit)
    assert [settings.seed for settings, _ in fit.asked] == [42, 43]
    assert result["test"]["overall"]["accuracy"] == pytest.approx((50 + 20 + 5) / 3)
    assert rest_of(pytest.fail) == result


def test_a_trial_that_diverges_has_lost(tmp_path):
    diverged = Diverged("training diverged: loss nan at step 3")
    classifier = best_of_trials(SEARCH, TRAINING, Fit(diverged, 0.0, diverged, 30.0, 20.0), tmp_path)
    assert told(classifier) == 30.0
    result = over_seeds(replace(SEARCH, seeds=1), TRAINING, Fit(30.0), lambda each: table(told(each)), tmp_path)
    assert result["trials"][0]["validation"] is None and "loss nan at step 3" in result["trials"][0]["error"]


def test_a_search_of_which_nothing_is_left_and_other_errors_end_it(tmp_path):
    with pytest.raises(ValueError, match="all 5 trials of the search diverged; lower search"):
        best_of_trials(SEARCH, TRAINING, Fit(*[Diverged("nan")] * 5), tmp_path / "all")
    with pytest.raises(ValueError, match="no synthetic ones"):
        best_of_trials(SEARCH, TRAINING, Fit(ValueError("no synthetic ones")), tmp_path / "other")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trials": 0}, r"search\.trials should be at least 1, got 0"),
        ({"seeds": 0}, r"search\.seeds should be at least 1, got 0"),
        (
            {"learning_rate": (1e-2, 1e-4)},
            r"search\.learning_rate should be two numbers above 0 and at most .*, the lower one first",
        ),
        ({"learning_rate": (0.0, 1e-4)}, r"search\.learning_rate should be two numbers above 0"),
        ({"learning_rate": (1e-3,)}, r"search\.learning_rate should be two numbers .* got \[0.001\]"),
        ({"learning_rate": (1e-3, float("inf"))}, r"search\.learning_rate should be two numbers .* got \[0.001, inf\]"),
        ({"batch_size": (2, 10**9)}, r"search\.batch_size should be two numbers above 1 and at most 65,536"),
        ({"batch_size": (1, 64)}, r"search\.batch_size should be two numbers above 1"),
        ({"seed": -1}, r"search\.seed should not be negative, got -1"),
    ],
)
def test_bad_searches_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        SearchConfig(**changes)


def test_a_search_survives_yaml_and_refuses_unknown_keys():
    config = RunConfig(search=SEARCH)
    assert from_dict(RunConfig, to_dict(config)) == config
    with pytest.raises(ValueError, match=r"configuration\.search has an unknown key 'trial'; expected one of"):
        from_dict(RunConfig, {"search": {"trial": 10}})


# A whole run.


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    from tailsmith.data.writers import write_parquet
    from tiny import tiny_dataset, tiny_pipeline

    folder = tmp_path_factory.mktemp("world")
    tiny_pipeline().save_pretrained(folder / "generator")
    write_parquet(tiny_dataset(((9, 6), (4, 2), (1, 0))), folder / "data.parquet")
    training = TrainConfig(epochs=1, image_size=16, evaluate_every=1)
    return RunConfig(
        data=str(folder / "data.parquet"),
        generator=str(folder / "generator"),
        target=12,
        arms=("erm", "image_text"),
        real=training,
        mixed=replace(training, method="balanced_softmax", resampling="half_and_half"),
        search=SearchConfig(trials=2, seeds=2, learning_rate=(1e-3, 1e-1), batch_size=(4, 8)),
        synthesis=SynthesisConfig(num_inference_steps=4, guidance_scale=2.0),
        study_scales=(),
    )


def test_a_run_searches_in_every_arm_and_goes_on_where_it_was_stopped(config, tmp_path, monkeypatch):
    import tailsmith

    train, calls = tailsmith.train, []

    def stopping(*arguments: Any, **options: Any) -> Classifier:
        calls.append(options["description"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(*arguments, **options)

    monkeypatch.setattr("tailsmith.experiment.train", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "run")
    run(config, tmp_path / "run")
    assert calls == [
        "train: erm trial 0",
        "train: erm trial 1",
        "train: erm trial 1",
        "train: erm seed 1 of 2",
        "train: erm seed 2 of 2",
        "train: image_text trial 0",
        "train: image_text trial 1",
        "train: image_text seed 1 of 2",
        "train: image_text seed 2 of 2",
    ]
    for arm in config.arms:
        folder = tmp_path / "run" / "arms" / arm
        found = read_json(folder / "search.json")
        seeds = [read_json(folder / "search" / f"seed-{number}.json") for number in (1, 2)]
        scores = [trial["validation"] for trial in found["trials"]]
        assert found["chosen"] == int(np.argmax(scores))
        assert max(entry["validation"] for entry in read_json(folder / "history.json")) == max(scores)
        mean = np.mean([each["overall"]["accuracy"] for each in seeds])
        assert found["test"]["overall"]["accuracy"] == pytest.approx(mean)
        assert read_json(tmp_path / "run" / "evaluation.json")["arms"][arm] == seeds
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "standard deviation over 2 seeds" in page and "(SE " in page
    assert "Of 2 random settings of each arm, validation chose one" in page
    monkeypatch.setattr("tailsmith.experiment.train", lambda *_, **__: pytest.fail("trained again"))
    run(config, tmp_path / "run")


def test_a_search_without_validation_images_is_refused_before_anything_is_written(config, tmp_path, monkeypatch):
    import tailsmith

    load = tailsmith.load

    def without(*arguments: Any, **options: Any) -> Any:
        dataset = load(*arguments, **options)
        return dataset.select((dataset.table["split"] != "val").to_numpy())

    monkeypatch.setattr("tailsmith.experiment.named.load", without)
    with pytest.raises(ValueError, match="has no validation images, and search selects on them alone"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
