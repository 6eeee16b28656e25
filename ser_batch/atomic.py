"""Files that appear whole or not at all: written under a hidden name beside the target, flushed to disk, renamed.

A reader sees the old file or the new one. A writer that dies leaves at most a hidden ``.NAME.PID.tmp``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

__all__ = ["NO_FOLLOW", "flush_folder", "open_atomic", "open_new", "write_atomic"]

#: For `os.open`: a link by that name, which may lead anywhere, is an error. 0 on systems that do not know it.
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)

#: What file systems answer that have no way to flush a folder, or a folder that may be written but not read.
_CANNOT_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EACCES)


@contextmanager
def open_atomic(path: Path, flush: bool = True) -> Iterator[BinaryIO]:
    """Give a stream for the new content of `path`; it takes its place when the block ends without an exception.

    Parameters
    ----------
    path : Path
    flush : bool
        Wait until it is on disk. Without, a loss of power may take it: for many files that are soon made again.

    Raises
    ------
    OSError
        The disk is full or broken, or the folder is missing or not writable; what was at `path` is untouched.
    """
    # As long as a name may be, there is room for the ending.
    name = path.name.encode("utf-8", "surrogateescape")[:200].decode("utf-8", "ignore")
    staged = path.with_name(f".{name}.{os.getpid()}.tmp")
    try:
        with open_new(staged) as stream:
            yield stream
            stream.flush()
            if flush:
                os.fsync(stream.fileno())
        staged.replace(path)
    except BaseException:
        with suppress(OSError):
            staged.unlink()
        raise
    if flush:
        flush_folder(path.parent)


def open_new(path: Path) -> BinaryIO:
    """Create a file for writing. What an earlier process left by that name is removed; a link is not followed."""
    with suppress(FileNotFoundError):
        path.unlink()
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_FOLLOW, 0o666), "wb")  # noqa: PTH123


def write_atomic(path: Path, data: bytes | memoryview | str, flush: bool = True) -> None:
    """Put `data` in the place of the file at `path`; text as UTF-8, surrogates escaped. See `open_atomic`."""
    with open_atomic(path, flush) as stream:
        stream.write(data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data)


def flush_folder(folder: Path) -> None:
    """Wait until the names in a folder are on disk; a file system that cannot flush folders is let be.

    Raises
    ------
    OSError
        The disk is broken.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_FLUSH:
            raise
