"""Shards of a plan, rendered in turn with whoever else renders them; and a render job, which an engine can send."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tailsmith.classification.classifier import Classifier, load_classifier, on_accelerator
from tailsmith.data.dataset import Dataset
from tailsmith.data.manifest import read_manifest, write_manifest
from tailsmith.errors import UserError
from tailsmith.files import temporary_folder
from tailsmith.generation.generator import load_decoder
from tailsmith.guidance.class_gaussians import ClassGaussians
from tailsmith.guidance.criteria import criterion_of
from tailsmith.interruption import terminable
from tailsmith.synthesis.claims import claimed, in_turn
from tailsmith.synthesis.hardness import read_gaussians, write_gaussians
from tailsmith.synthesis.one_shard import Advance, Rendering
from tailsmith.synthesis.plan import Plan
from tailsmith.synthesis.plan_identity import said
from tailsmith.synthesis.provenance import check_finite, check_renderable, planned_pipe, really_by, warn_of_change
from tailsmith.synthesis.sets import keep_plan
from tailsmith.synthesis.shards import shard_path
from tailsmith.synthesis.storage import Storage
from tailsmith.synthesis.worker import Worker, conditioning_hashes


def worker_of(
    plan: Plan, dataset: Dataset, classifier: Any, pipe: Any, gaussians: ClassGaussians | None, batch_size: int
) -> Worker:
    """Who renders a plan in this process, with the plan's generator or the caller's `pipe`; ValueError for another."""
    check_renderable(plan)
    pipe = planned_pipe(plan, pipe)
    check_finite(pipe, classifier)
    decoder = load_decoder(
        plan.feedback.decoder if plan.has_feedback else "own",
        plan.meta["generator"],
        device=pipe._execution_device,  # under CPU offload pipe.device is where the weights wait
        dtype=pipe.dtype,
    )
    criteria = {} if gaussians is None else {"hardness": criterion_of("hardness", classifier, gaussians)}
    storage, guided_by = Storage.of(plan.meta["synthesis"]), said(plan.meta["synthesis"], "guided_by")
    return Worker(pipe, dataset.split("train"), classifier, criteria, batch_size, decoder, storage, guided_by)


def render(
    worker: Worker,
    plan: Plan,
    out: Path,
    shards: Sequence[int],
    advance: Advance,
    *,
    others: Advance = lambda images: None,
    finished: Callable[[], object] = lambda: None,
) -> None:
    """Render these shards but for those that get done meanwhile; those that another process renders are waited for.

    `advance` is called with how many more images there are, `others` with those that other processes made, `finished`
    when one is written. ValueError where the generator, the decoder or a conditioning image is not the planned one.
    """
    made_by = really_by(plan, worker.pipe, worker.classifier)
    keep_plan(out, plan)
    turns = in_turn(out, shards, lambda number: others(plan.shard_size(number)))
    with terminable(), closing(turns):  # lest a claim stays behind
        for number in turns:
            warn_of_change(worker.pipe)
            if Rendering(worker, plan, number, out, made_by).render(advance):
                finished()


@dataclass(frozen=True)
class RenderJob:
    """Shards of a plan to be rendered, as paths and hashes.

    A worker that finds another plan or classifier refuses; generator, decoder and conditioning images are held to the
    hashes in the plan.
    """

    out: Path
    shards: tuple[int, ...]
    plan: Path
    plan_identity: str
    conditioning: Path  # a manifest of the real images that the requests are conditioned on
    classifier: Path | None  # a saved classifier's folder; None where nothing guides
    classifier_sha256: str | None
    gaussians: Path | None  # of its features, where hardness is a criterion
    batch_size: int


@contextmanager
def written_job(
    plan: Plan,
    dataset: Dataset,
    out: Path,
    shards: Sequence[int],
    classifier: Classifier | None,
    gaussians: ClassGaussians | None,
    batch_size: int,
) -> Iterator[RenderJob]:
    """A job, whose files lie in a hidden folder of `out` for as long as it is worked on."""
    with temporary_folder(out, "job") as folder:
        files = folder.absolute()
        job = RenderJob(
            out=out.absolute(),
            shards=tuple(shards),
            plan=files / "plan.parquet",
            plan_identity=plan.identity,
            conditioning=files / "conditioning.parquet",
            classifier=None if classifier is None else files / "classifier",
            classifier_sha256=None if classifier is None else classifier.sha256(),
            gaussians=None if gaussians is None else files / "gaussians.safetensors",
            batch_size=batch_size,
        )
        plan.write(job.plan)
        conditioning = dataset.table["image_id"].isin(conditioning_hashes(plan.table).keys()).to_numpy()
        write_manifest(dataset.select(conditioning), job.conditioning)
        if classifier is not None and job.classifier is not None:
            classifier.save(job.classifier)
        if gaussians is not None and job.gaussians is not None:
            write_gaussians(gaussians, job.gaussians, {"classifier_sha256": str(job.classifier_sha256)})
        yield job


def render_job(job: RenderJob, advance: Advance, *, finished: Callable[[], object] = lambda: None) -> None:
    """Render a job's shards in this process; ValueError where its files are not what it was made of."""
    worker, plan = opened(job)
    first = random.randrange(len(job.shards))  # many that begin at the same shard would be in each other's way
    shards = [*job.shards[first:], *job.shards[:first]]
    render(worker, plan, job.out, shards, advance, finished=finished)


def render_once(worker: Worker, plan: Plan, made_by: dict[str, str], out: Path, number: int, advance: Advance) -> bool:
    """One try at one shard; whether it is there now. False where another process renders it, or a request failed.

    `made_by` as `provenance.really_by` has it.
    """
    with claimed(out, number) as mine:
        return mine and (
            shard_path(out, number).exists() or Rendering(worker, plan, number, out, made_by).render(advance)
        )


def opened(job: RenderJob) -> tuple[Worker, Plan]:
    """Who renders a job in this process, and its plan; ValueError where its files are not what it was made of."""
    plan = Plan.read(job.plan)
    if plan.identity != job.plan_identity:
        raise UserError(f"{job.plan} is not the plan that this job is of; make the job again")
    classifier = on_accelerator(load_classifier(job.classifier)) if job.classifier is not None else None
    if classifier is not None and classifier.sha256() != job.classifier_sha256:
        raise UserError(f"{job.classifier} is not the classifier that this job is of; make the job again")
    gaussians = None
    if job.gaussians is not None:
        gaussians = read_gaussians(job.gaussians, {"classifier_sha256": str(job.classifier_sha256)})
        if gaussians is None:
            raise UserError(f"{job.gaussians} holds no class Gaussians of this job's classifier; make the job again")
    return worker_of(plan, read_manifest(job.conditioning), classifier, None, gaussians, job.batch_size), plan
