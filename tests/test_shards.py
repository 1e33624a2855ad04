"""Whatever lies in a shard's place is checked against the plan: what fails is named, set aside and rendered again."""

import logging
import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tailsmith
from rendering import DATASET, tiny_plan
from tailsmith.data.packed import VERIFIED, Damaged, location, read_packed, write_packed
from tailsmith.synthesis.plan import Plan
from tailsmith.synthesis.sets import chosen_shards, finished_images
from tailsmith.synthesis.shards import read_shard, read_shards, shard_path, unsound

PLAN = tiny_plan(feedback_scale=0.0)  # ten requests in three shards


@pytest.fixture(scope="module")
def finished(tmp_path_factory, pipe):
    folder = tmp_path_factory.mktemp("finished")
    tailsmith.synthesize(PLAN, DATASET, folder / "plan", pipe=pipe)
    tailsmith.synthesize(tiny_plan(feedback_scale=0.0, seed=9), DATASET, folder / "another plan", pipe=pipe)
    tailsmith.synthesize(tiny_plan(feedback_scale=0.0, num_inference_steps=3), DATASET, folder / "steps", pipe=pipe)
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    return shutil.copytree(finished / "plan", tmp_path / "out")


def changed(path, column, change):
    """One value changed, all else and the metadata kept."""
    table = pq.read_table(path)
    values = table[column].to_pylist()
    values[0] = change(values[0])
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, column, pa.array(values, table.schema.field(column).type)), path)


def flipped(path, byte):
    damaged = bytearray(path.read_bytes())
    damaged[byte] ^= 16
    path.write_bytes(damaged)


def without_metadata(path):
    pq.write_table(pq.read_table(path).replace_schema_metadata({}), path)


