"""Log-mel spectrograms, equal to librosa's to a thousandth of a dB."""

from __future__ import annotations

import functools
import math
from typing import Final, NamedTuple

import numpy as np

from ser_batch.dsp.frames import Doubles, Indices, Singles
from ser_batch.dsp.kernels import kernel
from ser_batch.dsp.lanes import LANES, load, log2, splat, store, workspace
from ser_batch.dsp.transform import BATCH_FRAMES, load_frames, power_of_pairs, transform, twiddles

__all__ = ["HOP", "N_BANDS", "N_FFT", "band_at_hz", "band_centre_hz", "log_mel", "mel_filters", "n_mel_frames"]

N_FFT: Final = 2048
HOP: Final = 512
#: By default.
N_BANDS: Final = 128
#: Above this, corpora differ by sample rate and codec more than by emotion.
HIGHEST_HZ: Final = 8_000.0
#: Power below this counts as this: -100 dB.
FLOOR_POWER: Final = 1e-10


def n_mel_frames(n_samples: int) -> int:
    """Return how many frames a stretch of `n_samples` has: one per hop, the first and the last centred on its ends."""
    return 1 + n_samples // HOP


def log_mel(samples: Singles, n_samples: int, sample_rate_hz: int, n_bands: int = N_BANDS) -> Singles:
    """Return the log-mel spectrogram of a stretch of audio.

    Parameters
    ----------
    samples : float32 (n,)
        At most `n_samples`; zeros follow where it is shorter.
    n_samples : int
        Length of the stretch.
    sample_rate_hz : int
    n_bands : int
        A multiple of 8.

    Returns
    -------
    float32 (n_bands, 1 + n_samples // HOP)
        dB re 1, at least -100.

    Notes
    -----
    Equal to ``librosa.power_to_db(librosa.feature.melspectrogram(y, sr, n_fft=2048, hop_length=512, n_mels=n_bands,
    fmin=0, fmax=8000, htk=False, norm="slaney", center=True, pad_mode="constant", power=2), ref=1, amin=1e-10,
    top_db=None)``.
    """
    bands = np.full((n_bands, n_mel_frames(n_samples)), FLOOR_POWER, np.float32)
    # In single precision, bands 90 dB below the peak of their frame would be off by up to 0.002 dB.
    buffers = workspace(2 * N_FFT, np.float64)
    factors = twiddles(N_FFT, np.float64)
    _mel_bands(samples[:n_samples], mel_filters(int(sample_rate_hz), n_bands), factors, buffers, bands)
    _to_db(bands.reshape(-1))
    return bands


class MelFilters(NamedTuple):
    """Triangular filters, each stored from its first bin that is not zero on."""

    #: float64 (N_FFT,): periodic Hann.
    taper: Doubles
    #: int64 (n_bands,)
    first_bin: Indices
    #: int64 (n_bands + 1,): where each filter begins in `weights`.
    first_weight: Indices
    #: float64 (n_weights,)
    weights: Doubles


@functools.lru_cache(maxsize=4)
def mel_filters(sample_rate_hz: int, n_bands: int = N_BANDS) -> MelFilters:
    """Return Slaney filters from 0 Hz to 8 kHz (or half the rate), each of unit area."""
    highest_mel = _hz_to_mel(np.array(min(HIGHEST_HZ, 0.5 * sample_rate_hz)))
    edges_hz = _mel_to_hz(np.linspace(0.0, highest_mel, n_bands + 2))
    bins_hz = np.arange(N_FFT // 2 + 1) * sample_rate_hz / N_FFT
    first_bin, first_weight, weights = [], [0], []
    for low, middle, high in zip(edges_hz[:-2], edges_hz[1:-1], edges_hz[2:], strict=True):
        triangle = np.minimum((bins_hz - low) / (middle - low), (high - bins_hz) / (high - middle))
        used = np.flatnonzero(triangle > 0)
        first_bin.append(used[0] if len(used) else 0)
        weights.append(triangle[used] * 2.0 / (high - low))
        first_weight.append(first_weight[-1] + len(used))
    taper = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)
    return MelFilters(
        taper,
        np.array(first_bin, np.int64),
        np.array(first_weight, np.int64),
        np.concatenate(weights),
    )


