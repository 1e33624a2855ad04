"""A plan is held to who it was made for: generator, decoder, classifier and conditioning images, as they really are."""

import logging
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

import tailsmith
from rendering import DATASET, tiny_plan
from tailsmith.classification.config import TrainConfig
from tailsmith.data.packed import write_packed
from tailsmith.generation.generator import Generator
from tailsmith.guidance.config import FeedbackConfig
from tailsmith.runs.config import RunConfig
from tailsmith.runs.directory import RunDirectory
from tailsmith.runs.studied import study_folder
from tailsmith.studies.grid.config import GridConfig
from tailsmith.studies.grid.plan import plan_grid
from tailsmith.studies.samples import Study, _render
from tailsmith.synthesis import provenance
from tailsmith.synthesis.config import SynthesisConfig
from tailsmith.synthesis.plan import Plan
from tailsmith.synthesis.provenance import UNKNOWN, load_hashed
from tailsmith.synthesis.shards import shard_path
from tiny import CLASSES, TinyClassifier, tiny_pipeline

CONFIG = SynthesisConfig(guidance_scale=1.0, num_inference_steps=2, shard_size=4, feedback=FeedbackConfig(scale=0.0))


@pytest.fixture
def generator(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "generator")
    return tmp_path / "generator"


def swap(generator):
    shutil.rmtree(generator)
    tiny_pipeline(seed=5).save_pretrained(generator)


def planned(generator, **changes):
    return tailsmith.plan(DATASET, 6, config=replace(CONFIG, **changes), generator=str(generator))


def said(folder, number):
    return {k.decode(): v.decode() for k, v in pq.read_schema(shard_path(folder, number)).metadata.items()}


def test_weights_swapped_between_two_shards_are_refused(generator, tmp_path):
    plan, own = planned(generator), Generator.find(str(generator)).sha256()
    tailsmith.synthesize(plan, DATASET, tmp_path / "out", shards=[0])
    assert said(tmp_path / "out", 0)["generator_sha256"] == own == plan.meta["generator_sha256"]
    assert said(tmp_path / "out", 0)["plan"] == plan.identity
    assert said(tmp_path / "out", 0)["shard"] == "0"
    swap(generator)
    with pytest.raises(
        ValueError, match=r"generator '.*' is not the one the plan was made for .*; bring that one back,"
    ):
        tailsmith.synthesize(plan, DATASET, tmp_path / "out")
    assert not shard_path(tmp_path / "out", 1).exists()
    pipe = load_hashed(str(generator))  # as a run passes it
    with pytest.raises(ValueError, match="is not the one the plan was made for"):
        tailsmith.synthesize(plan, DATASET, tmp_path / "out", pipe=pipe)


def test_weights_swapped_while_it_works_are_told_and_not_used(generator, tmp_path, monkeypatch, caplog):
    plan, own, write = planned(generator), Generator.find(str(generator)).sha256(), write_packed

    def then_swap(table, path, meta):
        write(table, path, meta)
        if path.name == "shard-00000.parquet":
            swap(generator)

    shutil.copytree(generator, tmp_path / "copy")
    monkeypatch.setattr("tailsmith.synthesis.one_shard.write_packed", then_swap)
    with caplog.at_level(logging.WARNING, "tailsmith"):
        tailsmith.synthesize(plan, DATASET, tmp_path / "out", shards=[0, 1])
    assert "have changed since it was loaded; this process still makes images by what it loaded" in caplog.text
    assert said(tmp_path / "out", 1)["generator_sha256"] == own
    shutil.rmtree(generator)
    shutil.copytree(tmp_path / "copy", generator)
    monkeypatch.undo()
    tailsmith.synthesize(plan, DATASET, tmp_path / "again", shards=[1])
    images = [pq.read_table(shard_path(tmp_path / name, 1))["image"] for name in ("out", "again")]
    assert images[0].equals(images[1])


def test_weights_written_while_they_are_loaded(generator, monkeypatch):
    load = provenance.load_generator

    def slowly(name):
        pipe = load(name)
        swap(generator)
        return pipe

    monkeypatch.setattr(provenance, "load_generator", slowly)
    with pytest.raises(ValueError, match="was written while it was loaded; run the same command again"):
        load_hashed(str(generator))


