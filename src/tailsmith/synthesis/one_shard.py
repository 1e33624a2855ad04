"""A shard rendered: from where an interrupted process left it, and past the requests that fail whoever renders them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch

from tailsmith.data.packed import IMAGE_HASH, check_images, location, read_packed, read_rows, write_packed
from tailsmith.errors import UserError
from tailsmith.synthesis.columns import ERROR
from tailsmith.synthesis.plan import Plan
from tailsmith.synthesis.shards import begun_path, shard_path
from tailsmith.synthesis.tries import IN_A_ROW, Tries
from tailsmith.synthesis.worker import Worker

log = logging.getLogger(__name__)
Advance = Callable[[int], object]
# Not a request's doing: the caller's mistake, the disk's or the machine's state; what was made is kept, and all stops.
STOPS = (UserError, OSError, MemoryError, torch.OutOfMemoryError)


class Rendering:
    """One shard being rendered by the process that has claimed it."""

    def __init__(self, worker: Worker, plan: Plan, number: int, out: Path, made_by: dict[str, str]) -> None:
        self.worker, self.plan, self.number, self.out = worker, plan, number, out
        self.requests, self.meta = plan.shard(number), {**made_by, "shard": str(number)}
        self.tries = Tries.of(out, number)
        self.begun = begun_path(out, number)
        kept = _begun(self.begun, self.requests, self.meta)
        self.batches = [] if kept is None else [kept]

    @property
    def done(self) -> int:
        return sum(map(len, self.batches))

    def render(self, advance: Advance) -> bool:
        """Whether the shard is there now; False where it should be tried again, later or by another process."""
        advance(self.done)
        try:
            whole = self._render_careful(advance) if self.tries.careful else self._render_in_batches(advance)
        except (KeyboardInterrupt, SystemExit, *STOPS):  # SystemExit: submitit's, for a job that Slurm preempts
            self._keep()
            raise
        if whole:
            write_packed(pd.concat(self.batches, ignore_index=True), shard_path(self.out, self.number), self.meta)
            self.begun.unlink(missing_ok=True)
            self.tries.clear()
        else:
            self._keep()
            advance(-self.done)
        return whole

    def _render_in_batches(self, advance: Advance) -> bool:
        rest = self.requests.iloc[self.done :]
        try:
            for results in self.worker.render(rest, self.plan.feedback) if len(rest) else ():
                self._take(results, advance)
        except STOPS:
            raise
        except Exception as error:
            log.warning(
                "shard %d: %s: %s; its images are rendered one by one", self.number, type(error).__name__, error
            )
            return self._render_careful(advance)
        return True

    def _render_careful(self, advance: Advance) -> bool:
        """One by one, in the plan's order; False at the first that fails and isn't given up yet."""
        given_up = self.tries.given_up()
        for row in range(self.done, len(self.requests)):
            request = self.requests.iloc[[row]]
            name = str(request["request_id"].iloc[0])
            if name not in given_up:
                self.tries.begin(name)
                try:
                    results = pd.concat(list(self.worker.render(request, self.plan.feedback)), ignore_index=True)
                except (KeyboardInterrupt, SystemExit, *STOPS):
                    self.tries.passed(name)  # it was not its doing
                    raise
                except Exception as error:
                    self.tries.failed(name, error)
                    self.worker.failed_in_a_row.add(name)
                    if len(self.worker.failed_in_a_row) >= IN_A_ROW:
                        raise RuntimeError(
                            f"{IN_A_ROW} requests failed one after the other, which isn't the requests' doing"
                        ) from error
                    given_up = self.tries.given_up()
                    if name not in given_up:
                        return False
                else:
                    self.tries.passed(name)
                    self._take(results, advance)
                    continue
            log.warning("request %s is given up: %s", name, given_up[name])
            self.batches.append(self._failed(request, given_up[name]))
            advance(1)
        return True

    def _failed(self, request: pd.DataFrame, reason: str) -> pd.DataFrame:
        """A row of a request that was given up: like that of an image that shows nothing."""
        nothing = self.worker.storage.encode(torch.zeros(3, 8, 8, dtype=torch.uint8))
        row = request.assign(image=[nothing], criterion_value=float("nan"), skipped_steps=0, retries=0)
        return row.assign(black=True, seconds=0.0).assign(**{ERROR: [reason]})

    def _take(self, results: pd.DataFrame, advance: Advance) -> None:
        self.worker.failed_in_a_row.clear()
        self.batches.append(results)
        advance(len(results))

    def _keep(self) -> None:
        if self.batches:
            write_packed(pd.concat(self.batches, ignore_index=True), self.begun, self.meta)


def _begun(path: Path, requests: pd.DataFrame, meta: dict[str, str]) -> pd.DataFrame | None:
    """The first results of a shard, with their images; None where there are none, or none of the same makers."""
    if not path.is_file():
        return None
    try:
        check_images(path)
        rows, known = read_rows(path)
    except UserError as error:
        log.warning("%s; these images are made again", error)
        return None
    first = requests["request_id"].iloc[: len(rows)].tolist()
    if {name: known.get(name) for name in meta} != meta or rows["request_id"].tolist() != first:
        return None
    images = [read_packed(location(path, row)) for row in range(len(rows))]
    return rows.drop(columns=IMAGE_HASH).assign(image=images)
