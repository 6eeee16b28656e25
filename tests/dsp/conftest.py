"""What the tests of the analyses share."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest


@pytest.fixture
def praat() -> SimpleNamespace:
    """Praat as a reference: `sound` makes a Sound of samples at a rate, `call` runs a command."""
    parselmouth = pytest.importorskip("parselmouth", reason="Praat is the reference; install the benchmark extra")

    def sound(samples, rate_hz=22_050.0):
        return parselmouth.Sound(samples.astype(np.float64), rate_hz)

    return SimpleNamespace(sound=sound, call=parselmouth.praat.call)
