"""Augmented conditioning: the embeddings of two real images of a class, mixed as the plan says."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import tailsmith
from rendering import DATASET, largest_difference, render, tiny_plan
from tailsmith.cli.main import main
from tailsmith.generation.conditioning import drop_entries, embed_images, mixed
from tailsmith.generation.families import family_of
from tailsmith.runs.config import RunConfig, synthesis_of
from tailsmith.settings import changed
from tailsmith.synthesis.columns import mixing_columns
from tailsmith.synthesis.config import SynthesisConfig
from tailsmith.synthesis.plan import Plan
from tailsmith.synthesis.plan_identity import OF_ROWS
from tailsmith.synthesis.rendering import render_job, written_job
from tailsmith.synthesis.requests import make_plan
from tailsmith.synthesis.shards import read_shards, shard_path
from tailsmith.synthesis.worker import Worker
from test_engines import CONFIG
from tiny import tiny_pipeline
from tiny_families import FAMILIES

MIXED = {"embedding_mixing": "mixup", "feedback_scale": 0.0, "embedding_dropout": 0.3}


def test_mixup_has_the_mean_direction_and_the_mean_length():
    one, other = torch.tensor([[3.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    got = mixed("mixup", one, other, 0.25, 0.9)
    direction = np.array([0.75, 0.75]) / np.hypot(0.75, 0.75)
    np.testing.assert_allclose(got[0], direction * (0.25 * 3 + 0.75 * 1), rtol=1e-6)
    assert got.shape == one.shape and not got[1].any()
    assert torch.equal(mixed("mixup", one, other, 1.0, 0.0), one)
    assert torch.equal(mixed("mixup", one, one, 0.3, 0.0), one)
    assert torch.isfinite(mixed("mixup", one, -one, 0.5, 0.0)).all()


@pytest.mark.parametrize(("weight", "start"), [(0.5, 0.0), (0.3, 0.85), (1.0, 0.5), (0.0, 0.2)])
def test_cutmix_takes_a_run_of_entries_from_the_other(weight, start):
    one, other = torch.arange(10.0), torch.arange(10.0) + 100
    got = mixed("cutmix", one, other, weight, start)
    expected, at = one.clone(), int(start * 10)
    for _ in range(round((1 - weight) * 10)):
        expected[at] = other[at]
        at = (at + 1) % 10
    assert torch.equal(got, expected)


def test_the_second_image_is_another_one_of_the_group_and_all_of_it_is_planned():
    plan = tiny_plan((40, 40, 40), **MIXED)
    table = plan.table
    labels = DATASET.table.set_index("image_id")["label"]
    assert set(mixing_columns()) <= set(table.columns) and set(table["mixing"]) == {"mixup"}
    assert (labels.loc[table["mixing_id"]].to_numpy() == table["label"].to_numpy()).all()
    training = DATASET.split("train")
    several = np.bincount(training.labels)[table["label"]] > 1
    assert (table["mixing_id"] != table["conditioning_id"])[several].all()
    for name in ("mixing_weight", "mixing_start"):
        assert 0 <= table[name].min() < 0.1 and 0.9 < table[name].max() < 1
    assert abs(np.corrcoef(table["mixing_weight"], table["mixing_start"])[0, 1]) < 0.3
    larger = tiny_plan((60, 40, 40), **MIXED).table.set_index("request_id").loc[table["request_id"]]
    for name in mixing_columns():
        assert larger[name].tolist() == table[name].tolist()


def test_the_second_image_is_of_the_group_where_the_first_is():
    training = DATASET.split("train").table.set_index("image_id")
    plan = tiny_plan([[0, 0], [40, 40], [0, 40]], **MIXED)
    own, first, second = plan.table, *(training.loc[plan.table[name]] for name in ("conditioning_id", "mixing_id"))
    assert (second["label"].to_numpy() == own["label"].to_numpy()).all()
    assert second["attribute"].tolist() == first["attribute"].tolist() == own["attribute"].tolist()
    in_boots = (own["label"] == 1).to_numpy()  # 3 images in one context, 2 in the other; of bags one in each
    assert (own["mixing_id"] != own["conditioning_id"]).tolist() == in_boots.tolist()
    others = own[in_boots & (own["attribute"] == 0).to_numpy()].groupby("conditioning_id")["mixing_id"].nunique()
    assert others.tolist() == [2, 2, 2]  # each of the others is drawn
    of_class = tiny_plan([[0, 0], [0, 0], [0, 40]], **MIXED, conditioning_from="class").table
    assert (of_class["mixing_id"] != of_class["conditioning_id"]).all()


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_the_weight_is_drawn_from_a_beta_distribution(alpha):
    of = {**MIXED, "embedding_mixing_alpha": alpha}
    weights = tiny_plan((1500, 0, 0), **of).table["mixing_weight"]
    assert stats.kstest(weights, stats.beta(alpha, alpha).cdf).pvalue > 0.001
    assert tiny_plan((40, 0, 0), **of).table["mixing_weight"].tolist() == weights[:40].tolist()


def test_without_a_mixture_alpha_changes_nothing():
    assert tiny_plan(embedding_mixing_alpha=0.2).identity == tiny_plan().identity


def test_one_image_of_a_class_is_mixed_with_itself():
    rows = DATASET.table.groupby("label").head(1)
    dataset = replace(DATASET, table=rows.assign(split="train").reset_index(drop=True))
    config = replace(CONFIG, embedding_mixing="cutmix")
    table = make_plan(dataset, np.array([2, 0, 1]), config, meta={"generator": "tiny"}).table
    assert (table["mixing_id"] == table["conditioning_id"]).all()


def test_a_plan_without_mixing_says_nothing_of_it_and_is_what_it_was():
    plain, same = tiny_plan((4, 2, 4)), tiny_plan((4, 2, 4), embedding_mixing="none")
    assert not set(mixing_columns()) & set(plain.table.columns)
    assert plain.identity == same.identity and plain.table.equals(same.table)
    with_mixing = tiny_plan((4, 2, 4), embedding_mixing="mixup")
    assert with_mixing.table[plain.table.columns].equals(plain.table)  # the other draws are those without
    assert len({plain.identity, with_mixing.identity, tiny_plan((4, 2, 4), embedding_mixing="cutmix").identity}) == 3
    digest = hashlib.sha256()  # of the columns that there were before any request was mixed
    whole = ["shard", "label", "attribute", "dropout_seed", "noise_seed", "num_inference_steps"]
    texts = ["request_id", "prompt", "conditioning_id", "conditioning_sha256", "criterion"]
    for name in [
        *("request_id", "shard", "label", "attribute", "prompt", "conditioning_id", "conditioning_sha256"),
        *("embedding_dropout", "dropout_seed", "noise_seed", "guidance_scale", "num_inference_steps"),
        *("feedback_scale", "criterion"),
    ]:
        values = plain.table[name].tolist()
        number = "<i8" if name in whole else "<f8"
        digest.update(name.encode())
        digest.update(json.dumps(values).encode() if name in texts else np.array(values, dtype=number).tobytes())
    assert plain.parts[OF_ROWS] == digest.hexdigest()
    moved = Plan(with_mixing.table.assign(mixing_weight=with_mixing.table["mixing_weight"] / 2), with_mixing.meta)
    assert moved.identity != with_mixing.identity


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_images_are_conditioned_on_the_mixture_whatever_the_batch(kind, pipe, tmp_path):
    plan = tiny_plan((3, 1, 2), **{**MIXED, "embedding_mixing": kind})
    requests = plan.table
    row_of = {name: row for row, name in enumerate(DATASET.table["image_id"])}
    worker = Worker(pipe, DATASET, None, batch_size=2)
    got = worker._conditioning_embeddings(requests, family_of(pipe))
    for row, request in enumerate(requests.itertuples()):
        one, other = (
            embed_images(pipe, [DATASET.image(row_of[name])])[0]
            for name in (request.conditioning_id, request.mixing_id)
        )
        both = mixed(kind, one, other, request.mixing_weight, request.mixing_start)
        torch.testing.assert_close(got[row], drop_entries(both, 0.3, request.dropout_seed), atol=1e-5, rtol=1e-4)
    together, alone = render(worker, plan), render(Worker(pipe, DATASET, None, batch_size=1), plan, requests.iloc[::-1])
    assert largest_difference(together, alone.iloc[::-1]) <= 1
    unmixed = render(worker, tiny_plan((3, 1, 2), **{**MIXED, "embedding_mixing": "none"}))
    assert largest_difference(together, unmixed) > 1
    made = tailsmith.synthesize(plan, DATASET, tmp_path, pipe=pipe)
    assert len(made) == len(plan)
    results = read_shards(tmp_path, plan)
    assert results["mixing_id"].tolist() == requests["mixing_id"].tolist()
    assert "mixing_weight" in pd.read_parquet(shard_path(tmp_path, 0)).columns


@pytest.mark.parametrize(("name", "conditioning"), [("sd15-ip", "image+text"), ("kandinsky22", "image")])
def test_every_family_that_takes_images_mixes_them(name, conditioning):
    pipe, settings = FAMILIES[name](), {**MIXED, "conditioning": conditioning, "num_inference_steps": 2}
    plan = tiny_plan((2, 1, 1), **settings)
    together = render(Worker(pipe, DATASET, None), plan)
    assert largest_difference(together, render(Worker(pipe, DATASET, None, batch_size=1), plan)) <= 1
    unmixed = tiny_plan((2, 1, 1), **{**settings, "embedding_mixing": "none"})
    assert largest_difference(together, render(Worker(pipe, DATASET, None), unmixed)) > 1


def test_a_job_alone_is_enough_to_make_the_same_images(tmp_path):
    """A worker process has the job's files, and nothing else."""
    tiny_pipeline().save_pretrained(tmp_path / "generator")
    config = replace(CONFIG, embedding_mixing="cutmix", feedback=replace(CONFIG.feedback, scale=0.0))
    plan = tailsmith.plan(DATASET, 7, config=config, generator=str(tmp_path / "generator"))
    with written_job(plan, DATASET, tmp_path / "job", plan.shards, None, None, 4) as job:
        render_job(job, lambda images: None)
    here = render(Worker(tiny_pipeline(), DATASET, None, batch_size=4), plan)
    assert largest_difference(read_shards(tmp_path / "job", plan), here) <= 1


