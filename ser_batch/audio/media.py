"""What libsndfile does not read, by PyAV: FFmpeg's libraries in a wheel, the extra ``media``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from ser_batch.audio.errors import DeclinedError, NoSoundError
from ser_batch.audio.sound import Block, block_frames
from ser_batch.audio.source import Account, Bytes, View

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.container import InputContainer
    from av.packet import Packet

__all__ = ["decode"]

#: Containers that state how long their sound is; others guess it from the bit rate.
_STATING = frozenset(("mov", "matroska", "avi", "asf", "wav", "w64", "caf", "aiff", "tta", "wv", "ape", "tak", "flac"))
#: Codecs give a little less than containers state: delays, whole frames.
_SLACK_S = 0.1


def decode(data: Bytes, account: Account) -> Iterator[Block]:
    """Decode the sound of a file.

    Raises
    ------
    DeclinedError
        FFmpeg does not know the format.
    NoSoundError
        The file has no sound track.
    """
    import av  # noqa: PLC0415 - an extra, and half a second

    # Read by us and not by FFmpeg, for which a path must be UTF-8.
    view = View(data)
    try:
        container = av.open(view, mode="r", metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        raise view.failed or DeclinedError(_reason(error)) from None
    with container:
        sound = _Sound(container)
        yield from sound.blocks()
        if view.failed:
            raise view.failed
        sound.tell(account)


def stated_s(path: str) -> float:
    """Return how long a file is by its header, which may guess.

    Raises
    ------
    OSError, ValueError
        The header cannot be read.
    """
    import av  # noqa: PLC0415

    with open(os.fsencode(path), "rb") as file, av.open(file, mode="r", metadata_errors="replace") as container:  # noqa: PTH123
        return (container.duration or 0) / 1e6


class _Sound:
    """The sound track of a container."""

    def __init__(self, container: InputContainer) -> None:
        self._container = container
        stream = container.streams.best("audio")
        if stream is None:
            raise NoSoundError("the file has no sound track")
        if stream.codec_context is None:
            raise DeclinedError("FFmpeg has no decoder for the sound track")
        self._stream, self._codec = stream, cast("Any", stream.codec_context)
        self._codec.thread_count = 1
        self._n_packets = self._n_broken = 0
        #: Why the container could not be read on, in the words of FFmpeg.
        self._breaks_off = ""
        #: Decoded so far; and where the last packet of any stream ends.
        self.read_s = self._end_s = 0.0

    def blocks(self) -> Iterator[Block]:
        from av import FFmpegError  # noqa: PLC0415

        waiting: list[NDArray[np.float32]] = []
        rate_hz = n_waiting = 0
        for packet in self._packets():
            self._n_packets += packet is not None
            try:
                frames = self._codec.decode(packet)
            except FFmpegError:
                self._n_broken += 1
                continue
            for frame in frames:
                samples = _samples(frame)
                is_other = waiting and (frame.sample_rate, samples.shape[1]) != (rate_hz, waiting[0].shape[1])
                if is_other or n_waiting >= block_frames(samples.shape[1]):
                    yield Block(np.concatenate(waiting), rate_hz)
                    waiting, n_waiting = [], 0
                rate_hz = frame.sample_rate
                waiting.append(samples)
                n_waiting += len(samples)
                self.read_s += len(samples) / rate_hz
        if waiting:
            yield Block(np.concatenate(waiting), rate_hz)

    def _packets(self) -> Iterator[Packet | None]:
        """Yield the packets of the sound track; at last None, which asks a decoder for what it holds back."""
        from av import FFmpegError  # noqa: PLC0415

        try:
            for packet in self._container.demux():
                if packet.pts is not None and packet.time_base:
                    self._end_s = max(self._end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if packet.stream_index == self._stream.index and packet.size:
                    yield packet
        except FFmpegError as error:
            self._breaks_off = _reason(error)
        yield None

    def tell(self, account: Account) -> None:
        """Say what was not read."""
        if self._breaks_off:
            account.unread.append(f"broken after {self.read_s:.2f} s: {self._breaks_off}")
        n_tracks = len(self._container.streams.audio)
        if n_tracks > 1:
            account.note(f"one of {n_tracks} sound tracks was read")
        broken = f"{self._n_broken:,} of {self._n_packets:,} packets could not be decoded"
        stated_s, found_s = self._lengths_s()
        if stated_s - found_s > _SLACK_S:
            reason = f" ({broken})" if self._n_broken else ""
            account.unread.append(
                f"truncated: the header promises {stated_s:.2f} s, {found_s:.2f} s could be read{reason}"
            )
        elif self._n_broken * 2 > self._n_packets:
            account.unread.append(broken)
        elif self._n_broken:
            account.note(broken)

    def _lengths_s(self) -> tuple[float, float]:
        """Return how long the container says that it is, 0 where that is a guess or not said, and how long it was."""
        container, stream = self._container, self._stream
        if container.format.name.split(",")[0] not in _STATING:
            return 0.0, self.read_s
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base), self.read_s
        # Matroska has one length for all that is in it.
        return (container.duration or 0) / 1e6, max(self._end_s, self.read_s)


def _samples(frame: AudioFrame) -> NDArray[np.float32]:
    """Return the samples of a frame, float32 (n_frames, n_channels)."""
    samples: NDArray[Any] = frame.to_ndarray()
    samples = samples.T if frame.format.is_planar else samples.reshape(-1, frame.layout.nb_channels)
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / np.float32(128)
    if samples.dtype.kind == "i":
        return (samples / -float(np.iinfo(samples.dtype).min)).astype(np.float32)
    return samples.astype(np.float32)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", "") or error).rstrip(".")
