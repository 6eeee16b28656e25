"""The lock of a run: one process writes it, any number look at it, and the system lets go of it however they end.

The lock is ``flock`` on ``.lock`` in the run's folder: exclusive for a scan, shared for whoever must not see a scan at
work. What the file holds is for people: who wrote the run last. On a disk without ``flock``, and in a run that was ever
on one, `ser_batch.run.owner` says who writes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ser_batch.atomic import NO_FOLLOW
from ser_batch.errors import RunError
from ser_batch.run.journal import Filesystem
from ser_batch.run.owner import in_use, living_owner, newest_owner, owned

__all__ = ["LOCK_FILE", "holder_of", "lock_for_reading", "lock_for_writing", "refuse_if_written"]

LOCK_FILE = ".lock"

#: What `flock` answers where somebody else holds the lock; anything else is about the file system.
_HELD = (errno.EWOULDBLOCK, errno.EAGAIN)
#: What it answers on a disk that has none, such as Lustre, unless it is mounted so, or NFS without its lock service.
_WITHOUT = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)

#: How long a scan waits for a look of `holder_of`, which takes microseconds, to be over.
_PATIENCE_S = 1.0


class _NoFlockError(Exception):
    """The disk has no ``flock``."""


@contextmanager
def lock_for_writing(run_dir: Path) -> Iterator[Filesystem]:
    """Hold a run alone; give what writes it for as long as it is held.

    Raises
    ------
    RunError
        Another process writes or reads it, and the message says which; or the disk cannot be asked.
    OSError
        The file cannot be made or written.
    """
    descriptor = os.open(run_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | NO_FOLLOW, 0o666)
    with ExitStack() as stack:
        stack.callback(os.close, descriptor)
        filesystem, needs_owner = Filesystem(), newest_owner(run_dir) > 0
        try:
            deadline = time.monotonic() + _PATIENCE_S
            while not _locked(descriptor, fcntl.LOCK_EX, run_dir):
                if time.monotonic() > deadline:
                    raise _held(descriptor, run_dir)
                time.sleep(0.02)
        except _NoFlockError:
            needs_owner = True
        if needs_owner:
            # Also where there is flock: another machine may see this disk without.
            filesystem = stack.enter_context(owned(run_dir))
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}".encode(), 0)
        yield filesystem


@contextmanager
def lock_for_reading(run_dir: Path) -> Iterator[None]:
    """See to it that nobody writes a run meanwhile; nothing is written, and others may read it, too.

    A run without a lock, as a copy may be, is read as it is. On a disk without ``flock`` a scan is not kept away, but
    noticed.

    Raises
    ------
    RunError
        Another process writes it, or began to meanwhile; the message names it.
    """
    # Before anybody is looked for: whoever comes in between is noticed at the end.
    newest = newest_owner(run_dir)
    if holder := living_owner(run_dir):
        raise in_use(run_dir, holder)
    descriptor = _opened(run_dir)
    try:
        if descriptor is not None:
            is_free = True
            with suppress(_NoFlockError, RunError):
                is_free = _locked(descriptor, fcntl.LOCK_SH, run_dir)
            if not is_free:
                raise _held(descriptor, run_dir)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)
    if newest_owner(run_dir) != newest:
        raise RunError(f"{run_dir} has been written meanwhile. Wait until its scan is done, and look again.")


def holder_of(run_dir: Path) -> str:
    """Name the process that is writing a run, "" for none."""
    descriptor = _opened(run_dir)
    if descriptor is not None:
        try:
            if not _locked(descriptor, fcntl.LOCK_SH, run_dir):
                return _name_in(descriptor)
        except (_NoFlockError, RunError):
            pass
        finally:
            os.close(descriptor)
    return living_owner(run_dir)


def refuse_if_written(run_dir: Path) -> None:
    """Do what `lock_for_writing` does where another process writes the run.

    Raises
    ------
    RunError
        One does; the message names it.
    """
    if holder := holder_of(run_dir):
        raise in_use(run_dir, holder)


def _opened(run_dir: Path) -> int | None:
    try:
        return os.open(run_dir / LOCK_FILE, os.O_RDONLY | os.O_NONBLOCK | NO_FOLLOW)
    except OSError:
        return None


def _locked(descriptor: int, kind: int, run_dir: Path) -> bool:
    """Try to lock; return whether it worked. Raises `_NoFlockError` where the disk has no such lock."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return False
        if error.errno in _WITHOUT:
            raise _NoFlockError from None
        raise RunError(
            f"{run_dir} cannot be locked ({error.strerror}), so two scans could write it at once. Mend its disk, or "
            f"scan into a folder on another one, and copy it when it is done."
        ) from None
    return True


def _held(descriptor: int, run_dir: Path) -> RunError:
    if _locked(descriptor, fcntl.LOCK_SH, run_dir):
        return RunError(
            f"{run_dir} is being read by `ser-batch verify`. Wait until it is done, or use another run folder."
        )
    return in_use(run_dir, _name_in(descriptor))


def _name_in(descriptor: int) -> str:
    return os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip() or "another process"
