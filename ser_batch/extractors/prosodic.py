"""Pitch and loudness contours, summed up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from ser_batch.hookspecs import hookimpl
from ser_batch.records import Clip, Extractor, FeatureBlock, FeatureSpec

if TYPE_CHECKING:
    from ser_batch.config import Config

__all__ = ["ProsodicExtractor"]

#: Stretches shorter than this are not counted as voiced segments.
_SHORTEST_SEGMENT_FRAMES: Final = 3
#: Intensity is summed up over frames at most this far below the loudest one: pauses would only measure the room.
_ACTIVE_RANGE_DB: Final = 35.0
#: Rounding of 16-bit samples.
_QUIETEST_DB: Final = -100.0
#: Share of the voiced frames that makes up the end of an utterance.
_FINAL_SHARE: Final = 0.3


class ProsodicExtractor:
    """F0 and intensity, per window and per clip. Definitions are in docs/features.md."""

    spec = FeatureSpec(
        extractor="prosodic",
        version=2,
        scalars=(
            ("f0_median", "hz"),
            ("f0_median", "st"),
            ("f0_mean", "st"),
            ("f0_sd", "st"),
            ("f0_p05", "st"),
            ("f0_p95", "st"),
            ("f0_range", "st"),
            ("f0_slope", "st_per_s"),
            ("f0_final_slope", "st_per_s"),
            ("voiced_fraction", ""),
            ("voiced_segment_rate", "per_s"),
            ("intensity_mean", "db"),
            ("intensity_sd", "db"),
            ("intensity_range", "db"),
            ("intensity_slope", "db_per_s"),
            ("intensity_above_floor", "db"),
        ),
    )

    def extract(self, clip: Clip, windows_s: NDArray[np.float64]) -> FeatureBlock:
        """Sum up the contours of `clip` in each window."""
        from ser_batch.extractors import analyses  # noqa: PLC0415 - numba is loaded when first needed

        track, intensity = analyses.pitch(clip), analyses.level(clip)
        semitones = analyses.f0_semitones(clip)
        slices = analyses.slices(intensity.times_s, clip, windows_s)
        floor_db, active_db = _floor_and_active(intensity.level_db, slices[:-1] or slices)
        rows = [
            _pitch_row(track.f0_hz[frames], semitones[frames]) + _intensity_row(active_db[levels], floor_db)
            for frames, levels in zip(analyses.slices(track.times_s, clip, windows_s), slices, strict=True)
        ]
        return analyses.block(self.spec, rows)


def _pitch_row(f0_hz: NDArray[np.float64], semitones: NDArray[np.float64]) -> list[float]:
    from ser_batch.dsp import contour  # noqa: PLC0415

    if not len(f0_hz):
        return [np.nan] * 11
    median, mean, sd, p05, p95 = contour.describe(semitones)
    n_voiced = np.count_nonzero(~np.isnan(f0_hz))
    return [
        27.5 * 2.0 ** (median / 12.0),
        median,
        mean,
        sd,
        p05,
        p95,
        p95 - p05,
        contour.slope_per_s(semitones),
        contour.final_part_slope(semitones, _FINAL_SHARE),
        n_voiced / len(f0_hz),
        contour.count_voiced_stretches(f0_hz, _SHORTEST_SEGMENT_FRAMES) / (len(f0_hz) * 0.01),
    ]


def _intensity_row(active_db: NDArray[np.float64], floor_db: float) -> list[float]:
    from ser_batch.dsp import contour  # noqa: PLC0415

    _, mean, sd, p05, p95 = contour.describe(active_db)
    return [mean, sd, p95 - p05, contour.slope_per_s(active_db), mean - floor_db]


def _floor_and_active(level_db: NDArray[np.float64], windows: list[slice]) -> tuple[float, NDArray[np.float64]]:
    """Return the floor of the noise under what is heard, and the levels of active frames with NaN for the others.

    Both are found in the windows alone: they lie on the voice, and how much silence lies around it must not matter.
    """
    from ser_batch.dsp import contour  # noqa: PLC0415

    inside = np.zeros(len(level_db), bool)
    for window in windows:
        inside[window] = True
    # Digital silence, or what a codec left of it, is not the noise of a room.
    heard_db = level_db[inside & (np.nan_to_num(level_db, nan=_QUIETEST_DB) > _QUIETEST_DB)]
    if not len(heard_db):
        return np.nan, np.full(len(level_db), np.nan)
    floor_db = float(contour.describe(heard_db)[3])
    return floor_db, np.where(level_db >= heard_db.max() - _ACTIVE_RANGE_DB, level_db, np.nan)


@hookimpl
def register_extractors(config: Config) -> Sequence[Extractor]:
    """Offer the extractor."""
    return [ProsodicExtractor()]
