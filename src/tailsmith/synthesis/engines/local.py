"""The first engine: worker processes on this machine, which share a job's shards by claims; one per accelerator."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch

from tailsmith import devices
from tailsmith.errors import UserError
from tailsmith.interruption import Terminated, terminable
from tailsmith.synthesis.rendering import Advance, RenderJob, render_job

PATIENCE_SECONDS = 30.0  # for workers to end when they are asked to
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """What a worker says: images made, or why it ends."""

    images: int = 0
    error: str = ""
    system: OSError | MemoryError | None = None
    fault: str = ""  # any other error's traceback


def run_job(job: RenderJob, workers: int, advance: Advance) -> None:
    """Have new processes render a job; on accelerators the i-th takes the i-th one, on a CPU they share the cores.

    A worker that is killed leaves its shard to the others. Raises ValueError where one refuses, and RuntimeError where
    one fails otherwise or all are killed; nothing already written is lost.
    """
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // workers)
    processes: dict[Connection, BaseProcess] = {}
    with _environment(OMP_NUM_THREADS=str(threads)):  # OpenMP reads it when a worker loads torch
        for number, device in enumerate(worker_devices(workers)):
            receiver, sender = context.Pipe(duplex=False)
            arguments = (job, device, threads, sender)
            process = context.Process(target=_work, args=arguments, name=f"worker {number}", daemon=True)
            process.start()
            sender.close()  # the worker's end is the only one: when it closes, the worker has ended
            processes[receiver] = process
    with terminable():
        try:
            _follow(dict(processes), advance)
        finally:
            _end(list(processes.values()))


def worker_devices(workers: int) -> list[str]:
    """Where each worker computes: all on the CPU or the one device that was chosen, or on one accelerator each."""
    chosen = devices.chosen_device()
    if chosen.type == "cpu" or str(chosen) != chosen.type:
        return [str(chosen)] * workers
    count = torch.accelerator.device_count()
    return [f"{chosen.type}:{number % count}" for number in range(workers)]


def _follow(processes: dict[Connection, BaseProcess], advance: Advance) -> None:
    """Pass on what workers report until all have ended."""
    killed, workers = 0, len(processes)
    while processes:
        for receiver in wait(list(processes)):
            assert isinstance(receiver, Connection)
            try:
                report: Report = receiver.recv()
            except (EOFError, OSError):
                process = processes.pop(receiver)
                process.join()
                if process.exitcode:
                    killed += 1
                    log.warning("%s was killed (exit code %s)", process.name, process.exitcode)
                continue
            if report.error:
                raise UserError(report.error)
            if report.fault:
                fault = RuntimeError(f"a worker failed:\n{report.fault}")
                if report.system:
                    raise report.system from fault
                raise fault
            advance(report.images)
    if killed == workers:
        raise UserError(
            "all workers were killed; nothing already written is lost: run the same command again, with fewer workers "
            "if memory was short"
        )


def _end(processes: Sequence[BaseProcess]) -> None:
    """Ask those that still work to stop, as SIGTERM does, and wait for them."""
    for process in processes:
        if process.is_alive():
            process.terminate()
    for process in processes:
        process.join(PATIENCE_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()


def _work(job: RenderJob, device: str, threads: int, sender: Connection) -> None:
    """A worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of a terminal: the parent passes it on
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.getLogger("tailsmith.synthesis.claims").setLevel(logging.ERROR)  # that they wait for each other is no news
    torch.set_num_threads(threads)
    devices.use(device)
    try:
        render_job(job, lambda images: sender.send(Report(images)))
    except Terminated:
        pass
    except UserError as error:
        sender.send(Report(error=str(error)))
    except (OSError, MemoryError) as error:  # a full disk, say: the caller knows whose doing it is
        sender.send(Report(fault=traceback.format_exc(), system=error))
    except Exception:
        sender.send(Report(fault=traceback.format_exc()))


def _end_with_parent() -> None:
    """Where the parent is killed, nobody is left to ask its workers to stop."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a worker
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
