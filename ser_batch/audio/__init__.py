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
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ser_batch.audio.errors import DecodeError, NeedsMediaError, NoSoundError, SkippedError
from ser_batch.audio.formats import AUDIO_SUFFIXES
from ser_batch.hookspecs import hookimpl
from ser_batch.records import Clip, ClipRef

if TYPE_CHECKING:
    from ser_batch.audio.sound import Block

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
READER_VERSION = 5


@hookimpl(trylast=True)
def read_clip(ref: ClipRef, sample_rate_hz: int, piece_s: float, overlap_s: float) -> Iterator[Clip]:
    """Decode, mix the channels or take that of `ref`, resample (soxr, HQ), cut into pieces; see the specification."""
    if not ref.channel:
        return _pieces(ref.path, sample_rate_hz, piece_s, overlap_s)
    return _of_channel(ref.path, ref.channel, sample_rate_hz, piece_s, overlap_s)


def _of_channel(path: str, channel: int, sample_rate_hz: int, piece_s: float, overlap_s: float) -> Iterator[Clip]:
    n_channels = 0

    def alone(block: Block) -> Block:
        nonlocal n_channels
        n_channels = max(n_channels, block.samples.shape[1])
        # Where there are fewer from somewhere on, as in joined files, the last one goes on.
        place = min(channel, block.samples.shape[1]) - 1
        return replace(block, samples=block.samples[:, place : place + 1])

    for clip in _pieces(path, sample_rate_hz, piece_s, overlap_s, alone):
        yield replace(clip, channel=channel, source_channels=n_channels)


def _pieces(
    path: str,
    sample_rate_hz: int,
    piece_s: float,
    overlap_s: float,
    change: Callable[[Block], Block] | None = None,
) -> Iterator[Clip]:
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
            yield from cutter.push(block if change is None else change(block))
        yield from cutter.finish()
        if account.unread:
            raise DecodeError("; ".join(account.unread))
    except (DecodeError, SkippedError) as error:
        error.reader = account.reader
        raise
    finally:
        os.close(descriptor)
