"""What is shipped: the embedded generator is what its card says, small, safe, and guided as promised."""

from pathlib import Path

import numpy as np
import pytest
import torch

import tailsmith
from tailsmith.classification.classifier import load_classifier
from tailsmith.classification.config import TrainConfig
from tailsmith.data.images import Images
from tailsmith.files import read_json
from tailsmith.generation.generator import Generator, load_generator, preset
from tailsmith.guidance.config import FeedbackConfig
from tailsmith.synthesis.config import SynthesisConfig
from tailsmith.synthesis.prediction import predict
from tailsmith.synthesis.requests import make_plan
from tailsmith.synthesis.worker import Worker

FOLDER = Path(str(Generator.find("mini-unclip").folder))


@pytest.fixture(scope="module")
def mini() -> object:
    return load_generator("mini-unclip")


def test_mini_unclip_is_small_and_holds_no_pickle():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files if path.suffix == ".safetensors") < 30e6
    assert {path.suffix for path in files} <= {".json", ".jsonl", ".md", ".safetensors"}


def test_the_quality_that_the_card_reports_is_reached():
    quality = read_json(FOLDER / "quality.json")
    assert quality["reconstruction_l1"] <= 0.055
    assert quality["probe_accuracy_reconstruction"] <= 0.75
    assert quality["probe_accuracy_image_text"] <= 0.85
    assert quality["judge_label_accuracy"] >= 0.85
    assert quality["judge_attribute_accuracy"] >= 0.97
    assert quality["guidance_scale"] == preset("mini-unclip").guidance_scale
    assert 0 < quality["judge_real_test_accuracy"] <= 1


def test_reconstruction_of_task_images_agrees_with_the_card(mini):
    validation = tailsmith.load("fashion-lt").split("val")
    pixels = Images(validation, 32)[np.arange(0, 1200, 10)].float() / 127.5 - 1
    with torch.no_grad():
        decoded = mini.vae.decode(mini.vae.encode(pixels).latent_dist.mean).sample
    assert float((decoded - pixels).abs().mean()) < 0.065


@pytest.mark.slow
def test_samples_show_what_the_prompt_names_and_feedback_raises_the_entropy(mini):
    dataset = tailsmith.load("fashion-lt")
    guide = tailsmith.train(dataset, None, TrainConfig(steps=60))
    judge = load_classifier(FOLDER.parent / "judges" / "label")
    worker = Worker(mini, dataset.split("train"), guide)
    entropy = []
    for scale in (0.0, 0.04):
        config = SynthesisConfig(guidance_scale=2.0, num_inference_steps=15, feedback=FeedbackConfig(scale=scale))
        plan = make_plan(dataset, np.full(10, 4), config, meta={})
        (results,) = worker.render(plan.table, plan.feedback)
        entropy.append(results["criterion_value"].mean())
        if scale == 0:
            from tailsmith.synthesis.shards import synthetic_dataset

            made = synthetic_dataset(results, dataset)
            seen = predict(judge, made).logits.argmax(1).numpy()
            assert (seen == made.labels).mean() > 0.6
    assert entropy[1] > entropy[0]
