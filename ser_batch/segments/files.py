"""The file beside a recording that says who speaks when: which one it is, read and checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ser_batch.atomic import open_file
from ser_batch.errors import DataError, SerBatchError
from ser_batch.segments.marked import Marked, Noted, Tiers, checked
from ser_batch.segments.markup import read_eaf, read_rttm, read_subtitles, read_textgrid
from ser_batch.segments.table import read_segment_table
from ser_batch.segments.transcript import read_transcript
from ser_batch.text import message_of, printable

__all__ = ["SEGMENT_SUFFIXES", "read_segments"]

#: Suffix -> reader. Of several files beside a recording the first of this order counts: what people marked by hand,
#: what has words and speakers, words, speakers. A reader gives None for a file about something else.
_READERS: dict[str, Callable[[Path], Tiers | Noted | None]] = {
    ".eaf": read_eaf,
    ".textgrid": read_textgrid,
    ".json": read_transcript,
    ".csv": read_segment_table,
    ".tsv": read_segment_table,
    ".vtt": read_subtitles,
    ".srt": read_subtitles,
    ".rttm": read_rttm,
}
SEGMENT_SUFFIXES = tuple(_READERS)

#: No transcript of a day is as large.
_MOST_BYTES = 64 * 2**20


def read_segments(paths: Sequence[str | os.PathLike[str]]) -> Marked:
    """Read the segments of a recording from the first of some files that is about segments.

    Parameters
    ----------
    paths : sequence of path
        In the order in which they count; suffixes are among `SEGMENT_SUFFIXES`, in any case.

    Returns
    -------
    marked : Marked
        Empty where no file is about segments: a table or JSON without times.

    Raises
    ------
    DataError
        The file is broken, or contradicts itself: one speaker is said to speak twice at once.
    """
    for path in map(Path, paths):
        suffix = path.suffix.lower()
        try:
            with open_file(path) as file:
                n_bytes = file.seek(0, os.SEEK_END)
            if n_bytes > _MOST_BYTES:
                raise DataError(f"it is larger than {_MOST_BYTES // 2**20} MB")
            found = _READERS[suffix](path)
            if found is not None:
                tiers, note = found if isinstance(found, Noted) else (found, "")
                return checked(((tier, replace(item, source=suffix[1:])) for tier, item in tiers), note)
        except SerBatchError as error:
            # Errors of tables name the file themselves.
            text = str(error)
            raise DataError(text if str(path) in text else f"{printable(path.name)}: {text}") from error
        except Exception as error:  # of a library, which may raise anything about a broken file
            reason = (error.strerror if isinstance(error, OSError) else "") or message_of(error).splitlines()[0]
            raise DataError(f"{printable(path.name)} cannot be read ({reason})") from error
    return Marked()
