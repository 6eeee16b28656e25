"""What a machine may refuse when processes are started, and the cure."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from ser_batch.errors import RunError

__all__ = ["refused", "starting"]

#: Files that a parent opens beside one per worker, or a worker at its worst.
_NEEDED_DESCRIPTORS = 48
#: More are of no use, and whoever closes all of them before it starts a program takes long.
_MOST_DESCRIPTORS = 65_536


@contextmanager
def starting(n_workers: int) -> Iterator[None]:
    """Start workers in this: as many open files as this process may have are allowed, and inherited.

    Raises
    ------
    RunError
        The machine refuses something that workers need; says what and the cure.
    """
    _allow_open_files(n_workers)
    try:
        yield
    except (OSError, RuntimeError) as error:
        refusal = refused(error, n_workers)
        if refusal is None and isinstance(error, OSError):
            refusal = RunError(
                f"Workers cannot be started, since no semaphore can be made ({error.strerror}). "
                f"On Linux semaphores lie in /dev/shm: it must be there, be writable and have room."
            )
        if refusal is None:
            raise
        raise refusal from error


def refused(error: BaseException, n_workers: int) -> RunError | None:
    """Return what to tell people where too much is asked of the machine, None where that is not what `error` says."""
    code = error.errno if isinstance(error, OSError) else None
    if code in (errno.EMFILE, errno.ENFILE) or os.strerror(errno.EMFILE) in str(error):
        return RunError(
            f"{n_workers} workers need more open files than are allowed. "
            f"Raise the limit (ulimit -n), or use fewer --jobs."
        )
    if code in (errno.EAGAIN, errno.ENOMEM) or "can't start new thread" in str(error):
        return RunError(
            f"The system refuses the processes and threads of {n_workers} workers. Use fewer --jobs, or raise the "
            f"limit of processes (ulimit -u, or that of the container) or of memory."
        )
    return None


def _allow_open_files(n_workers: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return
    most = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft < most:
        with suppress(OSError, ValueError):  # macOS has a lower limit that it does not tell
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
    needed = psutil.Process().num_fds() + _NEEDED_DESCRIPTORS + n_workers
    if soft < needed:
        raise RunError(
            f"{n_workers} workers need {needed} open files, and {soft} are allowed. "
            f"Raise the limit (ulimit -n), or use fewer --jobs."
        )
