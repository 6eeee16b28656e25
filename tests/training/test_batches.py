"""What is drawn for a training step is what the same change of the audio itself would have given."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import soxr
import torch
from numpy.typing import NDArray

from ser_batch.classifier.dense import DENSE_FEATURES
from ser_batch.classifier.network import HybridCNN
from ser_batch.classifier.network_config import NetworkConfig
from ser_batch.classifier.pooling import pool_windows
from ser_batch.config import Config
from ser_batch.extractors import mel, prosodic, voice_quality
from ser_batch.records import Clip, LabelledClip
from ser_batch.training.batches import draw_batch, factors_of
from ser_batch.training.dataset import Dataset
from ser_batch.training.features import STEP_DB, FeatureTable
from ser_batch.training.rows import Rows, WindowScores
from ser_batch.training.train_config import DataConfig, FitConfig

RATE_HZ = 22_050
EXTRACTORS = [
    extractor for module in (mel, prosodic, voice_quality) for extractor in module.register_extractors(Config())
]
#: As they are: the whole window, nothing masked.
PLAIN = FitConfig(band_masks=0, frame_masks=0)


def voice(duration_s: float = 1.8) -> NDArray[np.float32]:
    """A gliding voice with a formant at 700 Hz, between 0.5 s of near-silence on either side."""
    times = np.arange(int(duration_s * RATE_HZ)) / RATE_HZ
    f0_hz = 160.0 * 2 ** (4.0 * times / duration_s / 12)
    phase = 2 * np.pi * np.cumsum(f0_hz) / RATE_HZ
    harmonics = [np.exp(-(((k * f0_hz - 700.0) / 150.0) ** 2)) + 0.3 / k for k in range(1, 40)]
    samples = sum(level * np.sin(k * phase) for k, level in enumerate(harmonics, start=1))
    fade = np.minimum(1, np.minimum(times, times[::-1]) / 0.05)
    samples = np.pad(0.1 * samples * fade, RATE_HZ // 2)
    return (samples + 1e-4 * np.random.default_rng(0).standard_normal(len(samples))).astype(np.float32)


def measured(samples: NDArray[np.float32]) -> tuple[NDArray[np.float32], dict[str, float]]:
    """Return the spectrogram in dB below its loudest cell, and the 13 features by name."""
    clip = Clip(samples, RATE_HZ, RATE_HZ, 1)
    blocks = [extractor.extract(clip, np.array([[0.0, 3.0]])) for extractor in EXTRACTORS]
    values = {
        column: float(block.scalars[0, index])
        for extractor, block in zip(EXTRACTORS, blocks, strict=True)
        for index, column in enumerate(extractor.spec.columns)
    }
    tensor = blocks[0].tensor[0]
    return tensor - tensor.max(), {name: values[name] for name in DENSE_FEATURES}


def rows_of(samples: NDArray[np.float32], count: int = 1) -> Rows:
    below, features = measured(samples)
    clips = [LabelledClip(f"{n}.wav", ("anger", "fear")[n % 2], f"s{n}", "", "own", "") for n in range(max(count, 2))]
    n = len(clips)
    table = FeatureTable(
        clip=np.arange(n),
        copy=np.zeros(n, np.int64),
        mel=np.repeat(np.clip(np.rint(-below / STEP_DB), 0, 255).astype(np.uint8)[None], n, axis=0),
        dense=np.repeat(np.array([list(features.values())], np.float32), n, axis=0),
        active_s=np.ones(n, np.float32),
        failures={},
    )
    return Rows.build(table, Dataset.build(clips, DataConfig(labels=("anger", "fear"))), "cpu")


def draw(rows: Rows, config: FitConfig, seed: int = 0):
    torch.manual_seed(seed)
    index = torch.arange(len(rows.codes))
    return draw_batch(rows, index, HybridCNN(NetworkConfig(n_labels=2)), config, np.random.default_rng(seed))


def test_nothing_asked_for_changes_nothing() -> None:
    rows = rows_of(voice())
    batch = draw(rows, PLAIN)
    torch.testing.assert_close(batch.mel, rows.mel(torch.arange(2)))
    torch.testing.assert_close(batch.features, rows.dense)


@pytest.mark.parametrize("factor", [0.88, 1.12])
def test_a_warped_voice_is_that_of_audio_played_faster(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = voice()
    played = np.asarray(soxr.resample(samples, factor * 10_000, 10_000, "HQ"), np.float32)
    expected, features = measured(played)
    monkeypatch.setattr("ser_batch.training.batches.factors_of", lambda count, *_: torch.full((count,), factor))
    batch = draw(rows_of(samples), replace(PLAIN, warp_frequency=0.15, warp_time=0.15))
    warped = dict(zip(DENSE_FEATURES, batch.features[0].tolist(), strict=True))
    # Both trackers' own tolerances: 0.2 st, 5 % of F1, a quarter of a slope of a few semitones per second.
    assert warped["prosodic__f0_median_st"] == pytest.approx(features["prosodic__f0_median_st"], abs=0.2)
    assert warped["voice_quality__f1_mean_hz"] == pytest.approx(features["voice_quality__f1_mean_hz"], rel=0.05)
    slope = "prosodic__f0_slope_st_per_s"
    assert features[slope] > 1
    assert warped[slope] == pytest.approx(features[slope], rel=0.25)
    unchanged, _ = measured(samples)
    assert far_from(batch.mel[0].numpy(), expected) < 0.6 * far_from(unchanged, expected)


def far_from(below: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Mean distance in dB where the voice sounds, to 4 kHz, whatever the level of the loudest cell."""
    loud = expected[:90] > -40
    difference = (np.maximum(below[:90], -50) - np.maximum(expected[:90], -50))[loud]
    return float(np.mean(np.abs(difference - np.median(difference))))


