"""Segments in tables: of one recording, beside it, and of a whole archive."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from ser_batch.errors import DataError, InputError, SerBatchError
from ser_batch.records import Segment, SegmentSource
from ser_batch.segments.marked import Marked, checked, state_key
from ser_batch.segments.markup import rttm_rows
from ser_batch.tables.match import match_rows
from ser_batch.tables.table import Table, decoded, read_table
from ser_batch.text import printable, shortened, shown

__all__ = ["ArchiveSegments", "read_archive_segments", "read_segment_table"]

#: Names by which columns may go.
_START = ("start_s", "start", "start_time", "begin", "onset")
_END = ("end_s", "end", "end_time", "stop")
_DURATION = ("duration_s", "duration")
_SPEAKER = ("speaker", "speaker_id", "spk")
_TEXT = ("text", "transcript", "transcription", "words", "utterance")
_CHANNEL = ("channel",)
_A_CHANNEL = "the number of a channel, from 1"


def read_segment_table(path: Path) -> Iterator[tuple[str, Segment]] | None:
    """Read a table with a row per segment; None where it is about something else: has no columns of times.

    Times are in s; in Whisper's own ``.tsv``, with the columns start, end and text alone, they are whole ms.

    Raises
    ------
    DataError, InputError
        It is no table, or a time or a channel is no number.
    """
    try:
        table = read_table(path)
    except SerBatchError:
        header = decoded(path, path.read_bytes())[0].partition("\n")[0].casefold()
        if not any(name in header for name in _START):
            return None
        raise
    if table.find(_START) is None or table.find((*_END, *_DURATION)) is None:
        return None
    return (("", segment) for segment in _rows(table))


def _rows(table: Table) -> Iterator[Segment]:
    """Yield the segment of each row."""
    start, end, duration = table.find(_START), table.find(_END), table.find(_DURATION)
    speaker, text, channel = table.find(_SPEAKER), table.find(_TEXT), table.find(_CHANNEL)
    assert start is not None
    scale = 1000 if _is_in_ms(table) else 1
    for row in range(len(table)):
        start_s = _number(table, start, row) / scale
        end_s = _number(table, end, row) / scale if end else start_s + _number(table, duration or "", row)
        yield Segment(
            start_s,
            end_s,
            _channel(table, channel, row) if channel and table.columns[channel][row] else 0,
            table.columns[speaker][row] if speaker else "",
            table.columns[text][row] if text else "",
        )


def _is_in_ms(table: Table) -> bool:
    """Tell Whisper's table: of three columns, with tabs, and all times are whole."""
    if table.delimiter != "\t" or tuple(table.columns) != ("start", "end", "text"):
        return False
    return all(value.isdecimal() for name in ("start", "end") for value in table.columns[name])


def _number(table: Table, column: str, row: int, what: str = "a number, in s") -> float:
    text = table.columns[column][row]
    try:
        return float(text.replace(",", ".") if table.delimiter == ";" else text)
    except ValueError:
        raise _wrong(table, column, row, what) from None


def _channel(table: Table, column: str, row: int) -> int:
    number = _number(table, column, row, _A_CHANNEL)
    if not number.is_integer():  # nor is what is infinite, or no number
        raise _wrong(table, column, row, _A_CHANNEL)
    return int(number)


def _wrong(table: Table, column: str, row: int, what: str) -> DataError:
    return DataError(
        f"line {table.lines[row]}: {shown(column)} must be {what}, not {shown(table.columns[column][row])}"
    )


@dataclass(eq=False)
class ArchiveSegments:
    """What one table says of many recordings."""

    #: Position of a file -> its segments; of one with segments that cannot be, the note says why there are none.
    of: dict[int, SegmentSource]
    #: Files and rows that match, in one line.
    summary: str


def read_archive_segments(path: Path, root: str | os.PathLike[str], names: Sequence[str]) -> ArchiveSegments:
    """Read the segments of a whole archive from one table, or from an RTTM file.

    Parameters
    ----------
    path : Path
        A table that `ser_batch.tables` reads, with a row per segment: the recording (`match_rows` says how it may be
        named), start and end in s and, where known, speaker, text and channel. Or ``.rttm``.
    root : path
        Folder that `names` are relative to.
    names : sequence of str
        The recordings, as POSIX paths.

    Raises
    ------
    DataError, InputError
        It is no such table, a time is no number, or no row means one of the recordings.
    """
    try:
        if path.suffix.lower() == ".rttm":
            turns = list(rttm_rows(path))
            table = Table(path, {"clip_id": [name for name, _, _ in turns]}, [line for _, line, _ in turns])
            if not turns:
                raise DataError("it holds no turns")
            segments = [segment for _, _, segment in turns]
        else:
            table = read_table(path)
            if table.find(_START) is None or table.find((*_END, *_DURATION)) is None:
                have = shortened(", ".join(table.columns))
                raise DataError(f"it needs the columns start and end, in s; it has {have}")
            segments = list(_rows(table))
    except OSError as error:
        raise InputError(f"Segments {path} cannot be read: {error.strerror or error}.") from error
    except DataError as error:
        raise DataError(f"Segments {path}: {error}") from error
    matching = match_rows(table, root, names, columns=())
    rows: dict[int, list[tuple[str, Segment]]] = defaultdict(list)
    for place, segment in zip(matching.places, segments, strict=True):
        if place >= 0:
            rows[place].append(("", replace(segment, source="table")))
    found = {}
    for place, items in rows.items():
        try:
            marked = checked(items)
        except DataError as error:
            marked = Marked(note=f"no segments: {printable(path.name)}: {error}")
        key = state_key(*(astuple(segment) for segment in marked.segments), marked.note)
        found[place] = SegmentSource(key, (), marked.segments, marked.note)
    return ArchiveSegments(found, matching.summary())
