"""The analyses that extractors share: each is computed once per clip, on first use."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ser_batch.dsp.cepstrum import CepstralProminence, cepstral_prominence
from ser_batch.dsp.decimate import LOW_RATE_HZ, to_low_rate
from ser_batch.dsp.formants import FRAME_S as FORMANT_FRAME_S
from ser_batch.dsp.formants import burg_formants, pre_emphasised
from ser_batch.dsp.frames import HOP_S, frame_grid, frame_times
from ser_batch.dsp.harmonicity import Harmonicity, harmonicity
from ser_batch.dsp.intensity import Intensity, intensity
from ser_batch.dsp.pitch import F0Track, mean_spectrum, track_f0
from ser_batch.dsp.pulses import find_pulses, period_amplitudes
from ser_batch.records import Clip, FeatureBlock, FeatureSpec

__all__ = [
    "F0_CEILING_HZ",
    "F0_FLOOR_HZ",
    "SEMITONE_REFERENCE_HZ",
    "Formants",
    "block",
    "cepstrum",
    "f0_semitones",
    "f1_near",
    "finite",
    "formants",
    "hnr",
    "level",
    "mean",
    "parts",
    "pitch",
    "pulses",
    "quiet_spectrum",
    "signal",
    "slices",
    "sound",
    "voiced_at",
    "voiced_rows",
]

F0_FLOOR_HZ: Final = 75.0
F0_CEILING_HZ: Final = 600.0
#: Semitones are counted from here, as in GeMAPS: A0.
SEMITONE_REFERENCE_HZ: Final = 27.5
#: Squares of larger samples would leave the range of float32.
_LARGEST_SAMPLE: Final = 1e12


def parts(times_s: NDArray[np.float64], clip: Clip, windows_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """Say which of `times_s` (rising, from the start of `clip`) lie in each window, and, last, in the whole clip.

    Returns
    -------
    int64 (n_windows + 1, 2)
        Index of the first one, and of the first one after it.
    """
    edges = np.empty((len(windows_s) + 1, 2), np.int64)
    edges[:-1] = np.searchsorted(times_s, np.asarray(windows_s, np.float64).reshape(-1, 2) - clip.start_s)
    edges[-1] = 0, len(times_s)
    return edges


def slices(times_s: NDArray[np.float64], clip: Clip, windows_s: NDArray[np.float64]) -> list[slice]:
    """Return `parts` as slices."""
    return [slice(first, last) for first, last in parts(times_s, clip, windows_s).tolist()]


def block(spec: FeatureSpec, rows: list[list[float]] | NDArray[np.float64]) -> FeatureBlock:
    """Return the rows of the windows and, last, of the clip as what an extractor returns."""
    values = np.array(rows, np.float32).reshape(len(rows), len(spec.scalars))
    return FeatureBlock(spec.extractor, values[:-1], values[-1])


def signal(clip: Clip) -> NDArray[np.float32]:
    """Return the samples, less their mean; samples that are not finite count as 0."""

    def compute() -> NDArray[np.float32]:
        samples = sound(clip)
        return samples - mean(clip) if len(samples) else samples

    return clip.shared("signal", compute)


def sound(clip: Clip) -> NDArray[np.float32]:
    """Return the samples; see `finite`."""
    return clip.shared("sound", lambda: finite(clip.samples))


def mean(clip: Clip) -> np.float32:
    """Return the mean of all samples, 0 where there is none."""

    def compute() -> np.float32:
        samples = sound(clip)
        return samples.mean() if len(samples) else np.float32(0)

    return clip.shared("mean", compute)


def finite(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return `samples` as contiguous float32, with 0 in place of what is not finite or beyond 240 dB re full scale."""
    samples = np.ascontiguousarray(samples, np.float32)
    if not len(samples) or (samples.min() > -_LARGEST_SAMPLE and samples.max() < _LARGEST_SAMPLE):
        return samples
    return np.where(np.abs(samples) < _LARGEST_SAMPLE, samples, np.float32(0.0))


def pitch(clip: Clip) -> F0Track:
    """F0 every 10 ms."""
    return clip.shared("pitch", lambda: track_f0(signal(clip), float(clip.sample_rate_hz), F0_FLOOR_HZ, F0_CEILING_HZ))


def f0_semitones(clip: Clip) -> NDArray[np.float64]:
    """F0 in semitones re 27.5 Hz; NaN = unvoiced."""
    return clip.shared("f0_semitones", lambda: 12.0 * np.log2(pitch(clip).f0_hz / SEMITONE_REFERENCE_HZ))


