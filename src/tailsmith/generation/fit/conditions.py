"""What the denoiser of a pretrained pipeline is conditioned on: its captions' states and its images' embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tailsmith.errors import UserError
from tailsmith.generation.conditioning import embed_images, embedding_size
from tailsmith.generation.fit.denoiser import noised_embedding

SD, SDXL, UNCLIP = "StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableUnCLIPImg2ImgPipeline"
TUNABLE = (SD, SDXL, UNCLIP)
ENCODED = 32  # texts at once


def check_tunable(name: str) -> None:
    """ValueError for a class of pipelines whose denoiser is called in another way."""
    if name not in TUNABLE:
        raise UserError(f"fit-generator --from can fine-tune {', '.join(TUNABLE)}; got a {name}; use one of these")


def image_size_of(pipe: Any) -> int:
    """Pixels a side that the denoiser was made for."""
    return int(pipe.unet.config.sample_size) * int(pipe.vae_scale_factor)


@dataclass(frozen=True)
class CaptionStates:
    """Of captions, on the pipeline's device."""

    states: Tensor  # [captions, tokens, width]
    pooled: Tensor | None  # [captions, width], SDXL alone

    def of(self, numbers: NDArray[np.int64]) -> CaptionStates:
        """Those of caption numbers [B]."""
        return CaptionStates(self.states[numbers], None if self.pooled is None else self.pooled[numbers])


def caption_states(pipe: Any, texts: Sequence[str]) -> CaptionStates:
    """As the pipeline makes them of prompts; SDXL's empty prompt is zeros where its own calls make it zeros."""
    xl = type(pipe).__name__ == SDXL
    states, pooled = [], []
    for start in range(0, len(texts), ENCODED):
        batch = list(texts[start : start + ENCODED])
        made = pipe.encode_prompt(
            prompt=batch, device=pipe.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        empty = torch.tensor([xl and pipe.config.force_zeros_for_empty_prompt and not text for text in batch])
        empty = empty.to(made[0].device)
        states.append(made[0].masked_fill(empty[:, None, None], 0))
        if xl:
            pooled.append(made[2].masked_fill(empty[:, None], 0))
    return CaptionStates(torch.cat(states).float(), torch.cat(pooled).float() if pooled else None)


def no_embeddings(pipe: Any, n: int) -> Tensor | None:
    """What `embeddings_of` says of n images that are not shown: zeros [n, D], for a pipeline that takes embeddings."""
    return torch.zeros(n, embedding_size(pipe)) if type(pipe).__name__ == UNCLIP else None


def embeddings_of(pipe: Any, images: Any, n: int, batch: int = 32) -> Tensor | None:
    """[n, D] on the CPU, for a pipeline that takes them; `images(rows) -> [B, 3, S, S]` in [-1, 1]."""
    if type(pipe).__name__ != UNCLIP:
        return None
    made = []
    for start in range(0, n, batch):
        pixels = images(np.arange(start, min(start + batch, n)))
        arrays = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        made.append(embed_images(pipe, [Image.fromarray(each) for each in arrays]).float().cpu())
    return torch.cat(made)


def denoiser_arguments(
    pipe: Any, captions: CaptionStates, embeddings: Tensor | None, noise: Tensor | None
) -> dict[str, Any]:
    """Keyword arguments of the denoiser for captions of B images; `embeddings` [B, D], zeros where one has none."""
    arguments: dict[str, Any] = {"encoder_hidden_states": captions.states}
    if type(pipe).__name__ == SDXL:
        assert captions.pooled is not None
        side = image_size_of(pipe)
        sizes = torch.tensor([[side, side, 0, 0, side, side]], device=captions.states.device, dtype=torch.float32)
        arguments["added_cond_kwargs"] = {
            "text_embeds": captions.pooled,
            "time_ids": sizes.expand(len(captions.pooled), -1),
        }
    if embeddings is not None:
        assert noise is not None
        levels = torch.zeros(len(embeddings), dtype=torch.long, device=embeddings.device)  # the least, as in synthesis
        made = noised_embedding(embeddings, levels, noise, pipe.image_normalizer, pipe.image_noising_scheduler)
        arguments["class_labels"] = made.masked_fill((embeddings == 0).all(dim=1, keepdim=True), 0)
    return arguments
