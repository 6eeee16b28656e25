"""Signal quality: whether a recording is of the kind that the numbers, and the model, can be trusted on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from ser_batch.hookspecs import hookimpl
from ser_batch.records import Clip, Extractor, FeatureBlock, FeatureSpec

if TYPE_CHECKING:
    from ser_batch.config import Config

__all__ = ["QualityExtractor"]

#: A sample this near to full scale counts as clipped.
_CLIPPED_FROM: Final = 0.99
_BLOCK_S: Final = 0.01
#: Blocks with less power than this many times that of noise are not speech.
_SPEECH_OVER_NOISE: Final = 2.0
#: What a recording with digital silence in its pauses gets.
_HIGHEST_SNR_DB: Final = 100.0
#: Quiet frames whose spectra make up the noise spectrum.
_N_QUIET_FRAMES: Final = 32


class QualityExtractor:
    """Bandwidth, signal-to-noise ratio, clipping, activity and level. Definitions are in docs/features.md."""

    spec = FeatureSpec(
        extractor="quality",
        version=1,
        scalars=(("bandwidth", "hz"), ("snr", "db"), ("clipped_fraction", ""), ("active", "s"), ("level", "dbfs")),
        totals=("active",),
    )

    def extract(self, clip: Clip, windows_s: NDArray[np.float64]) -> FeatureBlock:
        """Measure the quality of each window against the noise of the whole clip."""
        from ser_batch.dsp import level  # noqa: PLC0415 - numba is loaded when first needed
        from ser_batch.extractors import analyses  # noqa: PLC0415

        samples = analyses.sound(clip)
        block_length = max(round(_BLOCK_S * clip.sample_rate_hz), 1)
        as_read = samples if clip.as_read is None else clip.as_read
        energy, n_clipped = level.block_levels(
            samples, as_read, float(analyses.mean(clip)), block_length, _CLIPPED_FROM
        )
        n_samples = np.full(len(energy), block_length)
        if len(n_samples):
            n_samples[-1] = len(samples) - block_length * (len(energy) - 1)
        power = energy / n_samples
        active, noise = level.active_blocks(power), level.noise_power(power)
        starts_s = np.arange(len(energy)) * block_length / clip.sample_rate_hz
        track = analyses.pitch(clip)
        quiet = analyses.quiet_spectrum(clip, _N_QUIET_FRAMES)
        loud_parts = analyses.parts(track.times_s[track.analysed], clip, windows_s)
        loud = level.mean_spectra(track.power, loud_parts)
        parts = analyses.parts(starts_s, clip, windows_s)
        sums = level.of_parts(energy, n_clipped, n_samples, active, _SPEECH_OVER_NOISE * noise, parts)
        rows = [
            [
                level.bandwidth_hz(spectrum, quiet, track.bin_hz, 0.5 * clip.sample_rate_hz) if any_loud else math.nan,
                _snr_db(speech, noise),
                clipped,
                n_active / clip.sample_rate_hz,
                10.0 * math.log10(total / n) if total > 0.0 else math.nan,
            ]
            for spectrum, any_loud, (speech, clipped, n_active, total, n) in zip(
                loud, (loud_parts[:, 0] < loud_parts[:, 1]).tolist(), sums.tolist(), strict=True
            )
        ]
        return analyses.block(self.spec, rows)


def _snr_db(speech: float, noise: float) -> float:
    """Compare the mean power of blocks of speech, less that of noise, with that of noise."""
    if math.isnan(speech):
        return math.nan
    if noise <= 0.0:
        return _HIGHEST_SNR_DB
    return min(10.0 * math.log10((speech - noise) / noise), _HIGHEST_SNR_DB)


@hookimpl
def register_extractors(config: Config) -> Sequence[Extractor]:
    """Offer the extractor."""
    return [QualityExtractor()]