def test_the_second_images_go_with_a_job_and_are_held_to_their_hashes(pipe, tmp_path):
    plan = tiny_plan((4, 0, 0), **MIXED)
    with written_job(plan, DATASET, tmp_path, plan.shards, None, None, 4) as job:
        sent = set(pd.read_parquet(job.conditioning)["image_id"])
    assert sent == {*plan.table["conditioning_id"], *plan.table["mixing_id"]}
    second = next(name for name in plan.table["mixing_id"] if name not in set(plan.table["conditioning_id"]))
    spoiled = Plan(
        plan.table.assign(mixing_sha256=plan.table["mixing_sha256"].where(plan.table["mixing_id"] != second, "0" * 64)),
        plan.meta,
    )
    with pytest.raises(
        ValueError, match=f"the conditioning image {second!r} is not the one that the plan was made with"
    ):
        render(Worker(pipe, DATASET, None), spoiled)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"embedding_mixing": "cut"}, "embedding_mixing should be one of none, mixup, cutmix, got 'cut'"),
        (
            {"embedding_mixing": "mixup", "conditioning": "text"},
            "mixes embeddings of real images, and conditioning='text'",
        ),
        ({"embedding_mixing_alpha": 0.0}, "embedding_mixing_alpha should be above 0 and finite, got 0"),
        ({"embedding_mixing_alpha": float("nan")}, "embedding_mixing_alpha should be above 0 and finite, got nan"),
    ],
)
def test_what_can_not_be_mixed_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        tailsmith.plan(DATASET, 9, config=replace(CONFIG, **settings), generator="mini-unclip")


