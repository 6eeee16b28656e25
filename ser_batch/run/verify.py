"""Is a run whole and sound? Every promise of docs/reliability.md that can be read off its folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ser_batch.errors import RunError
from ser_batch.records import Status
from ser_batch.run.journal import Entry, sha256_of
from ser_batch.run.layout import TABLES, TableName
from ser_batch.run.lock import lock_for_reading
from ser_batch.run.manifest import read_manifest
from ser_batch.run.schema import read_metadata
from ser_batch.run.store import RunStore

__all__ = ["check_run"]

#: A sum of float32 probabilities may be off by rounding.
_SUM_TOLERANCE = 1e-3


def check_run(run_dir: Path) -> list[str]:
    """Return what is wrong with a run, one line each; nothing for a sound one. Writes nothing.

    Raises
    ------
    RunError
        The folder is no run, its journal is damaged, or it is being written.
    """
    manifest = read_manifest(run_dir)
    with lock_for_reading(run_dir):
        return list(_Check(run_dir, manifest).problems())


class _Check:
    """One look at a run; reads a part at a time."""

    def __init__(self, run_dir: Path, manifest: dict[str, Any]) -> None:
        self._manifest = manifest
        self._store = RunStore(run_dir)
        self._store.look(manifest.get("replaces", ""))
        self._entries = self._store.entries
        self._statuses: Counter[str] = Counter()
        self._n_vanished = 0
        self._ids: list[pa.Array] = []
        self._schemas: dict[str, pa.Schema] = {}

    def problems(self) -> Iterator[str]:
        if self._manifest.get("state") != "complete":
            yield f"the run is {self._manifest.get('state', 'of unknown state')}: the same scan command finishes it"
        yield from self._orphans()
        for part, entry in sorted(self._entries.items()):
            damage = list(self._damage(entry))
            yield from damage
            if not damage:
                try:
                    yield from (f"part {part}: {problem}" for problem in self._contents(entry))
                except RunError as error:
                    yield str(error)
        yield from self._duplicates()
        yield from self._counts()

    def _orphans(self) -> Iterator[str]:
        for name, kind in TABLES.items():
            parts = [part for part, entry in self._entries.items() if name in entry.tables]
            known = {place(name, part) for part in parts for place in (self._store.path, self._store.where)}
            folder = self._store.run_dir / name
            if not folder.is_dir():
                if kind.is_required or parts:
                    yield f"{name}/ is missing"
                continue
            for path in sorted(set(folder.iterdir()) - known):
                if self._store.is_own_name(path.name):
                    yield f"{name}/{path.name} belongs to no commit; the next scan sees to it"
                else:
                    yield f"{name}/{path.name} is no part of the run; what reads the whole folder may take it for one"

    def _damage(self, entry: Entry) -> Iterator[str]:
        for name, written in entry.tables.items():
            path = self._store.where(name, entry.part)
            try:
                found = sha256_of(path)
            except FileNotFoundError:
                yield f"{name}/{path.name} is missing; the next scan processes its files again"
                continue
            except OSError as error:
                yield f"{name}/{path.name} cannot be read ({error.strerror}), so nothing can be said of it"
                continue
            if found != written.sha256:
                yield f"{name}/{path.name} is not what was written (checksum); delete it and scan again"

    def _contents(self, entry: Entry) -> Iterator[str]:
        tables = {name: self._store.read(name, entry.part) for name in entry.tables}
        files = tables["files"]
        expected = self._manifest.get("tables", [name for name, kind in TABLES.items() if kind.is_required])
        if sorted(tables) != sorted(expected):
            yield f"the part has the tables {', '.join(sorted(tables))}, run.json names {', '.join(sorted(expected))}"
        for name, table in tables.items():
            if len(table) != entry.tables[name].n_rows:
                yield f"{name} has {len(table)} rows, committed were {entry.tables[name].n_rows}"
            if not self._schemas.setdefault(name, table.schema).equals(table.schema):
                yield f"columns of {name} differ from those of other parts"
            provenance = read_metadata(table.schema)
            for key in ("run_id", "fingerprint"):
                if provenance.get(key) != self._manifest.get(key):
                    yield f"{name} has {key} {provenance.get(key)}, run.json has {self._manifest.get(key)}"
        self._ids.append(files.column("clip_id").combine_chunks())
        statuses = files.column("status").to_pylist()
        self._statuses.update(statuses)
        self._n_vanished += pc.sum(files.column("vanished")).as_py() or 0
        if unknown := set(statuses) - {str(status) for status in Status}:
            yield f"unknown status {sorted(unknown)[0]!r}"
        reasons = zip(
            statuses, files.column("stage").to_pylist(), files.column("error_message").to_pylist(), strict=True
        )
        if any(status == "failed" and not (stage and reason) for status, stage, reason in reasons):
            yield "a failed file has no stage or no reason"
        for name, table in tables.items():
            if TABLES[name].counted_by in files.column_names:
                yield from _count_problems(name, files, table)
            if TABLES[name].has_probabilities:
                yield from self._labels(name, table)

    def _labels(self, name: TableName, table: pa.Table) -> Iterator[str]:
        labels = [column.removeprefix("p_") for column in table.column_names if column.startswith("p_")]
        if labels != self._manifest.get("labels", labels):
            yield f"{name} has probabilities of {labels}, run.json names {self._manifest['labels']}"
        yield from (f"{name}: {problem}" for problem in _probability_problems(table, labels))
        yield from (f"{name}: {problem}" for problem in _heard_problems(table, TABLES[name].by_name))

    def _duplicates(self) -> Iterator[str]:
        if self._ids:
            counts = pc.value_counts(pa.chunked_array(self._ids))
            for repeated in counts.filter(pc.greater(counts.field("counts"), 1)).to_pylist():
                yield f"clip_id {repeated['values']!r} has {repeated['counts']} rows"

    def _counts(self) -> Iterator[str]:
        if self._manifest.get("state") != "complete":
            return
        counts = self._manifest.get("counts", {})
        found = {**{str(status): self._statuses[status] for status in Status}, "vanished": self._n_vanished}
        for name, number in found.items():
            if counts.get(name) != number:
                yield f"run.json counts {counts.get(name)} {name}, the tables hold {number}"
        n_rows = sum(self._statuses.values())
        if counts.get("found", 0) + self._n_vanished != n_rows:
            yield f"{n_rows} rows, but {counts.get('found')} files were found and {self._n_vanished} have vanished"


def _count_problems(name: TableName, files: pa.Table, rows: pa.Table) -> Iterator[str]:
    """Every file has the windows, or segments, that its row promises, numbered from 0; none is of another file."""
    counts = files.column(TABLES[name].counted_by).fill_null(0).to_pylist()
    promised = dict(zip(files.column("clip_id").to_pylist(), counts, strict=True))
    seen: Counter[str] = Counter()
    for clip_id, index in zip(
        rows.column("clip_id").to_pylist(), rows.column(TABLES[name].keys[1]).to_pylist(), strict=True
    ):
        if index != seen[clip_id]:
            yield f"{name} of {clip_id!r} are out of order at {index}"
            return
        seen[clip_id] += 1
    for clip_id in {*promised, *seen}:
        if promised.get(clip_id, 0) != seen[clip_id]:
            yield f"{clip_id!r} has {seen[clip_id]} {name}, its row says {promised.get(clip_id)}"


def _heard_problems(table: pa.Table, columns: Sequence[str]) -> Iterator[str]:
    """What has a label was heard, window by window, where that is stored in these columns."""
    if not columns or not {"emotion", *columns} <= {*table.column_names}:
        return
    is_labelled = table.column("emotion").is_valid()
    lengths = [pc.fill_null(pc.list_value_length(table.column(name)), 0) for name in columns]
    if pc.any(pc.xor(pc.greater(lengths[0], 0), is_labelled)).as_py():
        yield "one with a label has nothing that was heard, or the other way round"
    if pc.any(pc.not_equal(*lengths)).as_py():
        yield f"{' and '.join(columns)} of one are of different lengths"


def _probability_problems(table: pa.Table, labels: list[str]) -> Iterator[str]:
    if not labels:
        return
    columns = [table.column(f"p_{label}").to_numpy() for label in labels]
    values = np.column_stack(columns)
    present = ~np.isnan(values).all(axis=1)
    if present.any() and np.abs(values[present].sum(axis=1) - 1).max() > _SUM_TOLERANCE:
        yield "probabilities do not add up to 1"
    if "status" in table.column_names:
        analysed = np.isin(np.array(table.column("status").to_pylist()), ["ok", "partial"])
        if (present != analysed).any():
            yield "a file that was analysed has no probabilities, or one that was not has some"
        emotions = np.array(table.column("emotion").to_pylist(), dtype=object)[present]
        best = np.array(labels, dtype=object)[values[present].argmax(axis=1)]
        ranked = np.sort(values[present], axis=1)
        tied = ranked[:, -1] - ranked[:, :-1].max(axis=1, initial=0.0) < _SUM_TOLERANCE
        if ((emotions != best) & ~tied).any():
            yield "an emotion is not the one with the highest probability"
