"""The lock of a run: one process writes it, any number look at it, and the system lets go of it however they end.

The lock is ``flock`` on ``.lock`` in the run's folder: exclusive for a scan, shared for whoever must not see a scan at
work. What the file holds is for people: who wrote the run last.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ser_batch.atomic import NO_FOLLOW
from ser_batch.errors import RunError

__all__ = ["LOCK_FILE", "holder_of", "lock_for_reading", "lock_for_writing", "refuse_if_written"]

LOCK_FILE = ".lock"

#: What `flock` answers where somebody else holds the lock; anything else is about the file system.
_HELD = (errno.EWOULDBLOCK, errno.EAGAIN)

#: How long a scan waits for a look of `holder_of`, which takes microseconds, to be over.
_PATIENCE_S = 1.0


@contextmanager
def lock_for_writing(run_dir: Path) -> Iterator[None]:
    """Hold a run alone.

    Raises
    ------
    RunError
        Another process writes or reads it, and the message says which; or the file system has no locks.
    OSError
        The file cannot be made or written.
    """
    descriptor = os.open(run_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | NO_FOLLOW, 0o666)
    try:
        deadline = time.monotonic() + _PATIENCE_S
        while not _locked(descriptor, fcntl.LOCK_EX, run_dir):
            if time.monotonic() > deadline:
                raise _held(descriptor, run_dir)
            time.sleep(0.02)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}".encode(), 0)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def lock_for_reading(run_dir: Path) -> Iterator[None]:
    """See to it that nobody writes a run meanwhile; nothing is written, and others may read it, too.

    A run without a lock, as a copy may be, is read as it is; so is one on a file system without locks, where no scan
    could hold it.

    Raises
    ------
    RunError
        Another process writes it; the message names it.
    """
    descriptor = _opened(run_dir)
    if descriptor is None:
        yield
        return
    try:
        try:
            is_free = _locked(descriptor, fcntl.LOCK_SH, run_dir)
        except RunError:
            is_free = True
        if not is_free:
            raise _held(descriptor, run_dir)
        yield
    finally:
        os.close(descriptor)


def holder_of(run_dir: Path) -> str:
    """Name the process that is writing a run, "" for none."""
    descriptor = _opened(run_dir)
    if descriptor is None:
        return ""
    try:
        return "" if _locked(descriptor, fcntl.LOCK_SH, run_dir) else _name_in(descriptor)
    except RunError:
        return ""
    finally:
        os.close(descriptor)


def refuse_if_written(run_dir: Path) -> None:
    """Do what `lock_for_writing` does where another process writes the run.

    Raises
    ------
    RunError
        One does; the message names it.
    """
    if holder := holder_of(run_dir):
        raise _in_use(run_dir, holder)


def _opened(run_dir: Path) -> int | None:
    try:
        return os.open(run_dir / LOCK_FILE, os.O_RDONLY | NO_FOLLOW)
    except OSError:
        return None


def _locked(descriptor: int, kind: int, run_dir: Path) -> bool:
    """Try to lock; return whether it worked."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return False
        raise RunError(
            f"{run_dir} cannot be locked ({error.strerror}), so two scans could write it at once. Its file system has "
            f"no locks, or its lock service is down: scan into a folder on another disk, and copy it when it is done."
        ) from None
    return True


def _held(descriptor: int, run_dir: Path) -> RunError:
    if _locked(descriptor, fcntl.LOCK_SH, run_dir):
        return RunError(
            f"{run_dir} is being read by `ser-batch verify`. Wait until it is done, or use another run folder."
        )
    return _in_use(run_dir, _name_in(descriptor))


def _in_use(run_dir: Path, holder: str) -> RunError:
    return RunError(f"{run_dir} is being written by {holder}. Wait for it or stop it, or use another run folder.")


def _name_in(descriptor: int) -> str:
    return os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip() or "another process"
