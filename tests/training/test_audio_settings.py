"""A model may hear otherwise than the shipped ones: windows of 2 s, 16 kHz, 64 bands; whoever uses it hears so too."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from labelled_clips import write_clip, write_folder

import ser_batch
from ser_batch import EmotionPredictor, load_results
from ser_batch.classifier import checkpoint
from ser_batch.classifier.torch_classifier import TorchClassifier
from ser_batch.cli.main import main
from ser_batch.config import Config
from ser_batch.errors import ConfigError, ExitCode
from ser_batch.training.train_config import TrainConfig

pytestmark = pytest.mark.usefixtures("no_pictures")

TOML = """
[audio]
window_s = 2
sample_rate_hz = 16000
n_mel_bands = 64

[data]
labels = ["anger", "fear"]
validation_share = 0.3
test_share = 0.0

[augment]
copies = 1

[fit]
epochs = 2
batch_size = 4
crop_frames = 32
warp_frequency = 0.1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with audio in ``raw`` and a model of it, own.safetensors."""
    folder = tmp_path_factory.mktemp("audio")
    write_folder(folder / "raw", ("anger", "fear"))
    (folder / "own.toml").write_text(TOML)
    # Three windows of 2 s.
    write_clip(folder / "others" / "fear" / "t1_1.wav", "fear", speaker=7, duration_s=5.0)
    write_clip(folder / "others" / "anger" / "t1_1.wav", "anger", speaker=7)
    options = {"data": "raw", "config": "own.toml", "cache": "cache", "output": "own.safetensors", "report": "report"}
    pairs = [part for key, value in options.items() for part in (f"--{key}", str(folder / value))]
    with contextlib.redirect_stderr(io.StringIO()) as err:
        assert main(["train", *pairs, "--device", "cpu", "--jobs", "1"]) == ExitCode.OK, err.getvalue()
    return folder


def test_the_model_file_says_how_it_hears(folder: Path) -> None:
    model = checkpoint.load(folder / "own.safetensors")
    assert model.meta["audio"] == {"sample_rate_hz": 16_000, "window_s": 2.0, "window_hop_s": 2.0}
    assert (model.network.n_bands, model.network.n_frames) == (64, 63)
    assert model.weights["mel_norm.band_mean"].shape == (64,)
    assert model.meta["training"]["config"]["audio"]["n_mel_bands"] == 64


def test_scan_predict_and_evaluate_hear_as_the_model_does(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, others = str(folder / "own.safetensors"), folder / "others"
    options = ["--model", model, "--device", "cpu", "--jobs", "1", "--output", str(tmp_path / "run")]
    assert main(["scan", str(others), *options, "--no-report", "--quiet"]) == ExitCode.OK
    files = load_results(tmp_path / "run").set_index("clip_id")
    windows = load_results(tmp_path / "run", "windows")
    assert files.loc["fear/t1_1.wav", "n_windows"] == 3
    long = windows[windows["clip_id"] == "fear/t1_1.wav"]
    np.testing.assert_allclose(long[["start_s", "end_s"]], [[0, 1.75], [1.75, 3.75], [3.75, 5]], atol=0.01)
    config = json.loads((tmp_path / "run" / "run.json").read_text())["config"]
    assert config["audio"] == {**config["audio"], "sample_rate_hz": 16_000, "window_s": 2.0, "n_mel_bands": 64}

    paths = [others / name for name in files.index]
    for path, result in zip(paths, EmotionPredictor(model, "cpu").predict_batch(paths), strict=True):
        row = files.loc[path.relative_to(others).as_posix()]
        found = [result.probabilities[label] for label in ("anger", "fear")]
        np.testing.assert_allclose(found, row[["p_anger", "p_fear"]].astype(float), atol=1e-6)
    capsys.readouterr()
    assert main(["predict", *map(str, paths), "--model", model, "--json"]) == ExitCode.OK
    said = [json.loads(line)["probabilities"]["fear"] for line in capsys.readouterr().out.splitlines()]
    np.testing.assert_allclose(said, files["p_fear"].astype(float), atol=1e-6)

    assert main(["evaluate", model, str(others), "--jobs", "1", "--json", "-"]) == ExitCode.OK
    scores = json.loads(capsys.readouterr().out)["overall"]
    truth = [name.split("/")[0] for name in files.index]
    expected = -np.log([files.loc[name, f"p_{label}"] for name, label in zip(files.index, truth, strict=True)]).mean()
    assert scores["nll"] == pytest.approx(expected, rel=1e-5)


def test_the_graph_for_other_programs_takes_its_spectrograms(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.onnx"
    assert main(["model", "export", str(folder / "own.safetensors"), "-o", str(path)]) == ExitCode.OK
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[1:] == [64, 63]
    mel = np.random.default_rng(0).normal(-40, 10, (3, 64, 63)).astype(np.float32)
    features = np.zeros((3, 13), np.float32)
    (found,) = session.run(["probabilities"], {"mel": mel, "features": features})
    expected = TorchClassifier(checkpoint.load(folder / "own.safetensors"), "cpu").run(mel, features)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_settings_of_ones_own_come_first_and_must_fit(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(folder / "own.safetensors")
    for name, text in {"closer": "[audio]\nwindow_hop_s = 1.0", "longer": "[audio]\nwindow_s = 3.0"}.items():
        (tmp_path / f"{name}.toml").write_text(text)
    command = ["scan", str(folder / "others"), "--model", model, "--device", "cpu", "--jobs", "1", "--no-report"]
    closer = ["--config", str(tmp_path / "closer.toml"), "--output", str(tmp_path / "closer"), "--quiet"]
    assert main([*command, *closer]) == ExitCode.OK
    assert load_results(tmp_path / "closer").set_index("clip_id").loc["fear/t1_1.wav", "n_windows"] == 4
    longer = ["--config", str(tmp_path / "longer.toml"), "--output", str(tmp_path / "longer")]
    assert main([*command, *longer]) == ExitCode.USAGE
    assert "audio.window_s is 3, but the model" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"audio\.sample_rate_hz is 22050"):
        ser_batch.scan(folder / "others", tmp_path / "run", config=Config().with_values({"predict": {"model": model}}))


def test_windows_in_a_row_stay_in_a_row() -> None:
    assert Config().with_values({"audio": {"window_s": 2.0}}).audio.window_hop_s == 2.0
    overlapping = Config().with_values({"audio": {"window_hop_s": 1.5}})
    assert overlapping.with_values({"audio": {"window_s": 2.0}}).audio.window_hop_s == 1.5


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"audio": {"n_mel_bands": 100}}, "audio.n_mel_bands must be a multiple of 8"),
        ({"audio": {"window_s": 0.2}}, "audio.window_s must be long enough for 16 frames"),
        ({"audio": {"window_s": 1.0}, "fit": {"crop_frames": 72}}, "fit.crop_frames must be at most 44"),
        ({"audio": {"n_mel_bands": 16}, "fit": {"band_mask_bands": 17}}, "fit.band_mask_bands must be at most 16"),
    ],
)
def test_what_does_not_go_together_is_refused(values: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TrainConfig().with_values(values)
