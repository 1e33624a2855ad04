"""What reaches a terminal: names made safe to print, so that no sequence in them acts on it, and progress bars."""

from __future__ import annotations

import io
import logging
import sys
import unicodedata
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

_SECONDS_IN_A_FILE = 30.0
_CONTROLS = ("Cc", "Cs", "Zl", "Zp")  # control characters, halves of surrogate pairs, line and paragraph separators
_BIDIRECTIONAL = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def shown(text: str) -> str:
    """The text on one line: "\\n" for a newline, "\\x1b" for an escape, "\\xe9" for a byte that is no UTF-8."""
    return text if text.isprintable() else "".join(map(_shown, text))


def print_any_name() -> None:
    """From here on `print` writes "\\udce9" for what the terminal's encoding lacks, rather than raise.

    Where that is ASCII (LC_ALL=C) it's UTF-8 from now on: JSON with names in it stays JSON.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        encoding = "utf-8" if sys.stdout.encoding == "ascii" else None
        sys.stdout.reconfigure(encoding=encoding, errors="backslashreplace")


class OneLineFormatter(logging.Formatter):
    """Log records as `shown`."""

    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record))


def _shown(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python holds the byte of a file name that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if unicodedata.category(character) in _CONTROLS or character in _BIDIRECTIONAL:
        return character.encode("unicode_escape").decode()
    return character


def progress_bar(iterable: Iterable[Any] | None = None, **options: Any) -> Any:
    """tqdm's bar with an ETA; where stderr is no terminal, a line twice a minute, as logs want it."""
    if sys.stderr.isatty():
        return tqdm(iterable, **options)
    seldom = {"mininterval": _SECONDS_IN_A_FILE, "maxinterval": _SECONDS_IN_A_FILE, "leave": True, "file": _Lines()}
    return tqdm(iterable, **{**options, **seldom})


class _Lines:
    """stderr, with an end of line where a bar would begin its line again."""

    def write(self, text: str) -> None:
        if text.strip():
            sys.stderr.write(text.strip("\r\n ") + "\n")

    def flush(self) -> None:
        sys.stderr.flush()
