"""Speech found by Silero VAD, as segments: for recordings with music, noise or hum, where F0 alone says too much."""

from __future__ import annotations

import functools
from importlib import metadata
from typing import TYPE_CHECKING

import numpy as np

from ser_batch import Clip, Segment, hookimpl

if TYPE_CHECKING:
    from silero_vad.sequence_vad import SileroVADSequence

__all__ = ["FINDER_VERSION", "find_segments"]

_RATE_HZ = 16_000
#: Longer speech is cut at its longest pause, in s.
_LONGEST_S = 30.0
_RULES = {"threshold": 0.5, "min_speech_duration_ms": 250, "min_silence_duration_ms": 300, "speech_pad_ms": 100}


def _version() -> str:
    try:
        return f"1, silero-vad {metadata.version('silero-vad')}"
    except metadata.PackageNotFoundError:  # then nothing can be found, and the error says so
        return "1"


#: Raised whenever other segments are found; the model comes with the package.
FINDER_VERSION = _version()


@functools.cache
def _model() -> SileroVADSequence:
    from silero_vad import load_silero_vad

    return load_silero_vad(sequence=True)


@hookimpl
def find_segments(clip: Clip) -> list[Segment]:
    """Find speech."""
    import soxr
    from silero_vad import get_speech_timestamps_sequence

    samples = soxr.resample(clip.samples, clip.sample_rate_hz, _RATE_HZ).astype(np.float32)
    found = get_speech_timestamps_sequence(samples, _model(), max_speech_duration_s=_LONGEST_S, **_RULES)
    times_s = [(item["start"] / _RATE_HZ + clip.start_s, item["end"] / _RATE_HZ + clip.start_s) for item in found]
    return [Segment(start_s, end_s, source="silero-vad") for start_s, end_s in times_s]
