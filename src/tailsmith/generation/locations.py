"""Where a generator's weights are: a preset, a folder, PRESET=SOURCE or a hub id."""

import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from tailsmith.errors import UserError
from tailsmith.generation.pipeline_folder import index_path
from tailsmith.generation.presets import EMBEDDED, PRESETS

HUB_ID = re.compile(r"([\w-][\w.-]*/[\w.-]+)(?:@([\w.-]+))?")


@dataclass(frozen=True)
class Weights:
    """Where the weights of one repository are: a local folder, or the hub."""

    folder: Path | None
    hub_id: str = ""
    revision: str | None = None

    @property
    def source(self) -> str:
        return str(self.folder or self.hub_id)

    def __str__(self) -> str:
        return str(self.folder) if self.folder else f"{self.hub_id}@{self.revision or 'unpinned'}"


def find_weights(generator: str) -> Weights:
    """Of PRESET, FOLDER, OWNER/NAME[@REVISION] or PRESET=any of the latter two; ValueError for anything else."""
    name, _, own = generator.partition("=")
    if name not in PRESETS:
        own = generator
    elif not own:
        known = PRESETS[name]
        return Weights(None, known.source, known.revision) if known.source else Weights(_embedded_folder())
    folder = Path(own)
    if folder.exists():
        index_path(folder)
        return Weights(folder)
    hub = HUB_ID.fullmatch(own)
    if hub is None:
        raise UserError(
            f"generator {generator!r} is no preset ({', '.join(PRESETS)}), no folder here, and no hub id "
            "(owner/name); give one of these"
        )
    return Weights(None, hub[1], hub[2])


def _embedded_folder() -> Path:
    folder = Path(str(files("tailsmith").joinpath("assets", EMBEDDED)))  # assets is no package of its own
    if not (folder / "model_index.json").is_file():
        raise UserError(
            f"{EMBEDDED} is missing from this installation (expected in {folder}); install tailsmith again, or "
            "give another generator"
        )
    return folder
