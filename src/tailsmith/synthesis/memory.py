"""Batches that fit: halved where memory runs out, and no larger ever after."""

import gc
import logging
from collections.abc import Callable, Iterator
from textwrap import shorten
from typing import TypeVar

from tailsmith.devices import empty_cache, is_out_of_memory
from tailsmith.errors import UserError

log = logging.getLogger(__name__)
Result = TypeVar("Result")


class BatchSize:
    """How many images fit at once, as far as is known: starts at what was asked for."""

    def __init__(self, size: int) -> None:
        self.size = size

    def over(self, n: int, make: Callable[[slice], Result], free: Callable[[], None]) -> Iterator[tuple[slice, Result]]:
        """Call `make` on consecutive slices of n images, on fewer at a time where memory runs out.

        `free` gives back what a failed call may have left behind. Raises ValueError where one image is too many.
        """
        start = 0
        while start < n:
            rows = slice(start, min(start + self.size, n))
            try:
                made = make(rows)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if rows.stop - rows.start == 1:
                    reason = shorten(str(error) or type(error).__name__, 160, placeholder=" ...")
                    raise UserError(f"not enough memory for one image ({reason}); {REMEDIES}") from error
                self.size = -(-(rows.stop - rows.start) // 2)
                log.warning("out of memory; going on with %d images at a time", self.size)
            else:
                yield rows, made
                start = rows.stop
                continue
            free()  # after the except block: until then the error holds the failed call's tensors
            gc.collect()
            empty_cache()


REMEDIES = (
    "load the generator in half precision (dtype=torch.float16 or bfloat16; --dtype fp16 or bf16) or call "
    "pipe.enable_model_cpu_offload(); with feedback, differentiating through the decoder only takes less"
)
