"""The parts of a run on disk: committed whole or not at all, mended when a run is opened again.

One shard is one part: ``windows/part-NNNNN.parquet`` and ``files/part-NNNNN.parquet``. A commit stages both under
hidden names, flushes them, appends one line to the journal - that is the commit - and renames both into place. Whoever
opens the run after a crash finds either no line, and drops what is staged, or the line, and does the renames left;
whoever only looks reads them where they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ser_batch.errors import RunError
from ser_batch.run.journal import Entry, Filesystem, Journal, sha256_of
from ser_batch.run.parquet import as_parquet
from ser_batch.run.schema import read_metadata
from ser_batch.run.steps import reached

__all__ = ["INDEX_COLUMNS", "TABLES", "RunStore"]

#: In the order of their renames: a row in files/ promises that its windows are there.
TABLES = ("windows", "files")

#: What is known of a file without opening it: enough to see what is to be done.
INDEX_COLUMNS = ("clip_id", "size_bytes", "modified", "status", "vanished", "reader")


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
        self.run_dir = run_dir
        self._filesystem = filesystem or Filesystem()
        self._journal = Journal(run_dir / "journal.jsonl", self._filesystem)
        #: (table, part) of the last commit whose renames are left; for whoever only looks.
        self._unrenamed: set[tuple[str, int]] = set()

    def create(self) -> None:
        """Make the folders of the tables."""
        for table in TABLES:
            (self.run_dir / table).mkdir(exist_ok=True)

    def path(self, table: str, part: int) -> Path:
        """Return the place of a part, where it is once its commit is done."""
        return self.run_dir / table / f"part-{part:05d}.parquet"

    def where(self, table: str, part: int) -> Path:
        """Return where a committed part is: in its place, or still under its hidden name."""
        return self._staged(table, part) if (table, part) in self._unrenamed else self.path(table, part)

    def _staged(self, table: str, part: int) -> Path:
        return self.run_dir / table / f".part-{part:05d}.parquet.tmp"

    @property
    def entries(self) -> dict[int, Entry]:
        """Committed parts; after `recover` or `look`."""
        return self._journal.entries

    @property
    def commits(self) -> list[Entry]:
        """All commits, the oldest first; after `recover` or `look`."""
        return list(self._journal.commits)

    def look(self) -> None:
        """Read which parts there are, for a process that only reads, also while another one writes.

        Raises
        ------
        RunError
            The journal is damaged or cannot be read.
        """
        self._journal.read(mend=False)
        self._unrenamed = set(self._left_of_last_commit())

    def _left_of_last_commit(self) -> Iterator[tuple[str, int]]:
        """Yield (table, part) of the renames that the last commit has left, if any."""
        for entry in self._journal.commits[-1:]:
            for name in TABLES:
                # By its checksum: the next commit of this part may be on its way under the same name.
                with suppress(FileNotFoundError):
                    if sha256_of(self._staged(name, entry.part)) == getattr(entry, f"{name}_sha256"):
                        yield name, entry.part

    def commit(self, part: int, tables: Mapping[str, pa.Table], n_processed: int) -> None:
        """Write or replace a part, both tables of it or none.

        Parameters
        ----------
        part : int
        tables : mapping
            Name out of `TABLES` -> table.
        n_processed : int
            Files that this commit is about, for the journal.

        Raises
        ------
        OSError
            The disk is full or broken. What was committed before is whole.
        """
        written: dict[str, tuple[int, str]] = {}
        for name in TABLES:
            data = as_parquet(tables[name])
            self._filesystem.write(self._staged(name, part), data)
            written[name] = (len(data), hashlib.sha256(data).hexdigest())
            reached(f"{name}-staged")
        fingerprint = str(read_metadata(tables["files"].schema).get("fingerprint", ""))
        n_rows = (len(tables["files"]), len(tables["windows"]))
        at = datetime.now(UTC).isoformat(timespec="seconds")
        self._journal.append(Entry(part, fingerprint, at, n_processed, *n_rows, *written["files"], *written["windows"]))
        reached("journal-appended")
        for name in TABLES:
            self._filesystem.rename(self._staged(name, part), self.path(name, part))
            reached(f"{name}-renamed")
        for name in TABLES:
            self._filesystem.flush_folder(self.run_dir / name)

    def recover(self) -> list[str]:
        """Bring the folder to the state of the last commit; return what had to be given up, for people to read."""
        entries = self._journal.read()
        for name, part in self._left_of_last_commit():
            self._filesystem.rename(self._staged(name, part), self.path(name, part))
            self._filesystem.flush_folder(self.run_dir / name)
        lost = {part: why for part, entry in entries.items() if (why := self._what_is_wrong(entry))}
        for part in lost:
            self._drop(part)
            del entries[part]
        notices = [f"Part {part} of the run {why}; its files are processed again." for part, why in lost.items()]
        adopted, dropped = self._adopt(set(entries))
        notices += [f"Part {part} without an entry in the journal {why}; dropped." for part, why in dropped.items()]
        if lost or adopted:
            self._journal.rewrite([*entries.values(), *adopted])
        for name in TABLES:
            for staged in (self.run_dir / name).glob(".*.tmp"):
                staged.unlink()
        return notices

    def _what_is_wrong(self, entry: Entry) -> str:
        """Cheap look at a part: is it there, and as long as it was written?"""
        for name in TABLES:
            path = self.path(name, entry.part)
            try:
                n_bytes = path.stat().st_size
            except FileNotFoundError:
                return f"is missing {name}/{path.name}"
            if n_bytes != getattr(entry, f"{name}_bytes"):
                return f"has a damaged {name}/{path.name} ({n_bytes} bytes)"
        return ""

    def _adopt(self, known: set[int]) -> tuple[list[Entry], dict[int, str]]:
        """Take in parts that the journal does not name, if both tables can be read; drop the others."""
        adopted: list[Entry] = []
        dropped: dict[int, str] = {}
        for part in sorted(self._parts_on_disk() - known):
            try:
                tables = {name: pq.read_metadata(self.path(name, part)) for name in TABLES}
                provenance = read_metadata(pq.read_schema(self.path("files", part)))
            except (OSError, pa.ArrowException) as error:
                dropped[part] = f"cannot be read ({str(error).splitlines()[0]})"
                self._drop(part)
                continue
            sums = [value for name in ("files", "windows") for value in self._size_and_sum(name, part)]
            n_rows = (tables["files"].num_rows, tables["windows"].num_rows)
            adopted.append(Entry(part, str(provenance.get("fingerprint", "")), "", 0, *n_rows, *sums))
        return adopted, dropped

    def _size_and_sum(self, name: str, part: int) -> tuple[Any, Any]:
        path = self.path(name, part)
        return path.stat().st_size, sha256_of(path)

    def _parts_on_disk(self) -> set[int]:
        paths = (path for name in TABLES for path in (self.run_dir / name).glob("part-*.parquet"))
        return {int(number) for path in paths if (number := path.stem.removeprefix("part-")).isdecimal()}

    def _drop(self, part: int) -> None:
        # files/ first: a row there promises its windows.
        for name in reversed(TABLES):
            with suppress(FileNotFoundError):
                self.path(name, part).unlink()

    def clear(self) -> None:
        """Delete all parts, for a restart."""
        self._journal.rewrite([])
        for part in self._parts_on_disk():
            self._drop(part)

    def read(self, name: str, part: int) -> pa.Table:
        """Return a part of the table ``files`` or ``windows``."""
        with _readable(self.path(name, part)):
            return self._file(name, part).read()

    def columns(self, names: tuple[str, ...]) -> Iterator[tuple[int, pa.Table]]:
        """Yield (part, table) with some columns of the table ``files``, part by part."""
        for part in sorted(self._journal.entries):
            with _readable(self.path("files", part)):
                table = self._file("files", part).read(columns=list(names))
            yield part, table

    def _file(self, name: str, part: int) -> pq.ParquetFile:
        """Open a part where it is; a rename that comes in between is followed."""
        try:
            return pq.ParquetFile(self.where(name, part))
        except FileNotFoundError:
            return pq.ParquetFile(self.path(name, part))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say which part is missing or damaged, and the cure."""
    try:
        yield
    except FileNotFoundError:
        raise RunError(f"{path} is missing. Scan again: its files are processed again.") from None
    except (OSError, pa.ArrowException) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise RunError(
            f"{path} is damaged ({reason}). Delete it and scan again: its files are processed again. "
            f"`ser-batch verify` looks at all parts."
        ) from error