DAMAGES = {
    "copied under another's name": (
        lambda path, finished: shutil.copy(finished / "plan" / "shard-00000.parquet", path),
        "row 0 has the request_id '0--1-0', the plan '1--1-0'",
    ),
    "emptied": (lambda path, _: pq.write_table(pq.read_table(path).slice(0, 0), path), "differ from its checksum"),
    "of another plan": (
        lambda path, finished: shutil.copy(finished / "another plan" / path.name, path),
        "another plan",
    ),
    "of the same requests with other steps": (
        lambda path, finished: shutil.copy(finished / "steps" / path.name, path),
        "another plan",
    ),
    "with another label": (lambda path, _: changed(path, "label", lambda label: label + 1), "differ from its checksum"),
    "with another result": (
        lambda path, _: changed(path, "black", lambda black: not black),
        "differ from its checksum",
    ),
    "with another image": (lambda path, _: changed(path, "image", lambda image: image[:-1] + b"x"), "an image differs"),
    "by another program": (lambda path, _: without_metadata(path), "was not written by tailsmith: it has no checksum"),
    "truncated": (lambda path, _: path.write_bytes(path.read_bytes()[:1500]), "is damaged"),
    "of no length": (lambda path, _: path.write_bytes(b""), "is damaged"),
    "a bit flipped at the start": (lambda path, _: flipped(path, 4), "is damaged"),
    "a bit flipped at the end": (lambda path, _: flipped(path, -6), "is damaged"),
    "no Parquet file": (lambda path, _: path.write_bytes(b"GIF89a" * 500), "is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_not_what_was_written(damage, folder, finished, pipe, caplog):
    path, (spoil, reason) = shard_path(folder, 1), DAMAGES[damage]
    kept = {name: shard_path(folder, name).read_bytes() for name in (0, 2)}
    good = pq.read_table(path)
    spoil(path, finished)
    bad = path.read_bytes()
    assert unsound(folder, PLAN, PLAN.shards) == [1]
    with pytest.raises(ValueError, match=rf"shard-00001.parquet .*{reason}.*; synthesize again"):
        finished_images(folder, DATASET)
    assert path.read_bytes() == bad  # training moves nothing
    with caplog.at_level(logging.WARNING, "tailsmith"):
        assert len(tailsmith.synthesize(PLAN, DATASET, folder, pipe=pipe)) == 10
    (line,) = [each.getMessage() for each in caplog.records]
    assert reason in line and line.endswith("set aside as shard-00001.parquet.damaged-1, and rendered again")
    assert (folder / "shard-00001.parquet.damaged-1").read_bytes() == bad
    assert {name: shard_path(folder, name).read_bytes() for name in (0, 2)} == kept
    assert pq.read_table(path).drop_columns(["seconds"]).equals(good.drop_columns(["seconds"]))
    assert len(finished_images(folder, DATASET)) == 10


def test_of_many_shards_those_that_were_read_once_are_not_read_again_until_damage_is_found(folder, monkeypatch):
    monkeypatch.setattr("tailsmith.synthesis.shards.MANY", 3)
    assert unsound(folder, PLAN, PLAN.shards) == []
    read = []
    monkeypatch.setattr("tailsmith.synthesis.shards.fault_of", lambda path, plan, number: read.append(number))
    assert unsound(folder, PLAN, PLAN.shards) == [] and read == []
    shard_path(folder, 1).unlink()
    os.utime(shard_path(folder, 2), ns=(0, 0))
    assert unsound(folder, PLAN, PLAN.shards) == [1] and read == [2]
    assert unsound(folder, PLAN, PLAN.shards) == [1] and read == [2]
    monkeypatch.undo()
    path = shard_path(folder, 2)
    changed(path, "image", lambda image: image[:-1] + b"x")
    with pytest.raises(ValueError, match="an image differs from its hash"):
        read_packed(location(path, 0))
    assert not (folder / VERIFIED).exists()
    (folder / VERIFIED).write_text('{"plan": [}')  # no JSON: all is read
    assert unsound(folder, PLAN, PLAN.shards) == [1, 2]


def test_what_is_set_aside_is_never_overwritten(folder, pipe):
    for number in (1, 2):
        shard_path(folder, 0).write_bytes(b"%d" % number)
        tailsmith.synthesize(PLAN, DATASET, folder, pipe=pipe)
    assert [(folder / f"shard-00000.parquet.damaged-{n}").read_bytes() for n in (1, 2)] == [b"1", b"2"]


def test_a_sound_folder_is_left_alone(folder, pipe, monkeypatch):
    monkeypatch.setattr("tailsmith.synthesis.rendering.Worker", None)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    tailsmith.synthesize(PLAN, DATASET, folder, pipe=pipe)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_folder_in_a_shards_place_is_the_users_to_move(folder, pipe):
    path = shard_path(folder, 1)
    path.unlink()
    path.mkdir()
    for doing in (
        lambda: tailsmith.synthesize(PLAN, DATASET, folder, pipe=pipe),
        lambda: finished_images(folder, DATASET),
    ):
        with pytest.raises(
            ValueError, match=r"shard-00001.parquet is no file, where a shard should be; move it out of"
        ):
            doing()
    assert path.is_dir()


def test_a_shard_removed_while_synthesis_works_is_made_again(tmp_path, pipe, monkeypatch):
    removed = []

    def then_remove(table, path, meta):
        write_packed(table, path, meta)
        if path.name == "shard-00001.parquet" and not removed:
            shard_path(tmp_path, 0).unlink()
            removed.append(0)

    monkeypatch.setattr("tailsmith.synthesis.one_shard.write_packed", then_remove)
    assert len(tailsmith.synthesize(PLAN, DATASET, tmp_path, pipe=pipe)) == 10
    assert removed == [0]


def test_a_shard_that_is_always_removed_is_one_line(tmp_path, pipe, monkeypatch):
    monkeypatch.setattr("tailsmith.synthesis.one_shard.write_packed", lambda table, path, meta: None)
    with pytest.raises(ValueError, match="was rendered twice and is gone again: something removes it"):
        tailsmith.synthesize(PLAN, DATASET, tmp_path, pipe=pipe)


def test_what_cannot_be_read_is_not_set_aside(folder, pipe, monkeypatch):
    def unreadable(path):
        raise ValueError(f"{path} can't be read (Permission denied)")

    monkeypatch.setattr("tailsmith.synthesis.shards.read_rows", unreadable)
    with pytest.raises(ValueError, match=r"can't be read .Permission denied."):
        tailsmith.synthesize(PLAN, DATASET, folder, pipe=pipe)
    assert not list(folder.glob("*damaged*"))


def test_half_of_a_plan_is_not_read_as_a_whole(folder):
    shard_path(folder, 1).unlink()
    with pytest.raises(ValueError, match="has 2 of its plan's 3 shards; finish it with `tailsmith synthesize`"):
        read_shards(folder, PLAN)
    assert len(read_shards(folder, PLAN, [0, 2])) == 6
    shard_path(folder, 2).write_bytes(b"")
    with pytest.raises(Damaged, match=r"shard-00002.parquet is damaged"):
        read_shards(folder, PLAN, [0, 2])


def test_another_version_goes_on_with_the_same_plan(folder, pipe):
    shard_path(folder, 1).unlink()
    upgraded = Plan(PLAN.table, {**PLAN.meta, "version": "9.9.9", "dataset": "renamed"})
    assert len(tailsmith.synthesize(upgraded, DATASET, folder, pipe=pipe)) == 10
    assert not list(folder.glob("*damaged*"))


def test_a_plan_that_went_missing_is_put_back(folder, pipe):
    (folder / "plan.parquet").unlink()
    tailsmith.synthesize(PLAN, DATASET, folder, pipe=pipe)
    assert len(finished_images(folder, DATASET)) == 10


def test_what_differs_is_said_of_another_plan(folder, pipe):
    with pytest.raises(
        ValueError, match=r"holds images of another plan; use another folder \(requests: not the same\)"
    ):
        tailsmith.synthesize(tiny_plan(feedback_scale=0.0, seed=9), DATASET, folder, pipe=pipe)


def test_a_row_more_and_a_column_less(folder):
    path, plan = shard_path(folder, 0), Plan(PLAN.table, {k: v for k, v in PLAN.meta.items() if k != "rendering"})
    table = pq.read_table(path).replace_schema_metadata({})
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), path)
    with pytest.raises(Damaged, match=r"shard-00000.parquet has 5 images, its plan 4"):
        read_shard(path, plan, 0, images=False)
    pq.write_table(table.drop_columns(["seconds"]), path)
    with pytest.raises(Damaged, match=r"shard-00000.parquet lacks the column 'seconds'"):
        read_shard(path, plan, 0, images=False)


def test_a_range_of_billions_is_refused_before_it_is_written_out():
    with pytest.raises(ValueError, match="the plan has the shards 0-4, got 99999999999"):
        chosen_shards("0-99999999999", range(5))
