"""Files that appear whole or not at all: written under a hidden name beside the target, flushed to disk, renamed.

A reader sees the old file or the new one. A writer that dies leaves at most a hidden ``.NAME.PID.tmp``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

__all__ = ["flush_folder", "open_atomic", "write_atomic"]


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
    # Of an earlier process of this number. A link that somebody has put there is removed, not followed.
    with suppress(FileNotFoundError):
        staged.unlink()
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666)
    try:
        with open(descriptor, "wb") as stream:  # noqa: PTH123 - of a descriptor
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


def write_atomic(path: Path, data: bytes | memoryview | str, flush: bool = True) -> None:
    """Put `data` in the place of the file at `path`; text as UTF-8, surrogates escaped. See `open_atomic`."""
    with open_atomic(path, flush) as stream:
        stream.write(data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data)


def flush_folder(folder: Path) -> None:
    """Wait until the names in a folder are on disk; a file system that cannot flush folders is let be."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
