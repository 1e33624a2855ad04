"""Rows of a dataset as uint8 tensors of one size."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from tailsmith.data.dataset import Dataset

Rows = npt.NDArray[np.integer] | torch.Tensor | Sequence[int] | slice

CACHE_BUDGET = 2 * 1024**3  # bytes


class ImageArray:
    """`images[rows]` -> uint8 [n, 3, size, size]; decoded when asked for, kept when all fit the budget."""

    def __init__(self, dataset: Dataset, size: int, *, cache_budget: int = CACHE_BUDGET) -> None:
        if size < 1:
            raise ValueError(f"size should be a positive number of pixels, got {size}")
        self.dataset = dataset
        self.size = size
        n = len(dataset)
        cached = n * 3 * size**2 <= cache_budget
        self._cache = torch.empty(n, 3, size, size, dtype=torch.uint8) if cached else None
        self._present = np.zeros(n, dtype=bool)
        self._pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, rows: Rows) -> torch.Tensor:
        wanted = np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows, dtype=np.int64)
        wanted = np.arange(len(self))[wanted]  # negative rows count from the end
        if self._cache is None:
            return self._decode(wanted)
        missing = np.unique(wanted[~self._present[wanted]])
        if len(missing):
            self._cache[torch.from_numpy(missing)] = self._decode(missing)
            self._present[missing] = True
        return self._cache[torch.from_numpy(wanted)]

    def _decode(self, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        """rows [n] -> uint8 [n, 3, size, size]"""
        if not len(rows):
            return torch.empty(0, 3, self.size, self.size, dtype=torch.uint8)
        return torch.stack(list(self._pool.map(self._decode_one, rows.tolist())))

    def _decode_one(self, row: int) -> torch.Tensor:
        pixels = np.array(resize_and_crop(self.dataset.image(row), self.size))  # [size, size, 3]
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def resize_and_crop(image: Image.Image, size: int) -> Image.Image:
    """The short side resized to `size` (bilinear), then the central square; a fitting image is unchanged.

    What `classification.classifier.resize_and_crop` does to tensors, up to the rounding of pixels: guidance has to see
    what training saw. Bilinear, as torchvision's test view is by default (bicubic overshoots, and Pillow clips it after
    either pass: up to 9 grey levels from torch's, with no gradient where it is clipped).
    """
    width, height = image.size
    short = min(width, height)
    if short != size:
        scaled = (size * width // short, size * height // short)  # truncated, as torchvision and transformers do
        image = image.resize(scaled, Image.Resampling.BILINEAR)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))
