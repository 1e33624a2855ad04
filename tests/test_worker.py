"""Shards: the same request, the same image; a shard that exists is done; killed, the same call goes on."""

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from diffusers import HeunDiscreteScheduler
from PIL import Image

import tailsmith
from rendering import DATASET, encoded_images, largest_difference, pixels, render, tiny_plan
from tailsmith.classification.classifier import load_classifier
from tailsmith.data.dataset import Dataset
from tailsmith.generation.conditioning import drop_entries, embed_images
from tailsmith.generation.families import family_of
from tailsmith.guidance.criteria import entropy
from tailsmith.synthesis.plan import Plan
from tailsmith.synthesis.shards import read_shards, shard_path, synthetic_dataset
from tailsmith.synthesis.storage import Storage
from tailsmith.synthesis.worker import Worker
from test_bad_input import save_classifier
from tiny import CLASSES, TinyClassifier, tiny_pipeline

PROVENANCE = (
    "request_id", "shard", "label", "attribute", "prompt", "conditioning_id", "conditioning_sha256",
    "embedding_dropout", "dropout_seed", "noise_seed", "guidance_scale", "num_inference_steps", "feedback_scale",
    "criterion",
)  # fmt: skip
RESULTS = ("image", "criterion_value", "skipped_steps", "retries", "black", "seconds", "image_sha256")


@pytest.mark.parametrize("scale", [0.0, 0.02])
def test_the_same_request_gives_the_same_image_in_any_batch_and_order(scale, pipe, classifier):
    plan = tiny_plan(feedback_scale=scale, criterion={"entropy": 1.0, "loss": 1.0})
    alone = render(Worker(pipe, DATASET, classifier, batch_size=1), plan)
    assert alone["request_id"].tolist() == plan.table["request_id"].tolist()
    shuffled = plan.table.sample(frac=1, random_state=0)
    for batch_size, requests in [(3, plan.table), (8, plan.table), (8, shuffled)]:
        together = render(Worker(pipe, DATASET, classifier, batch_size=batch_size), plan, requests)
        assert largest_difference(alone, together) <= 1  # of 255: floating-point noise at a rounding edge
        values = together.set_index("request_id")["criterion_value"][alone["request_id"]]
        np.testing.assert_allclose(values, alone["criterion_value"], atol=0.05)
    images = list(pixels(alone).values())
    assert min(np.abs(a - b).max() for i, a in enumerate(images) for b in images[:i]) > 10


def test_requests_with_other_settings_do_not_share_a_pipeline_call(pipe, classifier):
    plan = tiny_plan(feedback_scale=0.0)
    mixed = plan.table.assign(
        guidance_scale=[1.0, 2.0] * 5, num_inference_steps=[4, 4, 4, 4, 4, 4, 4, 3, 3, 3], prompt="sandal"
    )
    alone = render(Worker(pipe, DATASET, classifier, batch_size=1), plan, mixed)
    together = render(Worker(pipe, DATASET, classifier, batch_size=8), plan, mixed)
    assert together["request_id"].tolist() == mixed["request_id"].tolist()
    assert largest_difference(alone, together) <= 1


def test_every_row_carries_its_provenance_and_results(pipe, classifier, tmp_path):
    plan = tiny_plan()
    synthetic = tailsmith.synthesize(plan, DATASET, tmp_path, classifier=classifier, pipe=pipe)
    results = read_shards(tmp_path, plan)
    assert tuple(pq.read_schema(shard_path(tmp_path, 0)).names) == PROVENANCE + RESULTS
    assert set(results.columns) == {*PROVENANCE, *RESULTS, "path"} - {"image", "image_sha256"}
    assert results[list(PROVENANCE)].equals(plan.table)
    images = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in pixels(results).values()]) / 255
    with torch.no_grad():
        expected = entropy(*classifier(images), None)
    np.testing.assert_allclose(results["criterion_value"], expected, rtol=1e-4, atol=1e-5)
    assert (results["skipped_steps"] == 0).all()
    assert (results["seconds"] > 0).all()
    assert (results["retries"] == 0).all()
    assert not results["black"].any()
    assert pq.read_schema(shard_path(tmp_path, 0)).metadata[b"generator"] == b"tiny"
    assert synthetic.labels.tolist() == plan.table["label"].tolist()
    assert set(synthetic.table["source"]) == {"synthetic"}
    assert synthetic.class_names == CLASSES


def test_skipped_steps_are_counted_per_image(pipe):
    class BlindToBags(TinyClassifier):
        def forward(self, images):
            logits, features = super().forward(images)
            return logits * torch.tensor([[1.0], [1.0], [0.0], [1.0]]), features

    plan = tiny_plan((2, 0, 2))
    results = render(Worker(pipe, DATASET, BlindToBags()), plan)
    assert results["skipped_steps"].tolist() == [0, 0, 2, 0]


