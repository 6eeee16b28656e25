"""From blocks of samples to pieces: mono, at one rate, overlapping."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import soxr
from numpy.typing import NDArray

from ser_batch.audio.errors import DecodeError
from ser_batch.audio.sound import Block
from ser_batch.audio.source import Account
from ser_batch.records import Clip

__all__ = ["Cutter"]

#: Outside this range a header is damaged: resampling 1 Hz to 22,050 Hz would never end.
_SOURCE_RATES_HZ = (1_000, 768_000)
#: Channels whose sum has less than this of their power cancel each other.
_CANCELLED = 0.1
#: Correlation of levels from which channels carry the same sound, and down to which they are taken to go on doing so.
_ALIKE, _STILL_ALIKE = 0.9, 0.7
#: Frames of which a level is taken: 10 to 60 ms.
_LEVEL_FRAME = 512
#: Channels of less power than this share of the loudest are not heard beside it.
_HEARD = 1e-4


class Cutter:
    """Mixes blocks to mono, resamples them as one stream, and cuts the result into overlapping pieces."""

    def __init__(self, sample_rate_hz: int, n_piece: int, n_overlap: int, account: Account) -> None:
        self._rate_hz = sample_rate_hz
        self._n_piece, self._n_overlap = n_piece, n_overlap
        self._account = account
        #: Rate and channels of the first block, and of the last one.
        self._source = self._now = (0, 0)
        #: Audio taken so far.
        self._taken_s = 0.0
        self._mixer = _Mixer(account)
        self._resampler: soxr.ResampleStream | None = None
        self._waiting: list[NDArray[np.float32]] = []
        self._n_waiting = 0
        self._n_pieces = 0
        self._n_replaced = 0

    def push(self, block: Block) -> Iterator[Clip]:
        """Take the next block; yield the pieces that are complete."""
        now = (block.rate_hz, block.samples.shape[1])
        if now != self._now:
            self._change(now)
        self._taken_s += len(block.samples) / block.rate_hz
        mono = self._mixer.mono(block.samples)
        finite = np.isfinite(mono)
        if not finite.all():
            self._n_replaced += len(mono) - int(np.count_nonzero(finite))
            mono = np.where(finite, mono, np.float32(0))
        self._add(mono if self._resampler is None else self._resampler.resample_chunk(mono))
        while self._n_waiting > self._n_piece + self._n_overlap:
            samples = self._joined()
            yield self._clip(samples[: self._n_piece + self._n_overlap].copy())
            self._waiting = [samples[self._n_piece :].copy()]
            self._n_waiting = len(samples) - self._n_piece
            self._n_pieces += 1

    def finish(self) -> Iterator[Clip]:
        """Yield what is left."""
        self._flush()
        if self._n_waiting:
            yield self._clip(self._joined())

    def _change(self, now: tuple[int, int]) -> None:
        rate_hz, n_channels = now
        if not _SOURCE_RATES_HZ[0] <= rate_hz <= _SOURCE_RATES_HZ[1]:
            raise DecodeError(f"the header gives a sample rate of {rate_hz} Hz")
        if rate_hz != self._now[0]:
            self._flush()
            # As a stream, soxr gives the very samples that it gives for the whole signal at once.
            self._resampler = (
                soxr.ResampleStream(rate_hz, self._rate_hz, 1, dtype="float32", quality="HQ")
                if rate_hz != self._rate_hz
                else None
            )
        if self._now[0]:
            self._account.note(f"from {self._taken_s:.2f} s on: {rate_hz} Hz, {n_channels} channels")
        else:
            self._source = now
        self._now = now

    def _flush(self) -> None:
        if self._resampler is not None:
            self._add(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))

    def _add(self, samples: NDArray[np.float32]) -> None:
        if len(samples):
            self._waiting.append(samples)
            self._n_waiting += len(samples)

    def _joined(self) -> NDArray[np.float32]:
        return np.concatenate(self._waiting)

    def _clip(self, samples: NDArray[np.float32]) -> Clip:
        start_s = self._n_pieces * self._n_piece / self._rate_hz
        notes = list(self._account.notes)
        if self._n_replaced:
            if not samples.any():
                raise DecodeError(f"no finite sample from {start_s:.2f} s on")
            notes.append(f"{self._n_replaced} samples that are not finite were read as 0")
        return Clip(
            samples, self._rate_hz, *self._source, start_s=start_s, note="; ".join(notes), reader=self._account.reader
        )


class _Mixer:
    """Makes one channel of several, so that none takes anything from another.

    Channels that carry one sound, told by levels that rise and fall together, are not averaged: where they are a
    millisecond apart, the mean is a comb. The loudest is read alone. What differs, such as a speaker on each side of a
    call, is averaged. It is judged by all that was heard so far, so that it changes rarely within a recording.
    """

    def __init__(self, account: Account) -> None:
        self._account = account
        self._levels = _Levels(0)
        #: Sum of squares of the sum of all channels.
        self._sum = 0.0
        #: The channel that is read alone; None where all are averaged.
        self._alone: int | None = None

    def mono(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        n_channels = samples.shape[1]
        if n_channels == 1:
            return samples[:, 0]
        mixed = samples @ _mean(n_channels)
        if self._levels.n_channels != n_channels:
            self._levels, self._sum, self._alone = _Levels(n_channels), 0.0, None
        finite = np.isfinite(mixed)
        heard = (samples, mixed) if finite.all() else (samples[finite], mixed[finite])
        self._levels.add(heard[0])
        self._sum += n_channels**2 * float(np.einsum("i,i->", heard[1], heard[1], dtype=np.float64))
        power = self._levels.power
        loudest = int(power.argmax())
        # Independent channels, or a single one that is not silent, give the sum of their powers.
        is_cancelled = self._sum < _CANCELLED * power.sum()
        if is_cancelled:
            self._account.note_once(f"the channels cancel each other: channel {loudest + 1} alone was read")
        if not is_cancelled and self._levels.likeness(loudest) < (_ALIKE if self._alone is None else _STILL_ALIKE):
            self._alone = None
        elif self._alone is None or power[loudest] > 2 * power[self._alone]:
            self._alone = loudest
        return mixed if self._alone is None else samples[:, self._alone]


class _Levels:
    """How loud each channel is, and how alike their levels are."""

    def __init__(self, n_channels: int) -> None:
        self.n_channels = n_channels
        #: Of frames: their number, the sums of their levels, and of the products of those.
        self._n = 0
        self._sums = np.zeros(n_channels)
        self._products = np.zeros((n_channels, n_channels))

    def add(self, samples: NDArray[np.float32]) -> None:
        if not len(samples):
            return
        squares = np.square(samples, dtype=np.float64)
        levels = np.sqrt(np.add.reduceat(squares, np.arange(0, len(samples), _LEVEL_FRAME), axis=0))
        self._n += len(levels)
        self._sums += levels.sum(axis=0)
        self._products += levels.T @ levels

    @property
    def power(self) -> NDArray[np.float64]:
        return np.diagonal(self._products)

    def likeness(self, channel: int) -> float:
        """Return the least correlation of a channel's level with that of another one that is heard beside it."""
        covariance = self._products - np.outer(self._sums, self._sums) / max(self._n, 1)
        others = self.power > _HEARD * self.power[channel]
        deviation = np.sqrt(covariance.diagonal() * covariance[channel, channel])
        with np.errstate(invalid="ignore", divide="ignore"):
            found = (covariance[channel] / deviation)[others]
        return float(np.nan_to_num(found).min(initial=1.0))


@functools.cache
def _mean(n_channels: int) -> NDArray[np.float32]:
    return np.full(n_channels, 1 / n_channels, dtype=np.float32)
