"""Speech is found where it is, and nothing in noise or tones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import ser_batch_vad
import soundfile

import ser_batch
from ser_batch import Clip, Config
from ser_batch.plugins import PluginRecipe
from ser_batch.testing import check_signals

RATE_HZ = 22_050
VOICES = Path(__file__).parents[3] / "data/samples/voices"


@pytest.fixture(scope="module")
def voice() -> np.ndarray:
    samples, rate_hz = soundfile.read(VOICES / "low_slow.flac", dtype="float32")
    assert rate_hz == RATE_HZ
    return samples


def test_speech_between_pauses_is_found(voice: np.ndarray) -> None:
    pause = np.zeros(2 * RATE_HZ, np.float32)
    clip = Clip(np.concatenate([pause, voice, pause, voice, pause]), RATE_HZ, RATE_HZ, 1, start_s=60.0)
    found = ser_batch_vad.find_segments(clip)
    length_s = len(voice) / RATE_HZ
    for begin_s in (62.0, 64.0 + length_s):
        inside = [item for item in found if begin_s - 0.3 <= item.start_s and item.end_s <= begin_s + length_s + 0.3]
        assert sum(item.end_s - item.start_s for item in inside) > 0.6 * length_s
    assert sum(item.end_s - item.start_s for item in found) < 2 * length_s + 1
    assert {item.source for item in found} == {"silero-vad"}


@pytest.mark.parametrize("kind", ["silence", "pure tone", "white noise"])
def test_nothing_is_found_where_nobody_speaks(kind: str) -> None:
    samples = check_signals(RATE_HZ)[kind].copy()
    assert ser_batch_vad.find_segments(Clip(samples, RATE_HZ, RATE_HZ, 1)) == []


def test_a_scan_takes_its_segments(tmp_path: Path, voice: np.ndarray) -> None:
    soundfile.write(tmp_path / "one.wav", voice, RATE_HZ)
    config = Config().with_values({"segments": {"source": "voice"}, "predict": {"model": ""}, "extract": {"jobs": 1}})
    recipe = PluginRecipe(files=(ser_batch_vad.__file__,), entry_points=())
    ser_batch.scan([tmp_path / "one.wav"], tmp_path / "run", config=config, plugins=recipe, report=False)
    segments = ser_batch.load_results(tmp_path / "run", "segments")
    assert len(segments)
    assert set(segments.source) == {"silero-vad"}
