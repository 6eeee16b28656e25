"""Signs that a recording is unlike what the model was trained on, with the thresholds that the report states."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["FLAGS", "Flag"]


@dataclass(frozen=True)
class Flag:
    """A threshold on one column of the files table."""

    name: str
    column: str
    compare: Callable[[NDArray[np.float64], float], NDArray[np.bool_]]
    threshold: float
    unit: str
    #: Why this makes a label doubtful.
    meaning: str

    def holds(self, values: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Tell which values are beyond the threshold; undefined ones are not."""
        return np.asarray(self.compare(values, self.threshold), bool)

    @property
    def rule(self) -> str:
        """The rule in words, with its unit."""
        sign = "below" if self.compare is operator.lt else "above"
        return f"{self.column} {sign} {self.threshold:g} {self.unit}".rstrip()


FLAGS = (
    Flag("narrow band", "quality__bandwidth_hz", operator.lt, 4_000, "Hz", "telephone-like; fricatives are missing"),
    Flag("noisy", "quality__snr_db", operator.lt, 10, "dB", "noise or music close to the level of the voice"),
    Flag("clipped", "quality__clipped_fraction", operator.gt, 0.005, "", "distortion may pass for anger"),
    Flag("very quiet", "quality__level_dbfs", operator.lt, -50, "dBFS", "near the noise of the recorder"),
    Flag("hardly any sound", "quality__active_s", operator.lt, 0.3, "s", "too little to judge"),
    Flag(
        "hardly voiced",
        "prosodic__voiced_fraction",
        operator.lt,
        0.05,
        "",
        "no melody of speech: whisper, noise, music",
    ),
    Flag("very short", "duration_s", operator.lt, 0.5, "s", "shorter than what the model was trained on"),
)
