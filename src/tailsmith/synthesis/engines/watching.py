"""What a driver sees of workers that are no children of its own: their status files, and which shards are there."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from tailsmith.synthesis.engines.status import read_statuses, slow
from tailsmith.synthesis.one_shard import Advance

log = logging.getLogger(__name__)


class Watcher:
    """Passes on what all workers of a folder have made since it began, and says once of each that it is slow."""

    def __init__(self, out: Path, advance: Advance, clocks_apart: float = 300.0) -> None:
        self._out, self._advance = out, advance
        self._since = time.time() - clocks_apart
        self._before = {(each.host, each.process): each.images for each in read_statuses(out)}
        self._told = 0
        self._slow: set[tuple[str, int]] = set()

    def look(self) -> None:
        statuses = read_statuses(self._out, self._since)
        images = sum(each.images - self._before.get((each.host, each.process), 0) for each in statuses)
        self._advance(images - self._told)
        self._told = images
        for each in slow([status for status in statuses if not status.ended]):
            if (who := (each.host, each.process)) not in self._slow:
                self._slow.add(who)
                log.warning(
                    "process %d on %s (%s) is slow: %.2g images a second, less than half of the median",
                    *(each.process, each.host, each.device, each.images_per_second),
                )
