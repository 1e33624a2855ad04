"""Data, a synthetic set, or both, as a folder that others read."""

from __future__ import annotations

from collections.abc import Iterator
from glob import escape
from pathlib import Path

from tailsmith.data.dataset import SPLITS, Dataset
from tailsmith.errors import UserError, did_you_mean
from tailsmith.exporting.card import card
from tailsmith.exporting.examples import Example, Export
from tailsmith.exporting.formats import FORMATS, write_names
from tailsmith.exporting.fulfilled import Fulfilled
from tailsmith.exporting.tally import Tally
from tailsmith.files import remove_leftovers, temporary_folder, write_text
from tailsmith.synthesis.sets import PLAN
from tailsmith.terminal import progress_bar

README = "README.md"


def is_set(path: Path) -> bool:
    """Whether a folder is one of shards, with their plan."""
    return (path / PLAN).is_file()


def check_export(out: Path, format_name: str) -> None:
    """ValueError for an unknown format, and a folder that isn't empty."""
    if format_name not in FORMATS:
        raise UserError(
            f"format should be one of {', '.join(FORMATS)}, got {format_name!r}{did_you_mean(format_name, FORMATS)}"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not an empty folder; choose a new one, or empty it")


def export(
    out: Path, format_name: str = "parquet", *, samples: Path | None = None, data: Dataset | None = None
) -> Tally:
    """Write the images of a folder of shards, of `data`, or of both into a new folder `out`; it is whole or not there.

    Raises
    ------
    ValueError
        As `check_export`; for neither shards nor data, half of a plan, data of other classes or attributes, ids that
        both have, shards that are not what was written, and a synthetic image that can't say so inside its file.
    """
    check_export(out, format_name)
    if samples is None and data is None:
        raise UserError("there is nothing to export: give a folder of shards, data, or both")
    chosen, tally = Export(data, None if samples is None else Fulfilled(samples)), Tally()
    layout, out = FORMATS[format_name], out.absolute()
    remove_leftovers(out.parent, f".{escape(out.name[:40])}.*.tmp")
    with temporary_folder(out.parent, out.name) as folder:
        with progress_bar(total=sum(chosen.sizes.values()), desc=f"export {out.name}", unit="image") as bar:

            def counted(examples: Iterator[Example]) -> Iterator[Example]:
                for each in examples:
                    tally.add(each)
                    yield each
                    bar.update(1)

            for split in SPLITS:
                if split in chosen.sizes:
                    layout.write(chosen, folder, split, counted(chosen.examples(split)))
        write_names(chosen, folder)
        write_text(folder / README, card(chosen, tally, layout))
        if out.exists():
            out.rmdir()
        folder.rename(out)
    return tally
