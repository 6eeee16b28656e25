"""What makes a run survive: the file system's operations in one place, and the journal of commits."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ser_batch.atomic import NO_FOLLOW, flush_folder, open_file, open_new, read_file
from ser_batch.errors import RunError
from ser_batch.kinds import COUNT, TEXT, TIME, Kind, problem_with, read_json
from ser_batch.run.layout import TABLES, TableName
from ser_batch.run.summary import are_sums

__all__ = [
    "JOURNAL",
    "Entry",
    "Filesystem",
    "Journal",
    "Written",
    "highest_generation",
    "is_reign",
    "reign",
    "sha256_of",
]

#: Name of the journal in the folder of a run.
JOURNAL = "journal.jsonl"
_REIGN = re.compile(rb'\{"generation": (\d{1,9})\}')


#: What file systems answer that know no second names.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


class Filesystem:
    """The few operations by which a run is written; each reaches the disk before it returns.

    They are those of `ser_batch.atomic`, one by one: a part becomes visible in other steps than a single file. This is
    where tests break the disk.
    """

    #: So many parts a large run should have at most.
    most_parts = 4_096

    def write(self, path: Path, data: bytes | memoryview) -> None:
        """Write a whole new file and flush it to disk."""
        with open_new(path) as file:
            file.write(data)
            file.flush()
            self.flush(file.fileno())

    def create(self, path: Path, data: bytes) -> bool:
        """Write a file that nobody has written before, whole at once for whoever looks; return whether it was ours.

        The first of several that try it at the same time, on whatever machine, is told that it was. Where the answer of
        a file server was lost, what is there says whose it is.
        """
        staged = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        self.write(staged, data)
        try:
            self.link(staged, path)
        except FileExistsError:
            return path.read_bytes() == data
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            try:  # whole a little later
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_FOLLOW, 0o666)
            except FileExistsError:
                return False
            with open(descriptor, "wb") as file:  # noqa: PTH123
                file.write(data)
                file.flush()
                self.flush(file.fileno())
        finally:
            staged.unlink(missing_ok=True)
        self.flush_folder(path.parent)
        return True

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name that nobody has."""
        target.hardlink_to(source)

    def append(self, path: Path, data: bytes) -> None:
        """Append to a file and flush it; where that fails, the file is as it was before."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | NO_FOLLOW, 0o666)
        try:
            size = os.fstat(descriptor).st_size
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(descriptor, view) :]
                self.flush(descriptor)
            except BaseException:
                with suppress(OSError):
                    os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Put a file in the place of another, at once for whoever looks."""
        source.replace(target)

    def remove(self, path: Path) -> None:
        """Delete a file, if it is there."""
        path.unlink(missing_ok=True)

    def size_bytes(self, path: Path) -> int:
        """Return the length of a file; raises `FileNotFoundError` where there is none."""
        return path.stat().st_size

    def names(self, folder: Path) -> list[str]:
        """Return the names of the files in a folder; none where there is no folder."""
        return [path.name for path in folder.glob("*")]

    def is_far(self, path: Path) -> bool:
        """Tell whether a file must be fetched before it can be opened."""
        return False

    def fetch(self, path: Path) -> None:
        """See to it that a file can be opened here, if it is there at all."""

    def flush(self, descriptor: int) -> None:
        """Wait until a file is on disk."""
        os.fsync(descriptor)

    def flush_folder(self, folder: Path) -> None:
        """Wait until the names in a folder are on disk."""
        flush_folder(folder)

    def replace(self, path: Path, data: bytes | memoryview) -> None:
        """Write a file so that a reader sees the old one or the new one, whole."""
        staged = path.with_name(f".{path.name}.tmp")
        self.write(staged, data)
        self.rename(staged, path)
        self.flush_folder(path.parent)


