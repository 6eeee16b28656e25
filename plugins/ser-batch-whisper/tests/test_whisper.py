"""What Whisper hears is computed as it was there, alike on every runtime, and a scan carries it like any model."""

from __future__ import annotations

from pathlib import Path

import librosa
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from ser_batch_whisper import MODELS, validate_config
from ser_batch_whisper.classifier import WEIGHTS, TorchWhisperClassifier, audible_stretch, load, read_weights
from ser_batch_whisper.encoder import run_torch
from ser_batch_whisper.mel import FLOOR, WhisperMelExtractor, log_mel

from ser_batch import Clip, Config, EmotionPredictor, FeatureBlock, scan
from ser_batch.errors import ConfigError, ModelError
from ser_batch.testing import check_extractor, check_signals

RATE_HZ = 22_050


def block_of(samples: np.ndarray, windows_s: list[tuple[float, float]]) -> dict[str, FeatureBlock]:
    clip = Clip(samples.copy(), RATE_HZ, RATE_HZ, 1)
    return {"whisper_mel": WhisperMelExtractor().extract(clip, np.array(windows_s))}


def test_conforms() -> None:
    report = check_extractor(WhisperMelExtractor())
    assert report.ok, str(report)


def test_the_spectrogram_is_that_of_librosa() -> None:
    voice = check_signals(16_000)["voice"][:48_000]
    power = librosa.feature.melspectrogram(y=voice, sr=16_000, n_fft=400, hop_length=160, n_mels=80, pad_mode="reflect")
    expected = np.log10(np.maximum(power, 1e-10))[:, :300]
    assert np.abs(log_mel(voice, 16_000) - expected).max() < 2e-3


def test_a_window_is_cut_to_what_is_audible_and_silence_to_nothing() -> None:
    mel = np.full((80, 300), FLOOR, np.float32)
    assert audible_stretch(mel) is None
    mel[:, 100:150] = -2
    cut, audible = audible_stretch(mel) or (None, None)
    assert cut is not None
    assert audible is not None
    assert cut.shape == (80, 66)  # eight frames on either side
    assert audible.sum() == 25
    assert len(audible) == 33


@pytest.mark.parametrize("n_frames", [1, 2, 17, 144, 300])
def test_onnxruntime_gives_what_torch_gives(n_frames: int) -> None:
    weights, _, _ = read_weights(WEIGHTS)
    mel = np.random.default_rng(n_frames).normal(0, 0.4, (80, n_frames)).astype(np.float32)
    tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
    by_torch = [layer[0].numpy() for layer in run_torch(tensors, torch.from_numpy(mel)[None])]
    by_onnx = load("ser7-large", None, "cpu").encode(mel)
    for one, other in zip(by_torch, by_onnx, strict=True):
        assert one.shape == other.shape == (-(-n_frames // 2), 384)
        assert np.abs(one - other).max() < 1e-3


def test_the_model_of_six_is_that_of_seven_without_neutral() -> None:
    blocks = block_of(check_signals(RATE_HZ)["voice"], [(0.0, 3.0), (3.0, 6.0)])
    weights, meta, sha256 = read_weights(WEIGHTS)
    even = {**meta, "temperatures": dict.fromkeys(MODELS, 1.0)}
    six, seven = (
        TorchWhisperClassifier(name, weights, even, kept, sha256, device="cpu").predict(blocks)[0]
        for name, kept in (("ser6-large", [0, 1, 2, 3, 5, 6]), ("ser7-large", range(7)))
    )
    without = np.delete(seven, meta["labels"].index("neutral"), axis=1)
    np.testing.assert_allclose(six, without / without.sum(axis=1, keepdims=True), atol=1e-5)


def test_labels_are_made_of_what_was_heard_alone() -> None:
    model = load("ser7-large", None, "cpu")
    blocks = block_of(check_signals(RATE_HZ)["voice"], [(0.0, 3.0), (3.0, 6.0)])
    heard, seconds = model.listen(blocks)
    assert heard.shape == (2, model.n_embedding)
    assert (seconds > 0).all()
    # Half precision is what a run keeps.
    np.testing.assert_allclose(model.label(heard.astype(np.float16)), model.predict(blocks)[0], atol=5e-3)
    assert model.listening_sha256 == load("ser6-large", list(MODELS["ser6-large"] or ()), "cpu").listening_sha256


def test_a_scan_gives_the_same_table_with_one_and_with_two_workers(tmp_path: Path) -> None:
    audio = tmp_path / "audio"
    audio.mkdir()
    for name, samples in check_signals(RATE_HZ).items():
        soundfile.write(audio / f"{name.replace(' ', '_')}.wav", samples, RATE_HZ, subtype="FLOAT")
    tables = []
    for jobs in (1, 2):
        config = Config().with_values(
            {"predict": {"model": "ser6-large", "device": "cpu"}, "extract": {"jobs": jobs, "extractors": []}}
        )
        scan([audio], tmp_path / f"run{jobs}", config=config, report=False)
        table = pd.read_parquet(tmp_path / f"run{jobs}" / "files")
        tables.append(table.drop(columns=[name for name in table if name.startswith("time_")]))
    pd.testing.assert_frame_equal(*tables)
    ok = tables[0][tables[0]["status"] == "ok"]
    assert len(ok) >= 3
    shares = ok[[name for name in ok if name.startswith("p_")]]
    assert list(shares) == [f"p_{label}" for label in MODELS["ser6-large"] or ()]
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)


def test_the_predictor_takes_the_model_by_name() -> None:
    predictor = EmotionPredictor("ser7-large", "cpu")
    result = predictor.predict_samples(check_signals(RATE_HZ)["voice"], RATE_HZ)
    assert result.emotion in predictor.labels
    assert "neutral" in predictor.labels


def test_what_the_model_did_not_learn_from_is_refused() -> None:
    own = {"predict": {"model": "ser6-large"}}
    with pytest.raises(ConfigError, match=r"audio\.window_s is 2, but ser6-large needs 3"):
        validate_config(Config().with_values({**own, "audio": {"window_s": 2.0, "window_hop_s": 2.0}}))
    with pytest.raises(ConfigError, match=r"hears up to 8 kHz"):
        validate_config(Config().with_values({**own, "audio": {"sample_rate_hz": 8_000}}))
    validate_config(Config())


def test_damaged_weights_are_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(WEIGHTS.read_bytes()[:100_000])
    with pytest.raises(ModelError, match="Install ser-batch-whisper again"):
        load("ser6-large", None, "cpu", broken)
