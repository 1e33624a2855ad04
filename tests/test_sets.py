"""A plan that grows keeps the shards there are: a larger target costs what it adds."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import tailsmith
from rendering import DATASET, encoded_images, tiny_plan
from tailsmith.data.packed import write_packed
from tailsmith.synthesis import shards
from tailsmith.synthesis.plan import Plan
from tailsmith.synthesis.sets import check_folder, finished_images, keep_plan, plan_in
from tailsmith.synthesis.shards import read_shards

SMALL, LARGE = (tiny_plan(missing, feedback_scale=0.0) for missing in ((4, 2, 4), (6, 2, 7)))
LARGEST = tiny_plan((6, 9, 7), feedback_scale=0.0)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("shard-*"))}


def by_id(plan: Plan) -> pd.DataFrame:
    return plan.table.set_index("request_id").drop(columns="shard")


def test_an_extended_plan_has_the_earlier_shards_and_then_new_ones():
    grown = LARGE.extended(SMALL)
    for number in SMALL.shards:
        pd.testing.assert_frame_equal(grown.shard(number), SMALL.shard(number))
    assert grown.shards == [0, 1, 2, 3, 4] and [grown.shard_size(number) for number in grown.shards] == [4, 4, 2, 4, 1]
    assert by_id(grown).equals(by_id(LARGE))  # in the order of the larger plan, whatever it grew from
    assert grown.table.equals(LARGE.extended(SMALL).table)
    assert LARGE.extended(grown).parts == grown.parts
    assert LARGEST.extended(grown).table["request_id"].tolist() == LARGEST.table["request_id"].tolist()


def test_which_plan_begins_with_which():
    grown = LARGEST.extended(LARGE.extended(SMALL))
    assert grown.begins_with(SMALL) and grown.begins_with(LARGE.extended(SMALL)) and grown.begins_with(grown)
    assert not grown.begins_with(LARGE) and not SMALL.begins_with(LARGE)


@pytest.mark.parametrize(
    ("earlier", "what"),
    [
        (LARGE, "requests: not the same"),
        (tiny_plan(seed=3, feedback_scale=0.0), "requests: not the same"),
        (Plan(SMALL.table, {**SMALL.meta, "generator": "another"}), "generator: not the same"),
        (Plan(LARGE.table, {**SMALL.meta, "generator": "another"}), "requests, generator: not the same"),
    ],
)
def test_a_plan_extends_only_what_is_part_of_it(earlier, what):
    with pytest.raises(ValueError, match=what):
        SMALL.extended(earlier)


def test_a_larger_plan_renders_what_it_adds_alone(tmp_path, pipe):
    tailsmith.synthesize(SMALL, DATASET, tmp_path, pipe=pipe)
    before = contents(tmp_path)
    grown = tailsmith.synthesize(LARGE, DATASET, tmp_path, pipe=pipe)
    after = contents(tmp_path)
    assert len(after) == 5 and {name: after[name] for name in before} == before
    fresh = tailsmith.synthesize(LARGE, DATASET, tmp_path / "fresh", pipe=pipe)
    assert grown.table["image_id"].tolist() == fresh.table["image_id"].tolist()  # so that training draws alike
    images = [[np.asarray(each.image(row), int) for row in range(len(each))] for each in (grown, fresh)]
    assert max(np.abs(one - other).max() for one, other in zip(*images, strict=True)) <= 1
    assert Plan.read(tmp_path / "plan.parquet").meta["extends"] == [SMALL.identity]
    assert len(finished_images(tmp_path, DATASET)) == 15


def test_both_plans_go_on_in_one_folder(tmp_path, pipe, caplog):
    """As two processes do, of which one was given a larger target."""
    tailsmith.synthesize(SMALL, DATASET, tmp_path, pipe=pipe)
    tailsmith.synthesize(LARGE, DATASET, tmp_path, pipe=pipe)
    shards.shard_path(tmp_path, 1).unlink()
    tailsmith.synthesize(LARGEST, DATASET, tmp_path, pipe=pipe)  # which made the first plan's shard anew
    before = contents(tmp_path)
    assert len(tailsmith.synthesize(SMALL, DATASET, tmp_path, pipe=pipe)) == 10
    assert len(tailsmith.synthesize(LARGEST, DATASET, tmp_path, pipe=pipe)) == len(LARGEST)
    assert contents(tmp_path) == before and not caplog.records


def test_a_plan_of_a_size_in_between_finds_its_shards_or_is_refused(tmp_path, pipe):
    for plan in (SMALL, LARGE, LARGEST):
        tailsmith.synthesize(plan, DATASET, tmp_path, pipe=pipe)
    assert len(tailsmith.synthesize(LARGE, DATASET, tmp_path, pipe=pipe)) == 15
    between = tiny_plan((6, 4, 7), feedback_scale=0.0)
    with pytest.raises(ValueError, match=r"holds images of another plan; use another folder \(requests: not the same"):
        tailsmith.synthesize(between, DATASET, tmp_path, pipe=pipe)  # which would end in the middle of a shard


def test_shards_of_versions_that_said_less_are_kept_too(tmp_path, pipe, monkeypatch):
    monkeypatch.setattr(
        "tailsmith.synthesis.one_shard.write_packed",
        lambda table, path, meta: write_packed(table, path, {k: meta[k] for k in meta if k != "common"}),
    )
    tailsmith.synthesize(SMALL, DATASET, tmp_path, pipe=pipe)
    before = contents(tmp_path)
    tailsmith.synthesize(LARGE, DATASET, tmp_path, pipe=pipe)
    tailsmith.synthesize(LARGEST, DATASET, tmp_path, pipe=pipe)
    assert {name: contents(tmp_path)[name] for name in before} == before and not list(tmp_path.glob("*damaged*"))


def test_of_two_that_extend_a_plan_at_once_one_is_told(tmp_path):
    keep_plan(tmp_path, SMALL)
    one = check_folder(tmp_path, LARGE)
    other = check_folder(tmp_path, tiny_plan((4, 9, 4), feedback_scale=0.0))
    keep_plan(tmp_path, one)
    with pytest.raises(ValueError, match="holds images of another plan"):
        keep_plan(tmp_path, other)
    behind = check_folder(tmp_path, SMALL)
    keep_plan(tmp_path, behind)
    assert Plan.read(tmp_path / "plan.parquet").parts == one.parts


def test_one_that_comes_late_with_a_larger_plan_runs_again(tmp_path):
    keep_plan(tmp_path, SMALL)
    late = check_folder(tmp_path, LARGEST)
    keep_plan(tmp_path, check_folder(tmp_path, LARGE))
    with pytest.raises(ValueError, match=r"another process has added other images .*; run the same command again"):
        keep_plan(tmp_path, late)
    keep_plan(tmp_path, again := plan_in(tmp_path, LARGEST))
    assert Plan.read(tmp_path / "plan.parquet").parts == again.parts


def test_shards_of_an_extended_plan_are_read_in_its_order(tmp_path, pipe):
    for plan in (SMALL, LARGE):
        tailsmith.synthesize(plan, DATASET, tmp_path, pipe=pipe)
    results = read_shards(tmp_path, LARGE.extended(SMALL))
    assert results["request_id"].tolist() == LARGE.table["request_id"].tolist()
    assert len(encoded_images(results)) == 15
