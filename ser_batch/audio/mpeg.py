"""MPEG audio, layers I to III: every frame is found first, so that nothing depends on what the first header claims.

libsndfile guesses the length of MPEG audio from its first frames, stops where it guessed, and gives up at the first
bytes that are no frame. Here the headers are followed from frame to frame, what stands between frames is skipped, and
libsndfile decodes one run of like frames after another.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ser_batch.audio.errors import DeclinedError
from ser_batch.audio.sound import Block, Sound
from ser_batch.audio.source import Account, Joined, Source
from ser_batch.audio.tags import TAG_STARTS, tag_end

__all__ = ["SYNC", "decode", "find_frames"]

#: kbit/s for the indices from 1, by (is version 1, layer).
_BIT_RATES = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
#: By the bits of the version, which stand for 2.5, reserved, 2 and 1.
_RATES_HZ = {0: (11_025, 12_000, 8_000), 2: (22_050, 24_000, 16_000), 3: (44_100, 48_000, 32_000)}
#: First bytes of a frame.
SYNC = re.compile(rb"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff]")
_BEGINNING = re.compile(SYNC.pattern + b"|" + TAG_STARTS)
_LONGEST_BEGINNING = 11
_INFO = (b"Xing", b"Info", b"VBRI")
#: Where the last of them stands in a frame.
_LARGEST_INFO_OFFSET = 36
_HEADER = struct.Struct(">I")
_CHUNK_BYTES = 2**20
#: Frames in a row that are a beginning: a header alone is in any data.
_CHAIN = 3
#: Frames that a decoder may withhold: the first ones can need bits that were cut away.
_SLACK_FRAMES = 2


@dataclass(frozen=True, slots=True)
class _Kind:
    """What the frames of one run have in common."""

    version: int
    layer: int
    rate_hz: int
    n_channels: int

    @property
    def n_samples(self) -> int:
        """Samples of a frame, per channel."""
        return 384 if self.layer == 1 else 1_152 if self.layer == 2 or self.version == 3 else 576

    @property
    def info_offset(self) -> int:
        """Where the word Info or Xing stands in a frame that is one."""
        return 4 + ((17, 32) if self.version == 3 else (9, 17))[self.n_channels - 1]


@dataclass(frozen=True, slots=True)
class _Info:
    """What the first frame of a stream tells of it (Xing, Info, VBRI); 0 where it does not."""

    n_frames: int = 0
    n_bytes: int = 0
    #: Samples that a decoder drops at both ends: the encoder's delay and padding.
    n_dropped: int = 0


@dataclass(slots=True)
class _Run:
    """Like frames without a gap: what one decoder reads."""

    kind: _Kind
    start: int
    #: Where audio begins: behind the frame with `info`.
    audio_start: int
    end: int
    info: _Info | None = None
    #: Of audio.
    n_frames: int = 0

    @property
    def duration_s(self) -> float:
        return self.n_frames * self.kind.n_samples / self.kind.rate_hz


def find_frames(source: Source, start: int, end: int) -> int | None:
    """Return the first place from `start` on, before `end`, where several like frames in a row begin."""
    if end - start == 1 and not SYNC.match(source.at(start, 2)):
        return None
    walk = _Walk(source, start, source.size_bytes)
    return next(filter(walk.is_beginning, source.search(SYNC, start, end + 1, 2)), None)


def decode(source: Source, start: int, end: int, account: Account) -> Iterator[Block]:
    """Decode all MPEG audio between two places of a file.

    Raises
    ------
    DeclinedError
        There is none.
    """
    walk = _Walk(source, start, end)
    runs = list(walk.runs())
    if not runs:
        raise DeclinedError("no frames of MPEG audio")
    _tell(runs, walk.skipped, account)
    is_plain = len(runs) == 1 and start == 0 and not walk.skipped
    for run in runs:
        yield from _decoded(source, run, is_plain, account)


def _decoded(source: Source, run: _Run, is_plain: bool, account: Account) -> Iterator[Block]:
    n_dropped = 0
    if run.info and run.info.n_frames == run.n_frames:
        n_dropped = run.info.n_dropped
        sound = Sound(source if is_plain else Joined(source, [(run.start, run.end)]))
    else:
        sound = Sound(Joined(source, [(run.audio_start, run.end)]), is_stretched=True)
    yield from sound.blocks()
    n_missing = (run.n_frames - _SLACK_FRAMES) * run.kind.n_samples - n_dropped - sound.n_frames
    if n_missing > 0:
        reason = f" ({sound.broken})" if sound.broken else ""
        account.unread.append(f"{n_missing / run.kind.rate_hz:.2f} s of MPEG audio could not be decoded{reason}")


def _tell(runs: Sequence[_Run], skipped: Sequence[tuple[int, int]], account: Account) -> None:
    """Say what is not audio, and what a header promises beyond what is there."""
    if skipped:
        n_bytes = sum(end - start for start, end in skipped)
        after_s = sum(run.duration_s for run in runs if run.start < skipped[0][0])
        places = f"in {len(skipped)} places, the first " if len(skipped) > 1 else ""
        account.note(f"{n_bytes:,} bytes that are no MPEG audio were skipped {places}after {after_s:.2f} s")
    streams: list[list[_Run]] = []
    for run in runs:
        is_first = not streams or run.info or run.kind != streams[-1][-1].kind
        streams.append([run]) if is_first else streams[-1].append(run)
    if len(streams) > 1:
        account.note(f"{len(streams)} MPEG streams are joined in the file")
    for stream in streams:
        info, frame_bytes = stream[0].info, stream[0].end - stream[0].audio_start
        if info is None or not info.n_frames:
            continue
        n_frames = sum(run.n_frames for run in stream)
        # Bytes tell whether the file was cut or the number of frames is wrong.
        n_bytes = stream[-1].end - stream[0].start
        is_cut = info.n_bytes > n_bytes + frame_bytes / max(stream[0].n_frames, 1) if info.n_bytes else not skipped
        if is_cut and info.n_frames > n_frames + 1:
            promised_s = info.n_frames * stream[0].kind.n_samples / stream[0].kind.rate_hz
            present_s = sum(run.duration_s for run in stream)
            account.unread.append(
                f"truncated: the header promises {promised_s:.2f} s, the file ends after {present_s:.2f} s"
            )


class _Walk:
    """Goes from frame to frame through a stretch of a file."""

    def __init__(self, source: Source, start: int, end: int) -> None:
        self._source, self._start, self._end = source, start, end
        self._data, self._at = b"", start
        #: Where the words stand by which a frame that tells of others is known, the next one last.
        self._marks: list[int] = []
        self._known: dict[int, tuple[int, _Kind] | None] = {}
        self._kinds: dict[_Kind, _Kind] = {}
        #: Stretches that are neither frames nor tags.
        self.skipped: list[tuple[int, int]] = []

    def runs(self) -> Iterator[_Run]:
        """Yield the runs in order; `skipped` is complete afterwards."""
        place, length = self._start, 0
        run: _Run | None = None
        while place < self._end:
            frame = self._frame(place)
            if frame is None:
                n_skipped = len(self.skipped)
                resumed = self._next_beginning(place)
                if run is not None:
                    if resumed < self._end and [stretch[0] for stretch in self.skipped[n_skipped:][:1]] == [place]:
                        # The next frame is not where it should be: bytes may be missing from the last one.
                        run.end, run.n_frames = run.end - length, run.n_frames - 1
                        self.skipped[n_skipped] = (run.end, self.skipped[n_skipped][1])
                    if run.n_frames:
                        yield run
                run, place = None, resumed
                continue
            length, kind = frame
            info = self._info(place, kind)
            if run is None or run.kind is not kind or info:
                if run and run.n_frames:
                    yield run
                run = _Run(kind, place, place, place, info)
            place += length
            if info:
                run.audio_start = place
            else:
                run.n_frames += 1
            place, n_more, length = self._stride(place, kind, length)
            run.end, run.n_frames = place, run.n_frames + n_more
        if run and run.n_frames:
            yield run

    def _stride(self, place: int, kind: _Kind, length: int) -> tuple[int, int, int]:
        """Go on from frame to frame of one kind, as far as this is simple: all but a few frames are passed here.

        Return where it ended, after how many frames, and the length of the last one, `length` for none.
        """
        data, known, unpack = self._data, self._known, _HEADER.unpack_from
        here, end = place - self._at, self._end - self._at
        last = min(len(data) - 4, (self._marks[-1] if self._marks else self._end) - self._at - _LARGEST_INFO_OFFSET - 4)
        n_frames = 0
        while here <= last:
            frame = known.get(unpack(data, here)[0] >> 6)
            if frame is None or frame[1] is not kind or here + frame[0] > end:
                break
            length = frame[0]
            here += length
            n_frames += 1
        return self._at + here, n_frames, length

    def is_beginning(self, place: int) -> bool:
        """Whether several like frames in a row begin at a place, or fewer up to the end."""
        kinds: set[tuple[int, int, int]] = set()
        for _ in range(_CHAIN):
            if kinds and (place == self._end or tag_end(self._source, place, self._end)):
                return True
            frame = self._frame(place)
            if frame is None:
                return False
            kinds.add((frame[1].version, frame[1].layer, frame[1].rate_hz))
            place += frame[0]
        return len(kinds) == 1

    def _frame(self, place: int) -> tuple[int, _Kind] | None:
        """Return length and kind of the frame that begins at a place; None where none does, or none that is whole."""
        here = place - self._at
        if not 0 <= here <= len(self._data) - 4:
            self._fetch(place)
            here = 0
            if len(self._data) < 4:
                return None
        key = _HEADER.unpack_from(self._data, here)[0] >> 6
        try:
            frame = self._known[key]
        except KeyError:
            frame = _parsed(key)
            if frame is not None:
                frame = frame[0], self._kinds.setdefault(frame[1], frame[1])
            self._known[key] = frame
        return frame if frame and place + frame[0] <= self._end else None

    def _fetch(self, place: int) -> None:
        self._data = self._source.at(place, max(min(_CHUNK_BYTES, self._end - place), 0))
        self._at = place
        marks = []
        for word in _INFO:
            here = self._data.find(word)
            while here >= 0:
                marks.append(place + here)
                here = self._data.find(word, here + 1)
        self._marks = sorted(marks, reverse=True)

    def _info(self, place: int, kind: _Kind) -> _Info | None:
        """Return what the frame at a place tells of others, None where it holds audio."""
        while self._marks and self._marks[-1] < place:
            self._marks.pop()
        if not self._marks or kind.layer != 3:
            return None
        mark = self._marks[-1]
        if mark == place + 36 and self._source.at(mark, 4) == b"VBRI":
            # libsndfile does not know this kind: it drops nothing, and gets the frames behind.
            return _Info(0, int.from_bytes(self._source.at(place + 46, 4), "big"))
        if mark != place + kind.info_offset:
            return None
        place = mark
        data = self._source.at(place, 160).ljust(160, b"\0")
        flags, at = data[7], 8
        n_frames = n_bytes = 0
        if flags & 1:
            n_frames, at = int.from_bytes(data[at : at + 4], "big"), at + 4
        if flags & 2:
            n_bytes, at = int.from_bytes(data[at : at + 4], "big"), at + 4
        at += (100 if flags & 4 else 0) + (4 if flags & 8 else 0) + 21
        delay_padding = int.from_bytes(data[at : at + 3], "big")
        return _Info(n_frames, n_bytes, (delay_padding >> 12) + (delay_padding & 0xFFF))

    def _next_beginning(self, place: int) -> int:
        """Return where frames go on, behind tags and whatever else; the end where they do not."""
        begin: int | None = place
        while begin is not None and begin < self._end:
            place, begin = begin, None
            for found in self._source.search(_BEGINNING, place, self._end, _LONGEST_BEGINNING):
                behind = tag_end(self._source, found, self._end)
                if behind is None and not self.is_beginning(found):
                    continue
                self._skip(place, found)
                if behind is None:
                    return found
                begin = behind
                break
        if begin is None:
            self._skip(place, self._end)
        return self._end

    def _skip(self, start: int, end: int) -> None:
        if end > start:
            self.skipped.append((start, end))


def _parsed(key: int) -> tuple[int, _Kind] | None:
    """Return length in bytes and kind of a frame from the first 26 bits of its header; None where it is no header."""
    version, layer, rate_index = key >> 13 & 3, 4 - (key >> 11 & 3), key >> 4 & 3
    bit_index, padding, mode = key >> 6 & 15, key >> 3 & 1, key & 3
    if key >> 15 != 0x7FF or version == 1 or layer == 4 or rate_index == 3 or bit_index in (0, 15):
        return None
    kbps = _BIT_RATES[version == 3, layer][bit_index - 1]
    rate_hz = _RATES_HZ[version][rate_index]
    if layer == 1:
        n_bytes = (12_000 * kbps // rate_hz + padding) * 4
    else:
        n_bytes = (144_000 if layer == 2 or version == 3 else 72_000) * kbps // rate_hz + padding
    return n_bytes, _Kind(version, layer, rate_hz, 1 if mode == 3 else 2)
