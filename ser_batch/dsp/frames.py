"""Frame grids and tapers.

Times follow Praat's convention: sample ``i`` (from 0) lies at ``(i + 0.5) / sample_rate_hz``, and a grid of frames is
centred in the signal.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "HOP_S",
    "Doubles",
    "Floats",
    "Indices",
    "Singles",
    "fast_length",
    "frame_grid",
    "frame_times",
    "gaussian_taper",
    "hann_taper",
]

Singles = NDArray[np.float32]
Doubles = NDArray[np.float64]
#: Either of the two, but the same throughout one call.
Floats = NDArray[Any]
Indices = NDArray[np.int64]

#: Distance between frames of all contours, in s.
HOP_S: Final = 0.01


def frame_grid(duration_s: float, window_s: float, hop_s: float = HOP_S) -> tuple[int, float]:
    """Fit as many frames as possible symmetrically into a signal, as Praat does.

    Parameters
    ----------
    duration_s, window_s, hop_s : float
        Length of the signal and of a frame, and distance between frames.

    Returns
    -------
    n_frames : int
        0 when the signal is shorter than one frame.
    first_s : float
        Centre of the first frame.
    """
    if duration_s <= 0.0 or window_s > duration_s:
        return 0, 0.0
    n_frames = math.floor((duration_s - window_s) / hop_s) + 1
    return n_frames, 0.5 * duration_s - 0.5 * n_frames * hop_s + 0.5 * hop_s


def frame_times(n_frames: int, first_s: float) -> Doubles:
    """Return the centres of frames 10 ms apart."""
    return (first_s + HOP_S * np.arange(n_frames)).astype(np.float64)


def hann_taper(n_samples: int) -> Doubles:
    """Return a Hann taper whose zeros lie just outside of its `n_samples`."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1, n_samples + 1) / (n_samples + 1))


def gaussian_taper(n_samples: int) -> Doubles:
    """Return Praat's Gaussian taper: exp(-12) at the edges, shifted and scaled to reach 0 there and 1 in the middle."""
    middle = 0.5 * (n_samples + 1)
    edge = math.exp(-12.0)
    distance = (np.arange(1, n_samples + 1) - middle) / (n_samples + 1)
    return (np.exp(-48.0 * distance**2) - edge) / (1.0 - edge)


def fast_length(minimum: int) -> int:
    """Return the smallest multiple of 8 of at least `minimum` that is 1 or 9 times a power of 2, for `transform`."""
    exponent = max(math.ceil(math.log2(minimum)), 3)
    return 9 << (exponent - 4) if exponent > 6 and 9 << (exponent - 4) >= minimum else 1 << exponent
