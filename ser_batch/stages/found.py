"""What a search has found: rows in order, in memory while they are few, on disk beyond that, read a chunk at a time.

Ten million files take about as much memory as one million. Rows are gathered in runs, each sorted by itself, and then
merged; both lie in temporary files without a name, in the folder that ``TMPDIR`` names.
"""

from __future__ import annotations

import heapq
import marshal
import os
import tempfile
import weakref
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from operator import itemgetter
from typing import Any, NamedTuple, cast

from ser_batch.errors import InputError
from ser_batch.records import ClipRef, SegmentSource

__all__ = ["NOT_SEEN_NS", "Chunk", "Found", "FoundFiles", "Gathering", "Names", "Row"]

#: Time of a file that could not be looked at: a link that leads nowhere now, or a name out of a list.
NOT_SEEN_NS = -(2**63)

#: Rows that are read at once.
_CHUNK_ROWS = 8_192
#: Rows that are sorted at once, and those of each run that are read at once to merge them.
_RUN_ROWS, _BLOCK_ROWS = 65_536, 256
#: Bytes kept in memory before anything goes to disk.
_MEMORY_BYTES = 8 * 2**20


class Row(NamedTuple):
    """A file: what it goes by, where it is below the root, and what is known of it."""

    clip_id: str
    #: Where it is not the clip_id, else "".
    relative: str
    n_bytes: int
    #: `NOT_SEEN_NS` for a file that could not be looked at.
    mtime_ns: int
    #: Key and paths of what lies beside it and says who speaks when; () for nothing.
    source: tuple[Any, ...] = ()
    #: Version of an object in a bucket, as the store names it; "" for a file.
    etag: str = ""


class Chunk(NamedTuple):
    """Rows that follow each other, as columns."""

    #: Position of the first one.
    first: int
    clip_ids: list[str]
    sizes_bytes: array[int]
    mtimes_ns: array[int]
    #: Row of the chunk -> relative path and source, for the few that have any.
    odd: dict[int, tuple[str, tuple[Any, ...]]]
    #: Of objects; None where all are files.
    etags: Sequence[str] | None


class _Store:
    """Python values, one after the other, in a file."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(_MEMORY_BYTES)  # noqa: SIM115 - as long as it is used
        weakref.finalize(self, self._file.close)
        self._ends = array("q", [0])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def append(self, value: Any) -> None:
        data = marshal.dumps(value)
        with _room():
            self._file.seek(self._ends[-1])
            self._file.write(data)
        self._ends.append(self._ends[-1] + len(data))

    def __getitem__(self, place: int) -> Any:
        with _room():
            self._file.seek(self._ends[place])
            return marshal.loads(self._file.read(self._ends[place + 1] - self._ends[place]))


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"The list of what was found cannot be kept in {tempfile.gettempdir()}: {error.strerror or error}. Free "
            f"some space there, or name another folder by the environment variable TMPDIR."
        ) from error


class Names(Sequence[str]):
    """Texts, such as paths, on disk beyond some megabytes; read one after the other, as often as one likes."""

    def __init__(self, names: Iterable[str]) -> None:
        self._store, self._n_names = _Store(), 0
        rest = iter(names)
        while chunk := list(islice(rest, _CHUNK_ROWS)):
            self._store.append(chunk)
            self._n_names += len(chunk)

    def __len__(self) -> int:
        return self._n_names

    def __iter__(self) -> Iterator[str]:
        for place in range(len(self._store)):
            yield from self._store[place]

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[index] for index in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        return self._store[place // _CHUNK_ROWS][place % _CHUNK_ROWS]


class FoundFiles:
    """Rows in the order of clip_id."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._store, self._n_rows = _Store(), 0
        #: The chunk that was read last.
        self._last: Chunk | None = None
        rest = iter(rows)
        while chunk := list(islice(rest, _CHUNK_ROWS)):
            ids, relatives, sizes, times, sources, etags = zip(*chunk, strict=True)
            odd = {i: (relatives[i], sources[i]) for i in range(len(ids)) if relatives[i] or sources[i]}
            self._store.append(
                (ids, array("q", sizes).tobytes(), array("q", times).tobytes(), odd, etags if any(etags) else None)
            )
            self._n_rows += len(ids)

    def __len__(self) -> int:
        return self._n_rows

    def chunk_of(self, position: int) -> Chunk:
        """Return the rows among which a position is."""
        if self._last is None or not 0 <= position - self._last.first < len(self._last.clip_ids):
            place = position // _CHUNK_ROWS
            ids, sizes, times, odd, etags = self._store[place]
            numbers = array("q", sizes), array("q", times)
            self._last = Chunk(place * _CHUNK_ROWS, list(ids), *numbers, odd, etags)
        return self._last

    def chunks(self) -> Iterator[Chunk]:
        return (self.chunk_of(first) for first in range(0, self._n_rows, _CHUNK_ROWS))

    def row(self, position: int) -> Row:
        chunk = self.chunk_of(position)
        place = position - chunk.first
        relative, source = chunk.odd.get(place, ("", ()))
        numbers = chunk.sizes_bytes[place], chunk.mtimes_ns[place]
        return Row(chunk.clip_ids[place], relative, *numbers, source, chunk.etags[place] if chunk.etags else "")


