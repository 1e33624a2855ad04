"""A synthetic set, with or without the real images, as a folder that others read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tailsmith.data.dataset import SPLITS, Dataset
from tailsmith.errors import UserError, did_you_mean
from tailsmith.exporting.card import card
from tailsmith.exporting.examples import Example, Export
from tailsmith.exporting.formats import FORMATS, write_names
from tailsmith.files import temporary_folder, write_text
from tailsmith.terminal import progress_bar

README = "README.md"


def export_set(samples: Path, out: Path, format_name: str = "parquet", real: Dataset | None = None) -> Export:
    """Write the images of a folder of shards, and those of `real`, into a new folder `out`; it is whole or not there.

    Raises
    ------
    ValueError
        For an unknown format, a folder that isn't empty, half of a plan, real images of other classes, and shards that
        are not what was written.
    """
    if format_name not in FORMATS:
        raise UserError(
            f"format should be one of {', '.join(FORMATS)}, got {format_name!r}{did_you_mean(format_name, FORMATS)}"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not an empty folder; choose a new one, or empty it")
    export = Export(samples, real)
    with temporary_folder(out.parent, out.name) as folder:
        with progress_bar(total=len(export), desc=f"export {out.name}", unit="image") as bar:

            def counted(examples: Iterator[Example]) -> Iterator[Example]:
                for each in examples:
                    yield each
                    bar.update(1)

            for split in SPLITS:
                if count := export.count(split=split):
                    FORMATS[format_name](export, folder, split, counted(export.examples(split)), count)
        write_names(export, folder)
        write_text(folder / README, card(export))
        if out.exists():
            out.rmdir()
        folder.rename(out)
    return export
