"""Folders of this machine for as long as a process lives: gone at its end, or when the next one of the kind begins."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ser_batch.stages.watch import end_orphans

__all__ = ["local_folder"]

#: In each folder; locked as long as its process lives, on a local disk, where locks are to be relied upon.
_MARK = "held"


@contextmanager
def local_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder below `parent`; those of the same prefix whose processes were killed go before it is made.

    Raises
    ------
    OSError
        It cannot be made.
    """
    _clear(parent, prefix)
    # Under another name until it is held, so that nobody clears it away before.
    folder = Path(tempfile.mkdtemp(prefix=f".{prefix}", dir=parent))
    mark = os.open(folder / _MARK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with suppress(OSError):
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        folder = folder.rename(folder.with_name(folder.name[1:]))
        yield folder
    finally:
        os.close(mark)
        shutil.rmtree(folder, ignore_errors=True)
        # Perhaps nobody begins here after this.
        with suppress(OSError):
            _clear(parent, prefix)


def _clear(parent: Path, prefix: str) -> None:
    """Delete the folders of processes that were killed, and end the workers that had their files in them."""
    for folder in parent.glob(f"{prefix}*"):
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
