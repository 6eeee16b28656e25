"""FLAC, native or out of Ogg: a broken frame costs itself alone."""

from __future__ import annotations

import re
import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from ser_batch.audio.errors import DeclinedError
from ser_batch.audio.sound import Block, Sound, block_frames
from ser_batch.audio.source import Account, Bytes, Joined

__all__ = ["STREAM", "decode"]

#: How a stream begins: with a block that has 34 bytes.
STREAM = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
_STREAM_BYTES = 42
_FRAME = re.compile(rb"\xff[\xf8\xf9]")
_HEADER_BYTES = 16
#: Samples by the code of a frame header; 0 where they stand behind the header, or where the code is none.
_BLOCK_SAMPLES = (0, 192, 576, 1_152, 2_304, 4_608, 0, 0, *(256 << index for index in range(8)))
#: libFLAC reads so far ahead.
_BUFFER_BYTES = 2**16
#: Less than this at the end is not worth a word.
_SLACK_S = 0.01


@dataclass(frozen=True, slots=True)
class _Frame:
    place: int
    #: Number of its first sample.
    sample: int
    n_samples: int


def decode(data: Bytes, start: int, account: Account) -> Generator[Block, None, int]:
    """Decode the stream that begins at a place; return where its bytes end.

    Raises
    ------
    DeclinedError
        libsndfile cannot open it.
    """
    stream = _Stream(data, start)
    end = data.size_bytes
    if end - start > 128 and data.at(end - 128, 3) == b"TAG":
        end -= 128  # without a number of samples, a tag is taken for a broken frame
    sound = Sound(data if start == 0 and end == data.size_bytes else Joined(data, [(start, end)]))
    rate_hz, shift = sound.rate_hz, start
    yield from sound.blocks()
    n_samples = sound.n_frames
    more = None
    if not sound.broken and 0 < stream.n_samples <= n_samples:
        read_end = min(sound.read_bytes + shift, end)
        more = stream.frame_with(n_samples, read_end - _BUFFER_BYTES, min(read_end + _BUFFER_BYTES, end))
    if more is not None:
        account.note(f"the header gives {n_samples / rate_hz:.2f} s; what goes on behind was read")
        stream.n_samples = 0
        shift = more.place - len(stream.endless_head)
        sound = Sound(Joined(data, [stream.endless_head, (more.place, end)]))
        yield from _from_sample(n_samples - more.sample, sound)
        n_samples = more.sample + sound.n_frames
    gaps: list[tuple[int, int]] = []
    while sound.broken and not 0 < stream.n_samples <= n_samples and (frame := stream.next_frame(n_samples)):
        gaps.append((n_samples, frame.sample - n_samples))
        yield from _silence(frame.sample - n_samples, sound)
        n_samples = frame.sample
        shift = frame.place - len(stream.endless_head)
        try:
            sound = Sound(Joined(data, [stream.endless_head, (frame.place, end)]))
        except DeclinedError:
            continue
        yield from sound.blocks()
        n_samples += sound.n_frames
    if gaps:
        lost_s = sum(n_lost for _, n_lost in gaps) / rate_hz
        places = f" in {len(gaps)} places, the first" if len(gaps) > 1 else ""
        account.note(f"{lost_s:.2f} s of broken FLAC frames are silence{places} at {gaps[0][0] / rate_hz:.2f} s")
    if stream.n_samples - n_samples > _SLACK_S * rate_hz:
        account.unread.append(
            f"truncated: the header promises {stream.n_samples / rate_hz:.2f} s, "
            f"the file ends after {n_samples / rate_hz:.2f} s"
        )
    elif sound.broken and not stream.n_samples:
        account.unread.append(f"broken after {n_samples / rate_hz:.2f} s: {sound.broken}")
    read_end = min(sound.read_bytes + shift, end)
    searched_from = max(read_end - _BUFFER_BYTES, start + _STREAM_BYTES)
    return next(data.search(STREAM, searched_from, data.size_bytes, 8), read_end)


def _silence(n_frames: int, sound: Sound) -> Iterator[Block]:
    """Yield zeros for what was lost, so that all that follows stands at its time."""
    n_block = block_frames(sound.n_channels)
    for done in range(0, n_frames, n_block):
        yield Block(np.zeros((min(n_block, n_frames - done), sound.n_channels), np.float32), sound.rate_hz)


def _from_sample(n_known: int, sound: Sound) -> Iterator[Block]:
    """Yield what lies behind the first samples."""
    for block in sound.blocks():
        if n_known < len(block.samples):
            yield Block(block.samples[n_known:], block.rate_hz)
        n_known = max(n_known - len(block.samples), 0)


