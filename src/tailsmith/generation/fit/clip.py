"""Stage 1: CLIP text and image encoders, contrastive on captions; two views of an image are kept close as
well.

Captions alone would teach the image encoder to forget what they don't name (style, colour, pose), which web
captions do name now and then. The second term (as in SLIP, Mu et al. 2022) keeps it, so that a conditioning
image carries its style.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from tailsmith.generation.fit.captions import CaptionedImages
from tailsmith.generation.fit.halves import Losses
from tailsmith.generation.fit.stage import Draw
from tailsmith.randomness import noise_generator


def create_clip(tokenizer: CLIPTokenizer, *, image_size: int, width: int, embedding: int) -> CLIPModel:
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width * 3 // 4,
        intermediate_size=3 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=embedding,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=image_size,
        patch_size=max(8, image_size // 4 // 8 * 8),
        projection_dim=embedding,
    )
    return CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=embedding))


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """-> token ids [n, max_length], padded as diffusers' pipelines pad."""
    length = tokenizer.model_max_length
    encoded = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return torch.as_tensor(encoded.input_ids)


def image_embedding(clip: CLIPModel, images: torch.Tensor) -> torch.Tensor:
    """Images in [-1, 1] -> projected embeddings [B, D], unnormalised, as CLIPVisionModelWithProjection gives
    them.
    """
    pooled = clip.vision_model(pixel_values=images).pooler_output
    return torch.as_tensor(clip.visual_projection(pooled))


def text_embedding(clip: CLIPModel, tokens: torch.Tensor) -> torch.Tensor:
    pooled = clip.text_model(input_ids=tokens).pooler_output
    return torch.as_tensor(clip.text_projection(pooled))


@torch.no_grad()
def spread_embedding(clip: CLIPModel, embeddings: torch.Tensor, entries: int, seed: int) -> None:
    """Replace the projection of images by one to more entries, in all of which everything is said.

    What training says, it says along a few of the axes: dropping entries (section 3.3) would drop the style as a whole,
    or not at all. Principal components of `embeddings` [n, D], their spreads drawn together by a square root, are
    turned into `entries` dimensions by a random isometry. A large CLIP has many more entries than things to say.
    """
    variances, axes = torch.linalg.eigh(torch.cov(embeddings.double().T))  # [D], [D, D]
    generator = noise_generator(seed)
    isometry = torch.linalg.qr(torch.randn(entries, len(axes), generator=generator, dtype=torch.float64))[0]  # [E, D]
    scales = variances.clamp(min=1e-6 * float(variances.max())) ** -0.25
    mixed = isometry @ (scales[:, None] * axes.T) @ clip.visual_projection.weight.detach().cpu().double()
    projection = torch.nn.Linear(mixed.shape[1], entries, bias=False, device="meta").to_empty(device="cpu")
    projection.weight.copy_(mixed)
    clip.visual_projection = projection.to(clip.device)
    clip.config.vision_config.projection_dim = entries


def clip_loss(
    data: CaptionedImages, tokens: torch.Tensor, *, entry_dropout: float
) -> Callable[[CLIPModel, Draw], Losses]:
    """Contrastive loss between images and their captions (tokens [captions, length]), plus one between two
    shifted views of each image.

    Of each image's embedding up to `entry_dropout` of the entries are dropped, as sampling drops them (section 3.3):
    what it says is spread over them all, as in a large CLIP's, and the rest still says it.
    """

    def loss(model: CLIPModel, draw: Draw) -> Losses:
        pixels = data.images(draw.rows)
        numbers = data.draw_captions(draw.rows, draw.numpy)
        unique, index = np.unique(numbers, return_inverse=True)
        target = torch.from_numpy(index).to(pixels.device)  # [B] -> which unique caption
        views = [_shifted(pixels, draw.numpy) for _ in range(2)]
        embedded = image_embedding(model, torch.cat(views)).float()
        embedded = embedded * keep_entries(embedded.shape, entry_dropout, draw.torch).to(pixels.device)
        first, second = functional.normalize(embedded, dim=-1).chunk(2)
        text = functional.normalize(text_embedding(model, tokens[unique]).float(), dim=-1)
        scale = model.logit_scale.exp().clamp(max=50)
        logits = scale * first @ text.T  # [B, U]
        of_text = functional.one_hot(target, len(unique)).T.float()  # an image of the caption is a positive
        text_to_image = -(of_text * logits.T.log_softmax(dim=1)).sum(1) / of_text.sum(1)
        caption = 0.5 * (functional.cross_entropy(logits, target) + text_to_image.mean())
        instance = functional.cross_entropy(10.0 * first @ second.T, torch.arange(len(first), device=pixels.device))
        return {"loss": caption + 0.5 * instance, "caption": caption, "instance": instance}

    return loss


def keep_entries(shape: torch.Size, entry_dropout: float, generator: torch.Generator) -> torch.Tensor:
    """Which entries of embeddings [B, D] stay: each row loses a share between 0 and `entry_dropout`."""
    share = entry_dropout * torch.rand(shape[0], 1, generator=generator)
    return torch.rand(shape, generator=generator) >= share


def _shifted(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """The batch moved by up to a sixteenth of its width, edges replicated."""
    reach = max(1, images.shape[-1] // 16)
    dy, dx = (int(shift) for shift in rng.integers(0, 2 * reach + 1, size=2))
    padded = functional.pad(images, (reach, reach, reach, reach), mode="replicate")
    return padded[..., dy : dy + images.shape[-2], dx : dx + images.shape[-1]]
