"""Textual inversion (Gal et al., 2022), as Fill-Up has it (Shin et al., 2023): a learned token for each class."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tailsmith.errors import UserError
from tailsmith.generation.fit.captions import Captions
from tailsmith.generation.fit.conditions import CaptionStates, caption_states

PAIRS = (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))
OLD_END = 2  # what CLIP's configurations of before 2023 say, whatever the token that ends a text


def add_class_tokens(pipe: Any, class_names: Sequence[str]) -> dict[str, str]:
    """Class -> its new token, `<ankle-boot>`; the tokenizers and text encoders of a loaded pipeline get them in place.

    Each begins as the mean of the embeddings of its class's name. ValueError for a pipeline without a text encoder.
    """
    parts = _text_parts(pipe)
    tokens = _names(class_names, [tokenizer for tokenizer, _ in parts])
    begun = [[_ids(tokenizer, name) for name in class_names] for tokenizer, _ in parts]  # before they are added
    for (tokenizer, encoder), ids_of_names in zip(parts, begun, strict=True):
        tokenizer.add_tokens(list(tokens.values()))
        rows = len(encoder.get_input_embeddings().weight)  # some have more than their tokenizer has tokens
        encoder.resize_token_embeddings(max(rows, len(tokenizer)), mean_resizing=False)
        weight = encoder.get_input_embeddings().requires_grad_(False).weight
        for token, ids in zip(tokens.values(), ids_of_names, strict=True):
            weight[tokenizer.convert_tokens_to_ids(token)] = weight[ids].mean(dim=0)
        _end_by_its_number(encoder, tokenizer)
    return tokens


class TokenRows(torch.nn.Module):
    """The embeddings of a pipeline's tokens, [tokens, D] per text encoder, as weights of their own.

    So the rest of an embedding's table can't be moved: not by an optimizer's decay, not by rounding.
    """

    def __init__(self, pipe: Any, tokens: Sequence[str]) -> None:
        super().__init__()
        self.tables = [encoder.get_input_embeddings() for _, encoder in _text_parts(pipe)]
        self.numbers = [
            torch.tensor([tokenizer.convert_tokens_to_ids(token) for token in tokens], device=table.weight.device)
            for (tokenizer, _), table in zip(_text_parts(pipe), self.tables, strict=True)
        ]
        pairs = zip(self.tables, self.numbers, strict=True)
        self.rows = torch.nn.ParameterList([table.weight[numbers].clone() for table, numbers in pairs])

    @contextmanager
    def read(self) -> Iterator[None]:
        """Inside, the text encoders read these embeddings, with gradients, in place of their own."""
        own = zip(self.tables, self.numbers, self.rows, strict=True)
        hooks = [table.register_forward_hook(_replacing(len(table.weight), *each)) for table, *each in own]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def write(self) -> None:
        """Into the text encoders' tables."""
        for table, numbers, rows in zip(self.tables, self.numbers, self.rows, strict=True):
            table.weight[numbers] = rows.to(table.weight.dtype)


def states_within(pipe: Any, captions: Captions) -> Callable[[NDArray[np.int64]], CaptionStates]:
    """The states of caption numbers [B], made anew in each call, with gradients."""
    alone = Lock()  # the halves of a batch are two threads, and a tokenizer serves one at a time

    def states(numbers: NDArray[np.int64]) -> CaptionStates:
        different, places = np.unique(numbers, return_inverse=True)
        with alone:
            made = caption_states(pipe, [captions.texts[each] for each in different])
        return made.of(places)

    return states


def readme(tokens: Mapping[str, str]) -> str:
    """What the card of a generator says of its tokens."""
    lines = [f"- {name}: `{token}`" for name, token in tokens.items()]
    return "\n".join(["", "Each class has a token of its own (textual inversion), which prompts name:", "", *lines, ""])


def _text_parts(pipe: Any) -> list[tuple[Any, Any]]:
    """(tokenizer, text encoder), two for SDXL."""
    parts = [(pipe.components.get(tokenizer), pipe.components.get(encoder)) for tokenizer, encoder in PAIRS]
    whole = [(tokenizer, encoder) for tokenizer, encoder in parts if tokenizer is not None and encoder is not None]
    if not whole:
        raise UserError(
            f"textual inversion learns tokens of a text encoder, and this {type(pipe).__name__} was saved without "
            "its tokenizer and text_encoder; give a --from that has them"
        )
    return whole


def _names(class_names: Sequence[str], tokenizers: Sequence[Any]) -> dict[str, str]:
    """Class -> a token that no tokenizer has yet."""
    taken = {word for tokenizer in tokenizers for word in tokenizer.get_vocab()}
    tokens: dict[str, str] = {}
    for name in class_names:
        word = re.sub(r"[^\w]+", "-", name.lower()).strip("-") or "class"
        token, number = f"<{word}>", 1
        while token in taken:
            number += 1
            token = f"<{word}-{number}>"
        taken.add(token)
        tokens[name] = token
    return tokens


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return ids


def _end_by_its_number(encoder: Any, tokenizer: Any) -> None:
    """CLIP's pooled state, which SDXL reads, is that at the end of the text.

    Old configurations look for it at the highest number, which a new token would have; by the end's own number it is
    found at the same place in every other text.
    """
    if encoder.config.eos_token_id == OLD_END:
        encoder.config.eos_token_id = tokenizer.eos_token_id
        for module in encoder.modules():
            if getattr(module, "eos_token_id", None) == OLD_END:
                module.eos_token_id = tokenizer.eos_token_id


def _replacing(rows: int, numbers: Tensor, new: Tensor) -> Callable[[Any, tuple[Tensor, ...], Tensor], Tensor]:
    """A forward hook of an embedding table of so many rows: those of `numbers` are `new`."""
    places = torch.full((rows,), -1, device=numbers.device)
    places[numbers] = torch.arange(len(numbers), device=numbers.device)

    def hook(_: Any, given: tuple[Tensor, ...], found: Tensor) -> Tensor:
        place = places[given[0]]
        return torch.where((place >= 0)[..., None], new[place.clamp(min=0)].to(found.dtype), found)

    return hook