class _Stream:
    """What the head of a stream says, and where its frames are."""

    def __init__(self, data: Bytes, start: int) -> None:
        self._data, self._start = data, start
        self._info = data.at(start + 8, _STREAM_BYTES - 8).ljust(_STREAM_BYTES - 8, b"\0")
        bits = int.from_bytes(self._info[10:18], "big")
        #: Of the stream, by its head; 0 where it does not say.
        self.n_samples = bits & (1 << 36) - 1
        self._rate_hz, self._n_channels = bits >> 44, (bits >> 41 & 7) + 1
        self._longest_block = int.from_bytes(self._info[2:4], "big")

    @property
    def endless_head(self) -> bytes:
        """Head of a stream of the same kind, without number of samples and checksum."""
        info = bytearray(self._info[:18]) + bytes(16)
        info[13] &= 0xF0
        info[14:18] = bytes(4)
        return b"fLaC\x80\x00\x00\x22" + bytes(info)

    def next_frame(self, sample: int) -> _Frame | None:
        """Return the first frame that begins behind a sample."""
        return next((frame for frame in self._frames if frame.sample > sample), None)

    def frame_with(self, sample: int, start: int, end: int) -> _Frame | None:
        """Return the frame of this stream between two places that holds a sample."""
        start = max(start, self._start + _STREAM_BYTES)
        end = next(self._data.search(STREAM, start, end, 8), end)
        for place in self._data.search(_frame_like(sample // max(self._longest_block, 1)), start, end, 8):
            frame = self._frame(place)
            if frame and frame.sample <= sample < frame.sample + frame.n_samples:
                return frame
        return None

    @cached_property
    def _frames(self) -> list[_Frame]:
        """Frames in order. Each is followed by the next one, or is the last: else it is a word in other data."""
        found: list[_Frame] = []
        for place in self._data.search(_FRAME, self._start + _STREAM_BYTES, self._data.size_bytes, 2):
            frame = self._frame(place)
            if frame:
                found.append(frame)
        starts = {frame.sample for frame in found}
        ends = {max(starts, default=0), self.n_samples}
        return [frame for frame in found if frame.sample in ends or frame.sample + frame.n_samples in starts | ends]

    def _frame(self, place: int) -> _Frame | None:
        head = self._data.at(place, _HEADER_BYTES)
        if len(head) < 6 or head[3] & 1:
            return None
        block_code, rate_code, channel_code = head[2] >> 4, head[2] & 15, head[3] >> 4
        n_channels = 2 if 8 <= channel_code <= 10 else channel_code + 1
        number, at = _number(head, 4)
        n_samples = _BLOCK_SAMPLES[block_code]
        if block_code in (6, 7):
            n_more = block_code - 5
            n_samples, at = int.from_bytes(head[at : at + n_more], "big") + 1, at + n_more
        at += {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
        if number < 0 or not n_samples or rate_code == 15 or n_channels != self._n_channels or at >= len(head):
            return None
        if _crc8(head[:at]) != head[at]:
            return None
        return _Frame(place, number if head[1] & 1 else number * self._longest_block, n_samples)


@lru_cache(1024)
def _frame_like(number: int) -> re.Pattern[bytes]:
    """Return what the frame of a number begins with, or, where blocks vary in length, any frame.

    In most recordings there is none; to look at every frame for that takes as long as to resample a clip of seconds.
    """
    if number > sys.maxunicode:
        return _FRAME
    coded = re.escape(chr(number).encode("utf-8", "surrogatepass"))
    return re.compile(rb"\xff(?:\xf8.." + coded + rb"|\xf9)", re.DOTALL)


def _number(head: bytes, at: int) -> tuple[int, int]:
    """Return the number that is coded as UTF-8 codes a character, up to 36 bits, and where it ends; -1 for none."""
    first = head[at]
    n_more = max(7 - (first ^ 0xFF).bit_length(), 0)
    if first < 0x80:
        return first, at + 1
    rest = head[at + 1 : at + n_more + 1]
    if n_more < 1 or len(rest) < n_more or any(byte >> 6 != 2 for byte in rest):
        return -1, at
    number = first & (0x3F >> n_more)
    for byte in rest:
        number = number << 6 | byte & 0x3F
    return number, at + n_more + 1


def _crc8(data: bytes) -> int:
    """Return the checksum of a frame header: polynomial x^8 + x^2 + x + 1."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ (0x07 if crc & 0x80 else 0)) & 0xFF
    return crc
