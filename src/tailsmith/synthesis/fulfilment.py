"""A plan fulfilled: its shards rendered, by this process or by several, and read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tailsmith.classification.classifier import WRAPPED, Classifier
from tailsmith.data.checks import class_difference
from tailsmith.data.dataset import Dataset
from tailsmith.errors import UserError
from tailsmith.synthesis.claims import clear_damaged
from tailsmith.synthesis.engines import local, ray, slurm
from tailsmith.synthesis.engines.config import Workers
from tailsmith.synthesis.hardness import FILE, planned_gaussians
from tailsmith.synthesis.one_shard import Advance
from tailsmith.synthesis.plan import Plan, check_shards
from tailsmith.synthesis.provenance import guide_hash
from tailsmith.synthesis.rendering import RenderJob, render, worker_of, written_job
from tailsmith.synthesis.sets import check_folder, keep_plan
from tailsmith.synthesis.shards import guides_of, read_shards, synthetic_dataset, unsound
from tailsmith.terminal import progress_bar

ENGINES: Mapping[str, Callable[[RenderJob, Workers, Advance], None]] = {
    "local": local.run_job,
    "ray": ray.run_job,
    "slurm": slurm.run_job,
}


def synthesize(
    plan: Plan,
    dataset: Dataset,
    out: str | Path,
    *,
    classifier: Any = None,
    pipe: Any = None,
    batch_size: int = 64,
    shards: list[int] | None = None,
    workers: int | Workers = 1,
) -> Dataset:
    """Fulfil a plan into `out/shard-*.parquet` and return the synthetic images; the same call resumes.

    `dataset` holds the conditioning images, `classifier` guides where the plan has feedback, `pipe` replaces the plan's
    generator (shards then say that its weights are unknown), `shards` limits this call, and what it returns, to some
    shards. `workers`: in this process if 1; else processes of their own with the plan's generator, as many local ones,
    one per accelerator or sharing the CPU's cores, where it is a number. A shard that isn't what was written is set
    aside and rendered again; one that another process renders is waited for. A request that fails a few times is given
    up: its row says why in column `error`, and what is returned lacks it. Raises ValueError for a plan that means
    nothing, where the classifier, the generator, the decoder or a conditioning image is not the planned one, and where
    `out` holds another plan's shards.
    """
    out = Path(out)
    plan.check()
    _check_match(plan, dataset, classifier)
    crew = Workers(workers) if isinstance(workers, int) else workers
    _check_workers(crew, classifier, pipe)
    plan = check_folder(out, plan)
    mine = plan.shards if shards is None else shards
    check_shards(mine, plan.shards)
    unfinished = unsound(out, plan, mine)
    clear_damaged(out, plan, unfinished)
    _check_guide(plan, out, [number for number in plan.shards if number not in set(unfinished)], classifier)
    if unfinished:
        total, missing = (sum(map(plan.shard_size, each)) for each in (mine, unfinished))
        gaussians = planned_gaussians(plan, dataset, classifier, out / FILE)
        with progress_bar(total=total, initial=total - missing, desc=f"synthesize {out.name}", unit="image") as bar:
            if crew.in_this_process:
                worker = worker_of(plan, dataset, classifier, pipe, gaussians, batch_size)
                render(worker, plan, out, unfinished, bar.update, others=bar.update)
            else:
                with written_job(plan, dataset, out, unfinished, classifier, gaussians, batch_size) as job:
                    ENGINES[crew.engine](job, crew, bar.update)
    else:
        keep_plan(out, plan)
    return synthetic_dataset(read_shards(out, plan, mine), dataset)


def _check_match(plan: Plan, dataset: Dataset, classifier: Any) -> None:
    expected = tuple(plan.meta["class_names"])
    for what, names in (
        ("dataset", dataset.class_names),
        ("classifier", getattr(classifier, "class_names", expected)),
    ):
        if tuple(names) != expected:
            raise UserError(
                f"the plan's classes are not the {what}'s: the {what} {class_difference(tuple(names), expected)}; "
                "make a new plan"
            )
    if classifier is None and plan.has_feedback:
        raise UserError("the plan has feedback; give the classifier that guides, or plan with feedback.scale=0")
    planned = plan.meta.get("classifier_sha256")
    if planned and isinstance(classifier, Classifier) and classifier.sha256() != planned:
        raise UserError("this classifier is not the one the plan was made for (its hash differs); make a new plan")


def _check_guide(plan: Plan, out: Path, finished: list[int], classifier: Any) -> None:
    """A plan that names no classifier may be rendered with any, but with one throughout."""
    if classifier is None or plan.meta.get("classifier_sha256"):
        return
    others = guides_of(out, plan, finished) - {guide_hash(classifier)}
    if others:
        raise UserError(
            f"{out} holds images that another classifier guided (its hash begins with {min(others)[:12]}); give that "
            "one, or use another folder. `tailsmith plan --classifier DIR` holds a plan to its classifier"
        )


def _check_workers(crew: Workers, classifier: Any, pipe: Any) -> None:
    if crew.in_this_process:
        return
    count = f"{crew.count} {crew.engine} worker{'s' if crew.count > 1 else ''}"
    if pipe is not None:
        raise UserError(f"{count} load the plan's generator themselves; leave `pipe` out, or workers=1")
    if not (classifier is None or (isinstance(classifier, Classifier) and classifier.backbone_name != WRAPPED)):
        raise UserError(
            f"{count} load the classifier from a folder, which can't be done with a module of your own; use "
            "workers=1, or one that tailsmith trained"
        )
