"""Every family of pipelines through the worker, against the pipeline's own calls."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import KandinskyV22PriorPipeline, PixArtSigmaPipeline, PixArtTransformer2DModel
from diffusers.models.embeddings import IPAdapterPlusImageProjection

from rendering import DATASET, largest_difference, pixels, render, tiny_plan
from tailsmith.generation.conditioning import embed_images
from tailsmith.generation.families import FAMILIES as KNOWN
from tailsmith.generation.families import WITH_IP_ADAPTER, family_of
from tailsmith.generation.generator import PRESETS
from tailsmith.guidance.latents import ADAPTERS
from tailsmith.randomness import noise_generator
from tailsmith.synthesis.worker import Worker
from tiny import TinyClassifier
from tiny_families import FAMILIES, tiny_flux, tiny_sd15, with_ip_adapter
from tiny_parts import T5, autoencoder, ddim, ready, seeded, t5_encoder, t5_tokenizer

CONDITIONINGS = {
    "unclip": ("text", "image", "image+text"),
    "sd15": ("text",),
    "sd15-ip": ("text", "image", "image+text"),
    "sdxl": ("text",),
    "sdxl-ip": ("text", "image", "image+text"),
    "kandinsky22": ("image",),
    "sd3": ("text",),
    "flux": ("text",),
}
CASES = [(name, conditioning) for name, each in CONDITIONINGS.items() for conditioning in each]


@pytest.fixture(scope="module")
def pipes():
    made = {}

    def get(name):
        if name not in made:
            made[name] = FAMILIES[name]()
        return made[name]

    return get


def plan_for(conditioning, missing=(2, 1, 2), **settings):
    settings = {"feedback_scale": 0.0, "num_inference_steps": 3, "embedding_dropout": 0.5, **settings}
    return tiny_plan(missing, conditioning=conditioning, **settings)


def image_of(request):
    row_of = {name: row for row, name in enumerate(DATASET.table["image_id"])}
    return DATASET.image(row_of[request.conditioning_id])


def alone(worker, plan):
    """The one image of a plan of one."""
    (image,) = pixels(render(worker, plan)).values()
    return image


def own_call(pipe, request, steps=3, **conditions):
    """The pipeline's own 8-bit image for a request, int [H, W, 3]."""
    generator = [noise_generator(request.noise_seed)]
    (image,) = pipe(
        **conditions,
        guidance_scale=request.guidance_scale,
        num_inference_steps=steps,
        generator=generator,
        output_type="pil",
    ).images
    return np.asarray(image).astype(int)


def replaced_methods(pipe):
    """Names that hide the methods of the pipeline's class."""
    return {name for name in vars(pipe) if callable(getattr(type(pipe), name, None))}


def test_all_families_are_tried():
    assert {type(FAMILIES[name]()).__name__ for name in FAMILIES} == {name.split(" ")[0] for name in KNOWN}
    assert set(CONDITIONINGS) == set(FAMILIES)
    assert set(ADAPTERS) == {name.removesuffix(WITH_IP_ADAPTER) for name in KNOWN}  # feedback knows them all
    assert {name: family_of(FAMILIES[name]()).conditionings for name in FAMILIES} == CONDITIONINGS


@pytest.mark.parametrize(("name", "conditioning"), CASES)
def test_the_same_request_gives_the_same_image_in_any_batch(name, conditioning, pipes):
    pipe, plan = pipes(name), plan_for(conditioning)
    before = replaced_methods(pipe)
    single = render(Worker(pipe, DATASET, None, batch_size=1), plan)
    assert largest_difference(single, render(Worker(pipe, DATASET, None, batch_size=8), plan)) <= 1
    images = list(pixels(single).values())
    assert min(np.abs(a - b).max() for i, a in enumerate(images) for b in images[:i]) > 5
    assert replaced_methods(pipe) == before


