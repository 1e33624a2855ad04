"""Where a generator's weights are: a preset, a folder, PRESET=SOURCE or a hub id; and whether it knows the data."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from textwrap import shorten

from tailsmith.errors import UserError
from tailsmith.generation.pipeline_folder import fitted_classes, index_path, unknown_classes
from tailsmith.generation.presets import EMBEDDED, PRESETS

HUB_ID = re.compile(r"([\w-][\w.-]*/[\w.-]+)(?:@([\w.-]+))?")
WORDS = ("sd2.1-unclip", "sd1.5-ip-adapter", "sdxl")  # presets to try first


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


def generator_folder(generator: str) -> Path | None:
    """The local folder of a generator, None for one that lives on the hub; ValueError where it can be neither."""
    return find_weights(generator).folder


def located(generator: str) -> str:
    """The same generator, named so that it is found from any working directory: a relative folder becomes absolute."""
    if generator in PRESETS or generator_folder(generator) is None:
        return generator
    name, _, own = generator.partition("=")
    prefix, folder = (f"{name}=", own) if name in PRESETS and own else ("", generator)
    return prefix + os.path.abspath(folder)


def class_advice(generator: str, class_names: Sequence[str], display_names: Mapping[str, str]) -> str | None:
    """What to do where a generator lists the classes that it knows, and these are others; None where all is well.

    A class counts by its word in the prompt: `display_names` has those that differ from its name.
    """
    folder = generator_folder(generator)
    known = fitted_classes(folder) if folder else None
    unknown = unknown_classes(known, [display_names.get(name, name) for name in class_names]) if known else []
    if known is None or not unknown:
        return None
    more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
    return (
        f"generator {generator!r} knows nothing but {shorten(', '.join(known), 120, placeholder=' ...')}; the data has "
        f"{unknown[0]!r}{more}. Name a generator for this data: a preset that knows words ({', '.join(WORDS)}), a "
        "folder or a hub id with --generator, or train one with `tailsmith fit-generator`; a class that goes by "
        "another name there goes into synthesis.display_names"
    )


def _embedded_folder() -> Path:
    folder = Path(str(files("tailsmith").joinpath("assets", EMBEDDED)))  # assets is no package of its own
    if not (folder / "model_index.json").is_file():
        raise UserError(
            f"{EMBEDDED} is missing from this installation (expected in {folder}); install tailsmith again, or "
            "give another generator"
        )
    return folder
