"""Ctrl-C and SIGTERM as one exception, never in the middle of a commit."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupted", "Interruptions"]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, and not a KeyboardInterrupt that somebody's code raised."""


class Interruptions:
    """While entered, SIGINT and SIGTERM raise KeyboardInterrupt, but not before a deferred stretch is over.

    Only the main thread can receive signals; elsewhere this does nothing.
    """

    def __init__(self) -> None:
        self._deferring = False
        self._pending = False

    def __enter__(self) -> Interruptions:
        self._is_main = threading.current_thread() is threading.main_thread()
        if self._is_main:
            self._old = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_main:
            for number, handler in self._old.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._deferring:
            self._pending = True
        else:
            raise Interrupted

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """A stretch to be finished first."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
        if self._pending:
            self._pending = False
            raise Interrupted
