"""Images that a small classifier learns in a few steps."""

import numpy as np


def colours(counts: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noisy 8x8 images whose label is their strongest colour: uint8 [n, 3, 8, 8], labels [n]."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), counts)
    images = rng.integers(0, 200, (len(labels), 3, 8, 8))
    images[np.arange(len(labels)), labels] += 40
    return images.astype(np.uint8), labels
