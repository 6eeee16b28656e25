"""A node's folder for what its workers write, on a disk of its own machine."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ser_batch.errors import ConfigError, RunError
from ser_batch.stages.watch import end_orphans

__all__ = ["node_scratch"]

_PREFIX = "ser-batch-node-"
#: In each folder; locked as long as its node lives, on a local disk, where locks are to be relied upon.
_MARK = "held"


@contextmanager
def node_scratch(base: str | os.PathLike[str] | None, run_dir: Path) -> Iterator[Path]:
    """A folder below `base`, or where temporary files lie; it is gone at the end, or when another node begins or
    ends there.

    Raises
    ------
    ConfigError
        `base` lies in the run, which all nodes share.
    RunError
        It cannot be made.
    """
    parent = Path(base or tempfile.gettempdir())
    if parent.resolve().is_relative_to(run_dir.resolve()):
        raise ConfigError(f"`work --scratch {parent}` lies in the run {run_dir}. Give a folder on a disk of this node.")
    try:
        _clear(parent)
        folder, mark = _made_in(parent)
    except OSError as error:
        raise RunError(f"Workers need a folder, and none can be made in {parent}: {error.strerror}.") from None
    try:
        yield folder
    finally:
        os.close(mark)
        shutil.rmtree(folder, ignore_errors=True)
        # Perhaps nobody begins here after this.
        with suppress(OSError):
            _clear(parent)


def _made_in(parent: Path) -> tuple[Path, int]:
    """Make a folder, and lock the mark in it."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        mark = os.open(folder / _MARK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = (folder / _MARK).exists()
        except BlockingIOError:
            is_ours = False
        except OSError:
            is_ours = True  # a disk without locks, where nobody clears
        if is_ours:
            return folder, mark
        os.close(mark)  # another node took it for left behind before it was locked


def _clear(parent: Path) -> None:
    """Delete the folders of nodes that were killed, and end their workers."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            mark = os.open(folder / _MARK, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
                end_orphans(folder)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(mark)
