"""Plans that mean nothing are refused as they are read: which column or key, which request, what is expected."""

import json
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rendering import tiny_plan
from tailsmith.settings import from_dict
from tailsmith.synthesis.config import SynthesisConfig
from tailsmith.synthesis.plan import Plan
from tailsmith.synthesis.plan_checks import check_plan, check_settings

PLAN = tiny_plan()
FIRST = PLAN.table["request_id"].iloc[0]


def reread(tmp_path, table=PLAN.table, meta=PLAN.meta):
    """What comes of a plan file with this content."""
    path, text = tmp_path / "plan.parquet", meta if isinstance(meta, str) else json.dumps(meta)
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata({"tailsmith": text}), path)
    return Plan.read(path)


def in_row(column, row, value):
    values = PLAN.table[column].tolist()
    values[row] = value
    return PLAN.table.assign(**{column: values})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (PLAN.table.drop(columns="prompt"), r"plan .*plan.parquet: it lacks the column 'prompt'; a plan has "),
        (PLAN.table.assign(black=False), "it has a column 'black', which is for what becomes of a request"),
        (in_row("num_inference_steps", 2, 0), r"steps' should be a whole number of at least 1; row 2 .* 0$"),
        (in_row("num_inference_steps", 2, -5), r"row 2 \(request '0--1-2'\) has -5$"),
        (in_row("guidance_scale", 0, np.nan), r"'guidance_scale' should be a finite number of at least 0; .* nan$"),
        (in_row("guidance_scale", 0, np.inf), r"'guidance_scale' should be a finite .* inf$"),
        (in_row("guidance_scale", 0, -1.0), r"'guidance_scale' should be a finite .* -1\.0$"),
        (in_row("feedback_scale", 9, -1.0), r"'feedback_scale' should be a finite number of at least 0; row 9 "),
        (in_row("embedding_dropout", 1, 2.0), r"'embedding_dropout' should be a finite number within 0\.\.1; .* 2\.0$"),
        (PLAN.table.assign(request_id="same"), r"'request_id' should be a name of its own; row 1 .*, and 8 more$"),
        (in_row("request_id", 3, None), "'request_id' should be a text; row 3"),
        (PLAN.table.assign(noise_seed=1.5), "'noise_seed' should hold a whole .* is of type float64, with 1.5"),
        (in_row("dropout_seed", 4, -1), "'dropout_seed' should be a whole number of at least 0; row 4"),
        (PLAN.table.assign(attribute=99), r"'attribute' should be a whole number within -1\.\.1; row 0 .* 99, and 9"),
        (in_row("label", 5, 3), r"'label' should be a whole number within 0\.\.2; row 5 .* has 3$"),
        (in_row("shard", 5, -1), "'shard' should be a whole number of at least 0; row 5"),
        (PLAN.table.assign(prompt=3), "'prompt' should hold a text for each .* int64, with 3 in row 0"),
        (in_row("criterion", 6, "novelty"), r"'criterion' should be one of \['entropy', .*; row 6 .* 'novelty'$"),
        (
            in_row("conditioning_sha256", 7, "abc"),
            "'conditioning_sha256' should be a SHA-256 in hexadecimal or nothing; r",
        ),
    ],
)
def test_rows_that_mean_nothing(table, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        reread(tmp_path, table)


def without(key):
    return {name: value for name, value in PLAN.meta.items() if name != key}


def setting(**changes):
    settings = PLAN.meta["synthesis"]
    return {**PLAN.meta, "synthesis": {**settings, "feedback": {**settings["feedback"], **changes}}}


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ("{", r"plan.parquet is not a plan: its metadata is no JSON \(.*\); make the plan again"),
        ("[" * 100_000, "its metadata is no JSON"),
        ("[]", "its metadata should be a JSON object, got list"),
        (without("class_names"), "its metadata should have 'class_names', a list of names; got None"),
        ({**PLAN.meta, "class_names": []}, r"should have 'class_names', a list of names; got \[\]"),
        ({**PLAN.meta, "attribute_names": [1]}, r"should have 'attribute_names', a list of names; got \[1\]"),
        (without("synthesis"), "should have 'synthesis', its settings by name; got None"),
        ({**PLAN.meta, "generator": 3}, "should have a text as 'generator', got 3"),
        (setting(every="often"), "feedback.every should be int, got 'often'"),
        (setting(every=0), "every should be at least 1, got 0"),
        (setting(steps=[1, "a"]), r"feedback.steps should be tuple\[int, \.\.\.\] | None, got \(1, 'a'\)"),
        (setting(views=-1), "views should be at least 1, got -1"),
        (setting(reuse=3), "feedback.reuse should be bool, got 3"),
    ],
)
def test_metadata_that_means_nothing(meta, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        reread(tmp_path, meta=meta)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidance_scale": float("nan")}, "guidance_scale should be finite and not negative, got nan"),
        ({"guidance_scale": float("-inf")}, "guidance_scale should be finite and not negative, got -inf"),
        ({"guidance_scale": -2.0}, "guidance_scale should be finite and not negative, got -2.0"),
        ({"embedding_dropout": float("nan")}, r"embedding_dropout should be within 0\.\.1, got nan"),
        ({"embedding_dropout": "0.5"}, "embedding_dropout should be float, got '0.5'"),
        ({"num_inference_steps": 2.5}, r"num_inference_steps should be int \| None, got 2.5"),
        ({"num_inference_steps": True}, r"num_inference_steps should be int \| None, got True"),
        ({"display_names": {"bag": 3}}, r"display_names should be dict\[str, str\], got \{'bag': 3\}"),
        ({"criterion": {"entropy": "much"}}, "criterion should be str"),
    ],
)
def test_settings_that_mean_nothing(settings, message):
    with pytest.raises(ValueError, match=message):
        check_settings(from_dict(SynthesisConfig, {"guidance_scale": 2.0, "num_inference_steps": 4, **settings}))


def test_a_target_that_no_memory_holds():
    with pytest.raises(
        ValueError, match="a plan has at most 100,000,000 requests, and this one would have 3,000,000,000,"
    ):
        tiny_plan((10**12, 10**12, 10**12))


def test_a_damaged_plan_is_one_line_and_no_flipped_bit_passes(tmp_path):
    path, rng = tmp_path / "plan.parquet", np.random.default_rng(0)
    PLAN.write(path)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"plan.parquet is damaged .*; bring back a sound copy, or make the plan"):
            Plan.read(path)
    for byte in rng.integers(0, len(whole), 200).tolist():
        flipped = bytearray(whole)
        flipped[byte] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            read = Plan.read(path)
        except ValueError:
            continue
        assert read.table.equals(PLAN.table)  # the metadata is JSON, in which a letter may become another


def test_more_columns_are_the_users_own_and_an_empty_plan_is_one(tmp_path):
    assert len(reread(tmp_path, PLAN.table.assign(note="mine"))) == 10
    assert reread(tmp_path, PLAN.table.iloc[:0]).shards == []


def test_a_full_plan_takes_seconds():
    n = 1_200_000
    many = pd.DataFrame({name: np.resize(PLAN.table[name].to_numpy(), n) for name in PLAN.table})
    many = many.assign(request_id=[f"0--1-{row}" for row in range(n)], shard=np.arange(n) // 256)
    begin = time.process_time()
    check_plan(many, PLAN.meta)
    assert time.process_time() - begin < 15  # about 1.5 on an idle core
