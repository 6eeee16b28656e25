"""The window grid: where the stretches given to the network begin and end."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["piece_windows", "plan_windows", "whole_pieces"]


def plan_windows(duration_s: float, window_s: float = 3.0, hop_s: float = 3.0) -> NDArray[np.float64]:
    """Cover a recording with windows; the last one may reach beyond the end and is padded.

    Parameters
    ----------
    duration_s : float
        Length of the recording, 0 or more.
    window_s, hop_s : float
        Length of a window and distance between starts, with ``0 < hop_s <= window_s``.

    Returns
    -------
    windows_s : float64 (n_windows, 2)
        Start and end of each window in s. At least one window, unless `duration_s` is 0; together they cover the
        recording, and none starts at or after its end.
    """
    if duration_s <= 0:
        return np.zeros((0, 2))
    # A remainder below a tenth of a millisecond is rounding of the sample grid, not audio.
    n_windows = 1 + max(0, math.ceil((duration_s - window_s) / hop_s - 1e-4))
    starts = np.arange(n_windows) * hop_s
    return np.column_stack([starts, starts + window_s])


def whole_pieces(piece_s: float, window_s: float, hop_s: float) -> tuple[float, float]:
    """Fit pieces of a long recording to the window grid.

    Returns
    -------
    piece_s : float
        The largest whole number of hops within `piece_s`, at least one hop.
    overlap_s : float
        How far a piece must reach beyond the start of the next one for the windows that begin in it to be whole.
    """
    return max(math.floor(piece_s / hop_s + 1e-9), 1) * hop_s, window_s - hop_s


def piece_windows(start_s: float, end_s: float, window_s: float, hop_s: float) -> NDArray[np.float64]:
    """Return the windows of the whole recording's grid that belong to the piece from `start_s` to `end_s`.

    A window belongs to the piece in which it begins. The windows of consecutive pieces, of lengths by `whole_pieces`,
    are together those of `plan_windows`; the last piece may have none, where the one before already covers its end.

    Returns
    -------
    windows_s : float64 (n_windows, 2)
        Start and end in s of the recording.
    """
    windows_s = plan_windows(end_s, window_s, hop_s)
    return windows_s[windows_s[:, 0] > start_s - hop_s * 1e-3]
