"""The thirteen columns that feed the dense branch of the network, in order."""

from __future__ import annotations

from typing import Final

__all__ = ["DENSE_FEATURES"]

#: Pitch level, variability, slope and final fall or rise; intensity level (over the recording's own floor, as gain is
#: arbitrary) and range; jitter, shimmer, HNR, CPPS; alpha ratio; F1; nasality proxy.
DENSE_FEATURES: Final[tuple[str, ...]] = (
    "prosodic__f0_median_st",
    "prosodic__f0_sd_st",
    "prosodic__f0_slope_st_per_s",
    "prosodic__f0_final_slope_st_per_s",
    "prosodic__intensity_above_floor_db",
    "prosodic__intensity_range_db",
    "voice_quality__jitter_local",
    "voice_quality__shimmer_local",
    "voice_quality__hnr_db",
    "voice_quality__cpps_voiced_db",
    "voice_quality__alpha_ratio_db",
    "voice_quality__f1_mean_hz",
    "voice_quality__a1_p0_db",
)
