"""Windows: where the stretches given to the network begin and end."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEAD_S", "VoiceGrid", "piece_windows", "plan_windows", "whole_pieces"]

#: What a window shows before the first voice in it, and behind the last; less voice is no reason for a window.
LEAD_S = 0.25
#: Less than a sample: what is no longer than this is the rounding of sums.
_ROUNDING_S = 1e-7


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
    """Fit pieces of a long recording to windows.

    Returns
    -------
    piece_s : float
        The largest whole number of hops within `piece_s`, at least one hop.
    overlap_s : float
        How far a piece must reach beyond the start of the next one for every window that begins in it to be whole.
    """
    return max(math.floor(piece_s / hop_s + 1e-9), 1) * hop_s, window_s


def piece_windows(
    start_s: float, end_s: float, piece_s: float, window_s: float, hop_s: float, is_last: bool = True
) -> NDArray[np.float64]:
    """Return the windows of the whole recording's grid that begin in the piece from `start_s` to `end_s`.

    Those of consecutive pieces, of lengths by `whole_pieces`, are together those of `plan_windows`; the last piece may
    have none, where the one before already covers its end.

    Returns
    -------
    windows_s : float64 (n_windows, 2)
        Start and end in s of the recording.
    """
    covered_s = end_s if is_last else start_s + piece_s - hop_s + window_s
    windows_s = plan_windows(covered_s, window_s, hop_s)
    return windows_s[windows_s[:, 0] > start_s - hop_s * 1e-3]


class VoiceGrid:
    """Lays windows on the voice of one recording, piece by piece, whatever the clock says.

    A window begins `LEAD_S` before a stretch of voice, or one hop after the start of the one before where voice goes on
    beyond that one's end; it ends after `window_s`, or `LEAD_S` behind the last voice in it. So silence around a
    recording, and the length of a pause, move windows and change none.

    Parameters
    ----------
    window_s, hop_s : float
        Length of a window, and distance between starts where voice goes on, with ``0 < hop_s <= window_s``.
    """

    def __init__(self, window_s: float, hop_s: float) -> None:
        self._window_s, self._hop_s = window_s, hop_s
        # A shorter window than two leads would lie beside the voice, or beside the recording.
        self._lead_s = min(LEAD_S, window_s / 2)
        #: No window begins before; what lies before `window_s - hop_s` later is covered.
        self._next_s = -math.inf

    def lay(
        self, spans_s: NDArray[np.float64], start_s: float, end_s: float, is_last: bool = True
    ) -> NDArray[np.float64]:
        """Return the windows of a piece; one that does not fit into it is left for the next piece, if there is one.

        Parameters
        ----------
        spans_s : float64 (n_spans, 2)
            Start and end in s of each stretch of voice, rising.
        start_s, end_s : float
            Of the piece.
        is_last : bool

        Returns
        -------
        windows_s : float64 (n_windows, 2)
            Start and end in s of the recording. They may reach `LEAD_S` beyond the ends of the recording.
        """
        begins_s: list[float] = []
        earliest_s = start_s if start_s > 0 else -self._lead_s
        for span_start_s, span_end_s in spans_s:
            while span_end_s > self._next_s - self._hop_s + self._window_s + self._lead_s + _ROUNDING_S:
                begin_s = max(span_start_s - self._lead_s, self._next_s, earliest_s)
                if not is_last and begin_s + self._window_s > end_s:
                    return self._ended(begins_s, spans_s)
                begins_s.append(begin_s)
                self._next_s = begin_s + self._hop_s
        return self._ended(begins_s, spans_s)

    def _ended(self, begins_s: list[float], spans_s: NDArray[np.float64]) -> NDArray[np.float64]:
        windows_s = np.array([(begin_s, begin_s + self._window_s) for begin_s in begins_s]).reshape(-1, 2)
        for window_s in windows_s:
            heard_s = spans_s[spans_s[:, 0] < window_s[1], 1]
            window_s[1] = min(window_s[1], heard_s.max() + self._lead_s)
        return windows_s
