"""The 88 functionals of openSMILE's eGeMAPSv02 as a ser-batch extractor.

Eyben et al. (2016), "The Geneva Minimalistic Acoustic Parameter Set (GeMAPS) for voice research and affective
computing", IEEE Transactions on Affective Computing 7, 190-202.
"""

from __future__ import annotations

import re
import warnings
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ser_batch import Clip, Config, FeatureBlock, FeatureSpec, hookimpl
from ser_batch.errors import ConfigError

if TYPE_CHECKING:
    import opensmile

#: Below this, half of the bands that eGeMAPS compares (1 to 5 kHz) hold nothing.
LOWEST_RATE_HZ = 16_000

_CONTOUR = (
    *("amean", "stddevNorm", "percentile20.0", "percentile50.0", "percentile80.0", "pctlrange0-2"),
    *("meanRisingSlope", "stddevRisingSlope", "meanFallingSlope", "stddevFallingSlope"),
)
_MEAN = ("amean",)
_MEAN_AND_SD = ("amean", "stddevNorm")

#: openSMILE's names: low-level descriptors, and the functionals of each; "nz" is over voiced frames, but UV unvoiced.
_DESCRIPTORS = (
    (("F0semitoneFrom27.5Hz_sma3nz", "loudness_sma3"), _CONTOUR),
    (("spectralFlux_sma3", "mfcc1_sma3", "mfcc2_sma3", "mfcc3_sma3", "mfcc4_sma3"), _MEAN_AND_SD),
    (("jitterLocal_sma3nz", "shimmerLocaldB_sma3nz", "HNRdBACF_sma3nz"), _MEAN_AND_SD),
    (("logRelF0-H1-H2_sma3nz", "logRelF0-H1-A3_sma3nz"), _MEAN_AND_SD),
    (
        tuple(f"F{n}{what}_sma3nz" for n in (1, 2, 3) for what in ("frequency", "bandwidth", "amplitudeLogRelF0")),
        _MEAN_AND_SD,
    ),
    (("alphaRatioV_sma3nz", "hammarbergIndexV_sma3nz", "slopeV0-500_sma3nz", "slopeV500-1500_sma3nz"), _MEAN_AND_SD),
    (("spectralFluxV_sma3nz", *(f"mfcc{n}V_sma3nz" for n in (1, 2, 3, 4))), _MEAN_AND_SD),
    (("alphaRatioUV_sma3nz", "hammarbergIndexUV_sma3nz", "slopeUV0-500_sma3nz", "slopeUV500-1500_sma3nz"), _MEAN),
    (("spectralFluxUV_sma3nz",), _MEAN),
)
NAMES = (
    *(f"{name}_{functional}" for names, functionals in _DESCRIPTORS for name in names for functional in functionals),
    *("loudnessPeaksPerSec", "VoicedSegmentsPerSec", "MeanVoicedSegmentLengthSec", "StddevVoicedSegmentLengthSec"),
    *("MeanUnvoicedSegmentLength", "StddevUnvoicedSegmentLength", "equivalentSoundLevel_dBp"),
)

_UNVOICED = np.array(["UV" in name or "UnvoicedSegmentLength" in name for name in NAMES])
_VOICED = np.array(["nz" in name or "VoicedSegmentLength" in name for name in NAMES]) & ~_UNVOICED


class OpensmileExtractor:
    """eGeMAPSv02 functionals, per window and per clip; columns are openSMILE's names in lower case, other signs `_`.

    openSMILE writes 0 (or -201 dB) where there is no voiced frame to average, and likewise for unvoiced ones; such
    values are NaN here. So is everything where there is too little audio for openSMILE.
    """

    spec = FeatureSpec(
        "opensmile", version=1, scalars=tuple((re.sub(r"[^a-z0-9]+", "_", name.lower()), "") for name in NAMES)
    )

    def extract(self, clip: Clip, windows_s: NDArray[np.float64]) -> FeatureBlock:
        """Run openSMILE on each window and on the whole clip."""
        rows = [functionals(clip.window(start_s, end_s), clip.sample_rate_hz) for start_s, end_s in windows_s]
        scalars = np.array(rows, np.float32).reshape(len(rows), len(NAMES))
        return FeatureBlock("opensmile", scalars, functionals(clip.samples, clip.sample_rate_hz))


@lru_cache(maxsize=1)
def _smile() -> opensmile.Smile:
    import opensmile

    return opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)


def functionals(samples: NDArray[np.float32], sample_rate_hz: int) -> NDArray[np.float32]:
    """Return the functionals of `samples` in the order of `NAMES`, as float32 (88,); NaN where undefined."""
    # openSMILE is given 16-bit integers, and full scale would wrap around.
    limited = np.clip(samples, -1.0, 1.0 - 2.0**-15)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Segment too short", category=UserWarning)
        values = _smile().process_signal(limited, sample_rate_hz).to_numpy(np.float32)[0].copy()
    if values[NAMES.index("VoicedSegmentsPerSec")] == 0:
        values[_VOICED] = np.nan
    if values[NAMES.index("MeanUnvoicedSegmentLength")] == 0:
        values[_UNVOICED] = np.nan
    return values


@hookimpl
def register_extractors(config: Config) -> list[OpensmileExtractor]:
    """Offer the extractor; it runs when a scan asks for ``--extractor opensmile``."""
    return [OpensmileExtractor()]


@hookimpl
def validate_config(config: Config) -> None:
    """Refuse rates at which the numbers would not be eGeMAPS."""
    if "opensmile" in config.extract.extractors and config.audio.sample_rate_hz < LOWEST_RATE_HZ:
        raise ConfigError(
            f"openSMILE's eGeMAPS needs audio.sample_rate_hz of {LOWEST_RATE_HZ} or more, "
            f"not {config.audio.sample_rate_hz}; raise it, or leave the extractor opensmile out."
        )
