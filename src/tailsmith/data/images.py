"""A dataset in a view, as batches of uint8 tensors of one size: the test view, or training views made by workers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from tailsmith.data.dataset import Dataset
from tailsmith.data.view_workers import ViewWorkers
from tailsmith.data.views import PerImage
from tailsmith.errors import UserError

Rows = npt.NDArray[np.integer] | torch.Tensor | Sequence[int] | slice

CACHE_BUDGET = 2 * 1024**3  # bytes


class Images:
    """A dataset in a view: batches uint8 [n, 3, size, size], on the CPU, decoded when asked for.

    `images[rows]` is the test view: resized and cropped, and kept once decoded where all fit the budget. With `views`
    a training view is made of each image by itself, anew for every seed, in processes of its own; without, training
    takes the test view and augments the batch.
    """

    def __init__(
        self,
        dataset: Dataset,
        size: int,
        views: PerImage | None = None,
        *,
        workers: int | None = None,  # of `views`; None = a process per core
        cache_budget: int = CACHE_BUDGET,
    ) -> None:
        if size < 1:
            raise UserError(f"size should be a positive number of pixels, got {size}")
        self.dataset = dataset
        self.size = size
        n = len(dataset)
        cached = views is None and n * 3 * size**2 <= cache_budget
        self._cache = torch.empty(n, 3, size, size, dtype=torch.uint8) if cached else None
        self._present = np.zeros(n, dtype=bool)
        self._pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))  # Pillow lets go of Python's lock
        self._workers = None if views is None else ViewWorkers(dataset, views, size, workers)

    @property
    def per_image(self) -> bool:
        """Whether training views are made of each image by itself, with a seed for each."""
        return self._workers is not None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, rows: Rows) -> torch.Tensor:
        return self.ahead(rows)()

    def ahead(self, rows: Rows, seeds: npt.NDArray[np.uint64] | None = None) -> Callable[[], torch.Tensor]:
        """Begin with a batch; the answer waits for it when called. `seeds` [n] ask for training views."""
        wanted = np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows, dtype=np.int64)
        wanted = np.arange(len(self))[wanted]  # negative rows count from the end
        if seeds is not None and self._workers is not None:
            return self._workers.begin(wanted, seeds)
        missing = wanted if self._cache is None else np.unique(wanted[~self._present[wanted]])
        pending = [self._pool.submit(self._decode_one, row) for row in missing.tolist()]
        return lambda: self._taken(wanted, missing, pending)

    def close(self) -> None:
        """End the processes that make training views."""
        if self._workers is not None:
            self._workers.close()

    def _taken(
        self, wanted: npt.NDArray[np.int64], missing: npt.NDArray[np.int64], pending: list[Future[torch.Tensor]]
    ) -> torch.Tensor:
        decoded = torch.empty(len(missing), 3, self.size, self.size, dtype=torch.uint8)
        for place, each in enumerate(pending):
            decoded[place] = each.result()
        if self._cache is None:
            return decoded
        if len(missing):
            self._cache[torch.from_numpy(missing)] = decoded
            self._present[missing] = True
        return self._cache[torch.from_numpy(wanted)]

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