def test_conditioning_is_the_real_images_embedding_with_the_requests_own_dropout(pipe):
    plan = tiny_plan((3, 0, 0), embedding_dropout=0.5)
    embeddings = Worker(pipe, DATASET, None)._conditioning_embeddings(plan.table, family_of(pipe))
    row_of = {name: row for row, name in enumerate(DATASET.table["image_id"])}
    for own, request in zip(embeddings, plan.table.itertuples(), strict=True):
        whole = embed_images(pipe, [DATASET.image(row_of[request.conditioning_id])])[0]
        torch.testing.assert_close(own, drop_entries(whole, 0.5, request.dropout_seed))
    assert not torch.equal(embeddings[0] == 0, embeddings[1] == 0)


def test_text_only_requests_have_a_zero_embedding(pipe):
    plan = tiny_plan(conditioning="text")
    assert not Worker(pipe, DATASET, None)._conditioning_embeddings(plan.table, family_of(pipe)).any()


def test_dropout_zeroes_the_share_it_should_and_leaves_the_rest():
    embedding = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    dropped = drop_entries(embedding, 0.3, seed=5)
    kept = dropped != 0
    assert torch.equal(dropped[kept], embedding[kept])
    assert (~kept).float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert torch.equal(drop_entries(embedding, 0.3, seed=5), dropped)
    assert torch.equal(drop_entries(embedding, 0.0, seed=5), embedding)
    assert not drop_entries(embedding, 1.0, seed=5).any()


def test_without_feedback_no_classifier_is_needed_and_there_is_no_criterion_value(pipe):
    results = render(Worker(pipe, DATASET, None), tiny_plan(feedback_scale=0.0))
    assert results["criterion_value"].isna().all()


# ---- shards ----


def test_a_classifier_in_training_mode_learns_nothing_from_what_it_sees(pipe):
    class Normalised(TinyClassifier):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(6)

        def forward(self, images):
            logits, features = super().forward(images)
            return logits, self.norm(features)

    classifier = Normalised().train()
    render(Worker(pipe, DATASET, classifier), tiny_plan(feedback_scale=0.0))
    assert int(classifier.norm.num_batches_tracked) == 0
    assert classifier.norm.training


def test_a_shard_that_the_plan_does_not_have(pipe, classifier, tmp_path):
    with pytest.raises(ValueError, match=r"the plan has the shards 0-2, got 7"):
        tailsmith.synthesize(tiny_plan(), DATASET, tmp_path, classifier=classifier, pipe=pipe, shards=[0, 7])


def test_a_finished_shard_is_not_rendered_again(pipe, classifier, tmp_path):
    plan = tiny_plan()
    tailsmith.synthesize(plan, DATASET, tmp_path, classifier=classifier, pipe=pipe, shards=[0, 2])
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.glob("shard-*")}
    assert sorted(before) == ["shard-00000.parquet", "shard-00002.parquet"]
    tailsmith.synthesize(plan, DATASET, tmp_path, classifier=classifier, pipe=pipe)
    for name, state in before.items():
        assert ((tmp_path / name).read_bytes(), (tmp_path / name).stat().st_mtime_ns) == state
    assert read_shards(tmp_path, plan)["request_id"].tolist() == plan.table["request_id"].tolist()


def test_explicit_feedback_steps_resume_as_well(pipe, classifier, tmp_path):
    plan = tiny_plan(feedback_steps=(0, 2))
    for shards in ([0], None):
        tailsmith.synthesize(plan, DATASET, tmp_path, classifier=classifier, pipe=pipe, shards=shards)
    assert len(read_shards(tmp_path, plan)) == 10


def test_what_a_killed_writer_leaves_is_not_read_as_a_shard(tmp_path):
    plan = tiny_plan()
    (tmp_path / ".shard-00000.parquet.0123.tmp").write_bytes(b"PAR1 half a file")
    with pytest.raises(ValueError, match="no finished shard in"):
        read_shards(tmp_path, plan)


class Interrupted:
    """A worker's `render` that Ctrl-C or SIGTERM stops after some batches."""

    def __init__(self, monkeypatch, batches):
        self.real, self.batches = Worker.render, batches
        monkeypatch.setattr(Worker, "render", lambda worker, *given: self.render(worker, *given))

    def render(self, worker, *given):
        for results in self.real(worker, *given):
            if not self.batches:
                raise KeyboardInterrupt
            self.batches -= 1
            yield results


