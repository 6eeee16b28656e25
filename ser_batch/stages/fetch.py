"""Objects of a bucket as files of this machine: fetched while others are analysed, gone once they are read."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ser_batch.records import ClipOutcome, ClipRef, SegmentSource, Status
from ser_batch.storage.address import is_url
from ser_batch.storage.places import storage_of
from ser_batch.text import message_of

__all__ = ["Fetched"]

#: Objects fetched at once; a chunk, which has few and is small unless it is one long recording, is all that is held.
_N_AT_ONCE = 8


class Fetched:
    """The files of a chunk, each of which can be opened once it is its turn; use as a context manager.

    What lies on a disk is opened where it is. Copies of objects go to a folder of their own.

    Parameters
    ----------
    refs : sequence of ClipRef
        In the order in which they will be taken.
    folder : Path
        Folder on this machine for the copies.
    """

    def __init__(self, refs: Sequence[ClipRef], folder: Path) -> None:
        self._refs, self._folder = refs, folder
        self._pool: ThreadPoolExecutor | None = None
        self._copies: list[Future[ClipRef]] = []

    def __enter__(self) -> Fetched:
        if any(is_url(ref.path) for ref in self._refs):
            self._folder = Path(tempfile.mkdtemp(prefix="objects-", dir=self._folder))
            self._pool = ThreadPoolExecutor(_N_AT_ONCE)
            self._copies = [self._pool.submit(self._copy, place, ref) for place, ref in enumerate(self._refs)]
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            shutil.rmtree(self._folder, ignore_errors=True)

    def _copy(self, place: int, ref: ClipRef) -> ClipRef:
        folder = self._folder / str(place)
        folder.mkdir()
        path = storage_of(ref.path).local(ref.path, ref.size_bytes, ref.etag, folder)
        return replace(ref, path=path, segments=ref.segments and _beside(ref.segments, folder))

    def take(self, place: int) -> ClipRef | ClipOutcome:
        """Return the file at a place, such that it can be opened; or its outcome, where it could not be fetched.

        Raises
        ------
        OSError
            This machine cannot hold the copy.
        """
        ref = self._refs[place]
        if not self._copies:
            return ref
        try:
            return self._copies[place].result()
        except OSError as error:
            if error.errno is not None:  # of the disk here; stores have none
                raise
            return ClipOutcome(ref, Status.FAILED, "decode", type(error).__name__, message_of(error))

    def drop(self, place: int) -> None:
        """Delete the copy at a place."""
        if self._copies:
            shutil.rmtree(self._folder / str(place), ignore_errors=True)


def _beside(source: SegmentSource, folder: Path) -> SegmentSource:
    """Fetch what says who speaks when; one that is gone is missing in `folder`, too, and the row says so."""
    paths = []
    for path in source.paths:
        copy = str(folder / os.path.basename(path))  # noqa: PTH119 - not a path
        with suppress(FileNotFoundError):
            copy = storage_of(path).local(path, 0, "", folder)
        paths.append(copy)
    return replace(source, paths=tuple(paths))