def band_centre_hz(band: Doubles, n_bands: int = N_BANDS, sample_rate_hz: int = 2 * int(HIGHEST_HZ)) -> Doubles:
    """Return the frequency on which bands are centred; fractions lie between two of them."""
    return _mel_to_hz((band + 1) * _spacing_mel(n_bands, sample_rate_hz))


def band_at_hz(frequency_hz: Doubles, n_bands: int = N_BANDS, sample_rate_hz: int = 2 * int(HIGHEST_HZ)) -> Doubles:
    """Return the band that is centred on each frequency, as a fraction: the inverse of `band_centre_hz`."""
    return _hz_to_mel(frequency_hz) / _spacing_mel(n_bands, sample_rate_hz) - 1


def _spacing_mel(n_bands: int, sample_rate_hz: int) -> float:
    """Return the distance of two bands."""
    return float(_hz_to_mel(np.array(min(HIGHEST_HZ, 0.5 * sample_rate_hz)))) / (n_bands + 1)


def _hz_to_mel(frequency_hz: Doubles) -> Doubles:
    """Convert to the mel scale of Slaney's Auditory Toolbox: linear to 1 kHz, logarithmic above."""
    logarithm = np.log(np.maximum(frequency_hz, 1000.0) / 1000.0)
    return np.where(frequency_hz < 1000.0, frequency_hz * 3.0 / 200.0, 15.0 + 27.0 * logarithm / np.log(6.4))


def _mel_to_hz(mel: Doubles) -> Doubles:
    return np.where(mel < 15.0, mel * 200.0 / 3.0, 1000.0 * np.exp(np.log(6.4) * (mel - 15.0) / 27.0))


@kernel
def _mel_bands(
    samples: Singles, filters: MelFilters, factors: Doubles, buffers: tuple[Doubles, Doubles], bands: Singles
) -> None:
    n_frames = bands.shape[1]
    # Frames that begin beyond the end hold nothing.
    n_sounding = min(n_frames, (len(samples) + N_FFT // 2 + HOP - 1) // HOP) if len(samples) else 0
    n_bins = filters.first_bin[-1] + filters.first_weight[-1] - filters.first_weight[-2]
    means = np.zeros(BATCH_FRAMES)
    starts = np.empty(BATCH_FRAMES, np.int64)
    energy = np.empty(2 * LANES)
    for start in range(0, n_sounding, BATCH_FRAMES):
        n_here = min(BATCH_FRAMES, n_sounding - start)
        for frame in range(n_here):
            starts[frame] = (start + frame) * HOP - N_FFT // 2
        load_frames(samples, starts[:n_here], means, filters.taper, buffers[0])
        power, _ = transform(buffers[0], buffers[1], factors)
        power_of_pairs(power, n_bins, power)
        for band in range(bands.shape[0]):
            even, odd = splat(0.0), splat(0.0)
            k = 2 * filters.first_bin[band]
            for i in range(filters.first_weight[band], filters.first_weight[band + 1]):
                weight = splat(filters.weights[i])
                even = even + weight * load(power, k)
                odd = odd + weight * load(power, k + 1)
                k += 2
            store(energy, 0, even)
            store(energy, LANES, odd)
            for frame in range(n_here):
                bands[band, start + frame] = max(energy[frame], FLOOR_POWER)


@kernel
def _to_db(values: Singles) -> None:
    """Replace powers by dB; the floor becomes -100 exactly. Bands are a multiple of LANES, so no rest is left."""
    floor = log2(splat(np.float32(FLOOR_POWER)))
    scale, lowest = splat(np.float32(10.0 * math.log10(2.0))), splat(np.float32(100.0))
    for i in range(0, len(values), LANES):
        store(values, i, scale * (log2(load(values, i)) - floor) - lowest)