def test_beyond_the_window_there_is_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ser_batch.training.batches.factors_of", lambda count, *_: torch.full((count,), 1.3))
    batch = draw(rows_of(np.tile(voice(), 2)), replace(PLAIN, warp_time=0.4))
    assert (batch.mel[0, :, -25:] <= -255 * STEP_DB + 1).all()


def test_factors_reach_as_far_up_as_down() -> None:
    torch.manual_seed(0)
    factors = factors_of(20_000, 0.25, torch.device("cpu"))
    assert factors.min() == pytest.approx(0.8, abs=0.001)
    assert factors.max() == pytest.approx(1.25, abs=0.001)
    assert factors.log().mean() == pytest.approx(0.0, abs=0.003)


def test_a_crop_holds_the_whole_of_a_short_sound() -> None:
    rows = rows_of(voice(0.5), 64)
    batch = draw(rows, replace(PLAIN, crop_frames=48, warp_time=0.1))
    loud = (rows.mel(torch.arange(1))[0].amax(dim=0) > -20).sum()
    kept = (batch.mel.amax(dim=1) > -20).sum(dim=1)
    # At paces from 0.91 to 1.1, and give or take an edge.
    assert batch.mel.shape == (64, 128, 48)
    assert kept.min() >= loud / 1.1 - 2
    assert kept.max() <= loud * 1.1 + 2


def test_windows_are_pooled_as_a_scan_pools_them() -> None:
    clips = [LabelledClip(f"{n}.wav", ("anger", "fear")[n % 2], f"s{n}", "", "own", "") for n in range(3)]
    # Hardly audible beside audible, hardly audible alone, and silence.
    active_s = np.array([2.0, 0.05, 0.0, 0.05, 0.02, 0.0, 0.0], np.float32)
    clip = np.array([0, 0, 0, 1, 1, 2, 2])
    table = FeatureTable(
        clip=np.tile(clip, 2),
        copy=np.repeat([0, 1], len(clip)),
        mel=np.zeros((2 * len(clip), 128, 130), np.uint8),
        dense=np.zeros((2 * len(clip), 13), np.float32),
        active_s=np.tile(active_s, 2),
        failures={},
    )
    rows = Rows.build(table, Dataset.build(clips, DataConfig(labels=("anger", "fear"))), "cpu")
    said = np.random.default_rng(0).dirichlet((1, 1), len(clip))
    scores = WindowScores(np.log(said).astype(np.float32), clip, rows.share[: len(clip)], np.arange(3))
    for number, found in enumerate(scores.probabilities()):
        own = clip == number
        pooled = pool_windows(("anger", "fear"), said[own].astype(np.float32), active_s[own])
        np.testing.assert_allclose(found, pooled.probabilities, atol=1e-6)
    # Copies are clips of their own.
    np.testing.assert_array_equal(rows.share[len(clip) :], rows.share[: len(clip)])
