"""Blocks of samples out of libsndfile, as far as it gets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import soundfile
from numpy.typing import NDArray

from ser_batch.audio.errors import DeclinedError
from ser_batch.audio.source import Bytes, Source, View

__all__ = ["LIBSNDFILE", "UNKNOWN_FRAMES", "Block", "Sound", "block_frames"]

#: This reader, with its version.
LIBSNDFILE = f"libsndfile {soundfile.__libsndfile_version__}"
#: From here on a number of frames by libsndfile stands for "to the end".
UNKNOWN_FRAMES = 2**40
#: Samples per read, over all channels.
_BLOCK_SAMPLES = 32_768


@dataclass(frozen=True, slots=True)
class Block:
    """Samples in a row: float32 (n_frames, n_channels), and their rate in Hz."""

    samples: NDArray[np.float32]
    rate_hz: int


def block_frames(n_channels: int) -> int:
    """Return how many frames to decode at a time."""
    return max(_BLOCK_SAMPLES // n_channels, 1_024)


class _Stream(soundfile.SoundFile):
    """Reads straight on: after each block soundfile would seek to where it already is, slow in FLAC, Ogg and MP3."""

    def seekable(self) -> bool:
        return False


class Sound:
    """Audio that libsndfile reads.

    Parameters
    ----------
    data : Bytes
    is_stretched : bool
        See `View`.

    Attributes
    ----------
    rate_hz, n_channels : int
    n_promised : int
        Frames by the header, which may have guessed, or stand for "to the end".
    n_frames : int
        Frames read so far.
    broken : str
        Why reading ended before the end, in libsndfile's words.

    Raises
    ------
    DeclinedError
        libsndfile cannot open it.
    """

    def __init__(self, data: Bytes, is_stretched: bool = False) -> None:
        if isinstance(data, Source):
            os.lseek(data.descriptor, 0, os.SEEK_SET)
        self._view = data.descriptor if isinstance(data, Source) else View(data, is_stretched)
        try:
            # libsndfile closes a descriptor that it was given, also where opening fails; so it is not given this one.
            self._file = _Stream(self._view, closefd=False)
        except soundfile.LibsndfileError as error:
            self._raise_failed()
            raise DeclinedError(_reason(error)) from None
        self.rate_hz: int = self._file.samplerate
        self.n_channels: int = self._file.channels
        self.n_promised: int = self._file.frames
        self.n_frames = 0
        self.broken = ""

    def blocks(self) -> Iterator[Block]:
        """Yield what can be read; `broken` says afterwards whether that was all. Closes the file."""
        with self._file as file:
            while not self.broken:
                samples = np.empty((block_frames(self.n_channels), self.n_channels), np.float32)
                try:
                    n_read = len(file.read(out=samples))
                except soundfile.LibsndfileError as error:
                    self.broken = _reason(error)
                    # What was decoded before it broke is there.
                    n_read = min(max(file.tell() - self.n_frames, 0), len(samples))
                self.n_frames += n_read
                if n_read:
                    yield Block(samples[:n_read], self.rate_hz)
                elif not self.broken:
                    break
        self._raise_failed()

    def _raise_failed(self) -> None:
        if isinstance(self._view, View) and self._view.failed:
            raise self._view.failed

    @property
    def read_bytes(self) -> int:
        """How far libsndfile has read, with what it holds in its buffers."""
        view = self._view
        return os.lseek(view, 0, os.SEEK_CUR) if isinstance(view, int) else view.tell()


def _reason(error: soundfile.LibsndfileError) -> str:
    return str(error.error_string).removeprefix("Error : ").rstrip(".")
