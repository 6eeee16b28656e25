"""Makes labelled clips from nothing: voices whose pitch, tremor and breath differ by label, so they can be learnt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

LABELS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")

#: Label -> mean F0 (Hz), glide (semitones over the clip), syllables per second, breath (share of noise).
_MANNERS = {
    "anger": (210.0, -4.0, 5.0, 0.05),
    "disgust": (120.0, -2.0, 2.5, 0.3),
    "fear": (300.0, 2.0, 7.0, 0.2),
    "happiness": (260.0, 6.0, 4.0, 0.02),
    "sadness": (140.0, -6.0, 1.5, 0.1),
    "surprise": (330.0, 10.0, 2.0, 0.02),
}


def speak(label: str, speaker: int, take: int, duration_s: float = 1.2, rate_hz: int = 16_000) -> NDArray[np.float64]:
    """Return a voiced sound with harmonics and syllables; no two (label, speaker, take) are the same."""
    rng = np.random.default_rng([LABELS.index(label), speaker, take])
    f0_hz, glide_st, syllables, breath = _MANNERS[label]
    times = np.arange(int(duration_s * rate_hz)) / rate_hz
    track = f0_hz * (1 + 0.04 * speaker) * 2 ** ((glide_st * (times / duration_s - 0.5) + rng.uniform(-1, 1)) / 12)
    # A pitch that no throat could hold so evenly would be an instrument's.
    track = track * (1 + 0.02 * np.sin(2 * np.pi * 4.3 * times))
    phase = 2 * np.pi * np.cumsum(track) / rate_hz
    voice = sum(np.sin(number * phase) / number for number in range(1, 9))
    loudness = 0.55 + 0.45 * np.sin(2 * np.pi * syllables * rng.uniform(0.9, 1.1) * times)
    return 0.1 * (loudness * voice + breath * rng.standard_normal(len(times)))


def write_clip(path: Path, label: str = "anger", speaker: int = 1, take: int = 1, duration_s: float = 1.2) -> Path:
    """Write one clip in the format that its suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, speak(label, speaker, take, duration_s), 16_000)
    return path


def write_folder(folder: Path, labels: tuple[str, ...] = LABELS, n_speakers: int = 3, n_takes: int = 2) -> Path:
    """Write ``folder/<label>/sN_T.wav`` for all labels, speakers and takes."""
    for label in labels:
        for speaker in range(1, n_speakers + 1):
            for take in range(1, n_takes + 1):
                write_clip(folder / label / f"s{speaker}_{take}.wav", label, speaker, take)
    return folder
