"""What is to be done: what was found, held against what the run already has.

Both are gone through once, in the order of clip_id, a chunk of what was found and the parts that reach into it at a
time. So memory does not grow with the archive but for what is to be done again, as far as it does not lie together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ser_batch.audio.formats import PYAV, pyav_reader
from ser_batch.records import ClipRef, Status
from ser_batch.run.columns import large_strings, numbers_of
from ser_batch.run.store import INDEX_COLUMNS, RunStore
from ser_batch.segments.marked import state_key
from ser_batch.stages.discover import NOT_SEEN_NS, Found
from ser_batch.stages.found import Chunk
from ser_batch.stages.reach import can_be_read, out_of_reach

__all__ = ["Index", "IndexedPart", "IndexedRows", "Plan", "Shard", "Spans", "make_plan", "part_size", "read_index"]

#: A shard ends early at this much encoded audio, so that a crash never costs hours of an archive of long recordings.
_SHARD_BYTES = 512 * 2**20
#: Files of a part: so many, and more where there would be too many parts, up to a limit.
_PART_FILES, _MOST_PART_FILES = 256, 4_096


def part_size(n_found: int, most_parts: int) -> int:
    """Return how many files a part of a new run has, by how many there are, so that it has no more than so many parts.

    With 4,096 parts these are 256 files, and 4,096 from 8 million on, however many parts that makes.
    """
    size = _PART_FILES
    while size < _MOST_PART_FILES and n_found > size * most_parts:
        size *= 2
    return size


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


class IndexedPart(NamedTuple):
    """What is known of a part without reading its rows."""

    part: int
    n_rows: int
    #: First and last clip_id in it.
    first: str
    last: str
    #: Whether it was made under the fingerprint of this scan.
    is_current: bool


@dataclass(eq=False)
class IndexedRows:
    """What a run has in some of its parts, a row per file. numpy and not Arrow where Arrow would import pandas."""

    #: Arrow, one chunk.
    clip_ids: pa.StringArray
    size_bytes: NDArray[np.int64]
    mtime_ns: NDArray[np.int64]
    status: NDArray[np.str_]
    vanished: NDArray[np.bool_]
    #: What read the file, or would have; "" for none.
    reader: NDArray[np.str_]
    #: Whether the row says no more than that the file could not be looked at.
    out_of_reach: NDArray[np.bool_]
    #: What the segments of the file came from; 0 for nothing.
    segments_key: NDArray[np.int64]
    #: Stands for the version of an object; 0 for a file.
    etag_key: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.clip_ids)

    @classmethod
    def of(cls, table: pa.Table) -> IndexedRows:
        """Take the rows of a part, of its table ``files``."""
        etags = table.column("etag").to_pylist() if "etag" in table.column_names else [""] * len(table)
        return cls(
            clip_ids=table.column("clip_id").combine_chunks(),
            size_bytes=numbers_of(table.column("size_bytes"), pa.int64()),
            mtime_ns=numbers_of(table.column("modified"), pa.int64()),
            status=_words(table, "status"),
            vanished=numbers_of(table.column("vanished"), pa.uint8()).astype(bool),
            reader=_words(table, "reader"),
            out_of_reach=out_of_reach(*(_words(table, name) for name in ("status", "stage", "error_type"))),
            segments_key=_keys(table),
            etag_key=_etag_keys(etags),
        )

    @classmethod
    def together(cls, several: Sequence[IndexedRows]) -> IndexedRows:
        """Return the rows of several, one after the other."""
        names = [item.name for item in fields(cls) if item.name != "clip_ids"]
        ids = pa.concat_arrays([rows.clip_ids for rows in several])
        return cls(ids, **{name: np.concatenate([getattr(rows, name) for rows in several]) for name in names})


class Index:
    """What a run has; rows are read when they are asked for.

    Parameters
    ----------
    parts : sequence of IndexedPart
    read : callable
        Number of a part -> its rows.
    taken : collection of int
        Numbers that new parts must not have, beside those of `parts`.
    """

    def __init__(
        self, parts: Sequence[IndexedPart], read: Callable[[int], IndexedRows], taken: Collection[int] = ()
    ) -> None:
        self.parts, self.read, self.taken = parts, read, taken

    @classmethod
    def empty(cls) -> Index:
        """What a new run has."""
        return cls.of({})

    @classmethod
    def of(cls, rows: Mapping[int, IndexedRows], outdated: Iterable[int] = ()) -> Index:
        """What a run has whose parts are in memory; `outdated` are those that were made with other settings."""
        return cls([_described(part, some, part not in outdated) for part, some in rows.items()], rows.__getitem__)

    def __len__(self) -> int:
        return sum(part.n_rows for part in self.parts)

    @property
    def is_current(self) -> bool:
        """Whether all parts were made under the fingerprint of this scan."""
        return all(part.is_current for part in self.parts)


def _described(part: int, rows: IndexedRows, is_current: bool) -> IndexedPart:
    ids = sorted(rows.clip_ids.to_pylist()) or [""]
    return IndexedPart(part, len(rows), ids[0], ids[-1], is_current)


class Spans:
    """Ascending whole numbers; those that follow each other take no memory."""

    def __init__(self, numbers: NDArray[np.int64]) -> None:
        breaks = np.flatnonzero(np.diff(numbers) != 1) + 1 if len(numbers) else np.zeros(0, np.int64)
        begins, ends = np.concatenate([[0], breaks]), np.concatenate([breaks, [len(numbers)]])
        self._n_numbers = len(numbers)
        #: First and past the last one of each.
        self.spans = np.stack([numbers[begins], numbers[ends - 1] + 1], 1) if len(numbers) else np.zeros((0, 2), int)

    @classmethod
    def joined(cls, several: Iterable[Spans]) -> Spans:
        """Return all of several that come one after the other."""
        whole = cls(np.zeros(0, np.int64))
        kept = [spans for spans in several if len(spans)]
        if kept:
            spans = np.concatenate([item.spans for item in kept])
            is_first = np.concatenate([[True], spans[1:, 0] != spans[:-1, 1]])
            is_last = np.concatenate([is_first[1:], [True]])
            whole.spans = np.stack([spans[is_first, 0], spans[is_last, 1]], 1)
            whole._n_numbers = sum(map(len, kept))
        return whole

    def __len__(self) -> int:
        return self._n_numbers

    def __iter__(self) -> Iterator[int]:
        for first, last in self.spans:
            yield from range(int(first), int(last))


@dataclass(eq=False)
class Plan:
    """All work of one scan; shards are made as they are asked for."""

    found: Found
    index: Index
    #: part -> positions in `found` to process again; also parts with nothing to process, for their vanished files.
    rewrites: dict[int, Spans]
    #: part -> its rows that are gone.
    vanished: dict[int, Spans]
    #: Positions in `found` of files that no part has.
    new: Spans
    first_part: int
    shard_size: int
    #: Parts made with other settings that stay as they are: some of their files cannot be looked at now.
    held: Sequence[int] = ()

    @property
    def n_files(self) -> int:
        """Files to process."""
        return len(self.new) + sum(map(len, self.rewrites.values()))

    def positions(self) -> Iterator[int]:
        """Yield the positions in `found` of the files to process, ascending."""
        spans = np.concatenate([self.new.spans, *(positions.spans for positions in self.rewrites.values())])
        for first, last in spans[np.argsort(spans[:, 0], kind="stable")]:
            yield from range(int(first), int(last))

    @property
    def is_empty(self) -> bool:
        return not len(self.new) and not self.rewrites

    def shards(self) -> Iterator[Shard]:
        outdated = {part.part for part in self.index.parts if not part.is_current}
        for rewritten, positions in self.rewrites.items():
            is_outdated, gone, lost = rewritten in outdated, pa.nulls(0, pa.string()), []
            if rewritten in self.vanished:
                rows = self.index.read(rewritten)
                places = list(self.vanished[rewritten])
                gone = rows.clip_ids.take(pa.array(np.array(places, np.int64)))
                numbers = (rows.size_bytes[places].tolist(), rows.mtime_ns[places].tolist())
                known = zip(gone.to_pylist(), *numbers, strict=True)
                # Their paths are not known here.
                lost = [ClipRef(clip_id, "", size, time_ns) for clip_id, size, time_ns in known] if is_outdated else []
            yield Shard(rewritten, list(map(self.found.ref, positions)), True, gone, lost, is_outdated)
        part, refs, n_bytes = self.first_part, list[ClipRef](), 0
        for ref in map(self.found.ref, self.new):
            if refs and (len(refs) >= self.shard_size or n_bytes + ref.size_bytes > _SHARD_BYTES):
                yield Shard(part, refs)
                part, refs, n_bytes = part + 1, [], 0
            refs.append(ref)
            n_bytes += ref.size_bytes
        if refs:
            yield Shard(part, refs)


def read_index(store: RunStore, fingerprint: str) -> Index:
    """Read what the run has; parts made under another fingerprint than `fingerprint` are told from the others."""

    def read(part: int) -> IndexedRows:
        return IndexedRows.of(store.some("files", part, INDEX_COLUMNS))

    parts = []
    for part, entry in sorted(store.entries.items()):
        ends = store.ends(part)
        is_current = entry.fingerprint == fingerprint
        if ends is None:
            parts.append(_described(part, read(part), is_current))
        else:
            parts.append(IndexedPart(part, entry.tables["files"].n_rows, *ends, is_current))
    return Index(parts, read, store.lost)


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
    comparing = _Comparison(found, retry)
    waiting = sorted(index.parts, key=lambda part: part.first, reverse=True)
    active: list[_Part] = []
    new: list[Spans] = []
    for chunk in found.files.chunks():
        last = chunk.clip_ids[-1]
        while waiting and waiting[-1].first <= last:
            active.append(_Part(waiting[-1], index.read(waiting.pop().part)))
        new.append(comparing.take(chunk, active))
        for part in [part for part in active if part.about.last <= last]:
            active.remove(part)
            comparing.finish(part)
    for about in reversed(waiting):
        comparing.finish(_Part(about, index.read(about.part)))
    for part in active:
        comparing.finish(part)
    return Plan(
        found=found,
        index=index,
        rewrites=dict(sorted(comparing.rewrites.items())),
        vanished=comparing.vanished,
        new=Spans.joined([] if retry else new),
        first_part=max([-1, *(part.part for part in index.parts), *index.taken]) + 1,
        shard_size=shard_size,
        held=sorted(comparing.held),
    )


class _Part:
    """A part that is being compared."""

    def __init__(self, about: IndexedPart, rows: IndexedRows) -> None:
        self.about, self.rows = about, rows
        #: Rows that were not found; of those that cannot be looked at, what was known of them.
        self.is_gone = np.ones(len(rows), bool)
        self.is_seen = np.zeros(len(rows), bool)
        #: Positions to process again.
        self.again: list[Spans] = []


class _Comparison:
    """What comes of comparing, part by part."""

    def __init__(self, found: Found, retry: bool) -> None:
        self._found, self._retry, self._pyav = found, retry, pyav_reader()
        self.rewrites: dict[int, Spans] = {}
        self.vanished: dict[int, Spans] = {}
        self.held: list[int] = []

    def take(self, chunk: Chunk, active: Sequence[_Part]) -> Spans:
        """Compare a chunk of what was found with the parts that reach into it; return the positions of new files."""
        positions = np.arange(chunk.first, chunk.first + len(chunk.clip_ids))
        if not active:
            return Spans(positions)
        rows = IndexedRows.together([part.rows for part in active])
        place = pc.index_in(large_strings(chunk.clip_ids), value_set=rows.clip_ids.cast(pa.large_string()))
        is_known = numbers_of(place.is_valid(), pa.uint8()).astype(bool)
        known = np.flatnonzero(is_known)
        row = numbers_of(place, pa.int64())[known]
        is_seen = np.frombuffer(chunk.mtimes_ns, np.int64)[known] != NOT_SEEN_NS
        starts = np.cumsum([0, *(len(part.rows) for part in active)])
        is_current = np.repeat([part.about.is_current for part in active], np.diff(starts))
        changed = self._changed(chunk, known, rows, row, is_current[row]) & is_seen
        of_part = np.searchsorted(starts, row, side="right") - 1
        for number in np.unique(of_part):
            part, here = active[number], of_part == number
            own = row[here] - starts[number]
            part.is_gone[own] = False
            part.is_seen[own] = is_seen[here]
            missed = own[~is_seen[here]]
            part.is_gone[missed] = part.rows.vanished[missed]
            part.again.append(Spans(positions[known[here & changed]]))
        return Spans(positions[~is_known])

    def _changed(
        self,
        chunk: Chunk,
        known: NDArray[np.int64],
        rows: IndexedRows,
        row: NDArray[np.int64],
        is_current: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:
        """Tell which files of a chunk, those `known`, are to be processed again; `row` is where each is in `rows`."""
        if self._retry:
            return rows.status[row] == str(Status.FAILED)
        mtimes_ns = np.frombuffer(chunk.mtimes_ns, np.int64)[known]
        changed = np.frombuffer(chunk.sizes_bytes, np.int64)[known] != rows.size_bytes[row]
        etag_keys = _etag_keys(chunk.etags or [""] * len(chunk.clip_ids))[known]
        # Of an object, its version counts where both are known: copied with what it holds, it has another time.
        by_etag = (etag_keys != 0) & (rows.etag_key[row] != 0)
        changed |= np.where(by_etag, etag_keys != rows.etag_key[row], mtimes_ns != rows.mtime_ns[row])
        changed |= np.frombuffer(self._found.segment_keys(chunk), np.int64)[known] != rows.segments_key[row]
        changed |= ~is_current
        # What PyAV would read, and what another version of it has read.
        if self._pyav:
            changed |= np.char.startswith(rows.reader[row], PYAV) & (rows.reader[row] != self._pyav)
        # A file that was gone when its results were due has none.
        changed |= rows.vanished[row] & (rows.status[row] == str(Status.SKIPPED))
        for place in np.flatnonzero(rows.out_of_reach[row] & ~changed & (mtimes_ns != NOT_SEEN_NS)):
            changed[place] = can_be_read(self._found.ref(chunk.first + int(known[place])).path)
        return changed

    def finish(self, part: _Part) -> None:
        """Take in a part that nothing more is found of."""
        number, rows, is_gone = part.about.part, part.rows, part.is_gone
        for prefix in self._found.unlisted:
            # What is in a folder that could not be listed may be there or not: it stays as it was.
            below = numbers_of(pc.starts_with(rows.clip_ids, prefix), pa.uint8()).astype(bool)
            is_gone[below] &= rows.vanished[below]
        again = Spans.joined(part.again)
        is_touched = len(again) > 0 or bool((is_gone != rows.vanished).any())
        if not self._retry and not part.about.is_current:
            if (~is_gone & ~part.is_seen).any():
                self.held.append(number)
                return
            is_touched = True
        if is_touched:
            self.rewrites[number] = again
            if is_gone.any():
                self.vanished[number] = Spans(np.flatnonzero(is_gone))


def _etag_keys(etags: Sequence[str | None]) -> NDArray[np.int64]:
    """Return numbers that stand for the versions of objects; 0 for none."""
    return np.fromiter((state_key(etag) if etag else 0 for etag in etags), np.int64, len(etags))


def _keys(table: pa.Table) -> NDArray[np.int64]:
    """Return what the segments of each file came from; 0 for nothing, or where an older run does not say."""
    if "segments_key" not in table.column_names:
        return np.zeros(len(table), np.int64)
    column = table.column("segments_key")
    return np.where(numbers_of(column.is_valid(), pa.uint8()), numbers_of(column, pa.int64()), 0)


def _words(table: pa.Table, name: str) -> NDArray[np.str_]:
    """Return a column of few words as numpy; "" at nulls, or where an older run does not have it."""
    if name not in table.column_names:
        return np.full(len(table), "")
    column = table.column(name).combine_chunks()
    is_word = numbers_of(column.is_valid(), pa.uint8()).astype(bool)
    places = np.where(is_word, numbers_of(column.indices, pa.int64()), -1)
    return np.array([*column.dictionary.to_pylist(), ""])[places]
