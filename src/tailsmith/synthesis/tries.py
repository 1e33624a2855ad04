"""Requests that fail whoever renders them: tried a few times, by other processes too, and then given up.

    .tries-00003.jsonl      of a shard in which something failed: a line per event, removed when the shard is there

A request that is given up is a row of its shard like the others, with a black image and the reason in column `error`:
a set of a million images doesn't wait for one of them.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tailsmith.synthesis.columns import ERROR

TRIES = 3  # of a request, before it is given up
CRASHES = 2  # of processes at a shard, after which its requests are rendered one by one
IN_A_ROW = 10  # requests that fail, with none that doesn't: it is not the requests
LENGTH = 500  # characters of an error that are kept


@dataclass(frozen=True)
class Tries:
    """What failed in a shard so far; only the process that has claimed the shard writes."""

    path: Path

    @staticmethod
    def of(folder: Path, number: int) -> Tries:
        return Tries(folder / f".tries-{number:05d}.jsonl")

    @property
    def careful(self) -> bool:
        """Whether requests should be rendered one by one, so that it is seen which one fails."""
        events = self._events()
        return any("request" in each for each in events) or sum("crash" in each for each in events) >= CRASHES

    def crashed(self, who: str) -> None:
        """A process that rendered the shard is gone without a word."""
        self._write({"crash": who})

    def begin(self, request: str) -> None:
        """It is about to be rendered: should the process die of it, this try has failed."""
        self._write({"request": request})

    def passed(self, request: str) -> None:
        self._write({"request": request, "passed": True})

    def failed(self, request: str, error: BaseException) -> None:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        self._write({"request": request, "error": said[:LENGTH]})

    def given_up(self) -> dict[str, str]:
        """Request -> why, of those that have failed too often."""
        begun, reasons = Counter[str](), dict[str, str]()
        for event in self._events():
            if (request := event.get("request")) is None:
                continue
            if event.get("passed"):
                begun[request] = 0
            elif "error" in event:
                reasons[request] = str(event["error"])
            else:
                begun[request] += 1
        killed = "the process that rendered it was killed, or crashed, each time"
        return {request: reasons.get(request, killed) for request, times in begun.items() if times >= TRIES}

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)

    def _write(self, event: dict[str, Any]) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(event) + "\n")  # the line before may be half of one

    def _events(self) -> list[dict[str, Any]]:
        try:
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []
        events = []
        for line in lines:
            with suppress(ValueError, RecursionError):  # a line that a dying process left half-written
                events.append(json.loads(line))
        return [each for each in events if isinstance(each, dict)]


def given_up(rows: pd.DataFrame) -> dict[str, str]:
    """Request -> why, of the results that have an error instead of an image."""
    if ERROR not in rows:
        return {}
    failed = rows[rows[ERROR].notna()]
    return dict(zip(failed["request_id"].tolist(), failed[ERROR].tolist(), strict=True))
