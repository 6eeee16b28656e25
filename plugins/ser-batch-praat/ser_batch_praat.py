"""Praat's own voice analyses as a ser-batch extractor, by way of parselmouth.

Copyright of Praat and parselmouth lies with their authors; both are under the GNU General Public License, version 3 or
later, and so is this module. That is why it is a package of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser_batch import Clip, FeatureBlock, FeatureSpec, hookimpl

F0_FLOOR_HZ = 75.0
F0_CEILING_HZ = 600.0
#: Periods that count for jitter and shimmer: shortest and longest in s, and the largest ratio of two neighbours.
PERIODS = (0.0001, 0.02, 1.3)
#: Largest ratio of the amplitudes of two neighbours.
AMPLITUDE_FACTOR = 1.6
#: Smoothing of the power cepstrum as in the Acoustic Voice Quality Index, and the line through it.
CPPS = ("no", 0.01, 0.001, 60.0, 330.0, 0.05, "parabolic", 0.001, 0.0, "Straight", "Robust")

Row = tuple[float, ...]


class PraatExtractor:
    """Praat's measures per window and per clip, at Praat's default settings.

    F0 by autocorrelation; jitter and shimmer (local) from the pulses of the cross-correlation method; HNR by
    autocorrelation with 4.5 periods per window; CPPS every 10 ms; F1 to F3 by Burg's method, means over voiced frames.
    """

    spec = FeatureSpec(
        "praat",
        version=1,
        scalars=(
            ("f0_mean", "hz"),
            ("f0_median", "hz"),
            ("f0_sd", "st"),
            ("voiced_fraction", ""),
            ("jitter_local", ""),
            ("shimmer_local", ""),
            ("hnr_mean", "db"),
            ("cpps", "db"),
            ("f1_mean", "hz"),
            ("f2_mean", "hz"),
            ("f3_mean", "hz"),
        ),
    )

    def extract(self, clip: Clip, windows_s: NDArray[np.float64]) -> FeatureBlock:
        """Analyse the clip once, and read the measures of each window and of the whole clip from the analyses."""
        measures = _Measures(clip)
        stretches_s = np.clip(windows_s - clip.start_s, 0, clip.duration_s)
        rows = [measures.row(start_s, end_s) for start_s, end_s in stretches_s]
        scalars = np.array(rows, np.float32).reshape(len(rows), len(self.spec.scalars))
        return FeatureBlock("praat", scalars, np.array(measures.row(0, clip.duration_s), np.float32))


class _Measures:
    """Praat's analyses of one clip. What Praat cannot compute (too short a sound, say) is None, and its columns NaN."""

    def __init__(self, clip: Clip) -> None:
        import parselmouth

        self.sound = parselmouth.Sound(clip.samples.astype(np.float64), clip.sample_rate_hz)
        self.pitch = self._try(lambda: self.sound.to_pitch_ac(pitch_floor=F0_FLOOR_HZ, pitch_ceiling=F0_CEILING_HZ))
        self.pulses = self._try(
            lambda: parselmouth.praat.call(self.sound, "To PointProcess (periodic, cc)", F0_FLOOR_HZ, F0_CEILING_HZ)
        )
        self.harmonicity = self._try(
            lambda: self.sound.to_harmonicity_ac(minimum_pitch=F0_FLOOR_HZ, periods_per_window=4.5)
        )
        self.formants = self._try(self.sound.to_formant_burg)

    @staticmethod
    def _try(analyse: Callable[[], Any]) -> Any:
        import parselmouth

        try:
            return analyse()
        except parselmouth.PraatError:
            return None

    def row(self, start_s: float, end_s: float) -> Row:
        """Return the columns of `PraatExtractor.spec` for one stretch, in s from the start of the clip."""
        f0_hz, times_s = self._f0(start_s, end_s)
        voiced = f0_hz > 0
        if voiced.any():
            semitones = 12 * np.log2(f0_hz[voiced])
            f0: Row = (f0_hz[voiced].mean(), np.median(f0_hz[voiced]), semitones.std())
        else:
            f0 = (np.nan, np.nan, np.nan)
        fraction = voiced.mean() if len(f0_hz) else np.nan
        return (
            *f0,
            fraction,
            *self._perturbation(start_s, end_s),
            self._hnr(start_s, end_s),
            self._cpps(start_s, end_s),
            *self._formant_means(times_s[voiced]),
        )

    def _f0(self, start_s: float, end_s: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if self.pitch is None:
            return np.zeros(0), np.zeros(0)
        times_s = self.pitch.xs()
        inside = (times_s >= start_s) & (times_s < end_s)
        return self.pitch.selected_array["frequency"][inside], times_s[inside]

    def _perturbation(self, start_s: float, end_s: float) -> Row:
        from parselmouth.praat import call

        if self.pulses is None:
            return np.nan, np.nan
        jitter = call(self.pulses, "Get jitter (local)", start_s, end_s, *PERIODS)
        both = [self.sound, self.pulses]
        return jitter, call(both, "Get shimmer (local)", start_s, end_s, *PERIODS, AMPLITUDE_FACTOR)

    def _hnr(self, start_s: float, end_s: float) -> float:
        if self.harmonicity is None:
            return np.nan
        times_s = self.harmonicity.xs()
        hnr_db = self.harmonicity.values[0, (times_s >= start_s) & (times_s < end_s)]
        hnr_db = hnr_db[hnr_db > -200]  # Praat's mark for a silent frame
        return float(hnr_db.mean()) if len(hnr_db) else np.nan

    def _cpps(self, start_s: float, end_s: float) -> float:
        from parselmouth.praat import call

        part = self.sound.extract_part(start_s, end_s)
        if not part.values.any():
            return np.nan
        cepstrogram = self._try(lambda: call(part, "To PowerCepstrogram", 60.0, 0.01, 5000.0, 50.0))
        return np.nan if cepstrogram is None else call(cepstrogram, "Get CPPS", *CPPS)

    def _formant_means(self, voiced_s: NDArray[np.float64]) -> Row:
        if self.formants is None or not len(voiced_s):
            return np.nan, np.nan, np.nan
        return tuple(
            float(values[~np.isnan(values)].mean()) if not np.isnan(values).all() else np.nan
            for number in (1, 2, 3)
            for values in [np.array([self.formants.get_value_at_time(number, time_s) for time_s in voiced_s])]
        )


@hookimpl
def register_extractors(config: object) -> list[PraatExtractor]:
    """Offer the extractor; it runs when a scan asks for ``--extractor praat``."""
    return [PraatExtractor()]
