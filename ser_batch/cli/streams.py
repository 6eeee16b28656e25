"""Standard output and standard error that may be closed, full, or a pipe whose reader goes away, without harm."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["OutputLostError", "as_far_as_read", "guard_streams"]


class OutputLostError(Exception):
    """Standard output takes nothing any more; `error` says why. What is written from now on vanishes."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error.strerror)
        self.error = error


@contextmanager
def as_far_as_read() -> Iterator[None]:
    """Print for a reader who may have enough, such as ``head``: the command goes on then, and its exit code is true."""
    try:
        yield
    except OutputLostError as lost:
        if lost.error.errno != errno.EPIPE:
            raise


class _Output(io.FileIO):
    """A file descriptor that fails once at most: then it takes everything and keeps nothing."""

    def __init__(self, descriptor: int, tells: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._tells, self._is_lost = tells, False

    def write(self, data: Any, /) -> int:
        n_bytes = memoryview(data).nbytes
        while not self._is_lost:
            try:
                n_written = super().write(data)
            except OSError as error:
                self._is_lost = True
                if self._tells:
                    raise OutputLostError(error) from None
            else:
                if n_written is not None:
                    return n_written
                select.select([], [self], [])  # a terminal or pipe that somebody made non-blocking
        return n_bytes


def guard_streams() -> None:
    """Replace standard output and error; for a process of our own, before anything is written.

    An error on standard error is forgotten, since what goes there is told beside the work; one on standard output is
    raised once, as `OutputLostError`. A stream that is closed becomes one to nowhere, so that no file that is opened
    later is taken for it.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            # Takes the lowest number that is free, which is this one; processes that are started get it too.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout = _guarded(sys.stdout, 1, tells=True)
    sys.stderr = _guarded(sys.stderr, 2, tells=False)


def _guarded(stream: Any, descriptor: int, tells: bool) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(descriptor, tells)),
        encoding=stream.encoding if stream else "utf-8",
        errors="backslashreplace",
        line_buffering=not tells or (stream is not None and stream.line_buffering),
        write_through=stream is not None and stream.write_through,
    )
