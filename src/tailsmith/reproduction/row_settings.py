"""What a row of a table is trained with: its world's settings, with all that the row changes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tailsmith.classification.config import TrainConfig
from tailsmith.reproduction.driver import seeded
from tailsmith.reproduction.rows import Row
from tailsmith.reproduction.worlds import Scale
from tailsmith.runs.config import RunConfig, synthesis_of
from tailsmith.settings import changed, own_settings, sha256_of, to_dict


@dataclass(frozen=True)
class RowSettings:
    """`config` is a run's, with the row's set by the name that it lies under; `training` is the row's own."""

    config: RunConfig
    training: TrainConfig
    set_name: str  # "" without one

    @staticmethod
    def of(row: Row, benchmark: str, scale: Scale, seed: int) -> RowSettings:
        """A set of another target than the world's lies beside the world's own."""
        config = seeded(scale.world(benchmark), seed)
        if not row.stage_two:
            config = replace(config, mixed=replace(config.mixed, stage_two=None))
        name = "" if row.set is None else row.set if row.target is None else f"{row.set}.{row.target}"
        if row.set is not None and name != row.set:
            config = replace(config, sets={**config.sets, name: to_dict(synthesis_of(config, row.set))})
        trained = {part: changed(getattr(config, part), row.training, row.label) for part in ("real", "mixed")}
        config = replace(config, target=scale.target(row.target, config), **trained)
        training = config.real if row.set is None else config.mixed
        if row.method is not None:
            training = replace(training, method=scale.method(row.method))
        return RowSettings(config, training, name)

    def sha256(self) -> str:
        """Of all settings that the row's numbers follow from, but the data; its first 16 digits."""
        config = self.config
        settings = {
            "training": own_settings(self.training),
            "target": config.target,
            "per": config.per,
            "seed": self.training.seed,
        }
        if self.set_name:
            settings |= {"synthesis": own_settings(synthesis_of(config, self.set_name)), "generator": config.generator}
        return sha256_of(settings)[:16]
