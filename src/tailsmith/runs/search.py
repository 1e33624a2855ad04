"""Random search of an arm's learning rate and batch size, as on NICO++ (App. G.3; Yang et al., 2023).

Every trial draws a setting and trains with it; validation accuracy alone chooses one, which is trained again and tested
with several new training seeds. The chosen trial is none of them: it was selected, and they weren't. A trial or seed
whose file exists is done, so the same call goes on where it stopped:

    search/trial-00.json        the setting, its validation accuracy and history
    search/trial-00/            the classifier, where the trial was the best so far
    search/seed-1.json          the test of the chosen setting with the first of the new training seeds
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tailsmith.classification.classifier import Classifier, load_classifier, on_accelerator
from tailsmith.classification.config import TrainConfig
from tailsmith.classification.history import selected_score
from tailsmith.classification.training import Diverged
from tailsmith.errors import UserError
from tailsmith.files import read_json, write_json
from tailsmith.metrics.accuracy import AccuracyTable, summarise
from tailsmith.runs.config import SearchConfig
from tailsmith.runs.outputs import HISTORY, save_trained

Fit = Callable[[TrainConfig, str], Classifier]  # settings, what they are for -> a classifier with its history
Evaluate = Callable[[Classifier], AccuracyTable]  # on test images


def drawn_settings(search: SearchConfig, training: TrainConfig, trial: int) -> TrainConfig:
    """The settings of a trial: its draws don't depend on how many trials there are, and arms share them."""
    rng = np.random.default_rng((search.seed, trial))
    learning_rate, batch_size = (
        float(np.exp(rng.uniform(*np.log(bounds)))) for bounds in (search.learning_rate, search.batch_size)
    )
    return replace(training, learning_rate=learning_rate, batch_size=2 * round(batch_size / 2))


def best_of_trials(search: SearchConfig, training: TrainConfig, fit: Fit, folder: Path) -> Classifier:
    """Train with every trial's settings; the classifier of the trial that is best on validation, of equals the first.

    A trial that diverges is one that lost; ValueError where all did.
    """
    results: list[dict[str, Any]] = []
    for trial in range(search.trials):
        path = _trial_path(folder, trial)
        if not path.exists():
            best = max(map(_score, results), default=-1.0)
            _run_trial(drawn_settings(search, training, trial), fit, trial, path, best)
        results.append(read_json(path))
    chosen = max(results, key=_score)
    if _score(chosen) < 0:
        raise UserError(f"all {search.trials} trials of the search diverged; lower search.learning_rate")
    classifier = on_accelerator(load_classifier(_trial_path(folder, chosen["trial"]).with_suffix("")))
    classifier.history = chosen["history"]
    return classifier


def over_seeds(
    search: SearchConfig, training: TrainConfig, fit: Fit, evaluate: Evaluate, folder: Path
) -> dict[str, Any]:
    """What search.json holds: all trials, and the test accuracy of the chosen setting over new training seeds."""
    trials = [read_json(_trial_path(folder, trial)) for trial in range(search.trials)]
    chosen = int(max(trials, key=_score)["trial"])
    settings = drawn_settings(search, training, chosen)
    for number in range(1, search.seeds + 1):
        path = _seed_path(folder, number)
        if not path.exists():
            classifier = fit(replace(settings, seed=training.seed + number), f"seed {number} of {search.seeds}")
            write_json(path, evaluate(classifier))
    return {
        "trials": [{name: value for name, value in each.items() if name != "history"} for each in trials],
        "chosen": chosen,
        "training_seeds": [training.seed + number for number in range(1, search.seeds + 1)],
        "test": summarise(seed_tables(search, folder)),
    }


def seed_tables(search: SearchConfig, folder: Path) -> list[AccuracyTable]:
    """The accuracy tables of the training seeds that are tested already."""
    paths = [_seed_path(folder, number) for number in range(1, search.seeds + 1)]
    return [AccuracyTable(read_json(path)) for path in paths if path.exists()]


def _run_trial(settings: TrainConfig, fit: Fit, trial: int, path: Path, best: float) -> None:
    """Train, and leave a result; its classifier only where it beats `best`, as no other can be chosen in the end."""
    result = {"trial": trial, "learning_rate": settings.learning_rate, "batch_size": settings.batch_size}
    try:
        classifier = fit(settings, f"trial {trial}")
    except Diverged as error:
        write_json(path, {**result, "validation": None, "error": str(error), "history": []})
        return
    validation = selected_score(classifier.history)
    if validation is not None and validation > best:
        save_trained(classifier, path.with_suffix(""), path.with_suffix("") / HISTORY)
    write_json(path, {**result, "validation": validation, "history": classifier.history})


def _trial_path(folder: Path, trial: int) -> Path:
    return folder / f"trial-{trial:02}.json"


def _seed_path(folder: Path, number: int) -> Path:
    return folder / f"seed-{number}.json"


def _score(result: dict[str, Any]) -> float:
    """Accuracy on validation, below 0 for a trial that diverged."""
    return -1.0 if result["validation"] is None else float(result["validation"])
