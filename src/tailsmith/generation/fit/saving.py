"""A fitted pipeline onto disk, so that a folder with an index is a whole one, whenever the process ends."""

import json
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from tailsmith.errors import UserError
from tailsmith.files import write_atomically, write_json
from tailsmith.generation.generator import no_loading_bars
from tailsmith.generation.pipeline_folder import INDEX


def check_space(out: Path, parameters: int, trained: int) -> None:
    """ValueError where a pipeline of so many parameters and the checkpoints of its training won't fit on the disk."""
    needed = 4 * (parameters + 6 * trained)  # a checkpoint: weights, two moments; its successor is written beside it
    out.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out).free
    if free < needed:
        raise UserError(
            f"{out} has {free / 1e9:.1f} GB free, and the pipeline and its checkpoints take up to {needed / 1e9:.1f} "
            "GB; make space or use another --out"
        )


def save_pipeline(pipe: Any, out: Path, *, scratch: Path) -> None:
    """What pipe.save_pretrained writes, each file whole or absent and the index last.

    `scratch`: a folder of ours on the same disk, emptied before and removed afterwards.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    with no_loading_bars():
        for name, part in pipe.components.items():
            if part is not None:  # as a safety checker that was left out
                part.save_pretrained(scratch / name)
    for path in sorted(path for path in scratch.rglob("*") if path.is_file()):
        write_atomically(out / path.relative_to(scratch), partial(os.replace, path))
    write_json(out / INDEX, json.loads(pipe.to_json_string()))
    shutil.rmtree(scratch)
