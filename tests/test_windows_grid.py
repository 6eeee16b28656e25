"""The window grid covers every recording, whole or in pieces."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ser_batch.windows import piece_windows, plan_windows, whole_pieces


@given(
    duration_s=st.floats(0.001, 500.0),
    window_s=st.floats(0.5, 5.0),
    share=st.floats(0.1, 1.0),
)
def test_windows_cover_the_recording_and_none_begins_after_it(duration_s, window_s, share):
    hop_s = window_s * share
    windows_s = plan_windows(duration_s, window_s, hop_s)
    assert windows_s[0, 0] == 0
    assert windows_s[-1, 1] >= duration_s - 1e-3
    assert windows_s[-1, 0] < duration_s
    np.testing.assert_allclose(np.diff(windows_s[:, 0]), hop_s, rtol=1e-9)


@given(
    n_samples=st.integers(1, 40_000),
    window_s=st.sampled_from([1.0, 3.0, 2.5]),
    share=st.sampled_from([1.0, 0.5, 0.25, 0.3]),
    piece_s=st.sampled_from([3.0, 7.0, 10.0]),
)
def test_windows_of_pieces_are_those_of_the_whole(n_samples, window_s, share, piece_s):
    """Cut as the reader does: pieces that reach an overlap into the next one, as long as there is more."""
    rate_hz, hop_s = 1_000, window_s * share
    piece_s, overlap_s = whole_pieces(piece_s, window_s, hop_s)
    n_piece, n_overlap = round(piece_s * rate_hz), round(overlap_s * rate_hz)
    found, start = [], 0
    while True:
        end = min(start + n_piece + n_overlap, n_samples)
        found.append(piece_windows(start / rate_hz, end / rate_hz, window_s, hop_s))
        if end == n_samples:
            break
        start += n_piece
    np.testing.assert_allclose(np.concatenate(found), plan_windows(n_samples / rate_hz, window_s, hop_s), atol=1e-9)


def test_an_empty_recording_has_no_window():
    assert plan_windows(0.0).shape == (0, 2)


@pytest.mark.parametrize(("duration_s", "n_windows"), [(0.02, 1), (3.0, 1), (3.00001, 1), (3.01, 2), (6.0, 2)])
def test_the_last_window_is_padded(duration_s, n_windows):
    assert len(plan_windows(duration_s)) == n_windows