def voiced_rows(clip: Clip) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices of the voiced frames, and of their rows in ``pitch(clip).power``."""

    def compute() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        track = pitch(clip)
        rows = np.flatnonzero(~np.isnan(track.f0_hz[track.analysed]))
        return track.analysed[rows], rows

    return clip.shared("voiced_rows", compute)


def quiet_spectrum(clip: Clip, n_frames: int) -> NDArray[np.float32]:
    """Return the mean power spectrum of the quietest frames of `clip`, on the bins of ``pitch(clip).power``."""

    def compute() -> NDArray[np.float32]:
        level_db = level(clip).level_db
        quietest = np.argsort(np.where(np.isnan(level_db), -np.inf, level_db), kind="stable")[:n_frames]
        return mean_spectrum(signal(clip), float(clip.sample_rate_hz), level(clip).times_s[quietest], F0_FLOOR_HZ)

    return clip.shared("quiet_spectrum", compute)


def level(clip: Clip) -> Intensity:
    """Intensity every 10 ms."""
    return clip.shared("intensity", lambda: intensity(signal(clip), float(clip.sample_rate_hz)))


def hnr(clip: Clip) -> Harmonicity:
    """Harmonics-to-noise ratio every 10 ms."""
    return clip.shared("harmonicity", lambda: harmonicity(signal(clip), float(clip.sample_rate_hz), F0_FLOOR_HZ))


def pulses(clip: Clip) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the times of glottal pulses in s and their amplitudes; both float64 (n_pulses,)."""

    def compute() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        track, rate_hz = pitch(clip), float(clip.sample_rate_hz)
        if not len(track.times_s):
            return np.empty(0), np.empty(0)
        pulses_s = find_pulses(signal(clip), rate_hz, track.times_s[0], track.f0_hz)
        return pulses_s, period_amplitudes(signal(clip), rate_hz, pulses_s)

    return clip.shared("pulses", compute)


def low_rate(clip: Clip) -> NDArray[np.float32]:
    """Return the signal at 11,025 Hz, pre-emphasised from 50 Hz."""
    return clip.shared(
        "low_rate", lambda: pre_emphasised(to_low_rate(signal(clip), clip.sample_rate_hz), float(LOW_RATE_HZ), 50.0)
    )


def voiced_at(clip: Clip, times_s: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Say at which times, from the start of `clip`, the nearest frame of F0 is voiced."""
    track = pitch(clip)
    if not len(track.times_s):
        return np.zeros(len(times_s), np.bool_)
    # Grids are often half a hop apart: of two frames equally near, the later one counts (in Praat, rounding decides).
    nearest = np.floor((times_s - track.times_s[0]) / HOP_S + 0.500001).astype(np.int64)
    inside = (nearest >= 0) & (nearest < len(track.times_s))
    return inside & ~np.isnan(track.f0_hz[np.where(inside, nearest, 0)])


class Formants(NamedTuple):
    """The formants of the voiced parts of a clip, every 10 ms."""

    #: float64 (n_frames,)
    times_s: NDArray[np.float64]
    #: float64 (n_frames, 3): F1 to F3; NaN = not found.
    frequency_hz: NDArray[np.float64]
    bandwidth_hz: NDArray[np.float64]


def formants(clip: Clip) -> Formants:
    """Formants in the voiced frames of a grid of their own, which is Praat's."""

    def compute() -> Formants:
        times_s = frame_times(*frame_grid(clip.duration_s, FORMANT_FRAME_S))
        times_s = times_s[voiced_at(clip, times_s)]
        # The samples of the low rate lie a quarter of their distance earlier than those of a grid of its own.
        found = burg_formants(low_rate(clip), float(LOW_RATE_HZ), times_s + 0.25 / LOW_RATE_HZ)
        return Formants(times_s, *found)

    return clip.shared("formants", compute)


def f1_near(clip: Clip, times_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return F1 in the voiced frame nearest to each time; NaN where none lies within half a hop."""
    track = formants(clip)
    if not len(track.times_s) or not len(times_s):
        return np.full(len(times_s), np.nan)
    after = np.clip(np.searchsorted(track.times_s, times_s), 1, max(len(track.times_s) - 1, 1))
    before = after - 1
    after = np.minimum(after, len(track.times_s) - 1)
    closer = times_s - track.times_s[before] <= track.times_s[after] - times_s
    nearest = np.where(closer, before, after)
    near = np.abs(track.times_s[nearest] - times_s) <= 0.51 * HOP_S
    return np.where(near, track.frequency_hz[nearest, 0], np.nan)


def cepstrum(clip: Clip) -> CepstralProminence:
    """Cepstral peak prominence every 10 ms."""
    return clip.shared("cepstrum", lambda: cepstral_prominence(low_rate(clip), float(LOW_RATE_HZ), clip.duration_s))
