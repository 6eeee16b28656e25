"""Files that appear whole or not at all: written under a hidden name beside the target, flushed to disk, renamed.

A reader sees the old file or the new one. A writer that dies leaves at most a hidden ``.NAME.PID.tmp``. Folders that
are written into, and files that are read, are what they are taken for, whoever put them there.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

__all__ = [
    "NOT_A_FILE",
    "NO_FOLLOW",
    "flush_folder",
    "make_folder",
    "open_atomic",
    "open_file",
    "open_new",
    "read_file",
    "write_atomic",
]

#: For `os.open`: a link by that name, which may lead anywhere, is an error. 0 on systems that do not know it.
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)

#: What `open_file` answers where there is none, but nothing, a folder, a pipe or a link.
NOT_A_FILE = (errno.ENOENT, errno.EISDIR, errno.EINVAL, errno.ELOOP)

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


def make_folder(path: Path) -> None:
    """Make a folder, unless it is there; a link by that name, which may lead anywhere, is none.

    Raises
    ------
    OSError
        It cannot be made; ELOOP for a link.
    """
    if path.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    try:
        path.mkdir()
    except FileExistsError:
        if not path.is_dir():
            raise


def open_file(path: Path, flags: int = 0) -> BufferedReader:
    """Open a file for reading; a pipe or a device, which may never end, is none. `flags` are others of `os.open`.

    Raises
    ------
    OSError
        It is no file, or cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | flags)
    try:
        kind = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not stat.S_ISREG(kind):
            raise OSError(errno.EINVAL, "it is no file", path)
        return open(descriptor, "rb")  # noqa: PTH123
    except OSError:
        os.close(descriptor)
        raise


def read_file(path: Path, flags: int = 0) -> bytes:
    """Return what a file holds. Raises as `open_file`."""
    with open_file(path, flags) as file:
        return file.read()


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
