"""Images that show nothing: what comes out where numbers overflow, or where a safety checker steps in."""

import numpy as np
import torch
from torch import Tensor

RETRIES = 3
LEVELS = 2  # of 255, by which a pixel of a constant image differs from its median colour
EQUAL = 0.999  # share of such pixels
SATURATED = 0.995  # share of pixels with every channel at 0 or 255
COLOURED = 0.01  # share of pixels at a saturated colour: neither black nor white


def is_black(images: Tensor) -> Tensor:
    """Which images [N, 3, H, W] in [0, 1] show nothing, [N] bool: not finite, constant or saturated.

    Constant: nearly every pixel has the same colour, but for rounding (a few hot pixels don't save an image).
    Saturated: nearly every pixel is at a corner of the colour cube, and not only at black and white: a drawing, a
    silhouette or a small product on a white background is a fair picture, while overflowing latents give blotches of
    pure colours.
    """
    finite = torch.isfinite(images).flatten(1).all(1)
    levels = (torch.nan_to_num(images.float()).clamp(0, 1) * 255).round()  # as they would be stored
    pixels = levels.flatten(2)  # [N, 3, H W]
    alike = ((pixels - pixels.median(2, keepdim=True).values).abs() <= LEVELS).all(1)
    constant = alike.float().mean(1) > EQUAL
    corners = ((pixels == 0) | (pixels == 255)).all(1)  # [N, H W]
    coloured = corners & (pixels.amin(1) != pixels.amax(1))
    saturated = (corners.float().mean(1) > SATURATED) & (coloured.float().mean(1) > COLOURED)
    return ~finite | constant | saturated


def retry_seed(noise_seed: int, attempt: int) -> int:
    """The noise seed of a request's n-th retry: the request alone determines its image."""
    state = np.random.SeedSequence([noise_seed, attempt]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))
