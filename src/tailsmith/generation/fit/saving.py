"""A fitted pipeline onto disk, so that a folder with an index is a whole one, whenever the process ends."""

import json
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from tailsmith.files import write_atomically, write_json
from tailsmith.generation.generator import no_loading_bars
from tailsmith.generation.pipeline_folder import INDEX


def save_pipeline(pipe: Any, out: Path, *, scratch: Path) -> None:
    """What pipe.save_pretrained writes, each file whole or absent and the index last.

    `scratch`: a folder of ours on the same disk, emptied before and removed afterwards.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    with no_loading_bars():
        for name, part in pipe.components.items():
            part.save_pretrained(scratch / name)
    for path in sorted(path for path in scratch.rglob("*") if path.is_file()):
        write_atomically(out / path.relative_to(scratch), partial(os.replace, path))
    write_json(out / INDEX, json.loads(pipe.to_json_string()))
    shutil.rmtree(scratch)
