"""A run in a bucket, copied to this machine: whole, for as long as it is read, or as far as a scan needs it."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ser_batch.errors import RunError, SerBatchError
from ser_batch.run.journal import JOURNAL, Filesystem, Journal
from ser_batch.run.layout import TABLES, TableName
from ser_batch.run.local import local_folder
from ser_batch.run.manifest import read_manifest
from ser_batch.storage.address import Address, is_url, local_or_url
from ser_batch.storage.objects import Bucket, Listed, Version
from ser_batch.storage.places import bucket_of
from ser_batch.text import printable

__all__ = [
    "REPORTS",
    "ReadableRun",
    "RunObjects",
    "copy_in",
    "is_copy",
    "is_staged",
    "manifest_of",
    "no_room",
    "readable",
    "staged_name",
]

#: Of the folders in which copies lie.
_PREFIX = "ser-batch-run-"
#: Objects fetched side by side.
_N_AT_ONCE = 16
#: Made from a run, and large.
REPORTS = ("report.html", "comparison.html")
#: How often a run that is being written is looked at, to see it as it is at one moment.
_MOST_LOOKS = 5
_STAGED = re.compile(rf"({'|'.join(TABLES)})/\.part-\d{{5,9}}\.[0-9a-f]{{64}}\.tmp")


@dataclass(frozen=True)
class ReadableRun:
    """A run that can be opened."""

    folder: Path
    #: As it was named.
    name: str

    def told(self, text: str) -> str:
        """Return a text in which the run has its name, and not that of its copy."""
        return text.replace(str(self.folder), self.name)


class RunObjects:
    """The objects of a run, by the names that they have below its folder, and copies of them.

    Parameters
    ----------
    address : Address
    folder : Path
        Where copies go.
    """

    def __init__(self, address: Address, folder: Path) -> None:
        self.bucket: Bucket = bucket_of(address)
        self.address, self.folder = address, folder
        #: What was listed last.
        self.listed: dict[str, Listed] = {}
        self._copied: dict[str, Listed] = {}

    def key(self, name: str) -> str:
        """Return the key of an object."""
        return f"{self.address.key}/{name}" if self.address.key else name

    def look(self) -> None:
        """List what there is.

        Raises
        ------
        OSError
            It cannot be listed.
        """
        depth = len(self.key(""))
        self.listed = {}
        for item in self.bucket.objects(self.address.key):
            if not isinstance(item, Listed):
                raise item.error
            self.listed[item.key[depth:]] = item

    def fetch(self, names: Iterable[str]) -> None:
        """Copy objects side by side, each in the version that was listed. Raises as `look`."""
        with ThreadPoolExecutor(_N_AT_ONCE) as pool:
            list(pool.map(self._fetch, names))

    def _fetch(self, name: str) -> None:
        item, target = self.listed[name], self.folder / name
        if self._copied.get(name) == item and target.exists():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        self.bucket.local(self.address.at(item.key).url, item.size_bytes, item.etag, target.parent)
        self._copied[name] = item

    def fetch_object(self, name: str) -> Version | None:
        """Copy a small object as it is now, and return its version; None where there is none. Raises as `look`."""
        there = self.bucket.get(self.key(name))
        if there is None:
            return None
        # The last line of a journal that was copied while it was written need not be whole, and then counts for none.
        data = there.data[: there.data.rfind(b"\n") + 1] if name == JOURNAL else there.data
        (self.folder / name).write_bytes(data)
        return there.version

    def was_listed(self, name: str, version: Version | None) -> bool:
        """Tell whether this version of an object was listed, or with None that there was none."""
        item = self.listed.get(name)
        if item is None or version is None:
            return item is version
        # Some stores list them without the quotes.
        return item.etag.strip('"') == (version.etag or "").strip('"')

    def note(self, name: str, size_bytes: int) -> None:
        """Take in that an object was written, and that the copy has what it holds."""
        self.listed[name] = self._copied[name] = Listed(self.key(name), size_bytes, None, "")

    def fetch_for_scan(self) -> None:
        """Copy what a scan looks at: all but reports, plans, and tables other than `files`. Raises as `look`."""
        left_out = {*TABLES} - {"files"} | {*REPORTS, JOURNAL, "run.json", "plan.json", ""}
        tops = {name: name.partition("/")[0] for name in self.listed if not is_staged(name)}
        self.fetch([name for name, top in tops.items() if top not in left_out and top[0] != "."])

    def fetch_staged(self, tables: Iterable[str] = tuple(TABLES)) -> dict[Path, str]:
        """Copy what the last commits have staged and not put in its place to where a disk would have it.

        Returns
        -------
        staged : dict
            Path of the copy -> name.

        Raises
        ------
        OSError
            It cannot be copied.
        """
        journal = Journal(self.folder / JOURNAL, Filesystem())
        try:
            journal.read(mend=False)
        except RunError:
            # Whoever opens the run says it.
            return {}
        staged = {
            self.folder / table / f".part-{entry.part:05d}.parquet.tmp": staged_name(table, entry.part, written.sha256)
            for entry in journal.last_group()
            for table, written in entry.tables.items()
            if table in tables
        }
        staged = {path: name for path, name in staged.items() if name in self.listed}
        self.fetch(staged.values())
        for path, name in staged.items():
            (self.folder / name).rename(path)
            del self._copied[name]
        return staged


def is_copy(folder: Path) -> bool:
    """Tell whether a folder is the copy of a run in a bucket."""
    return folder.absolute().parent.name.startswith(_PREFIX)


def staged_name(table: str, part: int, sha256: str) -> str:
    """Return the name under which a table of a part is staged: by what it holds, so that it never holds another."""
    return f"{table}/.part-{part:05d}.{sha256}.tmp"


def is_staged(name: str) -> bool:
    """Tell whether an object is staged, by its name."""
    return _STAGED.fullmatch(name) is not None


@contextmanager
def copy_in(address: Address) -> Iterator[ReadableRun]:
    """Give a folder for a copy of a run; errors that are raised within name the run, and not the folder.

    Raises
    ------
    RunError
        There is no room for it.
    """
    with ExitStack() as stack:
        parent = Path(tempfile.gettempdir())
        try:
            place = stack.enter_context(local_folder(parent, _PREFIX))
            # Under its own name, which reports show.
            copy = ReadableRun(place / (address.key.rpartition("/")[2] or address.bucket), address.url)
            copy.folder.mkdir()
        except OSError as error:
            raise no_room(address, parent, error) from error
        try:
            yield copy
        except SerBatchError as error:
            if (text := copy.told(str(error))) == str(error):
                raise
            raise type(error)(text) from error


def no_room(address: Address, folder: Path, error: OSError) -> RunError:
    """Return what to say where this machine cannot hold a copy."""
    return RunError(
        f"{printable(address.url)} cannot be copied to {folder}: {error.strerror or error}. "
        f"TMPDIR names another folder."
    )


@contextmanager
def readable(run: str | os.PathLike[str], tables: Iterable[TableName] = tuple(TABLES)) -> Iterator[ReadableRun]:
    """Give a run to be read: where it is, or of one in a bucket a copy, which is gone afterwards.

    Parameters
    ----------
    run : path, or address in a bucket
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
    with copy_in(address) as copy:
        with _reading(address, copy.folder):
            _fetch_run(RunObjects(address, copy.folder), address, {*tables})
        yield copy


