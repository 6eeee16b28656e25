"""The built-in reader: any file libsndfile decodes, as mono pieces at one sample rate, in flat memory.

What is done about bad audio:

- A file that cannot be opened, or breaks before its first sample, raises `DecodeError`.
- A file that breaks midway, or ends before its header says, gives what was decoded, then raises.
- Samples that are NaN or infinite are read as 0 and counted in `Clip.note`; a piece of nothing else raises.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from ser_batch.hookspecs import hookimpl
from ser_batch.records import Clip, ClipRef

__all__ = ["AUDIO_SUFFIXES", "READER_VERSION", "DecodeError", "read_clip"]

#: Raised whenever samples that the reader gives change.
READER_VERSION = 1

#: Suffixes of the formats that libsndfile recognises by content. RAW has no header, so it cannot be among them.
AUDIO_SUFFIXES = frozenset(
    (
        ".wav",
        ".wave",
        ".bwf",
        ".mp3",
        ".mp2",
        ".mpga",
        ".flac",
        ".ogg",
        ".oga",
        ".opus",
        ".aif",
        ".aiff",
        ".aifc",
        ".au",
        ".snd",
        ".caf",
        ".w64",
        ".rf64",
        ".voc",
        ".nist",
        ".sph",
        ".ircam",
        ".sf",
        ".avr",
        ".paf",
        ".svx",
        ".8svx",
        ".iff",
        ".pvf",
        ".htk",
        ".mat",
        ".sds",
        ".xi",
        ".wve",
        ".mpc",
    )
)

#: Frames per read: the most that is lost where a file breaks, 0.7 s at 48 kHz.
_BLOCK_FRAMES = 32_768
#: Outside this range a header is damaged: resampling 1 Hz to 22,050 Hz would never end.
_SOURCE_RATES_HZ = (1_000, 768_000)
#: libsndfile's log of a chunk that promises more bytes than the file has.
_SHORT_CHUNK = re.compile(r"^\s*(?:data|SSND|DATA)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)
#: Writers that cannot seek back leave a chunk size near 2**31 or 2**32; it promises nothing.
_OPEN_END_BYTES = 0x7FFF_0000


class DecodeError(Exception):
    """A file could not be decoded, or not to its end."""


class _Stream(soundfile.SoundFile):
    """Reads straight on: after each block soundfile would seek to where it already is, slow in FLAC, Ogg and MP3."""

    def seekable(self) -> bool:
        return False


@hookimpl(trylast=True)
def read_clip(ref: ClipRef, sample_rate_hz: int, piece_s: float, overlap_s: float) -> Iterator[Clip]:
    """Decode, average the channels, resample (soxr, HQ) and cut into pieces; see the hook's specification."""
    return _pieces(ref.path, sample_rate_hz, piece_s, overlap_s)


def _pieces(path: str, sample_rate_hz: int, piece_s: float, overlap_s: float) -> Iterator[Clip]:
    # Opened here and not by libsndfile, whose only words for a missing or forbidden file are "System error".
    mode = os.stat(path).st_mode  # noqa: PTH116 - Path cannot hold every name
    if not stat.S_ISREG(mode):
        raise DecodeError("not a regular file")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # libsndfile closes a descriptor that it was given, also where opening fails; so it is not given this one.
        file = _Stream(descriptor, closefd=False)
        with file:
            yield from _cut(file, sample_rate_hz, piece_s, overlap_s)
    except soundfile.LibsndfileError as error:
        raise DecodeError(_reason(error)) from None
    finally:
        os.close(descriptor)


def _cut(file: _Stream, sample_rate_hz: int, piece_s: float, overlap_s: float) -> Iterator[Clip]:
    if not _SOURCE_RATES_HZ[0] <= file.samplerate <= _SOURCE_RATES_HZ[1]:
        raise DecodeError(f"the header gives a sample rate of {file.samplerate} Hz")
    cutter = _Cutter(sample_rate_hz, file, round(piece_s * sample_rate_hz), round(overlap_s * sample_rate_hz))
    broken: DecodeError | None = None
    blocks = _blocks(file)
    while True:
        try:
            block = next(blocks, None)
        except DecodeError as error:
            broken, block = error, None
        yield from cutter.push(block)
        if block is None:
            break
    if broken:
        raise broken


