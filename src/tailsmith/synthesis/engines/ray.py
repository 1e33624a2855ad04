"""Workers that Ray places: actors on one machine or many, which are handed a shard at a time.

The plan, the real images and `out` lie where every node reads and writes them by the same path.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from tailsmith import devices
from tailsmith.errors import UserError
from tailsmith.synthesis.engines.config import Workers
from tailsmith.synthesis.engines.status import Reporter
from tailsmith.synthesis.engines.watching import Watcher
from tailsmith.synthesis.one_shard import Advance
from tailsmith.synthesis.provenance import really_by
from tailsmith.synthesis.rendering import RenderJob, opened, render_once
from tailsmith.synthesis.sets import keep_plan

log = logging.getLogger(__name__)
PER_WORKER = {"num_cpus": float, "num_gpus": float}  # of the options; the others are ray.init's
RESTARTS = -1  # without end: a spot machine may go at any time, and the driver sees whether anything is made
RETRIES = 3  # of one hand-out to an actor that dies; afterwards another actor has its turn
FUTILE = 6  # hand-outs per worker in a row that end in a dead worker, with nothing made in between
LOOK_SECONDS = 5.0
PATIENCE_SECONDS = 20.0  # for workers to say goodbye


class Renderer:
    """An actor: it opens the job once, and renders what it is handed."""

    def __init__(self, job: RenderJob, stalled_after: float) -> None:
        devices.use("auto")
        self.reporter = Reporter(job.out, "ray", str(devices.chosen_device()), stalled_after)
        self.job, self.refusal = job, ""
        try:
            self.worker, self.plan = opened(job)
            self.made_by = really_by(self.plan, self.worker.pipe, self.worker.classifier)
            keep_plan(job.out, self.plan)
        except UserError as error:  # to be said once, by the driver; Ray would start the actor again
            self.refusal = str(error)

    def render(self, number: int) -> tuple[bool, str]:
        """Whether the shard is there now, and what keeps this job from being done at all."""
        if self.refusal:
            return False, self.refusal
        try:
            return render_once(self.worker, self.plan, self.made_by, self.job.out, number, self.reporter.advance), ""
        except UserError as error:
            return False, str(error)
        finally:
            self.reporter.idle()

    def end(self, how: str) -> None:
        self.reporter.end(how)


def run_job(job: RenderJob, workers: Workers, advance: Advance) -> None:
    """Have Ray actors render a job, as many at once as there is room for.

    Raises ValueError where Ray is missing, a worker refuses, or workers die again and again.
    """
    with _cluster(workers.options) as ray:
        actor = ray.remote(max_restarts=RESTARTS, max_task_retries=RETRIES, **_resources(ray, workers))(Renderer)
        actors = [actor.remote(job, workers.stalled_after) for _ in range(workers.count)]
        how = "stopped"
        try:
            _hand_out(ray, job, actors, advance)
            how = "finished"
        finally:
            ray.wait([each.end.remote(how) for each in actors], num_returns=len(actors), timeout=PATIENCE_SECONDS)
            for each in actors:
                ray.kill(each)


def _hand_out(ray: Any, job: RenderJob, actors: list[Any], advance: Advance) -> None:
    watcher, sizes = Watcher(job.out, advance), len(actors)
    waiting, futile = deque(job.shards), 0
    idle = deque(actors)
    busy: dict[Any, tuple[int, Any]] = {}
    while waiting or busy:
        while waiting and idle:
            number, actor = waiting.popleft(), idle.popleft()
            busy[actor.render.remote(number)] = (number, actor)
        done, _ = ray.wait(list(busy), num_returns=1, timeout=LOOK_SECONDS)
        watcher.look()
        for each in done:
            number, actor = busy.pop(each)
            idle.append(actor)
            try:
                there, refusal = ray.get(each)
            except ray.exceptions.RayTaskError as error:  # raised in the worker: full disk, or failures in a row
                if isinstance(error.cause, OSError | MemoryError):
                    raise error.cause from error
                log.warning("a worker failed at shard %d, and gets no more: %s", number, error.cause)
                idle.remove(actor)
                waiting.append(number)
                if not idle and not busy:
                    raise RuntimeError(f"all workers failed:\n{error}") from error
                continue
            except ray.exceptions.RayError as error:  # the actor died, or its node
                futile += 1
                log.warning("a worker died while it rendered shard %d: %s", number, " ".join(str(error).split())[:200])
                if futile > FUTILE * sizes:
                    raise UserError(
                        "Ray's workers die again and again; nothing already written is lost: see Ray's logs, and run "
                        "the same command again, with fewer workers if memory was short"
                    ) from error
                waiting.append(number)
                continue
            if refusal:
                raise UserError(refusal)
            if there:
                futile = 0
            else:
                waiting.append(number)
                time.sleep(0 if len(waiting) > 1 else 1)  # another process has it, or its request is tried again
    watcher.look()


@contextmanager
def _cluster(options: Mapping[str, str]) -> Iterator[Any]:
    """Ray, connected: to the cluster that `address` names, else to one of this machine for as long as it is needed."""
    try:
        ray: Any = import_module("ray")
    except ImportError as error:
        raise UserError("engine ray needs Ray, which isn't installed; pip install 'tailsmith[ray]'") from error
    if ray.is_initialized():  # the caller's own
        yield ray
        return
    given = {name: value for name, value in options.items() if name not in PER_WORKER}
    try:
        ray.init(**{"log_to_driver": False, "include_dashboard": False, **given})
    except (ConnectionError, ValueError, RuntimeError, TypeError) as error:
        raise UserError(f"Ray can't be reached with engine_options {dict(options)}: {error}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _resources(ray: Any, workers: Workers) -> dict[str, float]:
    """Of one worker: a GPU where the cluster has any, else an equal share of its cores."""
    there = ray.cluster_resources()
    wanted = {"num_gpus": 1.0} if there.get("GPU") else {"num_cpus": max(1.0, there.get("CPU", 1.0) // workers.count)}
    for name, kind in PER_WORKER.items():
        if name in workers.options:
            try:
                wanted[name] = kind(workers.options[name])
            except ValueError as error:
                raise UserError(f"engine_options.{name} should be a number, got {workers.options[name]!r}") from error
    most = min((there.get(name[4:].upper().rstrip("S"), 0) // need for name, need in wanted.items() if need), default=1)
    if most < 1:
        raise UserError(f"no node of the Ray cluster has room for a worker with {wanted}; it has {dict(there)}")
    if most < workers.count:
        log.warning("the Ray cluster has room for %d of %d workers; the others wait", most, workers.count)
    return wanted
