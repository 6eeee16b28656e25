"""Ctrl-C, SIGTERM and a terminal that goes away as one exception, never in the middle of a commit."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupted", "Interruptions"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Signals that follow the first within this time mean the same; later ones are from somebody who has lost patience.
_GRACE_S = 2.0


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or the like, and not a KeyboardInterrupt that somebody's code raised."""


class Interruptions:
    """While entered, signals that ask to end raise KeyboardInterrupt, but not before a deferred stretch is over.

    Several at once raise one, so that what tidies up after the first is not interrupted by the second. A signal that
    this process was started to ignore (``nohup``, ``&`` in a script) stays ignored. Only the main thread can receive
    signals; elsewhere this does nothing.
    """

    def __init__(self) -> None:
        self._deferring = False
        self._pending = False
        self._raised_s = -math.inf

    def __enter__(self) -> Interruptions:
        self._old = {}
        if threading.current_thread() is threading.main_thread():
            heeded = (number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN)
            self._old = {number: signal.signal(number, self._on_signal) for number in heeded}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._deferring:
            self._pending = True
        else:
            self._raise()

    def _raise(self) -> None:
        now_s = time.monotonic()
        if now_s - self._raised_s > _GRACE_S:
            self._raised_s = now_s
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
            self._raise()
