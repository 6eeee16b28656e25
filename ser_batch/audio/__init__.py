"""The built-in reader: what libsndfile or, where it is installed, PyAV decodes, as mono pieces at one sample rate.

Memory stays flat however long a recording is.

Every byte of a file is accounted for. What is not audio is a tag or part of a container, or is skipped, and the note
of the row says so; what is audio and could not be read makes the file ``partial``, and its row says how much.

- A file that cannot be opened, or breaks before its first sample, raises `DecodeError`.
- A file that breaks midway and cannot be read on, or ends before its header says, gives what was decoded, then raises.
- Samples that are NaN or infinite are read as 0 and counted in `Clip.note`; a piece of nothing else raises.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from ser_batch.audio.errors import DecodeError, NeedsMediaError, NoSoundError, SkippedError
from ser_batch.audio.formats import AUDIO_SUFFIXES
from ser_batch.hookspecs import hookimpl
from ser_batch.records import Clip, ClipRef

__all__ = [
    "AUDIO_SUFFIXES",
    "READER_VERSION",
    "DecodeError",
    "NeedsMediaError",
    "NoSoundError",
    "SkippedError",
    "read_clip",
]

#: Raised whenever samples that the reader gives change.
READER_VERSION = 4


@hookimpl(trylast=True)
def read_clip(ref: ClipRef, sample_rate_hz: int, piece_s: float, overlap_s: float) -> Iterator[Clip]:
    """Decode, mix the channels, resample (soxr, HQ) and cut into pieces; see the hook's specification."""
    return _pieces(ref.path, sample_rate_hz, piece_s, overlap_s)


def _pieces(path: str, sample_rate_hz: int, piece_s: float, overlap_s: float) -> Iterator[Clip]:
    # What decodes is imported by those who decode: the suffixes are wanted by many more.
    from ser_batch.audio.pieces import Cutter  # noqa: PLC0415
    from ser_batch.audio.reading import decoded  # noqa: PLC0415
    from ser_batch.audio.source import Account, Source  # noqa: PLC0415

    # Opened here and not by libsndfile, whose only words for a missing or forbidden file are "System error".
    mode = os.stat(path).st_mode  # noqa: PTH116 - Path cannot hold every name
    if not stat.S_ISREG(mode):
        raise DecodeError("not a regular file")
    suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122
    account = Account()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        cutter = Cutter(sample_rate_hz, round(piece_s * sample_rate_hz), round(overlap_s * sample_rate_hz), account)
        for block in decoded(Source(descriptor), suffix, account):
            yield from cutter.push(block)
        yield from cutter.finish()
        if account.unread:
            raise DecodeError("; ".join(account.unread))
    except (DecodeError, SkippedError) as error:
        error.reader = account.reader
        raise
    finally:
        os.close(descriptor)