class Written(NamedTuple):
    """One file of a part, as it is once its commit is done."""

    n_rows: int
    n_bytes: int
    sha256: str
    #: What readers compare, since the whole file takes long; None where an early version wrote the line.
    footer_crc32: int | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One commit: the files of a part as they are once it is done."""

    part: int
    fingerprint: str
    #: When, ISO 8601, UTC; "" for a part that was adopted.
    at: str
    #: Files that this commit processed; fewer than rows of ``files`` where a part was rewritten for some of its files.
    n_processed: int
    #: The tables that the part has.
    tables: Mapping[TableName, Written] = field(default_factory=dict)
    #: The run that the part is of; "" where an early version wrote the line.
    run_id: str = ""
    #: Class of the processor that computed it; "" where that is not known.
    cpu: str = ""
    #: Attempt of a node under whose name it was staged: see `ser_batch.run.layout.staged_by`; "" for a scan.
    attempt: str = ""
    #: Place in its group: commits that are written at once, whose renames may be outstanding together.
    group: int = 0
    #: As `ser_batch.run.summary.sums_of` counts the part; empty where an earlier version wrote the line.
    sums: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def parse(cls, line: bytes) -> Entry:
        """Read a line of the journal.

        Raises
        ------
        ValueError
            It is none.
        """
        return cls.of(read_json(line))

    @classmethod
    def of(cls, values: Any) -> Entry:
        """Return the entry that an object of JSON holds; raises as `parse`."""
        if not isinstance(values, dict):
            raise ValueError("a line holds an object")
        known = {name: values[name] for name in _FIELDS if name in values}
        if problem := problem_with(known, _FIELDS):
            raise ValueError(problem)
        tables = {
            table: Written(*(known[key] for key in keys if key in known))
            for table, keys in _KEYS.items()
            if all(key in known for key in keys[:3])
        }
        missing = [table for table, kind in TABLES.items() if kind.is_required and table not in tables]
        if missing:
            raise ValueError(f"it does not say what {missing[0]}/ holds")
        try:
            return cls(tables=tables, **{name: value for name, value in known.items() if name in _OWN})
        except TypeError as error:
            raise ValueError(str(error)) from None

    def line(self) -> bytes:
        """Return the entry as a line of the journal; `parse` reads it."""
        return json.dumps(self.values(), separators=(",", ":")).encode() + b"\n"

    def values(self) -> dict[str, Any]:
        """Return the entry as an object of JSON; `of` reads it."""
        values: dict[str, Any] = {name: getattr(self, name) for name in _OWN}
        values = {name: value for name, value in values.items() if value or name not in _SELDOM}
        for table, written in self.tables.items():
            told = zip(_KEYS[table], written, strict=True)
            values |= {key: value for key, value in told if value is not None}
        return values


_ATTEMPT = re.compile(r"[0-9a-f]{12}/[0-9a-f]{12}-[0-9]{1,12}")


def _is_attempt(value: Any) -> bool:
    return value == "" or (isinstance(value, str) and _ATTEMPT.fullmatch(value) is not None)


_OWN = {"part": COUNT, "fingerprint": TEXT, "at": TEXT, "n_processed": COUNT, "run_id": TEXT}
_OWN["at"] = Kind(lambda value: value == "" or TIME.holds(value), TIME.words)
#: Left out of a line where they are empty.
_SELDOM = {
    "cpu": TEXT,
    "attempt": Kind(_is_attempt, "the name of an attempt"),
    "group": COUNT,
    "sums": Kind(are_sums, "the sums of a part"),
}
_OWN |= _SELDOM
#: Names of `Written` in a line, table by table.
_KEYS: dict[TableName, tuple[str, ...]] = {
    table: (f"n_{table}", f"{table}_bytes", f"{table}_sha256", f"{table}_footer_crc32") for table in TABLES
}
_FIELDS = _OWN | {
    key: kind for keys in _KEYS.values() for key, kind in zip(keys, (COUNT, COUNT, TEXT, COUNT), strict=True)
}


class Journal:
    """The commits of a run, one JSON line each; a part's last line counts.

    A line is the commit: before it is on disk, a staged part is nothing; after, its renames are certain to be done, by
    this process or by the next one that opens the run.
    """

    def __init__(self, path: Path, filesystem: Filesystem) -> None:
        self.path, self._filesystem = path, filesystem
        self._entries: dict[int, Entry] = {}
        #: All commits, the oldest first.
        self.commits: list[Entry] = []

    def read(self, mend: bool = True) -> Mapping[int, Entry]:
        """Read all commits, part -> entry.

        Parameters
        ----------
        mend : bool
            Cut off a last line that is not whole: it never counted. For the process that holds the run alone.

        Raises
        ------
        RunError
            The journal cannot be read, or a line before the last is damaged: that is no crash but a broken disk or an
            editor.
        OSError
            It cannot be mended; ELOOP where it is a link.
        """
        try:
            data = read_file(self.path)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise RunError(f"{self.path} cannot be read: {error.strerror}.") from None
        commits = []
        whole, _, rest = data.rpartition(b"\n")
        highest = own = 0
        for number, line in enumerate(whole.splitlines(), start=1):
            if found := _REIGN.fullmatch(line):
                own = int(found[1])
                highest = max(highest, own)
                continue
            try:
                entry = Entry.parse(line)
            except ValueError as error:
                raise RunError(
                    f"{self.path}, line {number} is damaged ({error}). Delete the file: the next scan rebuilds it "
                    f"from the parts."
                ) from None
            # By a process that had been succeeded: see `ser_batch.run.owner`.
            if own == highest:
                commits.append(entry)
        if rest and mend:
            descriptor = os.open(self.path, os.O_WRONLY | NO_FOLLOW)
            try:
                os.ftruncate(descriptor, len(data) - len(rest))
            finally:
                os.close(descriptor)
        self.commits = commits
        self._entries = {entry.part: entry for entry in commits}
        return self.entries

    @property
    def entries(self) -> Mapping[int, Entry]:
        """Part -> its last commit; a view, since those of a large run are many."""
        return MappingProxyType(self._entries)

    def append(self, entries: Sequence[Entry]) -> None:
        """Commit, all of them at once."""
        self._filesystem.append(self.path, b"".join(entry.line() for entry in entries))
        self._entries |= {entry.part: entry for entry in entries}
        self.commits += entries

    def rewrite(self, entries: Sequence[Entry]) -> None:
        """Replace the whole journal, when parts were lost or found without it, or when the run begins anew."""
        self._filesystem.replace(self.path, b"".join(entry.line() for entry in entries))
        self._entries = {entry.part: entry for entry in entries}
        self.commits = list(entries)

    def last_group(self) -> list[Entry]:
        """Return the commits that were written together with the last one: only their renames may be outstanding."""
        return self.commits[-1 - self.commits[-1].group :] if self.commits else []


def reign(generation: int) -> bytes:
    """Return the line that says by which owner of a run the lines after it are, on a disk without ``flock``."""
    return b'{"generation": %d}\n' % generation


def is_reign(line: bytes) -> bool:
    """Tell whether a line is one of `reign`."""
    return _REIGN.fullmatch(line.rstrip(b"\n")) is not None


def highest_generation(path: Path) -> int:
    """Return the highest generation that has written to a journal, 0 for none."""
    try:
        lines = read_file(path).splitlines()
    except OSError:
        return 0
    return max((int(found[1]) for line in lines if (found := _REIGN.fullmatch(line))), default=0)


def sha256_of(path: Path, flags: int = 0) -> str:
    """Return the checksum of a file; `flags` are those of `ser_batch.atomic.open_file`."""
    with open_file(path, flags) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