def _fetch_run(objects: RunObjects, address: Address, tables: set[TableName]) -> None:
    """Copy a run as it was at one moment, also while a scan writes it."""
    wanted = {name for name, kind in TABLES.items() if kind.is_required} | tables
    left_out = {*TABLES} - wanted | {*REPORTS, JOURNAL, ""}
    staged: dict[Path, str] = {}
    for looks_left in reversed(range(_MOST_LOOKS)):
        for path in staged:
            path.unlink(missing_ok=True)
        journal = objects.fetch_object(JOURNAL)
        objects.look()
        # What is hidden is of a scan at work, but for a part that waits for its name.
        tops = {name: name.partition("/")[0] for name in objects.listed if not is_staged(name)}
        chosen = [name for name, top in tops.items() if top not in left_out and top[0] != "."]
        if not chosen and journal is None:
            raise RunError(f"There is no run {printable(address.url)}: no object has a key that begins so.")
        if looks_left and not objects.was_listed(JOURNAL, journal):
            continue
        try:
            staged = objects.fetch_staged(wanted)
            objects.fetch(chosen)
            return
        except OSError as error:
            # Replaced or renamed since they were listed.
            if not looks_left or error.errno is not None or isinstance(error, ConnectionError | PermissionError):
                raise


def manifest_of(run: str | os.PathLike[str]) -> dict[str, Any]:
    """Return ``run.json`` of a run, wherever it is; raises as `readable` and `ser_batch.run.manifest.read_manifest`."""
    url = local_or_url(run) if isinstance(run, str) else run
    if not (isinstance(url, str) and is_url(url)):
        return read_manifest(Path(url))
    address = Address.of(url)
    with copy_in(address) as copy, _reading(address, copy.folder):
        RunObjects(address, copy.folder).fetch_object("run.json")
        return read_manifest(copy.folder)


@contextmanager
def _reading(address: Address, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno is not None:  # of the disk here; stores have none
            raise no_room(address, folder.parent.parent, error) from error
        raise RunError(f"{printable(address.url)} cannot be read: {error}.") from None
