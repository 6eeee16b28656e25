"""One pass over all kernels, with the types that extractors call them with."""

from __future__ import annotations

from typing import Final

import numpy as np

from ser_batch.dsp import contour, level, pulses, spectrum
from ser_batch.dsp.cepstrum import cepstral_prominence
from ser_batch.dsp.decimate import LOW_RATE_HZ, to_low_rate
from ser_batch.dsp.formants import burg_formants, pre_emphasised
from ser_batch.dsp.harmonicity import harmonicity
from ser_batch.dsp.intensity import intensity
from ser_batch.dsp.mel import log_mel
from ser_batch.dsp.pitch import mean_spectrum, track_f0

__all__ = ["rehearse"]

_RATE_HZ: Final = 22_050
_N_SAMPLES: Final = 7_350


def rehearse() -> None:
    """Analyse a decaying 150 Hz pulse train, and throw the results away."""
    samples = np.zeros(_N_SAMPLES, np.float32)
    samples[:: _RATE_HZ // 150] = 0.5
    samples = np.convolve(samples, np.exp(-np.arange(64, dtype=np.float32) / 16))[:_N_SAMPLES]
    rate_hz = float(_RATE_HZ)

    track = track_f0(samples, rate_hz)
    mean_spectrum(samples, rate_hz, track.times_s[:2])
    level_db = intensity(samples, rate_hz).level_db
    contour.describe(level_db)
    contour.slope_per_s(level_db)
    contour.final_part_slope(level_db, 0.3)
    contour.count_voiced_stretches(track.f0_hz, 3)
    contour.means(harmonicity(samples, rate_hz).hnr_db[:, None])

    pulses_s = pulses.find_pulses(samples, rate_hz, track.times_s[0], track.f0_hz)
    pulses.jitter_local(pulses_s)
    pulses.shimmer_local(pulses_s, pulses.period_amplitudes(samples, rate_hz, pulses_s))

    low_rate = pre_emphasised(to_low_rate(samples, _RATE_HZ), float(LOW_RATE_HZ), 50.0)
    cepstral_prominence(low_rate, float(LOW_RATE_HZ), _N_SAMPLES / rate_hz)
    f1_hz = np.ascontiguousarray(burg_formants(low_rate, float(LOW_RATE_HZ), track.times_s)[0][:, 0])
    rows = np.arange(len(track.analysed))
    spectrum.spectral_balance(track.power, rows, track.bin_hz)
    spectrum.harmonic_levels(track.power, rows, track.bin_hz, track.f0_hz[track.analysed], f1_hz[track.analysed])

    # A clip's own samples are read-only, which is another type to numba.
    samples.flags.writeable = False
    log_mel(samples, _N_SAMPLES, _RATE_HZ)
    level.block_levels(samples, 0.0, 220, 0.99)
