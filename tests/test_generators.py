"""Presets, and loading: by folder, by preset with a folder, and what is said where a generator can't be had."""

import logging
import re
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, PNDMScheduler
from safetensors.torch import save_file

from rendering import DATASET, largest_difference, render, tiny_plan
from tailsmith.config import SynthesisConfig
from tailsmith.synthesis.cost import cost
from tailsmith.synthesis.families import FAMILIES as KNOWN
from tailsmith.synthesis.generators import (
    PRESETS,
    find_weights,
    generator_family,
    generator_hash,
    load_generator,
    no_loading_bars,
    preset,
)
from tailsmith.synthesis.presets import Companion
from tailsmith.synthesis.worker import Worker
from tiny_families import FAMILIES
from tiny_parts import image_encoder, image_processor, ip_adapter_weights, seeded

DDIM, FLOW = "DDIMScheduler", "FlowMatchEulerDiscreteScheduler"


def saved(pipe, folder: Path) -> Path:
    with no_loading_bars():
        pipe.save_pretrained(folder)
    return folder


def images_of(pipe, conditioning):
    plan = tiny_plan((1, 1, 0), feedback_scale=0.0, num_inference_steps=2, conditioning=conditioning)
    return render(Worker(pipe, DATASET, None), plan)


def with_companion(folder: Path, companion: Companion, weights: dict[str, dict[str, torch.Tensor]] | None) -> None:
    """The companion's files beside a pipeline's own, in the layout of its hub repository."""
    beside = folder / companion.name
    with seeded(7), no_loading_bars():
        image_encoder().save_pretrained(beside / companion.image_encoder)
    if companion.image_processor is not None:
        image_processor().save_pretrained(beside / companion.image_processor)
    if companion.ip_adapter is not None and weights is not None:
        subfolder, file = companion.ip_adapter
        flat = {f"{group}.{name}": value for group, values in weights.items() for name, value in values.items()}
        save_file(flat, beside / subfolder / file)


# ---- presets ----


def test_presets_are_pinned_licensed_and_of_known_families():
    for name, known in PRESETS.items():
        assert known.family in KNOWN, name
        assert known.licence
        assert known.revision is None or re.fullmatch(r"[0-9a-f]{40}", known.revision), name
        if known.companion is not None:
            assert re.fullmatch(r"[0-9a-f]{40}", known.companion.revision), name
        assert known.guidance_scale >= 0
        assert known.num_inference_steps >= 1
        assert known.image_size % 8 == 0
        needs_companion = KNOWN[known.family].embed is not None and "UnCLIP" not in known.family
        assert (known.companion is not None) == needs_companion, name
    assert [name for name, known in PRESETS.items() if known.restricted] == ["sd3-medium", "flux-dev"]
    assert {preset(name).family for name in PRESETS} == set(KNOWN)


def test_a_hub_generator_is_its_id_and_revision_and_says_where_it_has_none():
    assert generator_hash("sd2.1-unclip") == "hub:sd2-community/stable-diffusion-2-1-unclip@unpinned"
    pinned = PRESETS["sd1.5"]
    assert generator_hash("sd1.5") == f"hub:{pinned.source}@{pinned.revision}"
    adapter = PRESETS["sd1.5-ip-adapter"].companion
    assert generator_hash("sd1.5-ip-adapter") == f"{generator_hash('sd1.5')}+hub:h94/IP-Adapter@{adapter.revision}"
    assert generator_hash("owner/name@v1") == "hub:owner/name@v1"
    assert generator_hash("sd1.5-ip-adapter=owner/name").startswith("hub:owner/name@unpinned+hub:h94/IP-Adapter@")


def test_preset_and_source_together(tmp_path):
    folder = saved(FAMILIES["sd15"](), tmp_path / "a=b")
    assert find_weights(str(folder)).folder == folder  # an equals sign of its own
    assert find_weights(f"sd1.5={folder}").folder == folder
    assert preset(f"sd1.5={folder}") == PRESETS["sd1.5"]
    assert preset(str(folder)).licence.startswith("unknown")
    with pytest.raises(ValueError, match=r"is no preset \(mini-unclip, sd2\.1-unclip, .*\), no folder here"):
        find_weights("sd1.6=nowhere")
    with pytest.raises(ValueError, match=r"should be a StableDiffusionXLPipeline, but .* is a StableDiffusionPipeline"):
        load_generator(f"sdxl={folder}")


def test_the_family_is_known_before_loading(tmp_path):
    name, family = generator_family("sdxl-ip-adapter")
    assert (name, "image" in family.conditionings) == ("StableDiffusionXLPipeline with IP-Adapter", True)
    folder = saved(FAMILIES["sd3"](), tmp_path / "sd3")
    assert generator_family(str(folder)) == ("StableDiffusion3Pipeline", KNOWN["StableDiffusion3Pipeline"])
    assert generator_family("owner/name") is None


# ---- loading from a folder ----


