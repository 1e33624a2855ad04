"""The cheaper decoders that a plan may look through: found, loaded, and really used."""

import numpy as np
import pytest
from diffusers import AutoencoderTiny

import tailsmith
from tailsmith.generation.generator import load_decoder
from tailsmith.guidance.config import FeedbackConfig
from tailsmith.settings import from_dict
from tailsmith.synthesis.config import SynthesisConfig
from tiny import CLASSES, TinyClassifier, tiny_dataset, tiny_pipeline


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    """A local pipeline with a tiny decoder beside its parts."""
    folder = tmp_path_factory.mktemp("generator")
    tiny_pipeline().save_pretrained(folder)
    blocks = {"encoder_block_out_channels": (8, 8, 8), "decoder_block_out_channels": (8, 8, 8)}
    counts = {"num_encoder_blocks": (1, 1, 1), "num_decoder_blocks": (1, 1, 1)}
    AutoencoderTiny(latent_channels=4, **blocks, **counts).save_pretrained(folder / "tiny_decoder")
    return folder


def test_own_is_none_and_tiny_is_the_one_beside_the_generator(generator):
    assert load_decoder("own", str(generator)) is None
    tiny = load_decoder("tiny", str(generator))
    assert isinstance(tiny, AutoencoderTiny)
    assert not tiny.training
    assert isinstance(load_decoder(str(generator / "tiny_decoder"), "mini-unclip"), AutoencoderTiny)


def test_the_embedded_generator_has_one():
    assert load_decoder("tiny", "mini-unclip").config.latent_channels == 12


def test_a_generator_without_one(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no tiny decoder.*use feedback.decoder=own, or give"):
        load_decoder("tiny", str(tmp_path))


def test_one_that_can_not_be_reached(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"madebyollin/taesd could not be loaded.*hf download madebyollin/taesd"):
        load_decoder("tiny", "sd1.5")


def test_a_plan_looks_through_its_decoder(generator, tmp_path):
    dataset, images = tiny_dataset(), {}
    for decoder in ("own", "tiny"):
        config = SynthesisConfig(num_inference_steps=4, feedback=FeedbackConfig(scale=0.05, every=2, decoder=decoder))
        plan = tailsmith.plan(dataset, 6, config=config, generator=str(generator))
        made = tailsmith.synthesize(plan, dataset, tmp_path / decoder, classifier=TinyClassifier())
        images[decoder] = np.stack([np.asarray(made.image(row)) for row in range(len(made))]).astype(int)
    assert images["own"].shape[0] == 6 * len(CLASSES) - 12
    assert np.abs(images["own"] - images["tiny"]).max() > 3


def test_a_plan_holds_to_the_decoder_it_was_made_for(generator, tmp_path):
    decoder = tmp_path / "decoder"
    blocks = {"encoder_block_out_channels": (8, 8, 8), "decoder_block_out_channels": (8, 8, 8)}
    counts = {"num_encoder_blocks": (1, 1, 1), "num_decoder_blocks": (1, 1, 1)}
    AutoencoderTiny(latent_channels=4, **blocks, **counts).save_pretrained(decoder)
    config = SynthesisConfig(num_inference_steps=1, feedback=FeedbackConfig(decoder=str(decoder)))
    plan = tailsmith.plan(tiny_dataset(), 6, config=config, generator=str(generator))
    AutoencoderTiny(latent_channels=4, **blocks, **counts).save_pretrained(decoder)
    with pytest.raises(ValueError, match=r"decoder .* is not the one the plan was made for .*make a new plan"):
        tailsmith.synthesize(plan, tiny_dataset(), tmp_path / "out", classifier=TinyClassifier())


def test_the_decoder_is_loaded_to_where_the_pipeline_computes(generator, tmp_path, monkeypatch):
    pipe, dataset, devices = tiny_pipeline(), tiny_dataset(), []
    monkeypatch.setattr(type(pipe), "device", "meta")  # under CPU offload: where the weights wait
    load = "tailsmith.synthesis.rendering.load_decoder"
    monkeypatch.setattr(load, lambda *_, device, dtype: devices.append(str(device)))
    config = SynthesisConfig(num_inference_steps=1, feedback=FeedbackConfig(scale=0.0))
    plan = tailsmith.plan(dataset, 6, config=config, generator=str(generator))
    monkeypatch.setattr(type(pipe), "_execution_device", "cpu")
    tailsmith.synthesize(plan, dataset, tmp_path, pipe=pipe)
    assert devices == ["cpu"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feedback_decode_size": 0}, "feedback.decode_size should be at least 1 pixel, got 0"),
        ({"feedback_steps": (0, 30)}, "feedback.steps should be below num_inference_steps, 30; got 30"),
        ({"feedback_decoder": "tinyy"}, "feedback.decoder should be own, tiny, a folder or a hub id, got 'tinyy'"),
        ({"feedback_through": "unet"}, "through should be one of"),
    ],
)
def test_settings_that_can_not_work_are_refused_in_the_plan(changes, message):
    with pytest.raises(ValueError, match=message):
        tailsmith.plan(tiny_dataset(), 6, config=from_dict(SynthesisConfig, changes))
