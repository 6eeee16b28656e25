"""The interface to where files lie, and the simplest of them: a disk of this machine."""

from __future__ import annotations

import os
from collections.abc import Hashable
from pathlib import Path
from typing import Protocol

__all__ = ["LocalDisk", "Storage"]


class Storage(Protocol):
    """What a scan asks of the place where its files lie. Paths are those of `ClipRef.path`."""

    def is_there(self, path: str) -> bool:
        """Tell whether a file can be looked at now."""

    def can_be_read(self, path: str) -> bool:
        """Tell whether the first byte of a file can be read now."""

    def identity(self, folder: str) -> Hashable:
        """Return what tells a folder from another one in its place, None where it is gone."""

    def local(self, path: str, size_bytes: int, etag: str, folder: Path) -> str:
        """Return a path on this machine under which a file can be opened; a copy is made in `folder`.

        Raises
        ------
        OSError
            The file cannot be looked at, or is not the one that was found.
        """


class LocalDisk:
    """Files of this machine, and of what it has mounted."""

    def is_there(self, path: str) -> bool:
        try:
            os.stat(path)  # noqa: PTH116 - Path cannot hold every name
        except OSError:
            return False
        return True

    def can_be_read(self, path: str) -> bool:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                os.read(descriptor, 1)
            finally:
                os.close(descriptor)
        except (OSError, ValueError):
            return False
        return True

    def identity(self, folder: str) -> tuple[int, int] | None:
        """Return device and inode: a folder in which nothing is mounted any more has others."""
        try:
            info = os.stat(folder)  # noqa: PTH116 - Path cannot hold every name
        except OSError:
            return None
        return info.st_dev, info.st_ino

    def local(self, path: str, size_bytes: int, etag: str, folder: Path) -> str:
        return path
