"""fit-generator --finetune.method textual-inversion: a token per class is learned, and nothing else moves."""

import json
import shutil

import numpy as np
import pytest
import torch

import tailsmith
from tailsmith.cli.main import main
from tailsmith.generation.fit import finetune
from tailsmith.generation.fit.captions import Captions
from tailsmith.generation.fit.conditions import caption_states
from tailsmith.generation.fit.config import FineTuneConfig
from tailsmith.generation.fit.tokens import TokenRows, add_class_tokens, states_within
from tailsmith.generation.generator import Generator, load_generator
from tailsmith.guidance.config import FeedbackConfig
from tailsmith.synthesis import fitting
from tailsmith.synthesis.config import SynthesisConfig
from tailsmith.synthesis.fitting import fine_tune_generator
from tiny import CLASSES, CONTEXTS, tiny_dataset, tiny_pipeline
from tiny_families import tiny_sd15, tiny_sdxl

DATA = tiny_dataset(((9, 3), (6, 2), (2, 1)))
CONFIG = FineTuneConfig(
    method="textual-inversion",
    steps=6,
    batch_size=4,
    evaluate_every=2,
    learning_rate=2e-2,
    most_copies=1.0,
    bf16=False,
)
TOKENS = {"sandal": "<sandal>", "ankle boot": "<ankle-boot>", "bag": "<bag>"}
MAKE = {"unclip": tiny_pipeline, "sd15": tiny_sd15, "sdxl": lambda: tiny_sdxl("v_prediction")}


