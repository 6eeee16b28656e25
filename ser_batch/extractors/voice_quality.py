"""Voice quality: periodicity, glottal source and vocal tract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ser_batch.hookspecs import hookimpl
from ser_batch.records import Clip, Extractor, FeatureBlock, FeatureSpec

if TYPE_CHECKING:
    from ser_batch.config import Config

__all__ = ["VoiceQualityExtractor"]


class VoiceQualityExtractor:
    """Jitter, shimmer, HNR, CPPS, formants and spectral balance. Definitions are in docs/features.md."""

    spec = FeatureSpec(
        extractor="voice_quality",
        version=2,
        scalars=(
            ("jitter_local", ""),
            ("shimmer_local", ""),
            ("hnr", "db"),
            ("cpps", "db"),
            ("cpps_voiced", "db"),
            ("f1_mean", "hz"),
            ("f2_mean", "hz"),
            ("f3_mean", "hz"),
            ("f1_bandwidth", "hz"),
            ("f2_bandwidth", "hz"),
            ("f3_bandwidth", "hz"),
            ("alpha_ratio", "db"),
            ("hammarberg", "db"),
            ("slope_0_500", "db_per_khz"),
            ("slope_500_1500", "db_per_khz"),
            ("h1_h2", "db"),
            ("a1_p0", "db"),
        ),
    )

    def extract(self, clip: Clip, windows_s: NDArray[np.float64]) -> FeatureBlock:
        """Average the analyses of `clip` over each window."""
        from ser_batch.dsp import contour, pulses, spectrum  # noqa: PLC0415 - numba is loaded when first needed
        from ser_batch.extractors import analyses  # noqa: PLC0415

        track, harmonicity, cepstrum = analyses.pitch(clip), analyses.hnr(clip), analyses.cepstrum(clip)
        pulses_s, amplitudes = analyses.pulses(clip)
        voiced, rows = analyses.voiced_rows(clip)
        formants = analyses.formants(clip)
        f1_hz = analyses.f1_near(clip, track.times_s[voiced])
        balance = spectrum.spectral_balance(track.power, rows, track.bin_hz)
        levels = spectrum.harmonic_levels(track.power, rows, track.bin_hz, track.f0_hz[voiced], f1_hz)
        voiced_cpps_db = np.where(analyses.voiced_at(clip, cepstrum.times_s), cepstrum.cpps_db, np.nan)
        contours = (
            (harmonicity.times_s, harmonicity.hnr_db[:, None]),
            (cepstrum.times_s, np.column_stack([cepstrum.cpps_db, voiced_cpps_db])),
            (formants.times_s, np.hstack([formants.frequency_hz, formants.bandwidth_hz])),
            (track.times_s[voiced], np.hstack([balance, levels])),
        )
        values = [
            [pulses.jitter_local(pulses_s[part]), pulses.shimmer_local(pulses_s[part], amplitudes[part])]
            for part in analyses.slices(pulses_s, clip, windows_s)
        ]
        means = [
            contour.means_of_parts(columns, analyses.parts(times_s, clip, windows_s)) for times_s, columns in contours
        ]
        return analyses.block(self.spec, np.hstack([np.array(values), *means]))


@hookimpl
def register_extractors(config: Config) -> Sequence[Extractor]:
    """Offer the extractor."""
    return [VoiceQualityExtractor()]