class _Column(Sequence[Any]):
    """One column of `FoundFiles`."""

    def __init__(self, files: FoundFiles, name: str) -> None:
        self._files, self._of = files, itemgetter(Chunk._fields.index(name))

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[Any]:
        for chunk in self._files.chunks():
            yield from self._of(chunk)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[index] for index in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        chunk = self._files.chunk_of(place)
        return self._of(chunk)[place - chunk.first]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(_same, self, other))

    __hash__ = None  # type: ignore[assignment]


def _same(one: object, other: object) -> bool:
    return one == other


class Gathering:
    """Takes rows in any order; gives them in that of clip_id, each file and each id once."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._blocks = _Store()
        #: First block of each run, and past its last one.
        self._runs: list[range] = []

    def add(self, row: Row) -> None:
        self._rows.append(row)
        if len(self._rows) == _RUN_ROWS:
            self._spill()

    def _spill(self) -> None:
        self._rows.sort(key=itemgetter(0))
        first = len(self._blocks)
        for begin in range(0, len(self._rows), _BLOCK_ROWS):
            self._blocks.append([tuple(row) for row in self._rows[begin : begin + _BLOCK_ROWS]])
        self._runs.append(range(first, len(self._blocks)))
        self._rows.clear()

    def sorted(self) -> FoundFiles:
        """Return all rows; this gathering has none afterwards."""
        if self._runs and self._rows:
            self._spill()
        self._rows.sort(key=itemgetter(0))
        runs = [self._read(run) for run in self._runs] or [iter(self._rows)]
        files = FoundFiles(_distinct(heapq.merge(*runs, key=itemgetter(0)) if len(runs) > 1 else runs[0]))
        self._rows, self._runs, self._blocks = [], [], _Store()
        return files

    def _read(self, run: range) -> Iterator[Row]:
        for block in run:
            yield from map(Row._make, self._blocks[block])


def _distinct(rows: Iterator[Row]) -> Iterator[Row]:
    """Drop files that were reached twice; give a number to an id that two names share once they are escaped."""
    #: Rows with a number, which come later in the order, before the others of that id.
    numbered: list[tuple[str, str, Row]] = []
    last_id, names = "", set[str]()
    following = next(rows, None)
    while numbered or following is not None:
        if numbered and (following is None or numbered[0][0] <= following.clip_id):
            row = heapq.heappop(numbered)[2]
        else:
            row = cast(Row, following)
            following = next(rows, None)
        name = row.relative or row.clip_id
        if row.clip_id != last_id or not names:
            last_id, names = row.clip_id, {name}
            yield row
        elif name not in names:
            names.add(name)
            twin = row._replace(clip_id=f"{row.clip_id}~{len(names)}", relative=name)
            heapq.heappush(numbered, (twin.clip_id, name, twin))


@dataclass(eq=False)
class Found:
    """All audio files found, in the order of clip_id; beyond some ten thousand, they lie on disk."""

    #: Absolute, or an address; `root` / clip_id is the file, names that are not UTF-8 apart.
    root: str
    files: FoundFiles = field(default_factory=FoundFiles)
    n_hidden: int = 0
    n_unmatched: int = 0
    #: Folders that systems make for themselves.
    n_system: int = 0
    #: Folders that could not be listed, and why.
    unreadable: list[str] = field(default_factory=list)
    #: The same folders, as clip_ids of what is in them begin; "" for the root.
    unlisted: list[str] = field(default_factory=list)
    #: clip_id -> its segments, by the user's table, or beside an object; what lies beside files is known by their rows.
    segments: dict[str, SegmentSource] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.files)

    @property
    def clip_ids(self) -> Sequence[str]:
        return _Column(self.files, "clip_ids")

    @property
    def sizes_bytes(self) -> Sequence[int]:
        return _Column(self.files, "sizes_bytes")

    @property
    def mtimes_ns(self) -> Sequence[int]:
        """`NOT_SEEN_NS` for files that could not be looked at."""
        return _Column(self.files, "mtimes_ns")

    @property
    def is_seen(self) -> bool:
        """Whether any of the files could be looked at."""
        return any(time_ns != NOT_SEEN_NS for time_ns in self.mtimes_ns)

    def ref(self, index: int) -> ClipRef:
        row = self.files.row(index)
        path = os.path.join(self.root, row.relative or row.clip_id)  # noqa: PTH118 - Path normalises names
        source = SegmentSource(*row.source) if row.source else self.segments.get(row.clip_id)
        return ClipRef(row.clip_id, path, row.n_bytes, row.mtime_ns, source, etag=row.etag)

    def segment_keys(self, chunk: Chunk) -> array[int]:
        """Return what the segments of the files of a chunk come from; 0 for nothing."""
        keys = array("q", bytes(8 * len(chunk.clip_ids)))
        for place, (_, source) in chunk.odd.items():
            if source:
                keys[place] = source[0]
        if self.segments:
            for place, clip_id in enumerate(chunk.clip_ids):
                if known := self.segments.get(clip_id):
                    keys[place] = known.key
        return keys

    def only(self, positions: Iterable[int]) -> Found:
        """Return some of the files, by ascending positions; what was left out, and why, stays."""
        return replace(self, files=FoundFiles(map(self.files.row, positions)))

    def by_suffix(self) -> Counter[str]:
        return Counter(os.path.splitext(clip_id)[1].lower() for clip_id in self.clip_ids)  # noqa: PTH122 - a million
