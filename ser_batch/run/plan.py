"""What is to be done: what was found, held against what the run already has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ser_batch.audio.formats import PYAV, pyav_reader
from ser_batch.records import ClipRef, Status
from ser_batch.run.store import INDEX_COLUMNS, RunStore
from ser_batch.segments.marked import state_key
from ser_batch.stages.discover import NOT_SEEN_NS, Found
from ser_batch.stages.reach import can_be_read, out_of_reach

__all__ = ["Index", "Plan", "Shard", "make_plan", "read_index"]

#: A shard ends early at this much encoded audio, so that a crash never costs hours of an archive of long recordings.
_SHARD_BYTES = 512 * 2**20


@dataclass(frozen=True, slots=True)
class Shard:
    """One part to write."""

    part: int
    #: Files to process.
    refs: Sequence[ClipRef]
    #: The part exists: its other rows stay.
    is_rewrite: bool = False
    #: clip_ids of the part's files that are gone.
    vanished: pa.Array = field(default_factory=lambda: pa.nulls(0, pa.string()))
    #: Of these, files whose results belong to other settings, and cannot be had again.
    lost: Sequence[ClipRef] = ()
    #: The part was made with other settings, so that none of its rows may stay.
    is_outdated: bool = False


@dataclass(eq=False)
class Index:
    """What a run has, a row per file. numpy and not Arrow where Arrow would import pandas for a comparison."""

    #: Arrow, one chunk.
    clip_ids: pa.StringArray
    size_bytes: NDArray[np.int64]
    mtime_ns: NDArray[np.int64]
    status: NDArray[np.str_]
    vanished: NDArray[np.bool_]
    part: NDArray[np.int64]
    #: What read the file, or would have; "" for none.
    reader: NDArray[np.str_]
    #: Whether the row says no more than that the file could not be looked at.
    out_of_reach: NDArray[np.bool_]
    #: Whether the file's part was made under the fingerprint of this scan.
    is_current: NDArray[np.bool_]
    #: What the segments of the file came from; 0 for nothing.
    segments_key: NDArray[np.int64]
    #: Stands for the version of an object; 0 for a file.
    etag_key: NDArray[np.int64]

    @classmethod
    def empty(cls) -> Index:
        """What a new run has."""
        numbers, marks = np.zeros(0, np.int64), np.zeros(0, bool)
        no_ids = pa.StringArray.from_buffers(0, pa.py_buffer(numbers), pa.py_buffer(b""))
        words = np.zeros(0, "U1")
        return cls(no_ids, numbers, numbers, words, marks, numbers, words, marks, marks, numbers, numbers)

    def __len__(self) -> int:
        return len(self.clip_ids)

    def refs(self, rows: NDArray[np.int64]) -> list[ClipRef]:
        """Files of some rows; their paths are not known here."""
        return [
            ClipRef(self.clip_ids[int(row)].as_py(), "", int(self.size_bytes[row]), int(self.mtime_ns[row]))
            for row in rows
        ]


@dataclass(eq=False)
class Plan:
    """All work of one scan, as columns; shards are made as they are asked for."""

    found: Found
    index: Index
    #: part -> positions in `found` to process again; also parts with nothing to process, for their vanished files.
    rewrites: dict[int, NDArray[np.int64]]
    #: part -> rows of `index` that are gone.
    vanished: dict[int, NDArray[np.int64]]
    #: Positions in `found` of files that no part has.
    new: NDArray[np.int64]
    first_part: int
    shard_size: int
    #: Parts made with other settings that stay as they are: some of their files cannot be looked at now.
    held: Sequence[int] = ()

    @property
    def n_files(self) -> int:
        """Files to process."""
        return len(self.new) + sum(len(positions) for positions in self.rewrites.values())

    def positions(self) -> NDArray[np.int64]:
        """Positions in `found` of the files to process, ascending."""
        return np.sort(np.concatenate([self.new, *self.rewrites.values()]))

    @property
    def is_empty(self) -> bool:
        return not len(self.new) and not self.rewrites

    def shards(self) -> Iterator[Shard]:
        index = self.index
        for rewritten, positions in self.rewrites.items():
            gone = self.vanished.get(rewritten, np.zeros(0, np.int64))
            lost = index.refs(gone[~index.is_current[gone]])
            is_outdated = not index.is_current[index.part == rewritten].all()
            yield Shard(rewritten, self._refs(positions), True, index.clip_ids.take(pa.array(gone)), lost, is_outdated)
        part, first, n_bytes = self.first_part, 0, 0
        sizes = self.found.sizes_bytes
        for here, position in enumerate(self.new):
            if here > first and (here - first >= self.shard_size or n_bytes + sizes[position] > _SHARD_BYTES):
                yield Shard(part, self._refs(self.new[first:here]))
                part, first, n_bytes = part + 1, here, 0
            n_bytes += sizes[position]
        if first < len(self.new):
            yield Shard(part, self._refs(self.new[first:]))

    def _refs(self, positions: Iterable[int]) -> list[ClipRef]:
        return [self.found.ref(int(position)) for position in positions]


def read_index(store: RunStore, fingerprint: str) -> Index:
    """Read what the run has; files made under another fingerprint than `fingerprint` are told from the others."""
    ids: list[pa.Array] = []
    columns: dict[str, list[NDArray[Any]]] = {
        name: [] for name in ("size_bytes", "modified", "status", "vanished", "part", "reader", "out_of_reach")
    }
    columns |= {"segments_key": [], "etag_key": []}
    current = {part for part, entry in store.entries.items() if entry.fingerprint == fingerprint}
    for part, table in store.columns(INDEX_COLUMNS):
        ids.extend(table.column("clip_id").chunks)
        columns["size_bytes"].append(_numbers(table.column("size_bytes"), pa.int64()))
        columns["modified"].append(_numbers(table.column("modified"), pa.int64()))
        for name in ("status", "reader"):
            columns[name].append(_words(table, name))
        ends = (_words(table, name) for name in ("status", "stage", "error_type"))
        columns["out_of_reach"].append(out_of_reach(*ends))
        columns["vanished"].append(_numbers(table.column("vanished"), pa.uint8()).astype(bool))
        columns["part"].append(np.full(len(table), part))
        columns["segments_key"].append(_keys(table))
        etags = table.column("etag").to_pylist() if "etag" in table.column_names else [""] * len(table)
        columns["etag_key"].append(_etag_keys(etags))
    if not ids:
        return Index.empty()
    joined = {name: np.concatenate(found) for name, found in columns.items()}
    return Index(
        clip_ids=pa.concat_arrays(ids),
        size_bytes=joined["size_bytes"],
        mtime_ns=joined["modified"],
        status=joined["status"],
        vanished=joined["vanished"],
        part=joined["part"],
        reader=joined["reader"],
        out_of_reach=joined["out_of_reach"],
        is_current=np.isin(joined["part"], sorted(current)),
        segments_key=joined["segments_key"],
        etag_key=joined["etag_key"],
    )


def make_plan(found: Found, index: Index, shard_size: int, retry: bool = False) -> Plan:
    """Compare what was found with what the run has.

    Parameters
    ----------
    found : Found
    index : Index
    shard_size : int
        Files per new part.
    retry : bool
        Process the failed files again, and nothing else.

    Returns
    -------
    plan : Plan
        A file is processed if it is new, if its size or time of modification changed (of an object, its ETag), or its
        fingerprint, or what says which segments it has; or if PyAV, which reads it, is here now or has another version;
        or if it could not be looked at before, and can be now. A file of the run that was not found is marked as
        vanished, and unmarked once it is back. What cannot be looked at now stays as it is, whatever the run has of it.
    """
    place = pc.index_in(_strings(found.clip_ids), value_set=index.clip_ids.cast(pa.large_string()))
    is_known = _numbers(place.is_valid(), pa.uint8()).astype(bool)
    known = np.flatnonzero(is_known)
    row = _numbers(place, pa.int64())[known]
    mtimes_ns = np.asarray(found.mtimes_ns)
    is_seen = mtimes_ns[known] != NOT_SEEN_NS
    gone = np.ones(len(index), bool)
    gone[row] = False
    gone[row[~is_seen]] = index.vanished[row[~is_seen]]
    for prefix in found.unlisted:
        # What is in a folder that could not be listed may be there or not: it stays as it was.
        below = _numbers(pc.starts_with(index.clip_ids, prefix), pa.uint8()).astype(bool)
        gone[below] &= index.vanished[below]
    if retry:
        changed = index.status[row] == str(Status.FAILED)
    else:
        changed = np.asarray(found.sizes_bytes)[known] != index.size_bytes[row]
        etag_keys = _etag_keys(found.etags or [""] * len(found))[known]
        # Of an object, its version counts where both are known: copied with what it holds, it has another time.
        by_etag = (etag_keys != 0) & (index.etag_key[row] != 0)
        changed |= np.where(by_etag, etag_keys != index.etag_key[row], mtimes_ns[known] != index.mtime_ns[row])
        changed |= _segment_keys(found)[known] != index.segments_key[row]
        changed |= ~index.is_current[row]
        # What PyAV would read, and what another version of it has read.
        pyav = pyav_reader()
        if pyav:
            changed |= np.char.startswith(index.reader[row], PYAV) & (index.reader[row] != pyav)
        # A file that was gone when its results were due has none.
        changed |= index.vanished[row] & (index.status[row] == str(Status.SKIPPED))
        for place in np.flatnonzero(index.out_of_reach[row] & ~changed & is_seen):
            changed[place] = can_be_read(found.ref(int(known[place])).path)
    changed &= is_seen
    again = _by_part(known[changed], index.part[row[changed]])
    touched = {*again, *index.part[gone != index.vanished].tolist()}
    held: set[int] = set()
    if not retry:
        touched |= set(index.part[~index.is_current].tolist())
        unknown = ~gone & ~index.is_current
        unknown[row[is_seen]] = False
        held = set(index.part[unknown].tolist())
        touched -= held
    gone_rows = np.flatnonzero(gone)
    vanished = _by_part(gone_rows, index.part[gone_rows])
    nothing = np.zeros(0, np.int64)
    return Plan(
        found=found,
        index=index,
        rewrites={part: again.get(part, nothing) for part in sorted(touched)},
        vanished={part: rows for part, rows in vanished.items() if part in touched},
        new=nothing if retry else np.flatnonzero(~is_known),
        first_part=int(index.part.max()) + 1 if len(index) else 0,
        shard_size=shard_size,
        held=sorted(held),
    )


def _etag_keys(etags: Sequence[str | None]) -> NDArray[np.int64]:
    """Return numbers that stand for the versions of objects; 0 for none."""
    return np.fromiter((state_key(etag) if etag else 0 for etag in etags), np.int64, len(etags))


def _segment_keys(found: Found) -> NDArray[np.int64]:
    """Return what the segments of each file come from; 0 for nothing."""
    keys = np.zeros(len(found), np.int64)
    if found.segments:
        for place, clip_id in enumerate(found.clip_ids):
            if source := found.segments.get(clip_id):
                keys[place] = source.key
    return keys


# pyarrow imports pandas, half a second, as soon as it converts from or to numpy by itself: too much for a scan that may
# have nothing to do. The two functions below do without.


def _numbers(column: pa.Array | pa.ChunkedArray, kind: pa.DataType) -> NDArray[Any]:
    """Return a column as numpy; what it has at nulls is undefined."""
    array = column.cast(kind)
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    return np.frombuffer(array.buffers()[1] or b"", kind.to_pandas_dtype(), len(array), array.offset * kind.byte_width)


def _keys(table: pa.Table) -> NDArray[np.int64]:
    """Return what the segments of each file came from; 0 for nothing, or where an older run does not say."""
    if "segments_key" not in table.column_names:
        return np.zeros(len(table), np.int64)
    column = table.column("segments_key")
    return np.where(_numbers(column.is_valid(), pa.uint8()), _numbers(column, pa.int64()), 0)


def _words(table: pa.Table, name: str) -> NDArray[np.str_]:
    """Return a column of few words as numpy; "" at nulls, or where an older run does not have it."""
    if name not in table.column_names:
        return np.full(len(table), "")
    column = table.column(name).combine_chunks()
    is_word = _numbers(column.is_valid(), pa.uint8()).astype(bool)
    places = np.where(is_word, _numbers(column.indices, pa.int64()), -1)
    return np.array([*column.dictionary.to_pylist(), ""])[places]


def _strings(texts: Sequence[str]) -> pa.LargeStringArray:
    """Return texts as Arrow."""
    encoded = [text.encode() for text in texts]
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), out=offsets[1:])
    return pa.LargeStringArray.from_buffers(len(encoded), pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded)))


def _by_part(values: NDArray[np.int64], parts: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
    """Group `values` by the part of each, keeping their order."""
    if not len(values):
        return {}
    order = np.argsort(parts, kind="stable")
    names, starts = np.unique(parts[order], return_index=True)
    return dict(zip(names.tolist(), np.split(values[order], starts[1:]), strict=True))
