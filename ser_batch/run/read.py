"""Reads a run, as all that looks at one does: `open_run` gives its tables in Arrow, whole or piece by piece.

A run is read from ``run.json`` and Parquet alone, so any run of this schema version or an older one can be read, also
one that is still being written or was interrupted: what is committed is whole, and what is not is said in a notice.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from ser_batch.atomic import open_file
from ser_batch.errors import RunError, SerBatchError
from ser_batch.records import Status
from ser_batch.run.join import Selection, apart, keyed
from ser_batch.run.layout import TABLES, TableName
from ser_batch.run.manifest import read_manifest
from ser_batch.run.parquet import openable
from ser_batch.run.parts import PARQUET, Parts
from ser_batch.run.schema import Contents, problem_with_columns, schema_of
from ser_batch.run.store import RunStore
from ser_batch.run.where import (
    Where,
    check_clauses,
    check_column,
    clauses_of,
    expression_of,
    pushed_down,
)
from ser_batch.storage.address import run_on_disk
from ser_batch.tables.table import plain, read_table
from ser_batch.text import shortened

__all__ = ["ReplacedError", "Run", "do_not_fit", "open_run", "run_info"]

_DISK = pafs.LocalFileSystem()
_PARTS_AT_ONCE = 256
_ROWS_AT_ONCE = 65_536


class ReplacedError(RunError):
    """A scan has replaced a part that was about to be read."""


def run_info(run: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what ``run.json`` says: configuration, versions, model, device, counts, times.

    Raises
    ------
    RunError
        Not a run, or a run of a newer schema.
    """
    return open_run(run).info


def open_run(run: str | os.PathLike[str]) -> Run:
    """Open a run for reading.

    Raises
    ------
    RunError
        The folder is missing, holds no ``run.json`` or a damaged one, or was written with a newer schema; or it is in
        a bucket: `ser_batch.run.copy.readable` gives a copy.
    """
    folder = openable(run_on_disk(run))
    return Run(folder, read_manifest(folder))


