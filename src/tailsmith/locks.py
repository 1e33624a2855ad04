"""One process at a time: a lock that the system takes back when its process dies."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)


@contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold the file `path`, waiting for whoever holds it; `what` says in the log what they do.

    Not to be nested. Where the system or the file system has no locks, nobody waits.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.warning("another process %s; waiting for it", what)
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:
                log.debug("no locks at %s", path)
        yield
