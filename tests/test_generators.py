"""Presets, and loading: by folder, by preset with a folder, and what is said where a generator can't be had."""

import json
import logging
import re
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, PNDMScheduler
from safetensors.torch import save_file

import tailsmith
from folders import write_folder
from rendering import DATASET, largest_difference, render, tiny_plan
from tailsmith import experiment
from tailsmith.cli.main import main
from tailsmith.data.dataset import Dataset
from tailsmith.files import sha256_folder
from tailsmith.generation import generator as generators
from tailsmith.generation.families import FAMILIES as KNOWN
from tailsmith.generation.generator import (
    PRESETS,
    Generator,
    find_weights,
    load_generator,
    located_decoder,
    no_loading_bars,
    preset,
)
from tailsmith.generation.presets import Companion
from tailsmith.guidance.config import FeedbackConfig
from tailsmith.runs.config import RunConfig
from tailsmith.studies.grid.draw import draw_grids
from tailsmith.synthesis.config import SynthesisConfig
from tailsmith.synthesis.cost import cost
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
    assert Generator.find("sd2.1-unclip").sha256() == "hub:sd2-community/stable-diffusion-2-1-unclip@unpinned"
    pinned = PRESETS["sd1.5"]
    assert Generator.find("sd1.5").sha256() == f"hub:{pinned.source}@{pinned.revision}"
    adapter = PRESETS["sd1.5-ip-adapter"].companion
    assert (
        Generator.find("sd1.5-ip-adapter").sha256()
        == f"{Generator.find('sd1.5').sha256()}+hub:h94/IP-Adapter@{adapter.revision}"
    )
    assert Generator.find("owner/name@v1").sha256() == "hub:owner/name@v1"
    assert (
        Generator.find("sd1.5-ip-adapter=owner/name").sha256().startswith("hub:owner/name@unpinned+hub:h94/IP-Adapter@")
    )


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
    name, family = Generator.find("sdxl-ip-adapter").family
    assert (name, "image" in family.conditionings) == ("StableDiffusionXLPipeline with IP-Adapter", True)
    folder = saved(FAMILIES["sd3"](), tmp_path / "sd3")
    assert Generator.find(str(folder)).family == ("StableDiffusion3Pipeline", KNOWN["StableDiffusion3Pipeline"])
    assert Generator.find("owner/name").family is None


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
    before = Generator.find(generator).sha256()
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
    after = Generator.find(generator).sha256()
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


# ---- a folder as somebody else left it ----


@pytest.fixture
def folder(tmp_path):
    return saved(FAMILIES["sd15"](), tmp_path / "sd15")


def change_index(folder, **changes):
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, **changes}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is damaged, it is not JSON: Expecting value"),
        ("[]", "is damaged: it should hold a JSON object, got list"),
        ("{}", r"names no pipeline class \(_class_name\); give a folder written by"),
        ('{"_class_name": 5}', "names no pipeline class"),
        ("[" * 100_000, "is damaged, it is not JSON"),
    ],
)
def test_an_index_that_is_none(text, message, folder):
    (folder / "model_index.json").write_text(text)
    for read in (load_generator, lambda name: Generator.find(name).family):
        with pytest.raises(ValueError, match=rf"model_index\.json {message}"):
            read(str(folder))


@pytest.mark.parametrize("part", [5, ["diffusers"], ["diffusers", 7], "diffusers", {}])
def test_a_malformed_part(part, folder):
    change_index(folder, unet=part)
    with pytest.raises(ValueError, match=r"model_index\.json: part 'unet' should be \[library, class\], got"):
        load_generator(str(folder))


def test_options_of_the_pipeline_are_no_parts(folder):
    change_index(folder, requires_safety_checker=False, strength=0.5)
    assert Generator.find(str(folder)).family is not None


@pytest.mark.parametrize("name", ["..", "../other", "/etc", "unet/..", ".", "a/b", ""])
def test_an_index_never_leads_out_of_its_folder(name, folder, tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    before, hashed = Generator.find(str(folder)).sha256(), []
    change_index(folder, **{name: ["diffusers", "UNet2DConditionModel"]})

    def note(path):
        hashed.append(path.resolve())
        return sha256_folder(path)

    monkeypatch.setattr(generators, "sha256_folder", note)
    assert Generator.find(str(folder)).sha256() == before
    assert {path.parent for path in hashed} == {folder.resolve()}
    with pytest.raises(ValueError, match=r"has a part .*, which is no name of a folder in .*; remove it"):
        load_generator(str(folder))


def test_pickled_weights_are_never_loaded(folder):
    ran = folder / "ran"

    class Evil:
        def __reduce__(self):
            return Path.touch, (ran,)

    (folder / "text_encoder" / "model.safetensors").unlink()
    torch.save({"x": Evil()}, folder / "text_encoder" / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"could not be loaded .*weights as safetensors: pickled ones .* never loaded"):
        load_generator(str(folder))
    assert not ran.exists()
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match=r"could not be loaded .*pickled ones .* never loaded"):
        load_generator(str(folder))


