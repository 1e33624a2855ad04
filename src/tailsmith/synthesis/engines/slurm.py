"""Workers that Slurm runs: an array of jobs, submitted by submitit, which share the shards by claims.

A job that is preempted, or runs into its time limit, is queued again and goes on. The plan, the real images and `out`
lie where every node reads and writes them by the same path.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from yaml import YAMLError

from tailsmith import devices
from tailsmith.errors import UserError
from tailsmith.synthesis.engines.config import Workers
from tailsmith.synthesis.engines.status import Reporter
from tailsmith.synthesis.engines.watching import Watcher
from tailsmith.synthesis.one_shard import Advance
from tailsmith.synthesis.rendering import RenderJob, render_job
from tailsmith.yaml_files import load_yaml

log = logging.getLogger(__name__)
LOOK_SECONDS = 5.0
LOGS = "slurm"  # folder of submitit's files, beside the shards


class Task:
    """What each job of the array does; as it was, again, where Slurm has preempted it."""

    def __call__(self, job: RenderJob, stalled_after: float) -> str:
        """Nothing, or what keeps the job from being done at all."""
        devices.use("auto")
        reporter = Reporter(job.out, "slurm", str(devices.chosen_device()), stalled_after)
        try:
            render_job(job, reporter.advance)
        except UserError as error:
            reporter.end(str(error))
            return str(error)
        except BaseException as error:
            reporter.end(f"{type(error).__name__}: {error}")
            raise
        reporter.end("finished")
        return ""

    def checkpoint(self, job: RenderJob, stalled_after: float) -> Any:
        """For submitit, which calls it before it queues the job again."""
        return import_module("submitit.helpers").DelayedSubmission(self, job, stalled_after)


def run_job(job: RenderJob, workers: Workers, advance: Advance) -> None:
    """Submit an array of jobs, and wait until the shards are there; interrupted, the jobs are cancelled.

    Raises ValueError where submitit or Slurm is missing, a job refuses, or all of them fail.
    """
    executor = _executor(job.out, workers.options)
    watcher = Watcher(job.out, advance)
    with executor.batch():
        jobs = [executor.submit(Task(), job, workers.stalled_after) for _ in range(workers.count)]
    log.warning("%d jobs submitted (%s ...); their logs are in %s", len(jobs), jobs[0].job_id, job.out / LOGS)
    waiting, failures = list(jobs), list[str]()
    try:
        while waiting:
            time.sleep(LOOK_SECONDS)
            watcher.look()
            for each in [one for one in waiting if one.done()]:
                waiting.remove(each)
                if (error := each.exception()) is not None:
                    failures.append(" ".join(str(error).split())[-300:])
                    log.warning("job %s failed; the others go on (%s)", each.job_id, each.paths.stderr)
                elif refusal := each.result():
                    raise UserError(refusal)
        watcher.look()
    finally:
        for each in waiting:
            each.cancel(check=False)
    if len(failures) == len(jobs):
        raise UserError(
            f"all {len(jobs)} jobs failed, the last with {failures[-1]!r}; nothing already written is lost: see "
            f"{job.out / LOGS}, and run the same command again"
        )


def _executor(out: Path, options: Mapping[str, str]) -> Any:
    try:
        submitit: Any = import_module("submitit")
    except ImportError as error:
        raise UserError("engine slurm needs submitit, which isn't installed; pip install 'tailsmith[slurm]'") from error
    try:
        values = {name: load_yaml(str(value)) for name, value in options.items()}  # 60 is a number
        executor = submitit.AutoExecutor(folder=out / LOGS, cluster=values.pop("cluster", "slurm"))
        executor.update_parameters(**{"name": "tailsmith", **values})
    except (RuntimeError, ValueError, NameError, TypeError, AssertionError, YAMLError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"Slurm can't be used with engine_options {dict(options)}: {reason}; on a machine of a Slurm cluster give "
            "what submitit's AutoExecutor takes, e.g. slurm_partition and timeout_min"
        ) from error
    return executor
