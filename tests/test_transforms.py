"""Batched augmentation, against torchvision and slow loops."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torchvision.transforms import functional as torchvision_functional

from tailsmith.data import transforms
from tailsmith.data.transforms import AUGMENTATIONS, Augmentation, augment_batch, augmentation


def batch(n: int = 8, height: int = 32, width: int = 32) -> torch.Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(5))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_no_strength_is_the_identity() -> None:
    images = batch()
    assert torch.equal(augment_batch(images, generator(), AUGMENTATIONS["none"]), images)


BATCHED = [name for name, each in AUGMENTATIONS.items() if isinstance(each, Augmentation)]


@pytest.mark.parametrize("name", [name for name in BATCHED if name != "none"])
def test_presets_keep_shape_and_range_change_images_and_follow_the_generator(name: str) -> None:
    images = batch(6, 40, 24)
    original = images.clone()
    once = AUGMENTATIONS[name](images, generator(1))
    assert once.shape == images.shape
    assert once.min() >= 0
    assert once.max() <= 1
    assert torch.equal(images, original)
    assert torch.equal(once, AUGMENTATIONS[name](images, generator(1)))
    assert not torch.equal(once, AUGMENTATIONS[name](images, generator(2)))
    assert ((once - images).abs().amax((1, 2, 3)) > 0.01).float().mean() > 0.6


def test_every_image_has_its_own_draws() -> None:
    same = batch(1).expand(16, -1, -1, -1)
    out = AUGMENTATIONS["crop-flip-colour"](same, generator())
    assert len({each.numpy().tobytes() for each in out}) > 12


def test_one_image_and_no_image() -> None:
    assert AUGMENTATIONS["paper"](batch(1, 1, 1), generator()).shape == (1, 3, 1, 1)
    assert AUGMENTATIONS["paper"](batch(0), generator()).shape == (0, 3, 32, 32)


def test_flip_alone_is_the_mirror_image_or_the_image() -> None:
    images = batch(64)
    out = augment_batch(images, generator(), Augmentation(flip=0.5))
    flipped = torch.isclose(out, images.flip(3), atol=1e-4).all((1, 2, 3))
    kept = torch.isclose(out, images, atol=1e-4).all((1, 2, 3))
    assert (flipped ^ kept).all()
    assert 16 < flipped.sum() < 48


def test_shift_alone_moves_by_whole_pixels_and_repeats_the_border() -> None:
    images = batch(12)
    padded = torch.nn.functional.pad(images, (4, 4, 4, 4), mode="replicate")
    out = augment_batch(images, generator(), Augmentation(shift=0.125))
    crops = {(y, x): padded[:, :, y : y + 32, x : x + 32] for y in range(9) for x in range(9)}
    matches = torch.stack([(out - crop).abs().amax((1, 2, 3)) < 1e-4 for crop in crops.values()])
    assert (matches.sum(0) == 1).all()
    assert matches.any(1).sum() > 6


def test_zoom_makes_a_centred_disc_larger_or_smaller() -> None:
    y, x = torch.meshgrid(torch.arange(64) - 31.5, torch.arange(64) - 31.5, indexing="ij")
    disc = (x**2 + y**2 < 16**2).float().expand(32, 3, -1, -1)
    area = augment_batch(disc, generator(), Augmentation(zoom=0.3)).mean((1, 2, 3)) / disc[0].mean()
    bound = torch.exp(torch.tensor(0.6)).item()
    assert area.max() > 1.2
    assert area.min() < 0.85
    assert area.max() < bound + 0.02
    assert area.min() > 1 / bound - 0.02


@pytest.mark.parametrize(
    ("strengths", "adjust"),
    [
        (Augmentation(brightness=0.4), torchvision_functional.adjust_brightness),
        (Augmentation(contrast=0.4), torchvision_functional.adjust_contrast),
        (Augmentation(saturation=0.4), torchvision_functional.adjust_saturation),
    ],
)
def test_colour_steps_agree_with_torchvision(
    strengths: Augmentation, adjust: Callable[[torch.Tensor, float], torch.Tensor]
) -> None:
    images = batch(5)
    out = augment_batch(images, generator(3), strengths)
    factors = 1 + 0.4 * (2 * torch.rand(5, 1, generator=generator(3)) - 1)
    for image, factor, augmented in zip(images, factors, out, strict=True):
        torch.testing.assert_close(augmented, adjust(image, factor.item()), atol=2e-3, rtol=0)


def test_grayscale_agrees_with_torchvision_and_happens_as_often_as_asked() -> None:
    images = batch(200, 4, 4)
    out = augment_batch(images, generator(), Augmentation(grayscale=0.3))
    grey = torch.isclose(out, torchvision_functional.rgb_to_grayscale(images, 3), atol=2e-3).all((1, 2, 3))
    assert torch.equal(out[~grey], images[~grey])
    assert 40 < grey.sum() < 80


def test_blur_agrees_with_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    images = batch(4)
    monkeypatch.setattr(transforms, "_uniform", lambda images, columns, generator: torch.full((4, 1), 0.5))
    out = transforms.random_blur(images, generator(), 1.0)
    sigma = 0.1 + 0.75 * 0.9
    torch.testing.assert_close(out, torchvision_functional.gaussian_blur(images, [5, 5], [sigma, sigma]))


def test_augmentation_by_name() -> None:
    assert augmentation("crop-flip") is AUGMENTATIONS["crop-flip"]
    with pytest.raises(ValueError, match=r"should be one of none, crop-flip.*got 'cropflip'"):
        augmentation("cropflip")