def test_a_pipeline_of_the_callers_own_is_said_to_be_unknown(generator, pipe, tmp_path):
    tailsmith.synthesize(planned(generator), DATASET, tmp_path / "out", pipe=pipe, shards=[0])
    assert said(tmp_path / "out", 0)["generator_sha256"] == UNKNOWN


def test_hashes_are_computed_once_per_content(generator, monkeypatch):
    calls, own = [], Generator.sha256
    monkeypatch.setattr(Generator, "sha256", lambda self: calls.append(self.name) or own(self))
    first = provenance.hash_of(str(generator))
    assert provenance.hash_of(str(generator)) == first and len(calls) == 1
    swap(generator)
    assert provenance.hash_of(str(generator)) != first and len(calls) == 2


def test_a_moved_generator_is_the_same_plan(generator, tmp_path):
    plan = planned(generator)
    tailsmith.synthesize(plan, DATASET, tmp_path / "out", shards=[0])
    moved = planned(shutil.move(generator, tmp_path / "moved"))
    assert moved.identity == plan.identity
    tailsmith.synthesize(moved, DATASET, tmp_path / "out", shards=[0, 1])


def repainted(dataset):
    """The same ids, other pictures."""
    return replace(dataset, table=dataset.table.assign(bytes=np.roll(dataset.table["bytes"].to_numpy(), 1)))


def test_other_pictures_under_the_same_names_are_refused(pipe, tmp_path):
    plan = tiny_plan(feedback_scale=0.0)
    with pytest.raises(ValueError, match=r"conditioning image 'train-\d' is not the one that the plan was made with"):
        tailsmith.synthesize(plan, repainted(DATASET), tmp_path / "out", pipe=pipe)
    assert not list((tmp_path / "out").glob("shard-*"))
    published = Plan(plan.table.assign(conditioning_sha256=None), plan.meta)  # of counts without images
    assert len(tailsmith.synthesize(published, repainted(DATASET), tmp_path / "published", pipe=pipe, shards=[0])) == 4
    text = tiny_plan(feedback_scale=0.0, conditioning="text")
    assert len(tailsmith.synthesize(text, repainted(DATASET), tmp_path / "text", pipe=pipe)) == 10


def test_a_refused_plan_leaves_the_folder_to_another(generator, pipe, tmp_path):
    plan = planned(generator)
    swap(generator)
    with pytest.raises(ValueError, match="is not the one the plan was made for"):
        tailsmith.synthesize(plan, DATASET, tmp_path / "out")
    tailsmith.synthesize(planned(generator), DATASET, tmp_path / "out", shards=[0])


def test_a_plan_of_no_generator(pipe, tmp_path):
    plan = tiny_plan(feedback_scale=0.0)
    nameless = Plan(plan.table, {name: value for name, value in plan.meta.items() if name != "generator"})
    with pytest.raises(ValueError, match="the plan names no generator; make it with `tailsmith plan`"):
        tailsmith.synthesize(nameless, DATASET, tmp_path, pipe=pipe)


def test_plans_of_studies_and_grids_name_their_generator_too(generator, tmp_path):
    guide = tailsmith.train(DATASET, None, TrainConfig(steps=1, batch_size=4, image_size=16))
    config = RunConfig(generator=str(generator), synthesis=replace(CONFIG, conditioning="text"))
    directory = RunDirectory(tmp_path / "run")
    _render(Study(directory, config, DATASET, guide, load_hashed(str(generator))), "text only", config.synthesis)
    study = Plan.read(study_folder(directory, "text only") / "plan.parquet")
    grid = plan_grid(DATASET, guide, GridConfig(classes=CLASSES[:1]), str(generator))
    for meta in (study.meta, grid.meta):
        assert meta["generator_sha256"] == Generator.find(str(generator)).sha256()
        assert meta["classifier_sha256"] == guide.sha256()
        assert "decoder_sha256" in meta
    assert said(study_folder(directory, "text only"), 0)["generator_sha256"] == study.meta["generator_sha256"]


def test_a_classifier_of_the_callers_own_is_said_to_be_unknown(generator, pipe, tmp_path):
    tailsmith.synthesize(
        planned(generator), DATASET, tmp_path, pipe=pipe, classifier=TinyClassifier().eval(), shards=[0]
    )
    assert said(tmp_path, 0)["classifier_sha256"] == UNKNOWN
