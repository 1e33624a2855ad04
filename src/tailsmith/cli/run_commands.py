"""One function per command that does a whole experiment: a run, its report, a reproduction, a grid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tailsmith.cli.options import OfPaper, Reading
from tailsmith.cli.synthesize_command import said_of_given_up
from tailsmith.cli.text import arms_text
from tailsmith.errors import UserError
from tailsmith.runs.config import RunConfig, sets_of
from tailsmith.studies.grid.config import GridConfig

_READING, _OF_PAPER = Reading(), OfPaper()


def demo(
    *,
    out: Path = Path("runs/demo"),  # the run directory
    task: str = "fashion-lt",  # fashion-lt | fashion-groups
    write_data: Path | None = None,  # only write the task's images as an ordinary folder here
    device: str = "auto",  # cpu | cuda | cuda:1 | mps | xpu; auto = the accelerator, where there is one
    command: str = "tailsmith demo",
) -> int:
    """Run the whole recipe on the embedded photographs: up to eight minutes on two cores, no download."""
    from tailsmith.data.sources.embedded import TASKS, load_embedded

    if task not in TASKS:
        raise UserError(f"task should be one of {', '.join(TASKS)}, got {task!r}")
    if write_data is not None:
        from tailsmith.data.writers import write_image_folder
        from tailsmith.runs.outputs import check_folder

        check_folder(write_data)
        dataset = load_embedded(task)
        write_image_folder(dataset, write_data)
        print(f"{task}: {len(dataset):,} images in {write_data}/SPLIT/CLASS/*.png")
        print(f"{write_data}/metadata.csv has a row per image: path, label, attribute, split.")
        print(f"Look at it with: tailsmith inspect {write_data}")
        return 0
    from tailsmith.experiment import demo_config

    print(f"Embedded task {task}: train, plan, synthesize, retrain, evaluate. Up to eight minutes on two cores.")
    return run(demo_config(task), out=out, device=device, command=command)


def run(
    config: RunConfig,
    *,
    out: Path,  # the run directory
    recipe: str | None = None,  # a published benchmark and its settings; --data is then the root of its images
    device: str = "auto",  # cpu | cuda | cuda:1 | mps | xpu; auto = the accelerator, where there is one
    command: str = "tailsmith run",
) -> int:
    """The whole recipe: train, plan, synthesize, retrain, evaluate, report; again, it goes on."""
    from tailsmith import devices, experiment
    from tailsmith.data.sources.recipes import data_of
    from tailsmith.runs.directory import RunDirectory
    from tailsmith.runs.report import arm_tables, verdict
    from tailsmith.synthesis.tries import given_up

    devices.use(device)
    config = replace(config, data=data_of(recipe, config.data))
    report_path = experiment.run(config, out, command)
    directory = RunDirectory(out)
    print(arms_text(arm_tables(directory, config)))
    print(f"\n{verdict(directory, config)}\nReport: {report_path}")
    sets = {name: directory.synthetic_set(name) for name in sets_of(config)}
    made = {name: each.results() for name, each in sets.items() if each.folder.is_dir()}
    return said_of_given_up({f"{name} {at}": why for name, each in made.items() for at, why in given_up(each).items()})


def report(
    directory: Path,  # a run directory
    *,
    data: str | None = None,  # its data, where they lie now: checks them and takes new pictures; not needed
) -> None:
    """Render the report of a run directory again, from what lies in it."""
    from tailsmith.experiment import report_run
    from tailsmith.runs.outputs import check_folder

    check_folder(directory)
    print(f"Report: {report_run(directory, data)}")


def reproduce(
    experiment: str,  # table-1 ... table-7, figure-5 ... figure-15, gap, pool and others; an unknown one lists them
    *,
    out: Path,  # folder for the run directories
    results: Path,  # JSON file for the numbers
    seeds: tuple[int, ...] = (0, 1, 2),  # of data, classifiers and synthesis together
    paper: OfPaper = _OF_PAPER,
    device: str = "auto",  # cpu | cuda | cuda:1 | mps | xpu; auto = the accelerator, where there is one
    command: str = "tailsmith reproduce",
) -> None:
    """Repeat the paper's tables and figures, or experiments of our own, over seeds; again, it goes on."""
    from tailsmith import devices
    from tailsmith.reproduction.named import Reproduction, experiment_of
    from tailsmith.reproduction.worlds import Scale
    from tailsmith.runs.outputs import check_folder, check_json_file

    asked = Reproduction(out, results, seeds, Scale(paper.scale, paper.data), command, paper.rows)
    run_experiment = experiment_of(experiment, asked.scale, asked.rows)
    if not seeds:
        raise UserError("reproduce needs at least one seed, got none; give --seeds [0]")
    devices.use(device)
    check_folder(out)
    check_json_file(results, ("command", "rows"), "--results")
    print(run_experiment(asked))
    print(f"Results: {results}")


def grid(
    data: str,  # an image folder, a CSV or Parquet file, fashion-lt or fashion-groups
    config: GridConfig,
    *,
    out: Path,  # folder for the pictures, the page with sliders, and grid.json
    classifier: Path | None = None,  # folder of the classifier that guides and judges; always needed
    generator: str = "mini-unclip",  # a preset, a folder, or a hub id
    device: str = "auto",  # cpu | cuda | cuda:1 | mps | xpu; auto = the accelerator, where there is one
    reading: Reading = _READING,
    command: str = "tailsmith grid",
) -> None:
    """Draw what guidance, feedback, dropout and conditioning change, all else equal; again, it goes on."""
    if classifier is None:
        raise UserError(f"grid needs a classifier: run `tailsmith train {data} --out DIR`, then add --classifier DIR")
    from tailsmith import devices
    from tailsmith.classification.classifier import load_classifier, on_accelerator
    from tailsmith.runs.outputs import check_folder, check_json_file
    from tailsmith.studies.grid.draw import draw_grids

    devices.use(device)
    devices.chosen_dtype(config.synthesis.dtype)
    check_folder(out, data)
    check_json_file(out / "grid.json", ("axes", "cells"), "--out")
    judge = on_accelerator(load_classifier(classifier))
    dataset = reading.load(data)
    drawn = draw_grids(dataset, judge, out, config, generator=generator, command=command)
    print(*drawn.figures, drawn.cells, drawn.page, sep="\n")