@pytest.mark.parametrize("name", ["unclip", "sd15-ip", "sdxl-ip"])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_requests_with_and_without_an_image_share_a_batch(name, guidance_scale, pipes):
    pipe, plan = pipes(name), plan_for("image+text")
    mixed = plan.table.assign(guidance_scale=guidance_scale)
    mixed.loc[[1, 3], ["conditioning_id", "conditioning_sha256"]] = None
    mixed.loc[[2], "prompt"] = ""
    single = render(Worker(pipe, DATASET, None, batch_size=1), plan, mixed)
    assert largest_difference(single, render(Worker(pipe, DATASET, None, batch_size=8), plan, mixed)) <= 1
    whole = render(Worker(pipe, DATASET, None, batch_size=8), plan, plan.table.assign(guidance_scale=guidance_scale))
    changed = [np.abs(a - b).max() > 0 for a, b in zip(pixels(single).values(), pixels(whole).values(), strict=True)]
    assert changed == [False, True, True, True, False]


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_unclip_without_an_image_is_zeros_throughout(guidance_scale, pipes):
    """As it is trained, and as the pipeline's own negative: no half of it says a noise level."""
    pipe, plan = pipes("unclip"), plan_for("image+text", (2, 1, 2), embedding_dropout=0.0)
    before, seen = replaced_methods(pipe), []
    requests = plan.table.assign(guidance_scale=guidance_scale)
    requests.loc[[1, 3], ["conditioning_id", "conditioning_sha256"]] = None  # text only
    requests.loc[2, "embedding_dropout"] = 1.0  # all of it dropped: the same as none
    hook = pipe.unet.register_forward_pre_hook(
        lambda _, __, options: seen.append(options["class_labels"]), with_kwargs=True
    )
    render(Worker(pipe, DATASET, None), plan, requests)
    hook.remove()
    assert replaced_methods(pipe) == before
    for labels in seen:
        *negative, wanted = labels.split(5)
        assert all(not half.any() for half in negative)
        assert [bool(row.any()) for row in wanted] == [True, False, False, False, True]
        for row, request in zip(wanted, requests.itertuples(), strict=True):  # the pipeline's own, where there is one
            if row.any():
                noised = pipe.noise_image_embeddings(
                    image_embeds=embed_images(pipe, [image_of(request)]),
                    noise_level=0,
                    generator=[noise_generator(request.noise_seed)],
                )
                torch.testing.assert_close(row, noised[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["unclip", "sd15-ip", "sdxl-ip"])
def test_guided_by_the_text_the_negative_holds_the_image_too(name, pipes):
    pipe, plan = pipes(name), plan_for("image+text", (2, 1, 2), embedding_dropout=0.0)
    before, seen = replaced_methods(pipe), []

    def look(_, __, options):
        conditions = options.get("added_cond_kwargs") or {}
        seen.append(conditions["image_embeds"][0] if "image_embeds" in conditions else options["class_labels"])

    hook = pipe.unet.register_forward_pre_hook(look, with_kwargs=True)
    by_text, by_both = (render(Worker(pipe, DATASET, None, guided_by=each), plan) for each in ("text", "image+text"))
    hook.remove()
    assert replaced_methods(pipe) == before
    alike = [bool(torch.equal(*conditions.chunk(2))) for conditions in seen]
    assert alike == [True] * 3 + [False] * 3
    assert largest_difference(by_text, by_both) > 0
    unguided = plan.table.assign(guidance_scale=1.0)  # there is no negative
    ways = [render(Worker(pipe, DATASET, None, guided_by=each), plan, unguided) for each in ("text", "image+text")]
    assert largest_difference(*ways) == 0


def test_a_family_that_cannot_be_guided_by_the_text_says_so(pipes):
    pipe = pipes("kandinsky22")
    with pytest.raises(
        ValueError, match="KandinskyV22Pipeline can't be guided by the text alone; plan with guided_by="
    ):
        render(Worker(pipe, DATASET, None, guided_by="text"), plan_for("image", (1, 0, 0)))


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3", "flux"])
def test_text_is_the_pipelines_own_call(name, pipes):
    pipe, plan = pipes(name), plan_for("text", (1, 0, 0))
    (request,) = plan.table.itertuples()
    assert np.abs(alone(Worker(pipe, DATASET, None), plan) - own_call(pipe, request, prompt=["sandal"])).max() <= 1


@pytest.mark.parametrize("name", ["sd15-ip", "sdxl-ip"])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_an_ip_adapter_sees_the_real_image(name, guidance_scale, pipes):
    pipe, plan = pipes(name), plan_for("image+text", (1, 0, 0), embedding_dropout=0.0)
    plan.table["guidance_scale"] = guidance_scale
    (request,) = plan.table.itertuples()
    expected = own_call(pipe, request, prompt=["sandal"], ip_adapter_image=image_of(request))
    assert np.abs(alone(Worker(pipe, DATASET, None), plan) - expected).max() <= 1


def test_kandinsky_sees_the_real_image_and_the_priors_negative(pipes):
    pipe, plan = pipes("kandinsky22"), plan_for("image", (1, 0, 0), embedding_dropout=0.0)
    (request,) = plan.table.itertuples()
    prior = SimpleNamespace(image_encoder=pipe.image_encoder, device="cpu")
    expected = own_call(
        pipe,
        request,
        image_embeds=embed_images(pipe, [image_of(request)]),
        negative_image_embeds=KandinskyV22PriorPipeline.get_zero_embed(prior).detach(),
        height=16,
        width=16,
    )
    assert np.abs(alone(Worker(pipe, DATASET, None), plan) - expected).max() <= 1


@pytest.mark.parametrize("name", ["unclip", "sd15-ip", "kandinsky22"])
def test_embedding_dropout_changes_the_image(name, pipes):
    images = [
        alone(Worker(pipes(name), DATASET, None), plan_for("image", (1, 0, 0), embedding_dropout=share))
        for share in (0.0, 0.5, 1.0)
    ]
    assert min(np.abs(a - b).max() for i, a in enumerate(images) for b in images[:i]) > 1


def test_fluxs_guidance_is_an_input_where_it_is_distilled():
    plan = plan_for("text", (1, 0, 0))
    stronger = plan.table.assign(guidance_scale=30.0)
    for distilled in (True, False):
        worker = Worker(tiny_flux(guidance_embeds=distilled), DATASET, None)
        difference = largest_difference(render(worker, plan), render(worker, plan, stronger))
        assert (difference > 0) == distilled


def test_an_ip_adapter_pipeline_is_left_as_it_was_by_a_call_that_fails(pipes, monkeypatch):
    pipe = pipes("sd15-ip")
    before = replaced_methods(pipe)

    def fail(*_, **__):
        raise RuntimeError("decoding failed")

    monkeypatch.setattr(pipe.vae, "decode", fail)
    with pytest.raises(RuntimeError, match="decoding failed"):
        render(Worker(pipe, DATASET, None), plan_for("image+text"))
    assert replaced_methods(pipe) == before


# ---- a family of one's own ----


def tiny_pixart():
    with seeded(8):
        tokenizer = t5_tokenizer()
        transformer = PixArtTransformer2DModel(
            sample_size=8,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            cross_attention_dim=16,
            caption_channels=T5,
        )
        for weight in transformer.parameters():
            torch.nn.init.normal_(weight, std=0.2)  # its own start has an output of zero
        return ready(PixArtSigmaPipeline(tokenizer, t5_encoder(tokenizer), autoencoder(), transformer, ddim("epsilon")))


def test_the_family_that_the_docs_add_works_and_takes_few_lines(monkeypatch):
    page = Path(__file__).parents[1] / "docs" / "adding-a-family.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert len(code.splitlines()) < 40
    monkeypatch.setattr("tailsmith.generation.families.FAMILIES", dict(KNOWN))
    monkeypatch.setattr("tailsmith.guidance.latents.ADAPTERS", dict(ADAPTERS))
    pipe, plan = tiny_pixart(), plan_for("text")
    guided, guide = plan_for("text", feedback_scale=0.02, feedback_every=1), TinyClassifier().eval()
    with pytest.raises(ValueError, match="got PixArtSigmaPipeline"):
        render(Worker(pipe, DATASET, None), plan)
    exec(compile(code, str(page), "exec"), {})
    for wanted in (plan, guided):
        single = render(Worker(pipe, DATASET, guide, batch_size=1), wanted)
        assert largest_difference(single, render(Worker(pipe, DATASET, guide, batch_size=8), wanted)) <= 1
    assert largest_difference(single, render(Worker(pipe, DATASET, None), plan)) > 1


def test_the_docs_name_every_family_and_preset():
    page = (Path(__file__).parents[1] / "docs" / "adding-a-family.md").read_text(encoding="utf-8")
    assert all(f"`{name.removesuffix(WITH_IP_ADAPTER)}`" in page for name in KNOWN)
    assert all(f"`{name}`" in page for name in PRESETS)


# ---- offloading and compilation ----


@pytest.mark.parametrize("name", FAMILIES)
def test_under_cpu_offload_the_images_are_the_same(name, pipes):
    plan = plan_for(CONDITIONINGS[name][-1], (1, 1, 0))
    offloaded = FAMILIES[name]()
    offloaded.enable_model_cpu_offload(device="cpu")  # the hooks are those of a real accelerator
    expected = render(Worker(pipes(name), DATASET, None), plan)
    assert largest_difference(expected, render(Worker(offloaded, DATASET, None), plan)) <= 1


def test_with_a_compiled_denoiser_the_images_are_the_same(pipes):
    plan = plan_for("text", (1, 1, 0))
    compiled = FAMILIES["sd15"]()
    compiled.unet = torch.compile(compiled.unet, backend="eager")
    expected = render(Worker(pipes("sd15"), DATASET, None), plan)
    assert largest_difference(expected, render(Worker(compiled, DATASET, None), plan)) <= 1


def test_after_running_out_of_memory_nothing_offloaded_stays_on_the_device():
    pipe = FAMILIES["unclip"]()
    pipe.enable_model_cpu_offload(device="cpu")
    hooks, freed = pipe._all_hooks, []
    pipe.unet.register_forward_pre_hook(lambda _, arguments: _out_of_memory() if len(arguments[0]) > 4 else None)
    original, pipe.maybe_free_model_hooks = pipe.maybe_free_model_hooks, lambda: (freed.append(1), original())
    render(Worker(pipe, DATASET, None, batch_size=4), plan_for("text"))
    assert pipe._all_hooks is not hooks
    assert len(freed) == 1 + 3  # after the call that failed, then the pipeline itself after each call


def _out_of_memory():
    raise torch.OutOfMemoryError("CUDA out of memory")


# ---- what is refused ----


@pytest.mark.parametrize(
    ("name", "conditioning", "message"),
    [
        ("sd15", "image", r"StableDiffusionPipeline can't be conditioned on 'image', only on text; .*IP-Adapter"),
        ("sdxl", "image+text", r"can't be conditioned on 'image\+text', only on text; plan with conditioning='text'"),
        ("kandinsky22", "text", r"KandinskyV22Pipeline can't be conditioned on 'text', only on image; plan with"),
        ("kandinsky22", "image+text", r"conditioning='image'\. The other generators take text"),
        ("sd3", "image", r"The unCLIP, IP-Adapter and Kandinsky 2\.2 generators take images"),
        ("flux", "image+text", r"FluxPipeline can't be conditioned on 'image\+text', only on text"),
    ],
)
def test_a_conditioning_that_the_family_cannot_do(name, conditioning, message, pipes):
    calls = []
    pipe = pipes(name)
    part = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
    hook = part.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(ValueError, match=message):
        render(Worker(pipe, DATASET, None), plan_for(conditioning))
    hook.remove()
    assert calls == []


def test_other_ip_adapters_are_refused():
    pipe = with_ip_adapter(tiny_sd15())
    pipe.unet.encoder_hid_proj.image_projection_layers[0] = IPAdapterPlusImageProjection(
        embed_dims=8, output_dims=12, hidden_dims=8, depth=1, dim_head=4, heads=2, num_queries=2
    )
    with pytest.raises(ValueError, match=r"works with one plain IP-Adapter.*got \['IPAdapterPlusImageProjection'\]"):
        family_of(pipe)


def test_kandinsky_without_an_image_encoder():
    pipe = FAMILIES["kandinsky22"]()
    del pipe.image_encoder
    with pytest.raises(ValueError, match=r"needs the encoder of its conditioning images; .* set pipe\.image_encoder"):
        family_of(pipe)
