"""Captions made from class and attribute names, and a CLIP tokenizer whose vocabulary covers them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from tailsmith.files import read_json, write_json

Images = Callable[[NDArray[np.int64]], torch.Tensor]  # rows [B] -> [B, 3, S, S] in [-1, 1], on the device
START, END = "<|startoftext|>", "<|endoftext|>"


class Captions:
    """Every caption a dataset can have, numbered: "", one per class, then one per (class, attribute)."""

    def __init__(self, class_names: Sequence[str], attribute_names: Sequence[str]) -> None:
        self.class_names, self.attribute_names = tuple(class_names), tuple(attribute_names)
        self.attributes = len(attribute_names)
        self.texts = ["", *class_names]
        self.texts += [f"{label} in {attribute}" for label in class_names for attribute in attribute_names]
        self.classes = len(class_names)

    def draw(
        self,
        labels: NDArray[np.int64],
        attributes: NDArray[np.int64],
        rng: np.random.Generator,
        *,
        attribute_probability: float,
        dropout: float = 0.0,
    ) -> NDArray[np.int64]:
        """A caption number per image [B]: names the attribute now and then, is empty with probability
        `dropout`.
        """
        named = (rng.random(len(labels)) < attribute_probability) & (attributes >= 0)
        grouped = 1 + self.classes + labels * self.attributes + np.maximum(attributes, 0)
        chosen = np.where(named, grouped, 1 + labels)
        return np.asarray(np.where(rng.random(len(labels)) < dropout, 0, chosen))


@dataclass(frozen=True)
class CaptionedImages:
    """The training images as the three stages see them."""

    images: Images
    labels: NDArray[np.int64]  # [n]
    attributes: NDArray[np.int64]  # [n], -1 = none
    captions: Captions
    attribute_probability: float  # how often a caption names the attribute

    def __len__(self) -> int:
        return len(self.labels)

    def draw_captions(
        self, rows: NDArray[np.int64], rng: np.random.Generator, *, dropout: float = 0.0
    ) -> NDArray[np.int64]:
        """A caption number per row, [B]."""
        return self.captions.draw(
            self.labels[rows],
            self.attributes[rows],
            rng,
            attribute_probability=self.attribute_probability,
            dropout=dropout,
        )


def build_tokenizer(texts: Sequence[str], *, max_length: int = 16, kept: Path | None = None) -> CLIPTokenizer:
    """A CLIP byte-pair tokenizer: each word of `texts` is one token, and any other text still encodes.

    `kept`: a file that holds what was learned. Words that are equally frequent get their numbers in a random order, so
    that a fit which goes on in another process would read its captions with another vocabulary.
    """
    if kept is not None and kept.exists():
        learned = read_json(kept)
    else:
        learned = _learn(texts)
        if kept is not None:
            write_json(kept, learned)
    return CLIPTokenizer(
        vocab={symbol: number for number, symbol in enumerate(learned["symbols"])},
        merges=[tuple(merge) for merge in learned["merges"]],
        model_max_length=max_length,
    )


def _learn(texts: Sequence[str]) -> dict[str, list[Any]]:
    """The symbols in their order and the pairs that are merged, by byte-pair encoding."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=8192,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        min_frequency=1,
        show_progress=False,
    )
    tokenizer.train_from_iterator([text.lower() for text in texts], trainer)
    learned = json.loads(tokenizer.to_str())["model"]
    letters = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    symbols = dict.fromkeys([*letters, *learned["vocab"], START, END])
    return {"symbols": list(symbols), "merges": learned["merges"]}