def _reason(error: soundfile.LibsndfileError) -> str:
    return str(error.error_string).removeprefix("Error : ").rstrip(".")


def _blocks(file: _Stream) -> Iterator[NDArray[np.float32]]:
    """Yield mono blocks to the end; raise where the file breaks or ends too early."""
    n_channels = file.channels
    mean = np.full(n_channels, 1 / n_channels, dtype=np.float32)
    n_frames = max(_BLOCK_FRAMES // n_channels, 1_024)
    n_read = 0
    while True:
        try:
            block = file.read(n_frames, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise DecodeError(f"broken after {n_read / file.samplerate:.2f} s: {_reason(error)}") from None
        if not len(block):
            break
        n_read += len(block)
        yield block[:, 0] if n_channels == 1 else block @ mean
    promised = max(_promised_frames(file), file.frames if file.frames < 2**40 else 0)
    if promised - n_read > 0.01 * file.samplerate:
        raise DecodeError(
            f"truncated: the header promises {promised / file.samplerate:.2f} s, "
            f"the file ends after {n_read / file.samplerate:.2f} s"
        )


def _promised_frames(file: _Stream) -> int:
    """Frames that a chunk header promises beyond the end of the file; 0 where it promises none."""
    if file.format not in ("WAV", "WAVEX", "AIFF", "W64", "RF64"):
        return 0
    match = _SHORT_CHUNK.search(file.extra_info)
    if not match:
        return 0
    promised, present = int(match[1]), int(match[2])
    if promised >= _OPEN_END_BYTES or present <= 0 or promised <= present:
        return 0
    return round(file.frames * promised / present)


class _Cutter:
    """Resamples blocks as one stream, and cuts the result into overlapping pieces."""

    def __init__(self, sample_rate_hz: int, file: _Stream, n_piece: int, n_overlap: int) -> None:
        self._rate_hz = sample_rate_hz
        self._source = (file.samplerate, file.channels)
        self._n_piece, self._n_overlap = n_piece, n_overlap
        self._resampler = None
        if file.samplerate != sample_rate_hz:
            # As a stream, soxr gives the very samples that it gives for the whole signal at once.
            self._resampler = soxr.ResampleStream(file.samplerate, sample_rate_hz, 1, dtype="float32", quality="HQ")
        self._waiting: list[NDArray[np.float32]] = []
        self._n_waiting = 0
        self._n_pieces = 0
        self._n_replaced = 0

    def push(self, block: NDArray[np.float32] | None) -> Iterator[Clip]:
        """Take the next block, None after the last one; yield the pieces that are complete."""
        if block is not None:
            finite = np.isfinite(block)
            if not finite.all():
                block = np.where(finite, block, np.float32(0))
                self._n_replaced += len(block) - int(np.count_nonzero(finite))
        if self._resampler is not None:
            block = self._resampler.resample_chunk(
                np.zeros(0, np.float32) if block is None else block, last=(last := block is None)
            )
        else:
            last = block is None
        if block is not None and len(block):
            self._waiting.append(block)
            self._n_waiting += len(block)
        while self._n_waiting > self._n_piece + self._n_overlap:
            samples = self._joined()
            yield self._clip(samples[: self._n_piece + self._n_overlap].copy())
            self._waiting = [samples[self._n_piece :].copy()]
            self._n_waiting = len(samples) - self._n_piece
            self._n_pieces += 1
        if last and self._n_waiting:
            yield self._clip(self._joined())

    def _joined(self) -> NDArray[np.float32]:
        return np.concatenate(self._waiting)

    def _clip(self, samples: NDArray[np.float32]) -> Clip:
        start_s = self._n_pieces * self._n_piece / self._rate_hz
        if self._n_replaced and not samples.any():
            raise DecodeError(f"no finite sample from {start_s:.2f} s on")
        note = f"{self._n_replaced} samples that are not finite were read as 0" if self._n_replaced else ""
        return Clip(samples, self._rate_hz, *self._source, start_s=start_s, note=note)
