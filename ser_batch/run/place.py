"""Where a scan writes its run: a folder, or a bucket by way of a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from ser_batch.errors import InputError
from ser_batch.run.folder import claim, writing
from ser_batch.run.journal import Filesystem
from ser_batch.run.lock import holder_of, lock_for_writing
from ser_batch.storage.address import Address, is_url, local_or_url
from ser_batch.storage.places import bucket_of
from ser_batch.text import printable

__all__ = ["FolderPlace", "Place", "has_run", "holder_at", "place_of"]


class Place(Protocol):
    """Where a run is written."""

    #: What it is made in.
    folder: Path
    #: What it is called: its folder, or its address.
    name: Path | str

    def told(self, text: str) -> str:
        """Return a text in which the run has its name."""

    def look(self) -> None:
        """See to it that `folder` has what a plan is made of; nothing is changed."""

    def held(self) -> AbstractContextManager[Filesystem]:
        """Hold the run alone; give what writes it. Raises `RunError` where that cannot be."""

    def has_report(self) -> bool:
        """Tell whether there is a report of the run as it is: not one of a visit before, whose successor was killed."""

    def fetch_for_report(self) -> None:
        """See to it that `folder` has what a report is made of."""

    def publish_report(self) -> bool:
        """Put the report where the run is, and tell whether there is one."""


class FolderPlace:
    """A run that is written where it is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name: Path | str = folder

    def told(self, text: str) -> str:
        return text

    def look(self) -> None:
        pass

    @contextmanager
    def held(self) -> Iterator[Filesystem]:
        claim(self.folder)
        with ExitStack() as stack:
            with writing("the lock"):
                filesystem = stack.enter_context(lock_for_writing(self.folder))
            yield filesystem

    def has_report(self) -> bool:
        with suppress(FileNotFoundError):
            times = [(self.folder / name).stat().st_mtime_ns for name in ("run.json", "report.html")]
            return times[0] <= times[1]
        return False

    def fetch_for_report(self) -> None:
        pass

    def publish_report(self) -> bool:
        return (self.folder / "report.html").exists()


@contextmanager
def place_of(run: str | os.PathLike[str]) -> Iterator[Place]:
    """Give the place of a run, by its folder or its address in a bucket; errors name it as it was given.

    Raises
    ------
    InputError
        It is an address of something else.
    RunError
        There is no room for a copy of one in a bucket.
    """
    path = local_or_url(run) if isinstance(run, str) else run
    if not (isinstance(path, str) and is_url(path)):
        yield FolderPlace(Path(path))
        return
    from ser_batch.run.bucket import bucket_run  # noqa: PLC0415 - for those who have one

    with bucket_run(Address.of(path)) as place:
        yield place


def has_run(run: str) -> bool:
    """Tell whether there is a run in a folder or at an address.

    Raises
    ------
    InputError
        It is an address of something else, or cannot be looked at.
    """
    path = local_or_url(run)
    if not is_url(path):
        return (Path(path) / "run.json").exists()
    address = Address.of(path)
    try:
        return bucket_of(address).get(f"{address.key}/run.json".lstrip("/")) is not None
    except OSError as error:
        raise InputError(f"{printable(address.url)} cannot be looked at: {error}.") from None


def holder_at(run: str) -> str:
    """Name the process that is writing a run, "" for none.

    Raises
    ------
    RunError
        It cannot be seen.
    """
    path = local_or_url(run)
    if not is_url(path):
        return holder_of(Path(path))
    from ser_batch.run.bucket import holder_in  # noqa: PLC0415 - for those who have one

    return holder_in(Address.of(path))
