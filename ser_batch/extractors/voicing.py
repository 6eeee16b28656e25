"""Where in a recording somebody is heard: what windows are laid on, and what a label needs at all.

Only clear cases have no voice: silence, stationary noise, and tones that hold pitch or level as no throat can. Music
that is sung, or whose pitch moves, cannot be told from a voice by what is measured here.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ser_batch.dsp.contour import describe
from ser_batch.dsp.frames import HOP_S
from ser_batch.dsp.intensity import intensity
from ser_batch.dsp.level import first_without_gap
from ser_batch.extractors.analyses import f0_semitones, level, pitch, signal
from ser_batch.records import Clip

__all__ = ["voice_spans"]

#: Fewer voiced frames in a row are as likely noise.
_FEWEST_FRAMES: Final = 5
#: F0 that moves less than this from frame to frame, for as many frames, is held by an instrument.
_HELD_ST: Final = 0.03
_HELD_FRAMES: Final = 10
#: Voices are voiced with a moving pitch for most of the time: of 2,200 clips none holds it for more than 0.17 of it.
_MOST_HELD: Final = 0.4
#: Where fewer frames are voiced, these may be chance, too: noise has such frames where it is strongest at about 100 Hz.
_RARELY_VOICED: Final = 0.1
#: Levels that vary less than this among active frames are of stationary noise; no gasp or whisper is so even.
_EVEN_DB: Final = 3.0
#: A second of sound that varies less than this is made by a machine: of 12,006 clips the evenest varies by 1.7 dB, and
#: speech that is overdriven by 50 dB by 0.5.
_MACHINE_DB: Final = 0.2
_MACHINE_S: Final = 1.0
#: The loudest frame of noise stands out from the usual ones by less than this, however steep the noise is.
_STANDS_OUT_DB: Final = 16.0
_ACTIVE_RANGE_DB: Final = 35.0
#: What lies within this range of unvoiced sounds is taken for them.
_LOUD_RANGE_DB: Final = 20.0
#: Consonants and breath beside voiced frames belong to them: samples of this share of the voice's level, without a gap.
_AUDIBLE: Final = 0.1
_GAP_S: Final = 0.05
_FARTHEST_S: Final = 0.3
#: Shorter pauses do not part a stretch.
_PAUSE_S: Final = 0.3


def voice_spans(clip: Clip) -> NDArray[np.float64]:
    """Find the stretches of voice.

    Parameters
    ----------
    clip : Clip

    Returns
    -------
    float64 (n_spans, 2)
        Start and end in s of the recording, rising, apart by more than 0.3 s; empty where there is no voice. Onsets and
        ends are found to the sample, so that silence in front moves spans by its own length.
    """
    return clip.shared("voice_spans", lambda: _spans(clip))


def _spans(clip: Clip) -> NDArray[np.float64]:
    levels = level(clip)
    if not len(levels.times_s) or np.isnan(levels.level_db).all():
        return np.zeros((0, 2))
    if clip.duration_s >= _MACHINE_S and np.diff(_usual_and_loud(levels.level_db)) < _MACHINE_DB:
        return np.zeros((0, 2))
    semitones = f0_semitones(clip)
    voiced = ~np.isnan(semitones)
    stretches = _stretches(voiced, _FEWEST_FRAMES)
    if (not len(stretches) or voiced.mean() < _RARELY_VOICED) and _is_even(clip, is_voiced=bool(len(stretches))):
        return np.zeros((0, 2))
    if len(stretches):
        held = _stretches(np.abs(np.diff(semitones)) < _HELD_ST, _HELD_FRAMES - 1)
        if (held[:, 1] - held[:, 0] + 1).sum() > _MOST_HELD * voiced.sum():
            return np.zeros((0, 2))
        times_s = pitch(clip).times_s
        middles_s = times_s[voiced]
        nearest = np.rint((middles_s - levels.times_s[0]) / HOP_S).astype(np.int64).clip(0, len(levels.times_s) - 1)
        loudness_db = float(describe(levels.level_db[nearest])[0])
    else:
        _, loudness_db = _usual_and_loud(levels.level_db)
        times_s = levels.times_s
        stretches = _stretches(levels.level_db > loudness_db - _LOUD_RANGE_DB, 1)
    spans_s = times_s[stretches - [0, 1]]
    samples, audible, rate_hz = signal(clip), np.float32(_AUDIBLE * 10 ** (loudness_db / 20)), clip.sample_rate_hz
    edges_s = [
        (
            _onset(samples, audible, start_s, rate_hz, is_end=False),
            clip.duration_s - _onset(samples, audible, clip.duration_s - end_s, rate_hz, is_end=True),
        )
        for start_s, end_s in _joined(spans_s, _PAUSE_S).tolist()
    ]
    return clip.start_s + _joined(np.array(edges_s), _PAUSE_S)


def _is_even(clip: Clip, *, is_voiced: bool) -> bool:
    """Say whether a recording is stationary noise.

    Of noise that is strongest where it is lowest few bands make the level, and it wanders; that of its slope is even,
    or, where nothing stands out, that of the slope's slope: to the loudest frame, since a short voice in a long noise
    is no more than that.
    """
    level_db = level(clip).level_db
    if not is_voiced and np.diff(_usual_and_loud(level_db)) < _EVEN_DB:
        return True
    for order in (1, 2) if _above_usual(level_db) < _STANDS_OUT_DB else (1,):
        slope_db = intensity(np.diff(signal(clip), order), float(clip.sample_rate_hz)).level_db
        if _above_usual(slope_db) < _EVEN_DB:
            return True
    return False


def _above_usual(level_db: NDArray[np.float64]) -> float:
    """Return how far the loudest frame stands out from the quieter of the active ones."""
    return float(np.nanmax(level_db) - _usual_and_loud(level_db)[0])


def _usual_and_loud(level_db: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the levels below which a fifth of the active frames lie, and all but a twentieth."""
    active_db = level_db[level_db > np.nanmax(level_db) - _ACTIVE_RANGE_DB]
    return np.percentile(active_db, [20, 95])


def _stretches(inside: NDArray[np.bool_], n_fewest: int) -> NDArray[np.int64]:
    """Return first and last-but-one index, (n, 2), of each stretch that is long enough."""
    edges = np.flatnonzero(np.diff(inside, prepend=False, append=False)).reshape(-1, 2)
    return edges[edges[:, 1] - edges[:, 0] >= n_fewest]


def _joined(spans_s: NDArray[np.float64], pause_s: float) -> NDArray[np.float64]:
    """Join spans with a pause between them that is too short to count, or none."""
    is_apart = spans_s[1:, 0] - np.maximum.accumulate(spans_s[:-1, 1]) > pause_s
    first = np.flatnonzero(np.concatenate([[True], is_apart]))
    last = np.concatenate([first[1:] - 1, [len(spans_s) - 1]])
    return np.column_stack([spans_s[first, 0], np.maximum.accumulate(spans_s[:, 1])[last]])


def _onset(samples: NDArray[np.float32], audible: np.float32, voiced_s: float, rate_hz: int, is_end: bool) -> float:
    """Return where the sound that leads to a voiced frame begins, at most 0.3 s before it; from the end backwards where
    `is_end`."""
    first = max(round((voiced_s - _FARTHEST_S) * rate_hz), 0)
    last = min(round((voiced_s + 2 * HOP_S) * rate_hz), len(samples))
    place = first_without_gap(samples, audible, first, last, int(_GAP_S * rate_hz), is_end)
    return place / rate_hz if place >= 0 else voiced_s
