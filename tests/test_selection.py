"""`reproduce pool` and `gap`: rules that choose, what stands in for synthetic images, and how halves are compared."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tailsmith.classification.training import check_train_config
from tailsmith.cli.main import main
from tailsmith.data.sources.embedded import as_drawings, load_embedded
from tailsmith.files import read_json, write_json
from tailsmith.metrics.accuracy import accuracy_table
from tailsmith.metrics.paired import mean_paired_interval
from tailsmith.reproduction import comparison, driver, retraining
from tailsmith.reproduction import gap as gap_module
from tailsmith.reproduction import pool as pool_module
from tailsmith.reproduction.comparison import Comparison, compare_halves, differences
from tailsmith.reproduction.gap import drawing_share
from tailsmith.reproduction.retraining import Half
from tailsmith.reproduction.rules import RULES, Candidates, Rule, at_random, choose, most_diverse
from tailsmith.reproduction.substitutes import (
    half_through_autoencoder,
    in_place_of_synthetic,
    lacking_photographs,
    partly_drawn,
    through_autoencoder,
)
from tailsmith.reproduction.tables import halves_table
from tiny import TinyClassifier, tiny_dataset, tiny_pipeline

TASK = load_embedded("fashion-lt")


def pool(n: int = 60, seed: int = 0) -> Candidates:
    rng = np.random.default_rng(seed)
    values = {name: rng.random(n) for name in ("entropy", "loss", "hardness", "real_looking")}
    return Candidates(
        labels=np.arange(n) % 3,
        judged=rng.random(n) < 0.7,
        referenced=rng.random(n) < 0.7,
        features=rng.normal(size=(n, 4)),
        **values,
    )


@pytest.mark.parametrize("name", RULES)
def test_every_rule_chooses_as_many_of_each_class_as_wanted(name):
    known, wanted = pool(), np.array([5, 0, 8])
    rows, filled = choose(known, RULES[name], wanted, 0)
    assert np.bincount(known.labels[rows], minlength=3).tolist() == wanted.tolist()
    assert len(set(rows.tolist())) == 13 and filled == 0
    among = RULES[name].among
    assert among is None or getattr(known, among)[rows].all()


def test_rules_choose_the_best_by_their_value_among_those_that_are_right():
    known = pool()
    rows, _ = choose(known, RULES["high entropy, right"], np.array([4, 4, 4]), 0)
    for label in range(3):
        right = np.flatnonzero((known.labels == label) & known.judged)
        best = set(right[np.argsort(known.entropy[right])[-4:]].tolist())
        assert {row for row in rows.tolist() if known.labels[row] == label} == best
    low, _ = choose(known, RULES["low entropy, right"], np.array([4, 4, 4]), 0)
    middle, _ = choose(known, RULES["upper-middle entropy, right"], np.array([4, 4, 4]), 0)
    assert known.entropy[low].mean() < known.entropy[middle].mean() < known.entropy[rows].mean()


def test_what_is_lacking_is_filled_up_at_random_and_counted():
    known = pool()
    few = Candidates(**{**vars(known), "judged": np.arange(60) < 6})  # two right ones of each class
    rows, filled = choose(few, RULES["right"], np.array([5, 5, 5]), 0)
    assert len(rows) == 15 and filled == 9 and set(range(6)) <= set(rows.tolist())


def test_diversity_picks_the_farthest_each_time():
    known = pool(30)
    rows = most_diverse(known, np.random.default_rng(1))
    assert sorted(rows.tolist()) == list(range(30))
    for step in range(1, 10):
        chosen = known.features[rows[:step]]
        distances = [min(np.linalg.norm(each - one) for one in chosen) for each in known.features]
        assert distances[rows[step]] == pytest.approx(max(distances))


def test_a_choice_depends_on_the_seed_alone():
    known, wanted = pool(), np.array([5, 5, 5])
    one, again, other = (choose(known, Rule(at_random), wanted, seed)[0].tolist() for seed in (0, 0, 1))
    assert one == again != other
    assert choose(pool(0), RULES["right"], np.zeros(3, dtype=int), 0)[0].tolist() == []


# ---- substitutes


@pytest.fixture(scope="module")
def photographs():
    return lacking_photographs(TASK, 30, 0)


def test_lacking_photographs_are_real_ones_that_training_has_not(photographs):
    counts = np.bincount(photographs.labels, minlength=10)
    there = np.bincount(TASK.split("train").labels, minlength=10)
    assert counts.tolist() == np.maximum(30 - there, 0).tolist()
    assert set(photographs.table["source"]) == {"synthetic"}
    own = {TASK.content_hash(row) for row in range(len(TASK))}
    assert not own & {photographs.content_hash(row) for row in range(len(photographs))}


def test_drawings_are_told_from_photographs(photographs):
    assert drawing_share(photographs, TASK) < 0.02
    assert drawing_share(as_drawings(photographs), TASK) > 0.98
    half = partly_drawn(photographs, 0.5, 0)
    changed = [half.encoded(row) != photographs.encoded(row) for row in range(len(half))]
    assert drawing_share(half, TASK) == pytest.approx(np.mean(changed), abs=0.03)
    assert half.labels.tolist() == photographs.labels.tolist()


def test_half_of_the_real_training_images_go_through_the_autoencoder():
    data, pipe = tiny_dataset(((9, 3), (6, 2), (2, 1))), tiny_pipeline()
    mixed = half_through_autoencoder(pipe, data, 0)
    changed = np.array([mixed.encoded(row) != data.encoded(row) for row in range(len(data))])
    training = (data.table["split"] == "train").to_numpy()
    assert changed[training].sum() == training.sum() // 2 and not changed[~training].any()
    everything = through_autoencoder(pipe, in_place_of_synthetic(data))
    assert everything.labels.tolist() == data.labels.tolist()
    assert everything.image(0).size == (16, 16)


# ---- comparisons


def table(right: np.ndarray) -> object:
    labels = np.repeat(np.arange(3), len(right) // 3)
    return accuracy_table(
        np.where(right, labels, (labels + 1) % 3),
        labels,
        class_names=("a", "b", "c"),
        train_counts=[200, 50, 5],
        image_ids=[str(each) for each in range(len(right))],
        bootstrap=0,
    )


def training(name: str, seed: int, repeat: int, few: float) -> dict[str, object]:
    test = {"overall": 70.0, "many": 80.0, "medium": 60.0, "few": few}
    return {"method": name, "seed": seed, "repeat": repeat, "samples": {}, "test": test}


def test_differences_are_of_means_over_trainings_with_a_t_interval_over_seeds():
    rng = np.random.default_rng(0)
    few = {name: rng.normal(50, 5, (3, 2)) for name in ("right", "other")}
    rows = [training(name, *at, each) for name, values in few.items() for at, each in np.ndenumerate(values)]
    found = differences([*rows, training("other", 7, 0, 0.0)], "right")
    by_seed = few["other"].mean(1) - few["right"].mean(1)
    assert set(found) == {"other"} and found["other"]["overall"]["mean"] == 0
    assert found["other"]["few"]["by_seed"] == pytest.approx(by_seed, abs=0.01)
    low, high = stats.ttest_1samp(by_seed, 0).confidence_interval(0.95)
    assert found["other"]["few"]["over_seeds"] == pytest.approx([low, high], abs=0.02)
    alone = differences([row for row in rows if row["seed"] == 0], "right")["other"]["few"]
    assert np.isnan(alone["over_seeds"]).all()
    assert differences([row for row in rows if row["method"] == "other"], "right") == {}


def test_the_interval_over_test_images_is_that_of_many_bootstraps():
    rng = np.random.default_rng(1)
    hard = rng.random(600)
    before, after = ([table(rng.random(600) < hard + shift) for _ in range(4)] for shift in (0.0, 0.1))
    low, high = mean_paired_interval(before, after, ("overall",))
    gains = np.mean([t.correct for t in after], axis=0) - np.mean([t.correct for t in before], axis=0)
    means = [np.mean([rng.choice(gains[c * 200 : c * 200 + 200], 200).mean() for c in range(3)]) for _ in range(4000)]
    assert [low, high] == pytest.approx((100 * np.quantile(means, [0.025, 0.975])).tolist(), abs=0.35)
    assert np.isnan(mean_paired_interval(before, [], ("overall",))).all()
    assert np.isnan(mean_paired_interval(before, [table(hard[:300] > 0.5)], ("overall",))).all()


def test_a_comparison_trains_each_half_twice_keeps_what_it_has_and_makes_a_table(
    photographs, tmp_path, monkeypatch, capsys
):
    rng, trained = np.random.default_rng(0), []

    def train(real, synthetic, config, *, augmentation, description):
        check_train_config(config)
        trained.append((description, config.seed, config.resampling, None if synthetic is None else len(synthetic)))
        return None

    halves = [Half("real images only", None), Half("photographs", photographs, facts={"drawings": 0.25})]
    monkeypatch.setattr(comparison, "load_generator", lambda: None)
    monkeypatch.setattr(driver, "load_embedded", lambda *_, **__: TASK)
    monkeypatch.setattr(retraining, "judged", lambda _: {"judge_agreement": 0.875})
    monkeypatch.setattr(retraining, "train", train)
    monkeypatch.setattr(retraining, "evaluate", lambda *_: table(rng.random(300) < 0.6))
    chosen = Comparison(lambda world, seed: iter(halves), "photographs")
    monkeypatch.setitem(comparison.COMPARISONS, "gap", chosen)
    command = [
        "reproduce",
        "gap",
        "--out",
        str(tmp_path / "out"),
        "--results",
        str(tmp_path / "r.json"),
        "--seeds",
        "0,1",
    ]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert len(trained) == 8 and len({each[:2] for each in trained}) == 8
    assert {each[2:] for each in trained} == {("uniform", None), ("half_and_half", len(photographs))}
    assert "| real images only |" in said and "87.5 ± 0.0" in said and "drawings, %" in said and "25.0 ± 0.0" in said
    assert main(command) == 0 and len(trained) == 8
    elsewhere = ["reproduce", "gap", "--out", str(tmp_path / "elsewhere"), "--results", str(tmp_path / "r.json")]
    assert main([*elsewhere, "--seeds", "2"]) == 0 and len(trained) == 12  # seeds are added to a file
    kept = read_json(tmp_path / "r.json")
    assert sorted({row["seed"] for row in kept["rows"]}) == [0, 1, 2] and "; tailsmith reproduce" in kept["command"]
    assert len(kept["differences"]["real images only"]["few"]["by_seed"]) == 3
    write_json(tmp_path / "r.json", {**kept, "config_sha256": "of others"})
    assert main([*elsewhere, "--seeds", "2"]) == 2
    assert "holds trainings of other settings than this version's; give another --results" in capsys.readouterr().err
    write_json(tmp_path / "r.json", kept)
    monkeypatch.setattr(comparison, "seeded", lambda config, seed: config)
    halves[1] = Half("photographs", photographs.select([0, 1]))
    with pytest.raises(ValueError, match="holds trainings with other images or settings; use another --out"):
        compare_halves(chosen, tmp_path / "out", tmp_path / "r.json", [0])


def test_a_table_of_one_seed_has_no_interval(tmp_path):
    rows = [training(name, 0, 0, 50.0) for name in ("right", "random")]
    write_json(tmp_path / "r.json", {"command": "", "rows": rows, "differences": {}})
    assert halves_table(tmp_path / "r.json").splitlines()[-1] == "| random | 70.0 | 50.0 | – |"


# ---- the two experiments, on tiny models


def tiny_world(task, tmp_path, **changes):
    from tailsmith.experiment import World
    from tailsmith.reproduction.fashion import LT
    from tailsmith.runs.directory import RunDirectory

    config = replace(LT, generator=str(tmp_path / "generator"), **changes)
    pipe = tiny_pipeline()
    if not (tmp_path / "generator").exists():
        pipe.save_pretrained(tmp_path / "generator")
    directory = RunDirectory(tmp_path / "world")
    return World(directory, config, task, lambda: pipe)


def test_the_pool_is_looked_at_and_chosen_from(tmp_path, monkeypatch):
    task = tiny_dataset(((9, 3), (6, 2), (2, 1)))
    validation = task.split("train")
    more = validation.table.assign(split="val", image_id=[f"more-{row}" for row in range(len(validation))])
    task = replace(task, table=pd.concat([task.table, more], ignore_index=True))
    monkeypatch.setattr(pool_module, "train_arm", lambda world, arm: TinyClassifier(seed=len(arm.name)).eval())
    monkeypatch.setattr(pool_module, "load_judge", lambda *_: TinyClassifier(seed=5).eval())
    monkeypatch.setattr(pool_module, "CANDIDATES", 3)
    halves = list(pool_module.pool_halves(tiny_world(task, tmp_path, target=12), 0))
    wanted = [0, 12 - 8, 12 - 3]
    by_name = {half.name: half for half in halves}
    assert set(RULES) < set(by_name) and len(by_name) == len(RULES) + 4
    for name in RULES:
        assert np.bincount(by_name[name].synthetic.labels, minlength=3).tolist() == wanted
        assert set(by_name[name].synthetic.table["source"]) == {"synthetic"}
    assert len(by_name["all"].synthetic) == 3 * sum(wanted)
    assert by_name["high entropy"].facts["entropy"] >= by_name["random"].facts["entropy"]
    mixed = by_name["random; half of the real images reconstructed"]
    assert mixed.real is not None and mixed.synthetic.table.equals(by_name["random"].synthetic.table)


def test_the_gap_goes_from_real_photographs_down_to_samples(tmp_path, monkeypatch):
    made = in_place_of_synthetic(TASK.split("val").select(np.arange(0, 1200, 40)))
    monkeypatch.setattr(gap_module, "train_arm", lambda *_: None)
    monkeypatch.setattr(gap_module, "synthesize_set", lambda *_: made)
    halves = {half.name: half for half in gap_module.gap_halves(tiny_world(TASK, tmp_path, target=12), 0)}
    assert list(halves) == [
        "real images only", "photographs", "photographs, half as drawings", "photographs, all as drawings",
        "photographs through the autoencoder", "text", "image_text",
    ]  # fmt: skip
    assert halves["real images only"].synthetic is None
    assert (
        halves["photographs"].facts["drawings"] < 0.05 < 0.95 < halves["photographs, all as drawings"].facts["drawings"]
    )
    sizes = {len(half.synthetic) for name, half in halves.items() if name.startswith("photographs")}
    assert sizes == {(12 - 8) + (12 - 5)}