@pytest.mark.parametrize("part", ["unet/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize("text", ["", "[]", '{"hidden_size": "x", "in_channels": "x", "num_train_timesteps": "x"}'])
def test_a_malformed_configuration_of_a_part_is_one_line(part, text, folder):
    (folder / part).write_text(text)
    with pytest.raises(ValueError, match=rf"^generator '{re.escape(str(folder))}': .* could not be loaded \("):
        load_generator(str(folder))


def test_a_generator_in_a_relative_folder_is_found_from_anywhere(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for given, there in (
        (".", folder),
        ("../sd15", folder),
        ("sd1.5=.", f"sd1.5={folder}"),
        (str(folder), folder),
        ("mini-unclip", "mini-unclip"),
        ("owner/name@v1", "owner/name@v1"),
    ):
        assert Generator.find(given).located == str(there)
    assert located_decoder("unet") == str(folder / "unet")
    assert [located_decoder(name) for name in ("own", "tiny", "owner/name")] == ["own", "tiny", "owner/name"]
    config = SynthesisConfig(conditioning="text", num_inference_steps=2, feedback=FeedbackConfig(decoder="unet"))
    meta = tailsmith.plan(DATASET, 6, config=config, generator=".").meta
    assert (meta["generator"], meta["synthesis"]["feedback"]["decoder"]) == (str(folder), str(folder / "unet"))
    monkeypatch.chdir(folder.parent)
    assert Generator.find(meta["generator"]).sha256() == meta["generator_sha256"]


# ---- which classes it knows ----

GARMENTS = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def named(*class_names):
    return Dataset(DATASET.table, class_names, DATASET.attribute_names, "photos")


@pytest.mark.parametrize(
    ("names", "display", "unknown"),
    [
        (GARMENTS, {}, None),
        (("Ankle  Boot", "bag", "T-Shirt"), {}, None),  # to the tokenizer they are the same words
        (("oak leaf", "rust spot", "bag"), {}, "'oak leaf' and 1 more"),
        (("oak leaf", "rust spot", "bag"), {"oak leaf": "coat", "rust spot": "bag"}, None),
        (("bag", "coat", "shirts"), {"bag": "purse"}, "'purse' and 1 more"),
        (("ankle_boot", "bag", "coat"), {}, "'ankle_boot'"),
    ],
)
def test_the_embedded_generator_knows_ten_garments(names, display, unknown):
    advice = Generator.find("mini-unclip").class_advice(names, display)
    if unknown is None:
        assert advice is None
    else:
        assert f"'mini-unclip' knows nothing but {', '.join(GARMENTS)}; the data has {unknown}. Name a" in advice
        assert all(way in advice for way in ("sd2.1-unclip", "--generator", "fit-generator", "display_names"))


def test_foreign_classes_are_refused_by_plan_run_and_grid(tmp_path, classifier):
    leaves = named("oak leaf", "rust spot", "bag")
    message = r"generator 'mini-unclip' knows nothing but .*; the data has 'oak leaf' and 1 more\."
    with pytest.raises(ValueError, match=message):
        tailsmith.plan(leaves, 8)
    with pytest.raises(ValueError, match=message):
        draw_grids(leaves, classifier, tmp_path / "grid")
    write_folder(tmp_path / "pets")
    with pytest.raises(ValueError, match=r"knows nothing but .*; the data has 'cat' and 1 more"):
        experiment.run(RunConfig(data=str(tmp_path / "pets")), tmp_path / "run")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pets"]
    plan = tailsmith.plan(leaves, 8, config=SynthesisConfig(display_names={"oak leaf": "coat", "rust spot": "dress"}))
    assert set(plan.table["prompt"]) == {"coat", "dress", "bag"}


def test_a_generator_knows_the_classes_that_it_was_fitted_to(folder):
    assert Generator.find(str(folder)).class_advice(("oak leaf",), {}) is None  # nobody says
    (folder / "training").mkdir()
    (folder / "training" / "config.json").write_text(json.dumps({"class_names": ["oak leaf", "rust spot"]}))
    assert Generator.find(str(folder)).class_advice(("oak leaf",), {}) is None
    advice = Generator.find(f"sd1.5={folder}").class_advice(("bag", "oak leaf"), {})
    assert "knows nothing but oak leaf, rust spot; the data has 'bag'. Name" in advice
    (folder / "training" / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"training/config\.json is damaged, it is not JSON"):
        Generator.find(str(folder)).class_advice(("bag",), {})
    assert Generator.find("sd2.1-unclip").class_advice(("oak leaf",), {}) is None


def test_inspect_counts_foreign_classes_and_gives_no_cost_of_a_generator_that_can_not_make_them(tmp_path, capsys):
    data = str(write_folder(tmp_path / "pets"))
    assert main(["inspect", data]) == 0
    printed = capsys.readouterr().out
    assert "3 requests for an image each in 1 shard\n" in printed
    assert "Time and disk: unknown. Generator 'mini-unclip' knows nothing but" in printed
    assert "fit-generator" in printed
    assert "s per image" not in printed
    assert main(["inspect", data, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert (plan["images"], plan["hours"], plan["bytes"]) == (3, None, None)
    assert plan["advice"].startswith("generator 'mini-unclip' knows nothing but")
    assert main(["inspect", data, "--generator", "sd2.1-unclip"]) == 0
    assert "s per image" in capsys.readouterr().out


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


def test_cost_of_a_folder_with_malformed_parts(tmp_path):
    folder = saved(FAMILIES["sd15"](), tmp_path / "sd15")
    (folder / "unet" / "config.json").write_text('{"sample_size": "wide"}')
    with pytest.raises(ValueError, match=r"sd15 is damaged: the config\.json .*sample_size as a number .*got 'wide'"):
        cost(1, str(folder), None, SynthesisConfig())
    (folder / "unet" / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"unet/config\.json is damaged: it should hold a JSON object, got list"):
        cost(1, str(folder), None, SynthesisConfig())


def test_cost_knows_the_image_sizes_of_the_presets():
    assert cost(1, "flux-dev", None, SynthesisConfig())["bytes"] == int(3 * 1024**2 * 0.8)
    assert cost(1, "kandinsky-2.2", None, SynthesisConfig())["bytes"] == int(3 * 512**2 * 0.8)
