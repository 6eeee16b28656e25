"""What the built-in extractors compile, cut into units that several processes compile side by side.

Whatever needs F0, or what comes of it, is shown a made-up one: so no unit waits for another, and each takes the very
way that clips take.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ser_batch.dsp.cepstrum import CepstralProminence
from ser_batch.dsp.frames import HOP_S, frame_times
from ser_batch.dsp.harmonicity import Harmonicity
from ser_batch.dsp.highpass import HighPass
from ser_batch.dsp.pitch import F0Track
from ser_batch.extractors import analyses
from ser_batch.extractors.mel import MelExtractor
from ser_batch.extractors.prosodic import ProsodicExtractor
from ser_batch.extractors.quality import QualityExtractor
from ser_batch.extractors.voice_quality import VoiceQualityExtractor
from ser_batch.extractors.voicing import voice_spans
from ser_batch.records import Clip

__all__ = ["units"]

#: Frames of what is made up, and bins of its spectra.
_N_FRAMES, _N_BINS = 200, 513
_F0_HZ = 175.0


def units(clip: Clip, windows_s: NDArray[np.float64], extractors: Collection[str]) -> dict[int, Callable[[], object]]:
    """Return the units that some extractors need, by their numbers, in the order in which they are best begun.

    Parameters
    ----------
    clip : Clip
        2 s or more.
    windows_s : float64 (n_windows, 2)
        Windows of `clip`.
    extractors : collection of str
        Their names.
    """

    def but(*unknown: str) -> Clip:
        """Return the clip with all that others analyse, but for what is `unknown`."""
        return replace(clip, _analyses={name: value for name, value in known.items() if name not in unknown})

    known = _made_up()
    offered: list[tuple[str, Callable[[], object]]] = [
        ("", lambda: analyses.pitch(but("pitch"))),
        ("mel", lambda: MelExtractor(clip.sample_rate_hz).extract(but(), windows_s)),
        ("voice_quality", lambda: analyses.pulses(but("pulses"))),
        ("voice_quality", lambda: analyses.formants(but("formants"))),
        ("voice_quality", lambda: VoiceQualityExtractor().extract(but(), windows_s)),
        ("quality", lambda: QualityExtractor().extract(but(), windows_s)),
        ("prosodic", lambda: ProsodicExtractor().extract(but(), windows_s)),
        ("", lambda: (HighPass(clip.sample_rate_hz)(clip.samples), voice_spans(but()))),
        ("voice_quality", lambda: analyses.cepstrum(but("cepstrum"))),
        ("voice_quality", lambda: analyses.hnr(but("harmonicity"))),
        ("quality", lambda: analyses.quiet_spectrum(but("quiet_spectrum"), 1)),
    ]
    return {number: unit for number, (name, unit) in enumerate(offered) if not name or name in extractors}


def _made_up() -> dict[str, object]:
    """Return, of each analysis that takes long to compile or waits for one that does, what could have come of it."""
    times_s = frame_times(_N_FRAMES, HOP_S)
    each = np.arange(_N_FRAMES)
    # It moves, as that of voices does.
    values = np.asarray(_F0_HZ * (1 + 0.1 * np.sin(each)), np.float64)
    spectra = np.ones((_N_FRAMES, _N_BINS), np.float32)
    return {
        "pitch": F0Track(times_s, values, values / _F0_HZ, spectra, each, _F0_HZ / 8),
        "quiet_spectrum": spectra[0],
        "harmonicity": Harmonicity(times_s, values),
        "cepstrum": CepstralProminence(times_s, values),
        "pulses": (times_s, values),
        "formants": analyses.Formants(times_s, np.ones((_N_FRAMES, 3)), np.ones((_N_FRAMES, 3))),
    }
