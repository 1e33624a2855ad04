"""Two plans are the same one where their shards' contents follow from the same things."""

from dataclasses import fields, replace

import numpy as np
import pytest

from rendering import tiny_plan
from tailsmith.guidance.config import FeedbackConfig
from tailsmith.synthesis import plan_identity
from tailsmith.synthesis.columns import request_columns
from tailsmith.synthesis.config import SynthesisConfig
from tailsmith.synthesis.plan import Plan

PLAN = tiny_plan()
HASHED = Plan(PLAN.table, {**PLAN.meta, "generator_sha256": "a" * 64, "decoder_sha256": None})


def with_meta(plan=PLAN, **changes):
    return Plan(plan.table, {**plan.meta, **changes})


def test_every_setting_is_known_to_count_or_not():
    groups = [
        getattr(plan_identity, name)
        for name in ("IN_ROWS", "BY_HASH", "OF_ALL", "OF_FEEDBACK", "STORED", "WITHOUT_EFFECT")
    ]
    settings = {each.name for each in (*fields(SynthesisConfig), *fields(FeedbackConfig))} - {"feedback"}
    assert sorted(sum(groups, ())) == sorted(settings)


def test_a_setting_stands_in_the_rows_of_a_plan_or_in_its_metadata_and_in_one_of_them_only():
    of_a_call = ("BY_HASH", "OF_ALL", "OF_FEEDBACK", "STORED", "WITHOUT_EFFECT")
    groups = [getattr(plan_identity, name) for name in of_a_call]
    stored = PLAN.meta["synthesis"]
    assert {*stored, *stored["feedback"]} - {"feedback"} == {*sum(groups, ())}
    assert stored["feedback"].keys().isdisjoint(plan_identity.IN_ROWS)


@pytest.mark.parametrize(
    "other",
    [
        with_meta(version="9.9.9"),
        with_meta(dataset="another name", per="group", study="mine", grid={}),
        with_meta(synthesis=dict(reversed(PLAN.meta["synthesis"].items()))),
        tiny_plan(feedback_checkpointing=True),
        with_meta(
            synthesis={
                name: value for name, value in PLAN.meta["synthesis"].items() if name not in ("dtype", "guided_by")
            }
        ),
        tiny_plan(store_quality=50),  # of formats that lose nothing
        Plan(PLAN.table.assign(note="mine")[[*reversed(PLAN.table.columns), "note"]], PLAN.meta),
        Plan(PLAN.table.assign(label=PLAN.table["label"].astype(np.int32)), PLAN.meta),
        Plan(PLAN.table.sort_values("shard", kind="stable", ascending=False, ignore_index=True), PLAN.meta),
    ],
)
def test_what_changes_no_image_changes_no_identity(other):
    assert other.parts == PLAN.parts
    assert other.identity == PLAN.identity


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (tiny_plan(seed=1), "requests"),
        (tiny_plan(shard_size=5), "requests"),
        (tiny_plan(embedding_dropout=0.1), "requests"),
        (tiny_plan(guided_by="text"), "guided_by"),
        (tiny_plan(store_size=16), "stored size or format"),
        (tiny_plan(store_format="webp"), "stored size or format"),
        (tiny_plan(feedback_every=1), "feedback settings"),
        (tiny_plan(feedback_steps=(0, 1)), "feedback settings"),
        (tiny_plan(feedback_update="score"), "feedback settings"),
        (tiny_plan(feedback_prediction="guided"), "feedback settings"),
        (tiny_plan(feedback_through="decoder"), "feedback settings"),
        (tiny_plan(feedback_decode_size=8), "feedback settings"),
        (tiny_plan(feedback_reuse=True), "feedback settings"),
        (tiny_plan(feedback_views=2), "feedback settings"),
        (tiny_plan(feedback_decoder="tiny"), "decoder"),
        (with_meta(decoder_sha256="b" * 64), "decoder"),
        (with_meta(generator="another"), "generator"),
        (with_meta(classifier_sha256="c" * 64), "classifier"),
        (with_meta(class_names=["bag", "sandal", "ankle boot"]), "class or attribute names"),
        (with_meta(rendering=1), "version of rendering"),
    ],
)
def test_what_changes_images_changes_the_identity_and_is_named(other, what):
    assert [name for name, part in PLAN.parts.items() if other.parts[name] != part] == [what]
    assert other.identity != PLAN.identity


def test_every_value_of_a_request_counts():
    for column in request_columns():
        values = PLAN.table[column].tolist()
        values[3] = f"{values[3]}x" if isinstance(values[3], str) else values[3] + 1
        assert Plan(PLAN.table.assign(**{column: values}), PLAN.meta).identity != PLAN.identity, column


def test_a_generator_is_its_weights_wherever_they_lie():
    assert with_meta(HASHED, generator="/elsewhere").identity == HASHED.identity
    assert with_meta(HASHED, generator_sha256="b" * 64).parts["generator"] != HASHED.parts["generator"]


def test_without_feedback_its_settings_do_not_count():
    plain = tiny_plan(feedback_scale=0.0)
    assert tiny_plan(feedback_scale=0.0, feedback_every=1, feedback_decoder="tiny").identity == plain.identity


def test_a_plan_whose_metadata_hold_all_settings_by_their_names_of_before_is_the_same_one(tmp_path):
    plan = tiny_plan(feedback_steps=(0, 3), feedback_decode_size=8)
    flat = {f"feedback_{name}": value for name, value in plan.meta["synthesis"]["feedback"].items()}
    flat |= {"feedback_scale": 0.02, "criterion": "entropy", "dtype": "fp32", "seed": 0, "prompt": "{label}"}
    Plan(plan.table, {**plan.meta, "synthesis": flat}).write(tmp_path / "plan.parquet")
    read = Plan.read(tmp_path / "plan.parquet")
    assert (read.identity, read.feedback) == (plan.identity, plan.feedback)


def test_the_identity_survives_a_round_trip(tmp_path):
    for plan in (PLAN, tiny_plan(conditioning="text"), replace(PLAN, table=PLAN.table.iloc[::-1])):
        plan.write(tmp_path / "plan.parquet")
        assert Plan.read(tmp_path / "plan.parquet").identity == plan.identity


def test_a_plan_that_knows_nothing_of_stored_sizes_is_the_one_of_the_defaults():
    """So that shards of earlier versions stay the plan's."""
    settings = {name: value for name, value in PLAN.meta["synthesis"].items() if name not in plan_identity.STORED}
    earlier = with_meta(synthesis=settings)
    assert earlier.parts == PLAN.parts
    known = {name: part for name, part in PLAN.parts.items() if name not in ("stored size or format", "guided_by")}
    assert earlier.identity == plan_identity.sha256_of(known)
    assert tiny_plan(store_format="jpeg", store_quality=50).identity != tiny_plan(store_format="jpeg").identity