@dataclass(eq=False)
class Run:
    """An opened run; `open_run` makes it."""

    folder: Path
    #: What run.json holds.
    info: dict[str, Any]
    #: One line each: what is unfinished or cannot be read. Grows as tables are opened.
    notices: list[str] = field(default_factory=list)
    _tables: dict[str, Parts] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        state = self.info.get("state", "complete")
        if state == "running":
            self.notices.append(f"{self.folder} is being written or was cut off: what is committed so far is shown.")
        elif state != "complete":
            self.notices.append(f"{self.folder} is {state}: the same scan command finishes it. What is there is shown.")

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Emotions of the model in its order; empty for a run of extraction alone."""
        required = (table for table, kind in TABLES.items() if kind.has_probabilities and kind.is_required)
        names = {table: self.schema(table).names for table in required}
        labels = self.info.get("labels")
        if labels is None:
            return tuple(name.removeprefix("p_") for name in names["files"] if name.startswith("p_"))
        for label in labels:
            for table, columns in names.items():
                if f"p_{label}" not in columns:
                    raise RunError(f"{self.folder}: run.json names a label {label!r}, of which {table}/ has no column.")
        return tuple(labels)

    def enums(self, metadata: pa.Table | None) -> dict[str, tuple[str, ...]]:
        """Return all values that a column can have, for those columns, also of `metadata`, of which this is known."""
        known = {"status": tuple(map(str, Status)), "emotion": self.labels}
        columns = zip(metadata.column_names, metadata.columns, strict=True) if metadata is not None else ()
        for name, column in columns:
            if pa.types.is_dictionary(column.type) and pa.types.is_string(column.type.value_type):
                known[name] = tuple(column.unique().dictionary_decode().drop_null().to_pylist())
        return known

    def schema(self, table: TableName) -> pa.Schema:
        """Return the columns of a table; those of the documented schema where nothing is written yet."""
        return self._table(table).schema

    def n_rows(self, table: TableName) -> int:
        """Return how many rows the sound parts of a table hold."""
        return sum(self._table(table).n_rows)

    def clip_id_range(self) -> tuple[str, str]:
        """Return the first and the last ``clip_id`` in sorted order; empty strings where there is none."""
        parts = self._table("files")
        ends = [end for pair in parts.clip_ids if pair for end in pair]
        if None in parts.clip_ids:
            for rows in self.tables("files", ["clip_id"]):
                found = pc.min_max(rows.column("clip_id")).as_py()
                ends += [found["min"], found["max"]]
        return min(ends, default=""), max(ends, default="")

    def _table(self, table: TableName) -> Parts:
        if table not in TABLES:
            raise RunError(f"A run has no table {table!r}; the tables of runs are {', '.join(reversed(TABLES))}.")
        if table not in self._tables:
            self._tables[table] = self._sound_parts(table)
        if not (TABLES[table].is_required or self.has_table(table) or self._tables[table].paths):
            why = self.info.get(table, {}).get("note") or "a version of ser-batch made it that wrote none"
            raise RunError(f"{self.folder} has no {table}: {why}. Scan again, into a new run, {TABLES[table].cure}.")
        return self._tables[table]

    def has_table(self, table: TableName) -> bool:
        """Tell whether a run has a table, by its ``run.json``."""
        return table in self.info.get("tables", [name for name, kind in TABLES.items() if kind.is_required])

    @cached_property
    def _store(self) -> RunStore:
        return RunStore(self.folder)

    @cached_property
    def _numbers(self) -> list[int]:
        """Parts of the run: those of the journal, or those that are there where it cannot be read."""
        try:
            self._store.look(self.info.get("replaces", ""))
        except RunError as error:
            self.notices.append(f"{error} Until then, parts are told by their names.")
            return sorted(self._store.parts_on_disk())
        return self._store.parts()

    def _sound_parts(self, table: TableName) -> Parts:
        parts = Parts()
        schemas: list[pa.Schema] = []
        numbers, n_notices = self._numbers, len(self.notices)
        for number in numbers:
            path = self._store.where(table, number)
            if not self._store.has(table, number, otherwise=self.has_table(table)):
                continue
            try:
                self._store.check_footer(table, number)
                fragment = PARQUET.make_fragment(str(path), _DISK)
                schema = fragment.physical_schema
                is_new = not any(schema.equals(known) for known in schemas)
                if is_new and (problem := problem_with_columns(table, schema)):
                    raise OSError(problem)
                parts.add(str(path), fragment.metadata)
            except FileNotFoundError:
                self.notices.append(f"{path} is missing, with all that it held. The next scan processes it again.")
                continue
            except (OSError, pa.ArrowException) as error:
                reason = str(error).splitlines()[0]
                self.notices.append(f"{path} cannot be read and is left out: {reason} `ser-batch verify` says more.")
                continue
            if is_new:
                schemas.append(schema)
        if table == "files" and len(self.notices) == n_notices:
            self._count(sum(parts.n_rows))
        if schemas:
            parts.schema = _unified(self.folder, table, schemas)
        else:
            n_embedding = self.info.get("embeddings", {}).get("n_numbers", 0)
            parts.schema = schema_of(table, Contents(tuple(self.info.get("labels") or ()), (), n_embedding), {})
        return parts

    def _count(self, n_rows: int) -> None:
        """See whether a run that says that it is complete has a row for every file."""
        counts = self.info.get("counts", {})
        n_told = counts.get("found", n_rows) + counts.get("vanished", 0)
        if self.info.get("state", "complete") == "complete" and n_rows != n_told:
            self.notices.append(
                f"{self.folder} has {n_rows:,} rows, and its run.json says {n_told:,}: parts were taken away or put "
                f"there by hand. `ser-batch verify` says more."
            )

    def tables(
        self, table: TableName, columns: Sequence[str], where: pc.Expression | None = None
    ) -> Iterator[pa.Table]:
        """Read a table piece by piece in its stored order, so that memory stays flat whatever its size.

        Parameters
        ----------
        table : {"files", "windows", "segments", "embeddings"}
        columns : sequence of str
            Columns to read.
        where : pyarrow.compute.Expression, optional
            Rows to keep.

        Yields
        ------
        pyarrow.Table
            At most a few tens of thousands of rows; dictionaries are unified.
        """
        paths, schema = self._table(table).paths, self.schema(table)
        held: list[pa.RecordBatch] = []
        n_held = 0
        # A dataset keeps the footers of all its parts (about 0.1 MB each), hence one dataset for some parts at a time.
        sizes = {"batch_size": _ROWS_AT_ONCE, "batch_readahead": 4, "fragment_readahead": 2}
        for first in range(0, len(paths), _PARTS_AT_ONCE):
            with self._reading(table):
                dataset = ds.dataset(paths[first : first + _PARTS_AT_ONCE], schema=schema, format=PARQUET)
                for batch in dataset.to_batches(columns=list(columns), filter=where, **sizes):
                    held.append(batch)
                    n_held += batch.num_rows
                    if n_held >= _ROWS_AT_ONCE:
                        yield pa.Table.from_batches(held).unify_dictionaries().combine_chunks()
                        held, n_held = [], 0
        if n_held:
            yield pa.Table.from_batches(held).unify_dictionaries().combine_chunks()

    def slices(self, n_parts: int = 0) -> Iterator[Run]:
        """Yield slices of some parts, each a run whose windows are those of its files: to read both in flat memory."""
        whole = {name: self._table(name) for name, kind in TABLES.items() if kind.is_required or self.has_table(name)}
        # Once for all slices.
        _ = self.metadata
        places = {name: {_part_of(path): i for i, path in enumerate(parts.paths)} for name, parts in whole.items()}
        numbers, n_parts = list(places["files"]), n_parts or _PARTS_AT_ONCE
        for first in range(0, len(numbers), n_parts):
            part = copy.copy(self)
            chosen = numbers[first : first + n_parts]
            part._tables = {
                name: parts.some([places[name][number] for number in chosen if number in places[name]])
                for name, parts in whole.items()
            }
            yield part

    @cached_property
    def metadata(self) -> pa.Table | None:
        """The table given by ``--metadata``, its key column renamed ``clip_id``; None where none was given."""
        entry = self.info.get("metadata")
        name = entry.get("path") if isinstance(entry, dict) else entry
        if not name:
            return None
        path = self.folder / name
        try:
            with open_file(path) as file:
                if path.suffix.lower() == ".parquet":
                    table = plain(pq.read_table(file))
                else:  # as it was given to an earlier version
                    given = read_table(path)
                    table = pa.table({name: given.typed(name) for name in given.columns})
            taken = {name for table, kind in TABLES.items() if kind.is_required for name in self.schema(table).names}
            joined, n_more = keyed(table, str(self.info.get("root") or ""), taken)
            if n_more:
                self.notices.append(f"{path} names {n_more} paths more than once; the first row of each is used.")
            return joined
        except (OSError, ValueError, pa.ArrowException, SerBatchError) as error:
            reason = str(error).splitlines()[0]
            self.notices.append(f"The metadata table {path} cannot be read, so its columns are missing: {reason}")
            return None

    def read(
        self,
        table: TableName = "files",
        columns: Sequence[str] | None = None,
        where: Where | None = None,
        metadata: bool = True,
    ) -> pa.Table:
        """Read rows into memory as an Arrow table; arguments as for `load_results`."""
        selection = self._selection(table, columns, where, metadata)
        # Opening a part costs more than reading a column of it, so parts without the wanted names are not opened.
        paths, schema = self._table(table).within(clauses_of(where)), self.schema(table)
        with self._explained(table, where), self._reading(table):
            dataset = ds.dataset(paths, schema=schema, format=PARQUET) if paths else ds.dataset(schema.empty_table())
            rows = dataset.to_table(columns=selection.stored, filter=selection.pushed).unify_dictionaries()
            return _ordered(selection.finished(rows), TABLES[table].keys).select(selection.wanted)

    def pieces(self, table: TableName, where: Where | None = None) -> Iterator[pa.Table]:
        """Yield all columns, metadata included, of the rows that fit `where`: in flat memory, in stored order."""
        selection = self._selection(table, None, where, True)
        with self._explained(table, where):
            for rows in self.tables(table, selection.stored, selection.pushed):
                yield selection.finished(rows).select(selection.wanted)

    def _selection(
        self, table: TableName, columns: Sequence[str] | None, where: Where | None, metadata: bool
    ) -> Selection:
        stored = self.schema(table).names
        extra = apart(self.metadata, stored) if metadata and self.metadata is not None else None
        extra_names = [name for name in (extra.column_names if extra is not None else ()) if name != "clip_id"]
        clauses = clauses_of(where)
        conditioned = {condition[0] for clause in clauses for condition in clause}
        if columns is None:
            wanted = [*(name for name in stored if name not in TABLES[table].by_name), *extra_names]
        else:
            wanted = list(columns)
        for name in [*wanted, *sorted(conditioned)]:
            check_column(name, [*stored, *extra_names], self.folder, table)
        check_clauses(clauses, self.enums(extra) if clauses else {}, str(self.folder / table))
        joined = conditioned & set(extra_names)
        needed = set(wanted) | set(TABLES[table].keys) | (conditioned if joined else set())
        return Selection(
            wanted=wanted,
            stored=[name for name in stored if name in needed],
            pushed=expression_of(pushed_down(clauses, joined)),
            extra=extra,
            extra_names=needed & set(extra_names),
            late=expression_of(clauses) if joined else None,
        )

    @contextmanager
    def _explained(self, table: TableName, where: Where | None) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
            if not where:
                raise self._damaged(table, error) from error
            raise RunError(f"The rows of {self.folder / table} cannot be selected by {where!r}: {error}") from error

    @contextmanager
    def _reading(self, table: TableName) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise ReplacedError(f"A part of {self.folder / table} was replaced meanwhile: read again.") from None
        except OSError as error:
            raise self._damaged(table, error) from error

    def _damaged(self, table: TableName, error: Exception) -> RunError:
        if isinstance(error, OSError) and error.errno:  # by the system: it may be whole
            return RunError(
                f"A part of {self.folder / table} cannot be read: {os.strerror(error.errno)}. Mend the disk."
            )
        return RunError(
            f"A part of {self.folder / table} is damaged ({str(error).splitlines()[0]}). `ser-batch verify` says "
            f"which. Delete it and scan again: its files are processed again."
        )


def _ordered(rows: pa.Table, keys: Sequence[str]) -> pa.Table:
    """Sort where needed: a run that grew has its new files in its last parts."""
    names = rows.column(keys[0])
    if len(names) < 2 or pc.all(pc.less_equal(names.slice(0, len(names) - 1), names.slice(1))).as_py():
        return rows
    return rows.sort_by([(key, "ascending") for key in keys])


def _part_of(path: str) -> str:
    """Return the name of a part, also of one that is still under its hidden name."""
    return Path(path).name.removeprefix(".").removesuffix(".tmp")


def _unified(folder: Path, table: str, schemas: list[pa.Schema]) -> pa.Schema:
    try:
        return pa.unify_schemas(schemas)
    except pa.ArrowException as error:
        raise do_not_fit(folder / table, error) from error


def do_not_fit(table: Path, error: pa.ArrowException) -> RunError:
    """Return the error that says so of the parts of a table, given by its folder."""
    reason = shortened(str(error).splitlines()[0])
    return RunError(
        f"The parts of {table} do not fit together ({reason}). `ser-batch verify` says which; scan into a new run."
    )