@pytest.mark.parametrize("generator", ["sd1.5", "sd3-medium", "flux-schnell"])
def test_a_generator_of_texts_alone_mixes_nothing(generator):
    config = replace(CONFIG, embedding_mixing="cutmix", feedback=replace(CONFIG.feedback, scale=0.0))
    with pytest.raises(ValueError, match=r"can't be conditioned on 'image\+text', only on text; plan with"):
        tailsmith.plan(DATASET, 9, config=config, generator=generator)


def test_the_help_says_what_it_is(capsys):
    assert main(["run", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "EMBEDDING_MIXING none | mixup | cutmix: with that of another real image of the group or class" in said


def test_sets_that_mix_and_one_that_can_not():
    """A run's own setting doesn't reach the set of text alone."""
    for run in (RunConfig(), RunConfig(synthesis=SynthesisConfig(embedding_mixing="mixup"))):
        sets = {name: synthesis_of(run, name) for name in ("text", "image_text_mixup", "image_text_cutmix")}
        assert [each.embedding_mixing for each in sets.values()] == ["none", "mixup", "cutmix"]
        assert {each.feedback.scale for each in sets.values()} == {0.0}
        for name, settings in sets.items():
            few = changed(settings, {"num_inference_steps": 2, "guidance_scale": 2.0})
            table = tailsmith.plan(DATASET, 9, config=few, generator="mini-unclip").table
            assert ("mixing" in table) == (name != "text")


def test_a_plan_that_says_half_of_a_mixture_is_refused():
    plan = tiny_plan((2, 1, 1), **MIXED)
    with pytest.raises(ValueError, match="it lacks the column 'mixing_weight'"):
        Plan(plan.table.drop(columns="mixing_weight"), plan.meta).check()
    with pytest.raises(ValueError, match=r"column 'mixing_weight' should be a finite number within 0..1"):
        Plan(plan.table.assign(mixing_weight=1.5), plan.meta).check()
    lost = plan.table["conditioning_id"].where(plan.table.index != 1, None)
    with pytest.raises(ValueError, match=r"column 'conditioning_id' should be a real image in every request .*; row 1"):
        Plan(plan.table.assign(conditioning_id=lost), plan.meta).check()
