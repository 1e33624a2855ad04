"""Worker processes on this machine, which share a job's shards by claims; one per accelerator."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch

from tailsmith import devices
from tailsmith.errors import UserError
from tailsmith.interruption import Terminated, terminable
from tailsmith.synthesis.engines.config import Workers
from tailsmith.synthesis.engines.status import Reporter
from tailsmith.synthesis.one_shard import Advance
from tailsmith.synthesis.rendering import RenderJob, render_job

PATIENCE_SECONDS = 30.0  # for workers to end when they are asked to
RESTARTS = 6  # of a worker in a row, without a single image in between
FAULTS = 2  # in a row, of those that are no crash: the same error again is not chance
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """What a worker says: images made, a shard finished, or why it ends."""

    images: int = 0
    finished: bool = False  # the shard that these images were of
    error: str = ""
    system: OSError | MemoryError | None = None
    fault: str = ""  # any other error's traceback


@dataclass
class Slot:
    """A worker's place, which another process takes where one dies."""

    number: int
    device: str
    process: BaseProcess | None = None
    unfinished: int = 0  # images of the shard in work
    crashes: int = 0  # in a row
    faults: int = 0


def run_job(job: RenderJob, workers: Workers, advance: Advance) -> None:
    """Have new processes render a job; on accelerators the i-th takes the i-th one, on a CPU they share the cores.

    A worker that is killed, or hangs, leaves its shard to the others, and is replaced. Raises ValueError where one
    refuses, and RuntimeError where all fail; nothing already written is lost.
    """
    crew = _Crew(job, workers, advance)
    with terminable():
        try:
            crew.work()
        finally:
            crew.end()


class _Crew:
    """The workers of a job."""

    def __init__(self, job: RenderJob, workers: Workers, advance: Advance) -> None:
        self.job, self.workers, self.advance = job, workers, advance
        self.threads = max(1, torch.get_num_threads() // workers.count)
        self.slots = [Slot(number, device) for number, device in enumerate(worker_devices(workers.count))]
        self.receivers: dict[Connection, Slot] = {}
        self.fault: RuntimeError | None = None

    def work(self) -> None:
        """Pass on what workers report until all have ended."""
        for slot in self.slots:
            self._start(slot)
        finished = False
        while self.receivers:
            for receiver in wait(list(self.receivers)):
                assert isinstance(receiver, Connection)
                slot = self.receivers[receiver]
                try:
                    report: Report = receiver.recv()
                except (EOFError, OSError):
                    del self.receivers[receiver]
                    finished |= self._ended(slot)
                    continue
                self._take(slot, report)
        if not finished:
            raise self.fault or UserError(
                "all workers were killed; nothing already written is lost: run the same command again, with fewer "
                "workers if memory was short"
            )

    def end(self) -> None:
        """Ask those that still work to stop, as SIGTERM does, and wait for them."""
        processes = [slot.process for slot in self.slots if slot.process is not None]
        for process in processes:
            if process.is_alive():
                process.terminate()
        for process in processes:
            process.join(PATIENCE_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()

    def _start(self, slot: Slot) -> None:
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        arguments = (self.job, slot.device, self.threads, self.workers.stalled_after, sender)
        with _environment(OMP_NUM_THREADS=str(self.threads)):  # OpenMP reads it when a worker loads torch
            process = context.Process(target=_work, args=arguments, name=f"worker {slot.number}", daemon=True)
            process.start()
        sender.close()  # the worker's end is the only one: when it closes, the worker has ended
        slot.process, self.receivers[receiver] = process, slot

    def _take(self, slot: Slot, report: Report) -> None:
        if report.error:
            raise UserError(report.error)
        if report.fault:
            slot.faults += 1
            self.fault = RuntimeError(f"a worker failed:\n{report.fault}")
            if report.system:
                raise report.system from self.fault
            return
        if report.images:
            slot.crashes = slot.faults = 0
        slot.unfinished = 0 if report.finished else slot.unfinished + report.images
        self.advance(report.images)

    def _ended(self, slot: Slot) -> bool:
        """Whether the worker has done its work; one that was killed, or has failed, is replaced a few times."""
        process = slot.process
        assert process is not None
        process.join()
        self.advance(-slot.unfinished)  # what a dying process hadn't written yet is made again
        slot.unfinished = 0
        if not process.exitcode and not slot.faults:
            return True
        if process.exitcode:
            slot.crashes += 1
            log.warning("%s was killed (exit code %s)", process.name, process.exitcode)
        if slot.crashes <= RESTARTS and slot.faults < FAULTS:
            self._start(slot)
        else:
            log.warning("%s is given up; the others go on", process.name)
        return False


def worker_devices(workers: int) -> list[str]:
    """Where each worker computes: all on the CPU or the one device that was chosen, or on one accelerator each."""
    chosen = devices.chosen_device()
    if chosen.type == "cpu" or str(chosen) != chosen.type:
        return [str(chosen)] * workers
    count = torch.accelerator.device_count()
    return [f"{chosen.type}:{number % count}" for number in range(workers)]


def _work(job: RenderJob, device: str, threads: int, stalled_after: float, sender: Connection) -> None:
    """A worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of a terminal: the parent passes it on
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.getLogger("tailsmith.synthesis.claims").setLevel(logging.ERROR)  # that they wait for each other is no news
    torch.set_num_threads(threads)
    devices.use(device)
    reporter = Reporter(job.out, "local", device, stalled_after)

    def advance(images: int) -> None:
        reporter.advance(images)
        sender.send(Report(images))

    try:
        render_job(job, advance, finished=lambda: sender.send(Report(finished=True)))
    except Terminated:
        reporter.end("stopped")
    except UserError as error:
        reporter.end(str(error))
        sender.send(Report(error=str(error)))
    except Exception as error:
        reporter.end(f"{type(error).__name__}: {error}")
        system = error if isinstance(error, OSError | MemoryError) else None  # a full disk, say: the caller knows whose
        sender.send(Report(fault=traceback.format_exc(), system=system))
    else:
        reporter.end("finished")


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
