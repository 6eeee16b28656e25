"""From the bytes of a file to blocks of samples: which decoder reads what, until all bytes are accounted for."""

from __future__ import annotations

import re
import struct
from collections.abc import Generator, Iterator

from ser_batch.audio import containers, extents, flac, media, mpeg, ogg
from ser_batch.audio.errors import DeclinedError, DecodeError, NeedsMediaError, NoSoundError, SkippedError
from ser_batch.audio.formats import PYAV, media_format, pyav_reader
from ser_batch.audio.sound import LIBSNDFILE, UNKNOWN_FRAMES, Block, Sound
from ser_batch.audio.source import Account, Joined, Source
from ser_batch.audio.tags import tag_end

__all__ = ["decoded"]

_HEAD_BYTES = 64
_LONG_HEAD_BYTES = 4_096
#: Beginnings that are looked for behind bytes that are no audio.
_BEGINNING = re.compile(
    containers.MAGICS.pattern + b"|" + flac.STREAM.pattern + rb"|OggS\x00[\x02\x03\x06\x07]|ID3[\x02-\x04]", re.DOTALL
)
_LONGEST_BEGINNING = 19
#: So far it is looked for.
_FRONT_BYTES = 2**20
#: Fewer bytes than this behind the audio are skipped, whatever they are: 16 ms of the least audio there is.
_REST_BYTES = 128
_SLACK_S = 0.01
#: A size from here on stands for "to the end".
_OPEN_END_BYTES = 0x7FFF_0000


def decoded(source: Source, suffix: str, account: Account) -> Iterator[Block]:
    """Yield all audio of a file; `account` says afterwards what became of the rest of its bytes.

    Parameters
    ----------
    source : Source
    suffix : str
        Of its name, in lower case; used only where the bytes do not tell the format.
    account : Account

    Raises
    ------
    DecodeError
        The file cannot be decoded at all.
    SkippedError
        There is nothing in it to decode, or nothing here that decodes it.
    """
    account.reader = LIBSNDFILE
    place = yield from _recording(source, 0, account, suffix)
    while (place := _behind(source, place, account)) < source.size_bytes:
        account.note(f"another recording begins at byte {place:,}")
        try:
            place = yield from _recording(source, place, account)
        except (DecodeError, SkippedError) as error:
            account.unread.append(f"{source.size_bytes - place:,} bytes were not read: {error}")
            return


def _recording(source: Source, place: int, account: Account, suffix: str = "") -> Generator[Block, None, int]:
    """Decode the recording that begins at a place, by whatever reads it; return where its bytes end."""
    try:
        return (yield from _stream(source, place, account, suffix))
    except DeclinedError as error:
        return (yield from _by_pyav(source, place, suffix, account, error))


def _by_pyav(
    source: Source, place: int, suffix: str, account: Account, declined: DeclinedError
) -> Generator[Block, None, int]:
    """Decode what libsndfile declined; return where its bytes end."""
    name = media_format(source.at(place, _LONG_HEAD_BYTES), suffix)
    if not pyav_reader():
        if name:
            account.reader = PYAV
            raise NeedsMediaError(f'{suffix or "a file"} ({name}) is read by PyAV: pip install "ser-batch[media]"')
        raise DecodeError(str(declined))
    account.reader = pyav_reader()
    extent, n_unread = extents.extent_of(source, place), len(account.unread)
    try:
        is_whole = (place, extent.end) == (0, source.size_bytes)
        yield from media.decode(source if is_whole else Joined(source, [(place, extent.end)]), account)
    except (DeclinedError, NoSoundError) as error:
        if name and isinstance(error, NoSoundError):
            raise
        if extent.is_unfinished:
            raise DecodeError("the recording was never finished: it has no index (moov)") from None
        end = min(place + _FRONT_BYTES, source.size_bytes)
        found = next(source.search(extents.BEGINNING, place + 1, end, extents.LONGEST_BEGINNING), None)
        if found is not None:
            account.note_once(f"{found - place:,} bytes in front of the audio were skipped")
            return (yield from _by_pyav(source, found, suffix, account, declined))
        # What FFmpeg takes other data for says less.
        raise DecodeError(str(error if name else declined)) from None
    riff, n_bytes = struct.unpack("<4sI", source.at(place, 8).ljust(8, b"\0"))
    n_missing = extent.n_missing
    if riff == b"RIFF" and n_bytes < _OPEN_END_BYTES:
        n_missing = place + n_bytes + 8 - source.size_bytes
    if n_missing > _REST_BYTES and len(account.unread) == n_unread:
        account.unread.append(f"truncated: the header promises {n_missing:,} bytes more than there are")
    return extent.end