def test_an_interrupted_shard_goes_on_where_it_was(pipe, classifier, tmp_path, monkeypatch):
    plan, options = tiny_plan(shard_size=6), {"classifier": classifier, "pipe": pipe, "batch_size": 2}
    with monkeypatch.context() as patch:
        Interrupted(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            tailsmith.synthesize(plan, DATASET, tmp_path / "out", **options)
    assert [path.name for path in tmp_path.glob("out/.begun*")] == [".begun-00000.parquet"]
    rendered = []
    with monkeypatch.context() as patch:
        real = Worker.render
        patch.setattr(Worker, "render", lambda self, rows, how: (rendered.append(len(rows)), real(self, rows, how))[1])
        tailsmith.synthesize(plan, DATASET, tmp_path / "out", **options)
    assert rendered == [2, 4]  # the last two of six, and the next shard
    assert not list(tmp_path.glob("out/.begun*"))
    tailsmith.synthesize(plan, DATASET, tmp_path / "whole", **options)
    resumed, whole = (read_shards(tmp_path / out, plan) for out in ("out", "whole"))
    assert encoded_images(resumed) == encoded_images(whole)
    plain = ["path", "seconds"]
    pd.testing.assert_frame_equal(resumed.drop(columns=plain), whole.drop(columns=plain))


@pytest.mark.parametrize("change", ["damage", "another guide"])
def test_what_was_begun_otherwise_is_made_again(change, pipe, classifier, tmp_path, monkeypatch, caplog):
    plan, options = tiny_plan((4, 0, 0)), {"pipe": pipe, "batch_size": 2}
    with monkeypatch.context() as patch:
        Interrupted(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            tailsmith.synthesize(plan, DATASET, tmp_path / "out", classifier=classifier, **options)
    begun = tmp_path / "out" / ".begun-00000.parquet"
    if change == "damage":
        begun.write_bytes(begun.read_bytes()[:-9])
    else:
        guide = load_classifier(save_classifier(tmp_path / "guide", *CLASSES))
        options["classifier"] = guide
    options = {"classifier": classifier, **options}
    tailsmith.synthesize(plan, DATASET, tmp_path / "out", **options)
    tailsmith.synthesize(plan, DATASET, tmp_path / "whole", **options)
    resumed, whole = (read_shards(tmp_path / out, plan) for out in ("out", "whole"))
    assert encoded_images(resumed) == encoded_images(whole) and not begun.exists()
    assert ("these images are made again" in caplog.text) == (change == "damage")


def test_one_classifier_guides_all_images_of_a_folder(pipe, tmp_path):
    """A plan that names none may be rendered with any, but with one throughout."""
    plan = tiny_plan()
    torch.manual_seed(0)
    one, other = (load_classifier(save_classifier(tmp_path / name, *CLASSES)) for name in ("one", "other"))
    tailsmith.synthesize(plan, DATASET, tmp_path / "out", classifier=one, pipe=pipe, shards=[0])
    refused = "holds images that another classifier guided"
    for shards in ([0], [1], None):
        with pytest.raises(ValueError, match=refused):
            tailsmith.synthesize(plan, DATASET, tmp_path / "out", classifier=other, pipe=pipe, shards=shards)
    tailsmith.synthesize(plan, DATASET, tmp_path / "out", classifier=one, pipe=pipe)
    tailsmith.synthesize(plan, DATASET, tmp_path / "others", classifier=other, pipe=pipe)
    shutil.copy(shard_path(tmp_path / "others", 1), shard_path(tmp_path / "out", 1))
    with pytest.raises(ValueError, match="2 classifiers guided"):
        read_shards(tmp_path / "out", plan)


KILLED = """
import sys
sys.path.insert(0, sys.argv[1])
import tailsmith
from test_worker import DATASET, TinyClassifier, tiny_plan
from tiny import tiny_pipeline
plan, classifier = tiny_plan((8, 8, 8)), TinyClassifier().eval()
tailsmith.synthesize(plan, DATASET, sys.argv[2], classifier=classifier, pipe=tiny_pipeline(), batch_size=2)
"""


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_kill_9_in_the_middle_then_the_same_call_gives_the_uninterrupted_result(pipe, classifier, tmp_path):
    plan, folder = tiny_plan((8, 8, 8)), tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(Path(__file__).parent), str(folder)])
    try:
        deadline = time.monotonic() + 240
        while not shard_path(folder, 0).exists():
            assert process.poll() is None, "the process ended before its first shard"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    finished = sorted(path.name for path in folder.glob("shard-*"))
    assert 0 < len(finished) < len(plan.shards)
    for out in (folder, tmp_path / "whole"):
        tailsmith.synthesize(plan, DATASET, out, classifier=classifier, pipe=pipe, batch_size=2)
    resumed, whole = (read_shards(out, plan).drop(columns="seconds") for out in (folder, tmp_path / "whole"))
    assert resumed.drop(columns=["path", "criterion_value"]).equals(whole.drop(columns=["path", "criterion_value"]))
    assert largest_difference(resumed, whole) <= 1
    np.testing.assert_allclose(resumed["criterion_value"], whole["criterion_value"], atol=0.05)


