"""Plans: what each request holds, that it stays the same in a larger plan, and what bad settings get."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tailsmith.data.dataset import Dataset
from tailsmith.settings import from_dict
from tailsmith.synthesis.config import SynthesisConfig
from tailsmith.synthesis.plan import Plan
from tailsmith.synthesis.requests import make_plan
from tiny import CLASSES, CONTEXTS, tiny_dataset

DATASET = tiny_dataset()  # training images: sandal 5 rock, boot 3 rock + 2 water, bag 1 + 1


def plan_of(missing, dataset=DATASET, meta=None, **settings):
    config = from_dict(SynthesisConfig, {"guidance_scale": 2.0, "num_inference_steps": 30, **settings})
    return make_plan(dataset, np.asarray(missing), config, meta=meta or {})


def by_id(plan):
    return plan.table.set_index("request_id").drop(columns="shard")


def test_a_row_per_missing_image():
    table = plan_of([2, 0, 3]).table
    assert table["label"].tolist() == [0, 0, 2, 2, 2]
    assert table["attribute"].tolist() == [-1] * 5
    assert table["request_id"].is_unique
    assert (table["guidance_scale"] == 2.0).all()


def test_a_row_per_missing_image_of_a_group():
    table = plan_of([[0, 2], [1, 0], [0, 1]]).table
    assert list(zip(table["label"], table["attribute"], strict=True)) == [(0, 1), (0, 1), (1, 0), (2, 1)]


@pytest.mark.parametrize(
    ("small", "large"), [([2, 0, 3], [4, 9, 3]), ([[0, 2], [1, 0], [0, 1]], [[5, 2], [3, 3], [1, 4]])]
)
def test_a_request_is_the_same_in_a_larger_plan(small, large):
    smaller, larger = by_id(plan_of(small)), by_id(plan_of(large))
    assert larger.loc[smaller.index].equals(smaller)


def test_the_same_arguments_give_the_same_plan_and_another_seed_another():
    first, again, other = plan_of([30, 20, 10]), plan_of([30, 20, 10]), plan_of([30, 20, 10], seed=1)
    assert first.table.equals(again.table)
    for column in ("noise_seed", "dropout_seed"):
        assert first.table[column].is_unique
        assert not set(first.table[column]) & set(other.table[column])
    assert not set(first.table["noise_seed"]) & set(first.table["dropout_seed"])
    assert (first.table["conditioning_id"] != other.table["conditioning_id"]).any()


def test_the_global_random_state_has_no_say():
    np.random.seed(0)  # noqa: NPY002
    first = plan_of([3, 3, 3])
    np.random.seed(1)  # noqa: NPY002
    assert first.table.equals(plan_of([3, 3, 3]).table)


def test_conditioning_on_all_the_real_training_images_of_the_class_about_equally():
    plan = plan_of([0, 2000, 0])
    training = DATASET.split("train")
    own = set(training.table["image_id"][training.labels == 1])
    counts = plan.table["conditioning_id"].value_counts()
    assert set(counts.index) == own
    assert np.abs(counts.to_numpy() - 400).max() < 5 * np.sqrt(400)  # five images, 400 times each


def test_conditioning_on_the_class_alone_crosses_contexts():
    training = DATASET.split("train").table.set_index("image_id")
    plan = plan_of([[0, 0], [0, 200], [0, 0]], conditioning_from="class")
    drawn = training.loc[plan.table["conditioning_id"]]
    assert (drawn["label"] == 1).all()
    assert set(drawn["attribute"]) == {0, 1}
    per_class = plan_of([0, 200, 0])  # the same draw, as the same class has the same images
    assert drawn.index.nunique() == per_class.table["conditioning_id"].nunique() == 5
    with pytest.raises(ValueError, match="conditioning_from should be 'group' or 'class', got 'attribute'"):
        plan_of([1, 0, 0], conditioning_from="attribute")


def test_guidance_by_the_text_needs_a_text():
    with pytest.raises(ValueError, match=r"guided_by should be one of \['image\+text', 'text'\], got 'image'"):
        plan_of([1, 0, 0], guided_by="image")
    with pytest.raises(ValueError, match="guided_by='text' needs a text, and conditioning='image' has none"):
        plan_of([1, 0, 0], guided_by="text", conditioning="image")


def test_conditioning_on_the_group_and_on_the_class_where_the_group_is_empty():
    training = DATASET.split("train").table.set_index("image_id")
    plan = plan_of([[0, 40], [40, 40], [0, 0]])
    labels, contexts = (training.loc[plan.table["conditioning_id"], name].to_numpy() for name in ("label", "attribute"))
    assert (labels == plan.table["label"]).all()
    in_boots = (plan.table["label"] == 1).to_numpy()
    assert (contexts[in_boots] == plan.table["attribute"][in_boots]).all()
    assert (contexts[~in_boots] == 0).all()  # no sandal in water: sandals in rock stand in


def test_the_content_hash_belongs_to_the_conditioning_image():
    row_of = {name: row for row, name in enumerate(DATASET.table["image_id"])}
    table = plan_of([3, 3, 3]).table
    for image_id, digest in zip(table["conditioning_id"], table["conditioning_sha256"], strict=True):
        assert digest == DATASET.content_hash(row_of[image_id])


def test_text_only_requests_condition_on_nothing():
    table = plan_of([2, 2, 2], conditioning="text").table
    assert table["conditioning_id"].isna().all()
    assert (table["embedding_dropout"] == 0).all()


def test_prompts_name_class_and_attribute_in_the_users_words():
    prompts = plan_of(
        [[1, 1], [0, 0], [0, 0]],
        prompt="a photo of a {label} on {attribute}",
        display_names={"sandal": "leather sandal", "water": "a wet beach"},
    ).table["prompt"]
    assert prompts.tolist() == ["a photo of a leather sandal on rock", "a photo of a leather sandal on a wet beach"]


def test_a_plan_per_group_may_hide_the_group_and_one_per_class_names_the_class():
    assert plan_of([[1, 1], [0, 0], [0, 0]]).table["prompt"].tolist() == ["sandal", "sandal"]
    assert plan_of([0, 1, 0]).table["prompt"].tolist() == ["ankle boot"]
    assert plan_of([0, 1, 0], conditioning="image").table["prompt"].tolist() == [""]


def test_shards_are_the_rows_that_say_so_in_any_order():
    plan = plan_of([4, 0, 5], shard_size=2)
    assert plan.shards == [0, 1, 2, 3, 4]
    mixed = Plan(plan.table.sample(frac=1, random_state=0, ignore_index=True), plan.meta)
    for number in plan.shards:
        assert plan.shard(number).equals(plan.table[plan.table["shard"] == number].reset_index(drop=True))
        by_filter = mixed.table[mixed.table["shard"] == number].reset_index(drop=True)
        assert mixed.shard(number).equals(by_filter)
        assert mixed.shard_size(number) == len(by_filter) == (1 if number == 4 else 2)
    assert Plan(plan.table.iloc[:0], plan.meta).shards == []


def test_a_mixture_of_criteria_is_drawn_by_weight():
    weights = {"entropy": 1.0, "loss": 2.0, "hardness": 1.0}
    shares = plan_of([4000, 0, 0], criterion=weights).table["criterion"].value_counts(normalize=True)
    for name, weight in weights.items():
        assert shares[name] == pytest.approx(weight / 4, abs=5 * np.sqrt(0.25 / 4000))


def test_a_criterion_of_weight_zero_is_never_drawn():
    drawn = plan_of([500, 0, 0], criterion={"entropy": 0.0, "loss": 1.0, "hardness": 0.0}).table["criterion"]
    assert set(drawn) == {"loss"}


def test_shards_are_consecutive_and_whole():
    plan = plan_of([5, 0, 6], shard_size=4)
    assert plan.shards == [0, 1, 2]
    assert [len(plan.shard(number)) for number in plan.shards] == [4, 4, 3]
    assert plan.shard(1)["request_id"].tolist() == plan.table["request_id"][4:8].tolist()


@pytest.mark.parametrize("conditioning", ["text", "image", "image+text"])
def test_parquet_round_trip_gives_an_equal_plan(conditioning, tmp_path):
    plan = plan_of([2, 0, 3], conditioning=conditioning, feedback_steps=(0, 3), meta={"generator": "mini-unclip"})
    plan.write(tmp_path / "plan.parquet")
    read = Plan.read(tmp_path / "plan.parquet")
    assert read.table.equals(plan.table)
    assert read.meta == plan.meta
    assert read.meta["class_names"] == list(CLASSES)
    assert read.meta["attribute_names"] == list(CONTEXTS)
    assert read.meta["synthesis"]["feedback"]["steps"] == [0, 3]
    assert read.meta["generator"] == "mini-unclip"


def test_no_plan_there(tmp_path):
    with pytest.raises(ValueError, match=r"no plan at .*plan.parquet; make one with `tailsmith plan`"):
        Plan.read(tmp_path / "plan.parquet")


def test_a_parquet_file_that_is_no_plan(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "plan.parquet")
    with pytest.raises(ValueError, match="is not a plan: it carries no tailsmith metadata"):
        Plan.read(tmp_path / "plan.parquet")


def test_a_class_with_no_training_image_to_condition_on():
    headless = DATASET.select(DATASET.labels != 0)
    dataset = Dataset.concatenate([headless, DATASET.select(DATASET.table["split"].to_numpy() == "val")])
    with pytest.raises(ValueError, match="class 'sandal' has no training image to condition on; add at least one"):
        plan_of([1, 0, 0], dataset=dataset)
    assert len(plan_of([1, 0, 0], dataset=dataset, conditioning="text")) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"conditioning": "img"}, r"conditioning should be one of \['text', 'image', 'image\+text'\], got 'img'"),
        ({"embedding_dropout": 1.5}, r"embedding_dropout should be within 0\.\.1, got 1\.5"),
        ({"num_inference_steps": 0}, "should be at least 1, got 0 and 256"),
        ({"shard_size": 0}, "should be at least 1, got 30 and 0"),
        ({"seed": -1}, "seed should not be negative, got -1"),
        ({"criterion": "entrpy"}, "criterion should be one of .*got 'entrpy'"),
        ({"criterion": {"entrpy": 1.0}}, "criterion should be one of .*got 'entrpy'"),
        ({"criterion": {"loss": -1.0, "entropy": 2.0}}, "weights of a feedback.criterion mixture should be positive"),
        ({"criterion": {"loss": 0.0}}, "weights of a feedback.criterion mixture should be positive"),
        ({"criterion": {}}, "weights of a feedback.criterion mixture should be positive"),
        ({"feedback_scale": float("nan")}, "feedback.scale should be finite and not negative, got nan"),
        ({"feedback_scale": -0.1}, "feedback.scale should be finite and not negative, got -0.1"),
        ({"feedback_every": 0}, "every should be at least 1, got 0"),
        ({"feedback_steps": (-1,)}, "steps are counted from 0"),
        ({"feedback_update": "noise"}, "update should be one of"),
        ({"feedback_through": "vae"}, "through should be one of"),
        ({"feedback_views": 0}, "views should be at least 1"),
        ({"display_names": {"sandals": "x"}}, "display_names has 'sandals', which is no class or attribute"),
        ({"prompt": "{name}"}, r"prompt may hold \{label\} and \{attribute\} only, got '\{name\}'"),
        ({"prompt": "{label.size}"}, r"prompt may hold \{label\} and \{attribute\} only"),
        ({"prompt": "{label"}, r"prompt may hold \{label\} and \{attribute\} only"),
        ({"prompt": "{label} in {attribute}"}, "names the attribute, but the plan is per class; plan per group"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        plan_of([1, 1, 1], **settings)


def test_the_configuration_is_part_of_the_plan():
    plan = plan_of([1, 0, 0], feedback_scale=0.02, feedback_update="score")
    assert plan.feedback.update == "score"
    other = plan_of([1, 0, 0], feedback_scale=0.02, feedback_update="latent")
    assert plan.meta != other.meta