@pytest.mark.parametrize(
    ("name", "scheduler", "side"),
    [("sd15", DDIM, 16), ("sdxl", DDIM, 16), ("sd3", FLOW, 16), ("flux", FLOW, 256)],
)
def test_a_folder_of_the_family_loads_with_its_scheduler(name, scheduler, side, tmp_path):
    pipe = FAMILIES[name]()
    if scheduler == DDIM:
        pipe.scheduler = PNDMScheduler.from_config(pipe.scheduler.config, skip_prk_steps=True)
    loaded = load_generator(str(saved(pipe, tmp_path / name)), device="cpu")
    assert type(loaded.scheduler).__name__ == scheduler
    assert cost(10, str(tmp_path / name), None, SynthesisConfig())["bytes"] == int(10 * 3 * side**2 * 0.8)
    if name == "flux":
        loaded.default_sample_size = pipe.default_sample_size
    expected = FAMILIES[name]()
    assert largest_difference(images_of(loaded, "text"), images_of(expected, "text")) <= 1


@pytest.mark.parametrize(("name", "known"), [("sd15", "sd1.5-ip-adapter"), ("sdxl", "sdxl-ip-adapter")])
def test_an_ip_adapter_beside_a_folder_is_loaded_without_the_hub(name, known, tmp_path):
    pipe = FAMILIES[name]()
    with seeded(3):
        weights = ip_adapter_weights(pipe.unet)
    pipe.register_modules(image_encoder=None, feature_extractor=None)  # as these repositories are
    generator = f"{known}={saved(pipe, tmp_path / name)}"
    before = generator_hash(generator)
    with_companion(tmp_path / name, PRESETS[known].companion, weights)
    loaded = load_generator(generator, device="cpu")

    by_hand = FAMILIES[name]()
    with seeded(7):
        by_hand.image_encoder = image_encoder().eval()
    by_hand.feature_extractor = loaded.feature_extractor
    by_hand.load_ip_adapter(weights, subfolder="", weight_name="")
    by_hand.set_ip_adapter_scale(0.5)
    assert largest_difference(images_of(loaded, "image+text"), images_of(by_hand, "image+text")) <= 1
    assert loaded.feature_extractor.size["shortest_edge"] == loaded.image_encoder.config.image_size
    after = generator_hash(generator)
    assert before.endswith(f"+hub:h94/IP-Adapter@{PRESETS[known].companion.revision}")
    assert re.fullmatch(r"[0-9a-f]{64}\+[0-9a-f]{64}", after)
    assert cost(1, generator, None, SynthesisConfig())["bytes"] == int(3 * 16**2 * 0.8)


def test_kandinsky_takes_its_image_encoder_from_the_prior(tmp_path):
    pipe = FAMILIES["kandinsky22"]()
    pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    generator = f"kandinsky-2.2={saved(pipe, tmp_path / 'decoder')}"
    with_companion(tmp_path / "decoder", PRESETS["kandinsky-2.2"].companion, None)
    loaded = load_generator(generator, device="cpu")
    assert type(loaded.scheduler).__name__ == DDIM
    by_hand = FAMILIES["kandinsky22"]()
    with seeded(7):
        by_hand.image_encoder = image_encoder().eval()
    assert largest_difference(images_of(loaded, "image"), images_of(by_hand, "image")) <= 1


def test_a_restricted_licence_is_told(tmp_path, caplog):
    folder = saved(FAMILIES["flux"](), tmp_path / "flux")
    with caplog.at_level(logging.WARNING, "tailsmith"):
        load_generator(f"flux-dev={folder}", device="cpu")
    assert "FLUX.1 [dev] Non-Commercial License" in caplog.text


# ---- what can't be had ----


def test_a_folder_of_an_unknown_family(tmp_path):
    folder = saved(FAMILIES["sd15"](), tmp_path / "other")
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace('"StableDiffusionPipeline"', '"StableDiffusionUpscalePipeline"'))
    with pytest.raises(ValueError, match=r"knows the pipelines .*got StableDiffusionUpscalePipeline\. docs/adding-a"):
        load_generator(str(folder))


@pytest.fixture
def offline(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def test_a_hub_id_that_cannot_be_reached(offline):
    known = PRESETS["sd1.5"]
    message = (
        rf"generator 'sd1\.5': {known.source} could not be loaded from the hub or its local cache \(HF_HUB_OFFLINE is "
        rf"set\): .*run `hf download {known.source} --revision {known.revision}` once and set HF_HUB_OFFLINE=1"
    )
    with pytest.raises(ValueError, match=message):
        load_generator("sd1.5")
    with pytest.raises(ValueError, match=r"run `hf download nobody/nothing` once .*, or give a local folder"):
        load_generator("nobody/nothing")


def test_a_companion_that_cannot_be_reached(offline, tmp_path):
    folder = saved(FAMILIES["sd15"](), tmp_path / "sd15")
    with pytest.raises(ValueError, match=r"h94/IP-Adapter could not be loaded .*or give a local folder"):
        load_generator(f"sd1.5-ip-adapter={folder}")


def test_a_folder_with_a_part_missing(tmp_path):
    folder = saved(FAMILIES["sd15"](), tmp_path / "sd15")
    for path in (folder / "vae").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=rf"{re.escape(str(folder))} could not be loaded \("):
        load_generator(str(folder))


def test_cost_knows_the_image_sizes_of_the_presets():
    assert cost(1, "flux-dev", None, SynthesisConfig())["bytes"] == int(3 * 1024**2 * 0.8)
    assert cost(1, "kandinsky-2.2", None, SynthesisConfig())["bytes"] == int(3 * 512**2 * 0.8)