@pytest.fixture(autouse=True)
def _few_samples(monkeypatch):
    monkeypatch.setattr(finetune, "SAMPLES", 4)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Name -> (folder of a generator, folder of the same with tokens)."""
    made = {}

    def of(name):
        if name not in made:
            root = tmp_path_factory.mktemp(name)
            MAKE[name]().save_pretrained(root / "from")
            with pytest.MonkeyPatch.context() as patched:
                better = iter([1.0, 0.9, 0.8, 0.7])  # a few steps from random weights may bring nothing
                patched.setattr(finetune, "held_out_loss", lambda *_: next(better))
                patched.setattr(finetune, "SAMPLES", 4)
                made[name] = root / "from", fine_tune_generator(DATA, str(root / "from"), root / "out", CONFIG)
        return made[name]

    return of


@pytest.mark.parametrize("name", ["unclip", "sd15", "sdxl"])
def test_nothing_but_the_rows_of_the_tokens_is_another(name, fitted):
    source, out = fitted(name)
    before, after = load_generator(str(source)), load_generator(str(out))
    assert type(after) is type(before)
    encoders = [part for part in before.components if part.startswith("text_encoder")]
    for part, old in before.components.items():
        new = after.components[part]
        if not isinstance(old, torch.nn.Module):
            continue
        old, new = old.state_dict(), new.state_dict()
        assert old.keys() == new.keys()
        grown = {key for key in old if old[key].shape != new[key].shape}
        assert len(grown) == (part in encoders)
        assert all(torch.equal(old[key], new[key][: len(old[key])] if key in grown else new[key]) for key in old)
    texts = ["sandal in rock", "an ankle boot", "<sandals>"]
    for one, other in zip(caption_states_of(before, texts), caption_states_of(after, texts), strict=True):
        assert torch.equal(one, other)
    for part in encoders:
        tokenizer = after.components[part.replace("text_encoder", "tokenizer")]
        table = after.components[part].get_input_embeddings().weight
        for class_name, token in TOKENS.items():
            (number,) = tokenizer(token, add_special_tokens=False).input_ids
            begun = table[tokenizer(class_name, add_special_tokens=False).input_ids].mean(dim=0)
            assert tokenizer(f"{token.upper()} in rock").input_ids[1] == number
            assert not torch.allclose(table[number], begun, atol=1e-3)
    assert json.loads((out / "class_tokens.json").read_text(encoding="utf-8")) == TOKENS
    assert "- ankle boot: `<ankle-boot>`" in (out / "README.md").read_text(encoding="utf-8")
    assert sorted(path.name for path in (out / "training").iterdir()) == [
        "config.json", "held_out.json", "lock", "tokens.jsonl",
    ]  # fmt: skip


def caption_states_of(pipe, texts):
    made = caption_states(pipe, texts)
    return [each for each in (made.states, made.pooled) if each is not None]


@pytest.mark.parametrize("name", ["unclip", "sdxl"])
def test_tokens_begin_as_their_name_and_have_the_gradients_of_the_whole_table(name):
    pipe = MAKE[name]()
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False)
    tables = [part.get_input_embeddings().weight.clone() for part in encoders_of(pipe)]
    tokens = add_class_tokens(pipe, CLASSES)
    ids = pipe.tokenizer("ankle boot", add_special_tokens=False).input_ids
    assert len(ids) == 2
    rows = TokenRows(pipe, list(tokens.values()))
    for table, own in zip(tables, rows.rows, strict=True):
        assert torch.allclose(own[1], (table[ids[0]] + table[ids[1]]) / 2, atol=1e-7)
    captions = Captions(list(tokens.values()), CONTEXTS)
    numbers = np.array([3, 1, 3, 5])  # bag, sandal, bag, sandal in water

    def loss(made):
        return sum(
            (each * torch.linspace(-1, 1, each.numel()).view_as(each)).sum() for each in made if each is not None
        )

    with rows.read():
        made = states_within(pipe, captions)(numbers)
    found = torch.autograd.grad(loss((made.states, made.pooled)), list(rows.parameters()))
    whole = [part.get_input_embeddings().weight.requires_grad_() for part in encoders_of(pipe)]
    plain = caption_states(pipe, [captions.texts[each] for each in numbers])
    expected = torch.autograd.grad(loss((plain.states, plain.pooled)), whole)
    new = pipe.tokenizer.convert_tokens_to_ids(list(tokens.values()))
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other[new], rtol=1e-4, atol=1e-5) and one[[0, 2]].abs().min() > 0
        assert not one[1].any()  # no ankle boot among them


def encoders_of(pipe):
    return [part for name, part in pipe.components.items() if name.startswith("text_encoder")]


def test_the_pooled_state_of_a_token_is_that_at_the_end_of_the_text():
    """Configurations of before 2023 say 2, for which transformers takes the highest number: that of a new token."""
    pipe = tiny_sdxl()
    for encoder in encoders_of(pipe):
        encoder.config.eos_token_id = 2
        for module in encoder.modules():
            if hasattr(module, "eos_token_id"):
                module.eos_token_id = 2
    before = caption_states(pipe, ["sandal in rock"])
    add_class_tokens(pipe, CLASSES)
    assert torch.equal(caption_states(pipe, ["sandal in rock"]).pooled, before.pooled)
    ids = pipe.tokenizer_2(["<bag> in water"], padding="max_length", return_tensors="pt").input_ids
    last = pipe.text_encoder_2.text_model(ids).last_hidden_state[0, ids[0].tolist().index(pipe.tokenizer.eos_token_id)]
    with torch.no_grad():
        expected = pipe.text_encoder_2.text_projection(last)
        assert torch.allclose(caption_states(pipe, ["<bag> in water"]).pooled[0], expected, atol=1e-6)


def test_tokens_have_names_of_their_own():
    pipe = tiny_sd15()
    assert add_class_tokens(pipe, ["T-shirt", "t shirt", "!", "Äpfel & Birnen"]) == {
        "T-shirt": "<t-shirt>", "t shirt": "<t-shirt-2>", "!": "<class>", "Äpfel & Birnen": "<äpfel-birnen>",
    }  # fmt: skip
    assert add_class_tokens(pipe, ["T-shirt", "bag"]) == {"T-shirt": "<t-shirt-3>", "bag": "<bag>"}


def test_tokens_learn_and_an_interrupted_fit_ends_like_another(fitted, tmp_path, monkeypatch):
    source, config = str(fitted("sd15")[0]), FineTuneConfig(**{**vars(CONFIG), "learning_rate": 0.3})
    whole = fine_tune_generator(DATA, source, tmp_path / "whole", config)
    values = json.loads((whole / "training" / "held_out.json").read_text())
    assert min(values.values()) < values["0"]
    looks, real_look = [], finetune.held_out_loss

    def look(*arguments):
        looks.append(1)
        if len(looks) == 3:
            raise KeyboardInterrupt
        return real_look(*arguments)

    monkeypatch.setattr(finetune, "held_out_loss", look)
    with pytest.raises(KeyboardInterrupt):
        fine_tune_generator(DATA, source, tmp_path / "out", config)
    assert (tmp_path / "out/training/best.pt").exists() and not (tmp_path / "out/model_index.json").exists()
    out = fine_tune_generator(DATA, source, tmp_path / "out", config)
    assert Generator.find(str(out)).sha256() == Generator.find(str(whole)).sha256()


def test_samples_that_are_looked_at_for_copies_name_tokens_and_see_no_image(fitted, tmp_path, monkeypatch):
    asked, real_sample = [], finetune._sample

    def sample(pipe, prompts, embeddings, *rest):
        asked.append((prompts, embeddings))
        return real_sample(pipe, prompts, embeddings, *rest)

    monkeypatch.setattr(finetune, "_sample", sample)
    better = iter([1.0, 0.9])
    monkeypatch.setattr(finetune, "held_out_loss", lambda *_: next(better))
    monkeypatch.setattr(fitting, "_check_copies", lambda *_: (_ for _ in ()).throw(ValueError("looked")))
    config = FineTuneConfig(**{**vars(CONFIG), "steps": 2})
    with pytest.raises(ValueError, match="looked"):
        fine_tune_generator(DATA, str(fitted("unclip")[0]), tmp_path / "out", config)
    ((prompts, embeddings),) = asked  # and none for a prior
    assert {prompt.partition(" in ")[0] for prompt in prompts} <= set(TOKENS.values())
    assert not embeddings.any()


def test_plans_name_classes_by_their_tokens(fitted, tmp_path):
    _, out = fitted("unclip")
    text = SynthesisConfig(conditioning="text", num_inference_steps=2, feedback=FeedbackConfig(scale=0))
    made = tailsmith.plan(DATA, 14, config=text, generator=str(out))
    assert set(made.table["prompt"]) == set(TOKENS.values())  # twelve sandals, eight boots, three bags
    grouped = SynthesisConfig(conditioning="text", prompt="a photo of {label} in {attribute}")
    prompts = tailsmith.plan(DATA, 10, per="group", config=grouped, generator=str(out)).table["prompt"]
    assert "a photo of <ankle-boot> in water" in set(prompts)
    other = SynthesisConfig(display_names={"sandal": "sandal", "bag": "<bag>"}, conditioning="text")
    assert set(tailsmith.plan(DATA, 14, config=other, generator=str(out)).table["prompt"]) == {
        "sandal", "<ankle-boot>", "<bag>",
    }  # fmt: skip
    copy = shutil.copytree(out, tmp_path / "copy")
    (copy / "class_tokens.json").unlink()  # a plan holds the tokens, and the pipeline knows them
    assert Generator.find(str(copy)).sha256() == made.meta["generator_sha256"]
    assert set(tailsmith.plan(DATA, 14, config=text, generator=str(copy)).table["prompt"]) == set(CLASSES)
    (copy / "class_tokens.json").write_text('{"bag": 3}')
    with pytest.raises(ValueError, match=r"class_tokens\.json is damaged: it should hold a token for each class"):
        tailsmith.plan(DATA, 14, config=text, generator=str(copy))
    synthetic = tailsmith.synthesize(made, DATA, tmp_path / "set")
    assert len(synthetic) == len(made)


def test_a_class_keeps_its_only_image_where_there_are_no_validation_images():
    data = tiny_dataset(((40, 0), (1, 0), (1, 0))).split("train")
    for seed in range(20):
        tuning = fitting._tuning(data, 8, FineTuneConfig(seed=seed), {})
        assert set(tuning.training.labels) == {0, 1, 2} and set(tuning.held_out.labels) == {0}
        assert (len(tuning.training), len(tuning.held_out)) == (38, 4)


def test_what_can_not_be_inverted_is_refused(fitted, tmp_path):
    pipe = tiny_sdxl()
    pipe.register_modules(tokenizer=None, tokenizer_2=None, text_encoder=None, text_encoder_2=None)
    pipe.save_pretrained(tmp_path / "no_text")
    with pytest.raises(ValueError, match=r"this StableDiffusionXLPipeline was saved without its tokenizer and "):
        fine_tune_generator(DATA, str(tmp_path / "no_text"), tmp_path / "out", CONFIG)
    empty = DATA.select((DATA.labels == 0) | (DATA.table["split"] != "train").to_numpy() | (DATA.labels == 1))
    source = str(fitted("sd15")[0])
    with pytest.raises(ValueError, match=r"its training images, and 'bag' has none; add an image, leave the class out"):
        fine_tune_generator(empty, source, tmp_path / "empty", CONFIG)
    with pytest.raises(ValueError, match=r"finetune\.prior_weight has no effect with finetune\.method=textual-inver"):
        fine_tune_generator(DATA, source, tmp_path / "empty", FineTuneConfig(**{**vars(CONFIG), "prior_weight": 0.5}))
    assert not (tmp_path / "empty").exists()


def test_an_unknown_method_is_one_line(tmp_path, capsys):
    options = ["--from", "mini-unclip", "--finetune.method", "dreambooth"]
    assert main(["fit-generator", "fashion-lt", "--out", str(tmp_path / "out"), *options]) == 2
    assert "method should be one of auto, lora, all, textual-inversion, got 'dreambooth'" in capsys.readouterr().err
