"""Agreement with Praat on real recordings, at the bars that docs/features.md states."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("parselmouth", reason="Praat is the reference; install the benchmark extra")
agreement = pytest.importorskip("benchmarks.agreement", reason="runs from the repository root")


@pytest.mark.corpora
@pytest.mark.parametrize("n_clips", [4, pytest.param(12, marks=pytest.mark.reliability)])
@pytest.mark.parametrize("audio", ["as recorded", "noise at 10 dB", "digital silence put in"])
def test_recordings_agree_with_praat(corpora_dir, audio, n_clips):
    rng = np.random.default_rng(0)
    clips = [agreement.read(path) for path in agreement.clip_paths(corpora_dir, n_clips)]
    noisy = audio.startswith("noise")
    if noisy:
        clips = [agreement.with_noise(samples, rng) for samples in clips]
    elif audio.startswith("digital"):
        clips = [agreement.with_zeros(samples) for samples in clips[:6]]
    ours, theirs = agreement.both(clips)
    measured = {what: float(value.split()[0].rstrip(",")) for what, value, _ in agreement.rows(ours, theirs, noisy)}
    assert measured["F0: voicing decisions that differ"] <= 0.1
    assert measured["F0: median difference"] <= 0.1
    assert measured["F0: gross errors over 20 %"] <= 0.1
    assert measured["HNR per clip, median difference"] <= 0.05
    assert measured["jitter (local): median difference"] <= 0.01
    assert measured["shimmer (local): median difference"] <= 0.05
    if not noisy:
        assert measured["F1, F2, F3 means: median differences"] <= 15
    assert measured["CPPS per clip: largest difference"] <= 0.5


@pytest.mark.corpora
def test_recordings_have_librosas_mel(corpora_dir):
    pytest.importorskip("librosa")
    for path in agreement.clip_paths(corpora_dir, 2):
        assert agreement.mel_difference_db(agreement.read(path)) <= 0.001
