"""Windows cover every recording, or all voice in it, whole or in pieces."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ser_batch.windows import LEAD_S, VoiceGrid, piece_windows, plan_windows, whole_pieces


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
        is_last = end == n_samples
        found.append(piece_windows(start / rate_hz, end / rate_hz, piece_s, window_s, hop_s, is_last))
        if is_last:
            break
        start += n_piece
    np.testing.assert_allclose(np.concatenate(found), plan_windows(n_samples / rate_hz, window_s, hop_s), atol=1e-9)


def test_an_empty_recording_has_no_window():
    assert plan_windows(0.0).shape == (0, 2)


@pytest.mark.parametrize(("duration_s", "n_windows"), [(0.02, 1), (3.0, 1), (3.00001, 1), (3.01, 2), (6.0, 2)])
def test_the_last_window_is_padded(duration_s, n_windows):
    assert len(plan_windows(duration_s)) == n_windows


@st.composite
def voices(draw: st.DrawFn) -> np.ndarray:
    """Stretches of voice with pauses between, in s."""
    lengths = draw(st.lists(st.tuples(st.floats(0.35, 9.0), st.floats(0.1, 15.0)), min_size=1, max_size=8))
    edges = np.cumsum(np.array(lengths).ravel())
    return edges.reshape(-1, 2)


@given(spans_s=voices(), hop_s=st.sampled_from([3.0, 1.0, 0.7]))
def test_windows_on_voice_cover_it_and_begin_where_it_begins(spans_s, hop_s):
    windows_s = VoiceGrid(3.0, hop_s).lay(spans_s, 0.0, spans_s[-1, 1] + 1.0)
    assert windows_s[0, 0] == pytest.approx(spans_s[0, 0] - LEAD_S)
    assert (np.diff(windows_s[:, 0]) > hop_s - 1e-9).all()
    assert (windows_s[:, 1] - windows_s[:, 0] <= 3.0 + 1e-9).all()
    for time_s in np.arange(0.0, spans_s[-1, 1], 0.05):
        is_voice = ((spans_s[:, 0] <= time_s) & (time_s < spans_s[:, 1] - LEAD_S)).any()
        near = np.abs(time_s - spans_s).min()
        is_covered = ((windows_s[:, 0] <= time_s) & (time_s <= windows_s[:, 1])).any()
        assert is_covered or not is_voice, "voice is seen, but for slivers"
        assert not is_covered or is_voice or near <= LEAD_S or len(spans_s) > 1, "silence around it is not"


# What is left behind the last whole window is just too short for one, and is so by rounding alone when it is moved.
@example(spans_s=np.array([[1.80937934, 16.80937934]]), hop_s=3.0, shift_s=0.1)
@given(spans_s=voices(), hop_s=st.sampled_from([3.0, 1.0]), shift_s=st.floats(0.0, 100.0))
def test_silence_in_front_moves_windows_by_its_length(spans_s, hop_s, shift_s):
    plain, moved = (VoiceGrid(3.0, hop_s).lay(spans_s + by_s, 0.0, 1_000.0) for by_s in (0.0, shift_s))
    np.testing.assert_allclose(moved - shift_s, plain, atol=1e-9)


@given(spans_s=voices(), hop_s=st.sampled_from([3.0, 1.0]), piece_s=st.sampled_from([3.0, 6.0, 30.0]))
def test_windows_on_voice_of_pieces_are_those_of_the_whole(spans_s, hop_s, piece_s):
    end_s = spans_s[-1, 1] + 1.0
    whole, grid, found, start_s = VoiceGrid(3.0, hop_s).lay(spans_s, 0.0, end_s), VoiceGrid(3.0, hop_s), [], 0.0
    while True:
        piece_end_s = min(start_s + piece_s + 3.0, end_s)
        heard_s = np.clip(spans_s, start_s, piece_end_s)
        heard_s = heard_s[heard_s[:, 1] > heard_s[:, 0]]
        found.append(grid.lay(heard_s, start_s, piece_end_s, piece_end_s == end_s))
        if piece_end_s == end_s:
            break
        start_s += piece_s
    np.testing.assert_allclose(np.concatenate(found)[:, 0], whole[:, 0], atol=1e-9)


def test_without_voice_there_is_no_window_on_it():
    assert VoiceGrid(3.0, 3.0).lay(np.zeros((0, 2)), 0.0, 60.0).shape == (0, 2)