def _stream(source: Source, place: int, account: Account, suffix: str = "") -> Generator[Block, None, int]:
    """Decode the recording that begins at a place; return where its bytes end."""
    begin, end = place, source.size_bytes
    while (behind := tag_end(source, place, end)) is not None:
        place = behind
    head = source.at(place, _HEAD_BYTES)
    layout = containers.layout_of(source, place, head)
    if layout is not None:
        yield from containers.decode(source, place, layout, account)
        return layout.end
    if flac.STREAM.match(head):
        return (yield from flac.decode(source, place, account))
    if head.startswith(b"OggS"):
        return (yield from ogg.decode(source, place, account))
    if mpeg.find_frames(source, place, place + 1) == place:
        yield from mpeg.decode(source, begin, end, account)
        return end
    try:
        if mpeg.SYNC.match(head):
            raise DeclinedError("no frames of MPEG audio")  # libsndfile would guess, and say something else
        sound = Sound(Joined(source, [(place, end)]) if place else source)
    except DeclinedError:
        # Films hold pieces of audio with beginnings of their own.
        found = None if media_format(source.at(place, _LONG_HEAD_BYTES), suffix) else _beginning(source, place + 1)
        if found is None:
            raise
        account.note(f"{found - place:,} bytes in front of the audio were skipped")
        return (yield from _stream(source, found, account))
    yield from sound.blocks()
    read_s, promised_s = sound.n_frames / sound.rate_hz, sound.n_promised / sound.rate_hz
    if sound.broken:
        account.unread.append(f"broken after {read_s:.2f} s: {sound.broken}")
    elif sound.n_promised < UNKNOWN_FRAMES and promised_s - read_s > _SLACK_S:
        account.unread.append(f"truncated: the header promises {promised_s:.2f} s, the file ends after {read_s:.2f} s")
    return end


def _beginning(source: Source, start: int) -> int | None:
    """Return where audio begins behind bytes that are none; None where it does not."""
    end = min(start + _FRONT_BYTES, source.size_bytes)
    found = next(source.search(_BEGINNING, start, end, _LONGEST_BEGINNING), None)
    frames = mpeg.find_frames(source, start, end if found is None else found)
    return found if frames is None else frames


def _begins(source: Source, place: int) -> bool:
    head = source.at(place, extents.LONGEST_BEGINNING)
    return bool(_BEGINNING.match(head) or extents.BEGINNING.match(head))


def _behind(source: Source, place: int, account: Account) -> int:
    """Return where another recording begins behind one that ended; the end of the file where none does."""
    end = source.size_bytes
    while (behind := tag_end(source, place, end)) is not None:
        place = behind
    if place >= end:
        return end
    if source.is_zero(place, end):
        account.note(f"{end - place:,} zero bytes behind the audio were skipped")
    elif _begins(source, place) or mpeg.find_frames(source, place, place + 1) == place:
        return place
    elif end - place < _REST_BYTES:
        account.note(f"{end - place} bytes behind the audio were skipped")
    else:
        account.unread.append(f"{end - place:,} bytes behind the audio were not read")
    return end