def test_the_images_are_found_from_another_working_directory(pipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = tailsmith.synthesize(tiny_plan((1, 0, 0), feedback_scale=0.0), DATASET, "out", pipe=pipe)
    monkeypatch.chdir("/")
    assert made.image(0).size == (16, 16)


# ---- what bad requests get ----


def test_a_plan_of_another_version_is_refused_where_something_is_to_be_made(pipe, classifier, tmp_path):
    plan = tiny_plan()
    settings = plan.meta["synthesis"]
    older = {name: value for name, value in settings["feedback"].items() if name != "prediction"}
    old = Plan(plan.table, {**plan.meta, "synthesis": {**settings, "feedback": older}})
    with pytest.raises(ValueError, match=r"of another version of tailsmith, it lacks feedback.prediction; make a new"):
        tailsmith.synthesize(old, DATASET, tmp_path / "new", classifier=classifier, pipe=pipe)


def test_a_folder_of_an_earlier_version_can_still_be_read_but_not_gone_on_with(pipe, classifier, tmp_path):
    plan = tiny_plan()
    tailsmith.synthesize(plan, DATASET, tmp_path, classifier=classifier, pipe=pipe)
    old = Plan(plan.table, {name: value for name, value in plan.meta.items() if name != "rendering"})
    old.write(tmp_path / "plan.parquet")
    for path in tmp_path.glob("shard-*"):  # as they were: no hashes of images, no checksum
        table = pq.read_table(path).drop_columns(["image_sha256"])
        pq.write_table(table.replace_schema_metadata({"generator": "tiny", "version": "0.0.1"}), path)
    made = tailsmith.synthesize(old, DATASET, tmp_path, classifier=classifier)
    assert len(made) == 10 and made.image(9).size == (16, 16)
    refused = r"use another folder \(version of rendering: not the same; an earlier version of tailsmith made them\)"
    with pytest.raises(ValueError, match=rf"holds images of another plan; {refused}"):
        tailsmith.synthesize(plan, DATASET, tmp_path, classifier=classifier, pipe=pipe)
    shard_path(tmp_path, 1).unlink()
    with pytest.raises(
        ValueError, match=r"another version of tailsmith, which makes other images of the same requests"
    ):
        tailsmith.synthesize(old, DATASET, tmp_path, classifier=classifier, pipe=pipe)


def test_heun_asks_twice_in_a_step_and_one_skip_is_counted(tmp_path):
    blind, pipe = TinyClassifier().eval(), tiny_pipeline()
    blind.body.data.zero_()
    pipe.scheduler = HeunDiscreteScheduler.from_config(pipe.scheduler.config)
    plan = tiny_plan((2, 0, 0), feedback_update="score", feedback_every=1)
    tailsmith.synthesize(plan, DATASET, tmp_path, classifier=blind, pipe=pipe)
    assert read_shards(tmp_path, plan)["skipped_steps"].tolist() == [4, 4]


def test_feedback_without_a_classifier(pipe):
    with pytest.raises(ValueError, match="the plan asks for feedback; give the classifier that guides"):
        render(Worker(pipe, DATASET, None), tiny_plan())


def test_hardness_without_gaussians_is_refused_before_sampling(pipe, classifier):
    calls = []
    hook = pipe.unet.register_forward_hook(lambda *arguments: calls.append(1))
    with pytest.raises(ValueError, match="'hardness' needs gaussians"):
        render(Worker(pipe, DATASET, classifier), tiny_plan(criterion="hardness"))
    hook.remove()
    assert calls == []


def test_a_conditioning_image_that_the_dataset_does_not_have(pipe, classifier):
    fewer = DATASET.select(DATASET.labels != 0)
    with pytest.raises(ValueError, match=r"the plan conditions on image 'train-.*', which this dataset does not have"):
        render(Worker(pipe, fewer, classifier), tiny_plan())


def test_a_pipeline_of_no_known_family(classifier):
    with pytest.raises(ValueError, match=r"knows the pipelines .*; got object\. docs/adding-a-family\.md"):
        render(Worker(object(), DATASET, classifier), tiny_plan())


def test_png_encoding_loses_nothing():
    image = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    decoded = np.asarray(Image.open(io.BytesIO(Storage().encode(image))))
    assert (torch.from_numpy(decoded.copy()).permute(2, 0, 1) == image).all()


def test_synthetic_rows_join_the_real_ones(pipe):
    results = render(Worker(pipe, DATASET, None), tiny_plan((2, 0, 0), feedback_scale=0.0))
    together = Dataset.concatenate([DATASET, synthetic_dataset(results, DATASET)])
    assert len(together) == len(DATASET) + 2
    assert together.table["image_id"].is_unique
    assert together.image(len(DATASET)).size == (16, 16)
