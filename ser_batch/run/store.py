"""The parts of a run on disk: committed whole or not at all, mended when a run is opened again.

One shard is one part: a file ``part-NNNNN.parquet`` in the folder of each table of the run. A commit stages them under
hidden names, flushes them, appends one line to the journal - that is the commit - and renames them into place. Whoever
opens the run after a crash finds either no line, and drops what is staged, or the line, and does the renames left;
whoever only looks reads them where they are. What nodes have staged is committed in the same way, many parts at once.

Parts are what the journal says. What else lies in the folders is taken in only where it is this run's beyond doubt, and
never deleted where it is not.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ser_batch.atomic import NO_FOLLOW, NOT_A_FILE, make_folder, open_file
from ser_batch.errors import RunError
from ser_batch.run.journal import JOURNAL, Entry, Filesystem, Journal, Written, sha256_of
from ser_batch.run.layout import TABLES, TableName, staged_by
from ser_batch.run.parquet import as_parquet, ends_of, footer_crc32, openable
from ser_batch.run.schema import SCHEMA_VERSION, problem_with_columns, read_metadata
from ser_batch.run.steps import reached
from ser_batch.run.summary import are_sums, sums_of

__all__ = ["INDEX_COLUMNS", "RunStore"]

#: What is known of a file without opening it: enough to see what is to be done.
INDEX_COLUMNS = (
    *("clip_id", "size_bytes", "modified", "etag", "status", "stage", "error_type", "vanished", "reader"),
    "segments_key",
)

#: Where the system refuses a part: it may be whole.
_CURE = "Mend the disk, or who may read it, and try again."

_PART_NAME = re.compile(r"part-(\d{5,9})\.parquet")
_STAGED_NAME = re.compile(r"\.part-\d{5,9}\.parquet\.tmp")


class RunStore:
    """Reads and writes the parts of one run; only the process that holds the lock may write.

    Parameters
    ----------
    run_dir : Path
        An existing folder.
    filesystem : Filesystem
        Does the writing.
    """

    def __init__(self, run_dir: Path, filesystem: Filesystem | None = None) -> None:
        self.run_dir = run_dir = openable(run_dir)
        self._filesystem = filesystem or Filesystem()
        self._journal = Journal(run_dir / JOURNAL, self._filesystem)
        #: Tables of the last commits whose renames are left, and where they are; for whoever only looks.
        self._unrenamed: dict[tuple[TableName, int], Path] = {}
        #: Whether the next commit begins the run anew.
        self._begins_anew = False
        #: Parts of which something is gone or damaged; the rest of them goes with the next commit.
        self._lost: set[int] = set()
        #: Columns of the part that was read last, table by table.
        self._known: dict[TableName, pa.Schema] = {}

    @property
    def filesystem(self) -> Filesystem:
        """What writes the run."""
        return self._filesystem

    def create(self, tables: Iterable[TableName] = ("windows", "files")) -> None:
        """Make the folders of tables."""
        for table in tables:
            make_folder(self.run_dir / table)

    def path(self, table: TableName, part: int) -> Path:
        """Return the place of a part once its commit is done."""
        return self.run_dir / table / f"part-{part:05d}.parquet"

    def where(self, table: TableName, part: int) -> Path:
        """Return where a committed part can be opened: in its place, or still under its hidden name."""
        path = self._unrenamed.get((table, part)) or self.path(table, part)
        self._filesystem.fetch(path)
        return path

    def _staged(self, table: TableName, part: int, attempt: str) -> Path:
        if attempt:
            return staged_by(self.run_dir, attempt, table)
        return self.run_dir / table / f".part-{part:05d}.parquet.tmp"

    @property
    def entries(self) -> Mapping[int, Entry]:
        """Committed parts; after `recover` or `look`."""
        if self._begins_anew:
            return {}
        entries = self._journal.entries
        return {part: entry for part, entry in entries.items() if part not in self._lost} if self._lost else entries

    @property
    def commits(self) -> list[Entry]:
        """All commits, the oldest first; after `recover` or `look`."""
        return [] if self._begins_anew else [entry for entry in self._journal.commits if entry.part not in self._lost]

    @property
    def lost(self) -> frozenset[int]:
        """Parts that have to be made again, under other numbers; after `recover`."""
        return frozenset(self._lost)

    def look(self, replaced: str = "") -> None:
        """Read which parts there are, for a process that only reads, also while another one writes.

        Parameters
        ----------
        replaced : str
            As for `recover`.

        Raises
        ------
        RunError
            The journal is damaged or cannot be read.
        """
        self._journal.read(mend=False)
        self._unrenamed = {(name, part): staged for name, part, staged in self._left_of_last_commits()}
        self._begins_anew = self._is_of(replaced)

    def parts(self) -> list[int]:
        """Return the parts to be read: those of the journal; where it is lost, those that are there by name."""
        return sorted(self.entries if self._journal.path.exists() else self.parts_on_disk())

    def has(self, table: TableName, part: int, otherwise: bool = False) -> bool:
        """Tell whether a part has a table, by the journal; `otherwise` is for one that the journal does not name."""
        entry = self.entries.get(part)
        return table in entry.tables if entry else otherwise

    def _left_of_last_commits(self) -> Iterator[tuple[TableName, int, Path]]:
        """Yield (table, part, where it is) of the renames that the last commits have left, if any."""
        for entry in self._journal.last_group():
            for name, written in entry.tables.items():
                staged = self._staged(name, entry.part, entry.attempt)
                # By its checksum: the next commit of this part may be being staged.
                try:
                    is_left = sha256_of(staged, NO_FOLLOW) == written.sha256
                except OSError as error:
                    if error.errno in NOT_A_FILE:
                        continue
                    raise RunError(f"{staged} cannot be read: {error.strerror}. Mend the disk.") from None
                if is_left:
                    yield name, entry.part, staged

    def stage(self, part: int, tables: Mapping[TableName, pa.Table], n_processed: int, attempt: str = "") -> Entry:
        """Write the tables of a part under hidden names; return the entry that `commit` takes.

        Parameters
        ----------
        part : int
        tables : mapping
            Those that the run has.
        n_processed : int
            Files that the commit is about, for the journal.
        attempt : str
            Of a node, which stages without holding the run: see `ser_batch.run.layout.staged_by`.

        Raises
        ------
        OSError
            The disk is full or broken. What was committed before is whole.
        """
        written: dict[TableName, Written] = {}
        for name in TABLES:
            if name not in tables:
                continue
            data = as_parquet(tables[name])
            self._filesystem.write(self._staged(name, part, attempt), data)
            sums = hashlib.sha256(data).hexdigest(), footer_crc32(io.BytesIO(data))
            written[name] = Written(len(tables[name]), len(data), *sums)
            reached(f"{name}-staged")
        of = read_metadata(tables["files"].schema)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        fingerprint, run_id, cpu = (str(of.get(name, "")) for name in ("fingerprint", "run_id", "cpu"))
        counted = sums_of(tables["files"])
        if not are_sums(counted):  # such as the name of an error that is no text: counted when it is read
            counted = {}
        return Entry(part, fingerprint, at, n_processed, written, run_id, cpu, attempt, sums=counted)

    def commit(self, *entries: Entry) -> None:
        """Put parts that are staged in their places: one by one, all tables of a part or none.

        After `begin_anew`, this is the moment at which all parts before it are given up; else those that are lost.

        Raises
        ------
        OSError
            The disk is full or broken. What was committed before is whole.
        """
        given_up = self.parts_on_disk() - {entry.part for entry in entries} if self._begins_anew else set()
        group = [replace(entry, group=place) for place, entry in enumerate(entries)]
        if self._begins_anew:
            self._journal.rewrite(group)
        else:
            self.give_up_lost()
            self._journal.append(group)
        self._begins_anew, self._lost = False, set()
        reached("journal-appended")
        for entry in group:
            for name in entry.tables:
                self._filesystem.rename(self._staged(name, entry.part, entry.attempt), self.path(name, entry.part))
                reached(f"{name}-renamed")
            self._drop_beside(entry)
        for other in given_up:
            self._drop(other)
        for name in dict.fromkeys(name for entry in group for name in entry.tables):
            self._filesystem.flush_folder(self.run_dir / name)

    def recover(self, run_id: str = "", replaced: str = "") -> list[str]:
        """Bring the folder to the state of the last commit; return what had to be given up, for people to read.

        Parameters
        ----------
        run_id : str
            Of this run; "" where that is not known, as without ``run.json``.
        replaced : str
            Run that this one takes the place of, whose parts go; "" for none.

        Raises
        ------
        RunError
            The journal is damaged, or a part is of another run or another version.
        OSError
            The disk is broken.
        """
        self._journal.read()
        for name, part, staged in self._left_of_last_commits():
            self._filesystem.rename(staged, self.path(name, part))
            self._filesystem.flush_folder(self.run_dir / name)
        self._tidy()
        if self._is_of(replaced):
            # Killed between the word that it begins anew and its first commit.
            self.begin_anew()
            return []
        entries = dict(self._journal.entries)
        self._refuse_others(entries, run_id)
        lost = {part: why for part, entry in entries.items() if (why := self._what_is_wrong(entry))}
        # What is left of them stays until something takes its place.
        self._lost = set(lost)
        sound = self.entries
        for entry in sound.values():
            self._drop_beside(entry)
        notices = [f"Part {part} of the run {why}; its files are processed again." for part, why in lost.items()]
        adopted, dropped = self._examine_unnamed(sound, run_id, replaced)
        notices += [f"Part {part} without an entry in the journal {why}; dropped." for part, why in dropped.items()]
        if adopted:
            self._journal.rewrite([*self._journal.entries.values(), *adopted])
        return notices

    def give_up_lost(self) -> None:
        """Delete what is left of lost parts, once their files have other rows or are gone. Raises OSError."""
        if self._lost:
            # In this order: a part that the journal does not name may be taken for one that it has lost.
            for part in self._lost:
                self._drop(part)
            self._journal.rewrite(self.commits)
            self._lost = set()

    def begin_anew(self) -> None:
        """Take what is there for nothing; it goes with the next commit, and stays whole until then."""
        self._begins_anew = True

    def run_id(self) -> str:
        """Return the run that the parts belong to, "" where there are none."""
        return next((entry.run_id for entry in self.entries.values() if entry.run_id), "")

    def _is_of(self, run_id: str) -> bool:
        return bool(run_id) and {entry.run_id for entry in self._journal.entries.values()} == {run_id}

    def _refuse_others(self, entries: Mapping[int, Entry], run_id: str) -> None:
        others = {entry.run_id for entry in entries.values()} - {"", run_id}
        if run_id and others:
            raise RunError(
                f"The journal and run.json of {self.run_dir} are of two runs ({others.pop()} and {run_id}). Restore "
                f"the one that belongs to the parts from a copy."
            )

    def _what_is_wrong(self, entry: Entry) -> str:
        """Cheap look at a part: is it there, as long as it was written, and with that footer?"""
        for name, written in entry.tables.items():
            path = self.path(name, entry.part)
            try:
                n_bytes = self._filesystem.size_bytes(path)
            except FileNotFoundError:
                return f"is missing {name}/{path.name}"
            if n_bytes != written.n_bytes:
                return f"has a damaged {name}/{path.name} ({n_bytes} bytes)"
            if not self._filesystem.is_far(path) and not self._has_footer(path, written):
                return f"has a damaged {name}/{path.name} (footer)"
        return ""

    def _examine_unnamed(
        self, entries: Mapping[int, Entry], run_id: str, replaced: str
    ) -> tuple[list[Entry], dict[int, str]]:
        """Look at parts that the journal does not name: take in what was lost from it, drop what is nothing.

        Returns
        -------
        adopted : list of Entry
        dropped : dict
            Part -> why.
        """
        adopted: list[Entry] = []
        dropped: dict[int, str] = {}
        known: list[pa.Array] | None = None
        for part in sorted(self.parts_on_disk() - set(self._journal.entries)):
            try:
                provenance = read_metadata(pq.read_schema(self.where("files", part)))
                written = {name: self._written(name, part) for name in _tables_of(provenance)}
                clip_ids = self._clip_ids(part)
            except (OSError, ValueError, pa.ArrowException) as error:
                if isinstance(error, OSError) and error.errno and not isinstance(error, FileNotFoundError):
                    raise  # the disk cannot be read, which says nothing about the part
                dropped[part] = f"cannot be read ({str(error).splitlines()[0]})"
                self._drop(part)
                continue
            owner = str(provenance.get("run_id", ""))
            if replaced and owner == replaced:
                self._drop(part)
                continue
            known = known if known is not None else [self._clip_ids(other) for other in entries]
            why = self._why_not_taken(owner, run_id, provenance)
            if not why:
                again = pc.is_in(clip_ids, value_set=pa.concat_arrays([*known, clip_ids.slice(0, 0)]))
                if len(clip_ids) and pc.all(again).as_py():
                    dropped[part] = "holds the rows of other parts a second time"
                    self._drop(part)
                    continue
                why = "holds rows of which other parts hold some already" if pc.any(again).as_py() else ""
            if why:
                raise RunError(
                    f"{self.path('files', part)} {why}, and the journal does not name it: it was put there by hand. "
                    f"Move it and what the other tables have under its name out of the folder."
                )
            known.append(clip_ids)
            adopted.append(Entry(part, str(provenance.get("fingerprint", "")), "", 0, written, run_id=owner))
            run_id = run_id or owner
        return adopted, dropped

    @staticmethod
    def _why_not_taken(owner: str, run_id: str, provenance: Mapping[str, Any]) -> str:
        if run_id and owner != run_id:
            return f"is of another run ({owner or 'which it does not say'})"
        version = provenance.get("schema_version", 0)
        if not isinstance(version, int) or version > SCHEMA_VERSION:
            return f"has results schema {version}, and this version of ser-batch knows those up to {SCHEMA_VERSION}"
        return ""

    def _written(self, name: TableName, part: int) -> Written:
        path = self.where(name, part)
        with open_file(path) as file:
            crc32 = footer_crc32(file)
        return Written(pq.read_metadata(path).num_rows, path.stat().st_size, sha256_of(path), crc32)

    def _clip_ids(self, part: int) -> pa.Array:
        with _readable(self.path("files", part)):
            return self._file("files", part).read(columns=["clip_id"]).column("clip_id").combine_chunks()

    @staticmethod
    def is_own_name(name: str) -> bool:
        """Tell whether a file in a folder of a table may be of a run: a part, or one that is staged."""
        return bool(_PART_NAME.fullmatch(name) or _STAGED_NAME.fullmatch(name))

    def parts_on_disk(self) -> set[int]:
        """Return the parts of which a table is there by name, whatever it holds."""
        names = (name for table in TABLES for name in self._filesystem.names(self.run_dir / table))
        return {int(found[1]) for name in names if (found := _PART_NAME.fullmatch(name))}

    def _drop(self, part: int) -> None:
        # files/ first: a row there promises its windows.
        for name in reversed(TABLES):
            self._filesystem.remove(self.path(name, part))

    def _drop_beside(self, entry: Entry) -> None:
        """Delete what a part has of tables that its last commit left out."""
        for name in TABLES:
            if name not in entry.tables:
                self._filesystem.remove(self.path(name, entry.part))

    def _tidy(self) -> None:
        """Delete what commits that did not come about have staged."""
        for name in TABLES:
            for path in (self.run_dir / name).glob(".part-*"):
                if _STAGED_NAME.fullmatch(path.name):
                    self._filesystem.remove(path)

    def read(self, name: TableName, part: int) -> pa.Table:
        """Return a part of a table.

        Raises
        ------
        RunError
            It is missing or damaged.
        """
        with _readable(self.path(name, part)):
            # A part is small: threads for it cost more than they save.
            return self._sound_file(name, part).read(use_threads=False)

    def columns(self, names: tuple[str, ...]) -> Iterator[tuple[int, pa.Table]]:
        """Yield (part, table) with some columns of the table ``files``, part by part. Raises as `read`."""
        for part in sorted(self.entries):
            yield part, self.some("files", part, names)

    def some(self, name: TableName, part: int, columns: tuple[str, ...]) -> pa.Table:
        """Return some columns of a part of a table. Raises as `read`."""
        with _readable(self.path(name, part)):
            return self._sound_file(name, part).read(columns=list(columns), use_threads=False)

    def require(self, name: TableName, part: int) -> None:
        """See that a part of a table is there. Raises as `read`."""
        with _readable(self.path(name, part)):
            # A rename that comes in between is followed.
            if not self.where(name, part).exists():
                self.path(name, part).stat()

    def ends(self, part: int) -> tuple[str, str] | None:
        """Return the first and the last clip_id of a part, None where its footer does not say. Raises as `read`."""
        with _readable(self.path("files", part)), self._file("files", part) as file:
            return ends_of(file.metadata)

    def _sound_file(self, name: TableName, part: int) -> pq.ParquetFile:
        """Open a part that has the columns of its table. Raises `OSError` where it has others."""
        file = self._file(name, part)
        schema = file.schema_arrow
        if name not in self._known or not schema.equals(self._known[name]):
            if problem := problem_with_columns(name, schema):
                raise OSError(problem)
            self._known[name] = schema
        return file

    def _file(self, name: TableName, part: int) -> pq.ParquetFile:
        """Open a part where it is; a rename that comes in between is followed."""
        try:
            path = self.where(name, part)
            self.check_footer(name, part)
            return pq.ParquetFile(path, page_checksum_verification=True)
        except FileNotFoundError:
            return pq.ParquetFile(self.path(name, part), page_checksum_verification=True)

    def check_footer(self, name: TableName, part: int) -> None:
        """See that the footer of a part is what was written; pages have checksums of their own.

        Raises
        ------
        OSError
            It is not, or cannot be read.
        """
        for is_again in (False, True):
            if is_again:  # perhaps another process has committed it anew meanwhile
                with suppress(RunError):
                    self._journal.read(mend=False)
            entry = self._journal.entries.get(part)
            written = entry.tables.get(name) if entry else None
            if written is None or self._has_footer(self.where(name, part), written):
                return
        raise OSError("its footer is not what was written")

    @staticmethod
    def _has_footer(path: Path, written: Written) -> bool:
        if written.footer_crc32 is None:
            return True
        with open_file(path) as file:
            return footer_crc32(file) == written.footer_crc32


def _tables_of(provenance: Mapping[str, Any]) -> list[TableName]:
    """Return the tables that a part has, by what its file in ``files/`` says of the run."""
    told = provenance.get("tables") or ()
    return [name for name, kind in TABLES.items() if kind.is_required or name in told]


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say which part is missing or damaged, and the cure."""
    try:
        yield
    except FileNotFoundError:
        raise RunError(f"{path} is missing. Scan again: its files are processed again.") from None
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno and error.errno not in NOT_A_FILE:
            raise RunError(
                f"{path} cannot be read ({os.strerror(error.errno)}), which says nothing about it. {_CURE}"
            ) from error
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise RunError(
            f"{path} is damaged ({reason}). Delete it and scan again: its files are processed again. "
            f"`ser-batch verify` looks at all parts."
        ) from error
