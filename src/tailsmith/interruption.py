"""Ctrl-C and SIGTERM as a flag, for work that can stop at a good place and go on from there."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """SIGTERM, as Ctrl-C is KeyboardInterrupt: whoever cleans up after one does so after the other."""


@contextmanager
def terminable() -> Iterator[None]:
    """Within `with`, SIGTERM raises Terminated at once, as Ctrl-C raises KeyboardInterrupt; in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _terminate(*_: object) -> None:
    raise Terminated


class Interruption:
    """Within `with`, the first SIGINT or SIGTERM sets `requested`; a second one acts at once, as it would have before.

    Only Python's main thread can take signals: in another one nothing is set, and nothing changes.
    """

    def __init__(self) -> None:
        self.requested: signal.Signals | None = None
        self._earlier: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._earlier = {each: signal.signal(each, self._take) for each in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for each, handler in self._earlier.items():
            # None: a handler that wasn't set from Python can't be set from it either
            signal.signal(each, signal.SIG_DFL if handler is None else handler)
        self._earlier = {}

    def error(self) -> KeyboardInterrupt:
        """What to raise once everything is in order."""
        return Terminated() if self.requested == signal.SIGTERM else KeyboardInterrupt()

    def _take(self, number: int, _: FrameType | None) -> None:
        self.__exit__()
        self.requested = signal.Signals(number)
