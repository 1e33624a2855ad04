"""Who renders: how many workers, and who starts them. Nothing heavy is imported: help texts read this."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from tailsmith.errors import UserError, did_you_mean

ENGINES = ("local", "ray", "slurm")


@dataclass(frozen=True)
class Workers:
    """`count` processes that render one plan; which engine starts them changes no image."""

    count: int = 1
    engine: str = "local"  # local | ray | slurm
    # Of ray: what `ray.init` takes (address, namespace ...), and num_cpus and num_gpus of a worker. Of slurm: what
    # submitit's AutoExecutor takes (slurm_partition, timeout_min, mem_gb ...); cluster=local tries it without Slurm.
    options: Mapping[str, str] = field(default_factory=dict)
    stalled_after: float = 1800.0  # seconds without a new image, after which a worker counts as hung and is replaced

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UserError(f"workers should be at least 1, got {self.count}")
        if self.engine not in ENGINES:
            raise UserError(
                f"engine should be one of {', '.join(ENGINES)}, got {self.engine!r}{did_you_mean(self.engine, ENGINES)}"
            )
        if self.options and self.engine == "local":
            raise UserError("engine local has no engine_options; leave them out, or choose --engine ray or slurm")
        if not (math.isfinite(self.stalled_after) and self.stalled_after > 0):
            raise UserError(f"stalled_after should be a number of seconds above 0, got {self.stalled_after}")

    @property
    def in_this_process(self) -> bool:
        return self.engine == "local" and self.count == 1
