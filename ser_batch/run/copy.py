"""A run in a bucket, copied to this machine for as long as it is read."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ser_batch.errors import RunError, SerBatchError
from ser_batch.run.layout import TABLES, TableName
from ser_batch.storage.address import Address, is_url, local_or_url
from ser_batch.storage.objects import Bucket, Listed
from ser_batch.storage.places import bucket_of
from ser_batch.text import printable

__all__ = ["ReadableRun", "readable"]

#: Objects fetched side by side.
_N_AT_ONCE = 16
#: Made from a run, and large.
_NOT_NEEDED = ("report.html", "comparison.html")


@dataclass(frozen=True)
class ReadableRun:
    """A run that can be opened."""

    folder: Path
    #: As it was named.
    name: str

    def told(self, text: str) -> str:
        """Return a text in which the run has its name, and not that of its copy."""
        return text.replace(str(self.folder), self.name)


@contextmanager
def readable(run: str | os.PathLike[str], tables: Iterable[TableName] = tuple(TABLES)) -> Iterator[ReadableRun]:
    """Give a run to be read: where it is, or of one in a bucket a copy, which is gone afterwards.

    Parameters
    ----------
    run : path, or address of what a run was copied to
    tables : iterable of str
        What is wanted of one in a bucket, beside the tables that every run has.

    Raises
    ------
    RunError
        There is none, it cannot be fetched, or there is no room for it. What is raised within names the run as it was.
    """
    url = local_or_url(run) if isinstance(run, str) else run
    if not (isinstance(url, str) and is_url(url)):
        yield ReadableRun(Path(url), os.fspath(run))
        return
    address = Address.of(url)
    with tempfile.TemporaryDirectory(prefix="ser-batch-run-") as place:
        # Under its own name, which reports show.
        copy = ReadableRun(Path(place) / (address.key.rpartition("/")[2] or address.bucket), address.url)
        try:
            _fetch(address, copy.folder, tables)
        except OSError as error:
            raise RunError(
                f"{printable(address.url)} cannot be copied to {place} to be read: {error.strerror or error}. TMPDIR "
                f"names another folder."
            ) from error
        try:
            yield copy
        except SerBatchError as error:
            raise type(error)(copy.told(str(error))) from error


def _fetch(address: Address, folder: Path, tables: Iterable[TableName]) -> None:
    bucket = bucket_of(address)
    depth = len(address.key) + 1 if address.key else 0
    wanted = {name for name, kind in TABLES.items() if kind.is_required} | {*tables}
    left_out = {*TABLES} - wanted | {*_NOT_NEEDED, ""}
    try:
        items = list(bucket.objects(address.key))
        found: Sequence[Listed] = [item for item in items if isinstance(item, Listed)]
        failed = next((item.error for item in items if not isinstance(item, Listed)), None)
        if failed is not None:
            raise failed
        # What is hidden is of a scan at work, but for a part that waits for its name.
        chosen = [item for item in found if _top(item, depth) not in left_out and _top(item, depth)[0] != "."]
        if not chosen:
            raise RunError(f"There is no run {printable(address.url)}: no object has a key that begins so.")
        with ThreadPoolExecutor(_N_AT_ONCE) as pool:
            list(pool.map(lambda item: _copy(bucket, address, item, folder / item.key[depth:]), chosen))
    except OSError as error:
        if error.errno is not None:  # of the disk here; stores have none
            raise
        raise RunError(f"{printable(address.url)} cannot be read: {error}.") from None


def _top(item: Listed, depth: int) -> str:
    return item.key[depth:].partition("/")[0]


def _copy(bucket: Bucket, address: Address, item: Listed, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    bucket.local(address.at(item.key).url, item.size_bytes, item.etag, target.parent)
