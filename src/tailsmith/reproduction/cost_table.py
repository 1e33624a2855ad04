"""Table 4 of the paper: seconds per sample, one image at a time, without feedback and with it by each criterion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailsmith.experiment import train_arm
from tailsmith.files import write_json, write_text
from tailsmith.generation.generator import load_generator
from tailsmith.metrics.seeds import over_seeds
from tailsmith.reproduction.bench import Bench
from tailsmith.reproduction.worlds import Scale
from tailsmith.runs.arms import ARMS, GUIDE
from tailsmith.runs.config import synthesis_of
from tailsmith.runs.directory import environment
from tailsmith.synthesis.fulfilment import synthesize
from tailsmith.synthesis.planning import checked_settings
from tailsmith.synthesis.provenance import planned_by
from tailsmith.synthesis.requests import make_plan
from tailsmith.synthesis.shards import read_shards

ROWS: Mapping[str, tuple[str, float]] = {  # as the paper has it -> the set, and the paper's seconds on a V100
    "LDM": ("image_text", 3.819),
    "LDM-FG (Loss)": ("feedback_loss", 21.817),
    "LDM-FG (Hardness)": ("feedback_hardness", 21.937),
    "LDM-FG (Entropy)": ("feedback_entropy", 21.906),
}
IMAGES = {"tiny": 1, "embedded": 5, "full": 1}  # of each class


def reproduce_costs(out: Path, results: Path, seed: int, scale: Scale, command: str = "") -> Path:
    """Sample with each row's settings; the seconds are those that the shards keep of each image, without the first."""
    bench = Bench.open("imagenet-lt", scale, seed, out, load_generator, command)
    guide = train_arm(bench.world, ARMS[GUIDE])
    rows = [
        {"row": name, "seconds": [round(each, 4) for each in _seconds(bench, guide, of_set).tolist()], "paper": paper}
        for name, (of_set, paper) in ROWS.items()
    ]
    title = "Table 4: seconds per sample, one at a time"
    write_json(results, {"table": title, "scale": scale.name, "command": command, "rows": rows, **environment()})
    write_text(results.with_suffix(".md"), _markdown(title, rows))
    return results


def _seconds(bench: Bench, guide: Any, name: str) -> NDArray[np.float64]:
    world = bench.world
    settings = checked_settings(world.dataset, synthesis_of(bench.world.config, name), bench.world.config.generator)
    asked = guide if settings.feedback.scale else None
    meta = {"dataset": world.dataset.name, "per": "class", **planned_by(bench.world.config.generator, settings, asked)}
    wanted = np.full(len(world.dataset.class_names), IMAGES[bench.scale.name])
    plan = make_plan(world.dataset, wanted, settings, meta=meta)
    folder = world.directory.path / "timing" / name
    synthesize(plan, world.dataset, folder, classifier=guide, pipe=world.generator(), batch_size=1)
    seconds: NDArray[np.float64] = read_shards(folder, plan)["seconds"].to_numpy(np.float64)[1:]
    return seconds


def _markdown(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    plain = over_seeds(rows[0]["seconds"]).mean
    lines = [
        f"# {title}",
        "",
        "| row | seconds | times plain | the paper's seconds (V100) | times plain |",
        "|---" * 5 + "|",
    ]
    for row in rows:
        spread = over_seeds(row["seconds"])
        lines.append(
            f"| {row['row']} | {spread.mean:.3f} ± {spread.sd:.3f} | {spread.mean / plain:.2f} | {row['paper']} | "
            f"{row['paper'] / rows[0]['paper']:.2f} |"
        )
    return "\n".join(lines) + "\n"
