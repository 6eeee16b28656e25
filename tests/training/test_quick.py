"""The shipped quick configuration: from a few dozen clips to a model that scans, and a report of how good it is."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
import soundfile
import soxr
from labelled_clips import LABELS, speak, write_folder
from repository import REPOSITORY

from ser_batch import load_results
from ser_batch.classifier import checkpoint
from ser_batch.cli.main import main
from ser_batch.errors import ExitCode
from ser_batch.resources import config_path
from ser_batch.training.audio_keys import KEY_BYTES
from ser_batch.training.dataset import speaker_key
from ser_batch.training.train_config import load_train_config

N_CLIPS = 36


@dataclass(frozen=True, slots=True)
class Trained:
    """Two clips of each of six labels by each of three speakers, learnt with the configuration ``quick``."""

    data: Path
    model: Path
    report: Path
    #: Scores and where they are, on standard output; what is told on the way, on standard error.
    out: str
    err: str


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A training by the command line, with its pictures."""
    folder = tmp_path_factory.mktemp("quick")
    data = write_folder(folder / "raw", n_speakers=3, n_takes=2)
    options = {"--data": data, "--output": folder / "own.safetensors", "--report": folder / "report"}
    pairs = [part for key, value in {**options, "--cache": folder / "cache"}.items() for part in (key, str(value))]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["train", "--config", "quick", "--device", "cpu", "--jobs", "1", *pairs])
    assert code == ExitCode.OK, err.getvalue()
    return Trained(data, folder / "own.safetensors", folder / "report", out.getvalue(), err.getvalue())


def test_the_quick_configuration_is_shipped_and_small() -> None:
    assert config_path("quick").samefile(REPOSITORY / "configs" / "quick.toml")
    config = load_train_config(config_path("quick"))
    # Passes over a clip: what takes a minute for a few dozen of them.
    assert config.fit.epochs * (1 + config.augment.copies) <= 20
    assert not config.fit.refit


def test_what_is_learnt_and_how_well_is_said(trained: Trained) -> None:
    lines = trained.err.splitlines()
    assert lines[0] == f"raw, {trained.data}: {N_CLIPS} files found = {N_CLIPS} taken."
    assert "Device: cpu" in lines[1]
    counts = ", ".join(f"{label} 6" for label in LABELS)
    assert f"{N_CLIPS} clips, 3 speakers, raw: {counts}" in lines
    assert sum(line.startswith("epoch ") for line in lines) == load_train_config(config_path("quick")).fit.epochs
    score, *files = trained.out.splitlines()
    assert score.startswith("UAR on 1 ")
    assert files == [f"Model:  {trained.model}", f"Report: {trained.report}"]


def test_the_model_file_knows_where_it_comes_from(trained: Trained) -> None:
    model = checkpoint.load(trained.model)
    training = model.meta["training"]
    assert model.labels == LABELS
    assert training["seeds"] == [0]
    assert training["n_clips"] == N_CLIPS
    assert training["config"]["fit"]["epochs"] == load_train_config(config_path("quick")).fit.epochs
    assert training["licences"] == ["your own"]
    # Two of three speakers, as keys that tell no names, and the clips of both: what evaluate refuses to score.
    assert len(training["speakers"]) == 2
    assert set(training["speakers"]) < {speaker_key(f"raw-s{number}") for number in (1, 2, 3)}
    assert len(training["audio"]) == 12 * N_CLIPS * 2 // 3
    assert len(training["audio_keys"]) == 4 * KEY_BYTES * N_CLIPS * 2 // 9


def test_the_report_has_scores_and_curves(trained: Trained) -> None:
    report = json.loads((trained.report / "scores.json").read_text())
    config = load_train_config(config_path("quick"))
    assert [record["epoch"] for record in report["history"]] == list(range(1, config.fit.epochs + 1))
    assert all(0 <= record["validation_uar"] <= 1 and record["loss"] > 0 for record in report["history"])
    assert report["n_clips"] == {"train": 12, "validation": 12, "test": 12}
    assert sum(map(sum, report["test"]["overall"]["confusion"])) == 12
    assert set(report["test"]["overall"]["classes"]) == set(LABELS)
    assert report["temperature"] > 0


def test_the_report_has_pictures(trained: Trained) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra 'train'")
    names = {"confusion", "reliability", "recall", "risk_coverage", "learning_curves"}
    for suffix, magic in (("png", b"\x89PNG"), ("svg", b"<?xml")):
        assert names <= {path.stem for path in trained.report.glob(f"*.{suffix}")}
        assert all((trained.report / f"{name}.{suffix}").read_bytes().startswith(magic) for name in names)


def test_scan_takes_the_model(trained: Trained, tmp_path: Path) -> None:
    options = ["--model", str(trained.model), "--device", "cpu", "--jobs", "1", "--output", str(tmp_path / "run")]
    assert main(["scan", str(trained.data / "anger"), *options, "--no-report", "--quiet"]) == ExitCode.OK
    files = load_results(tmp_path / "run")
    assert len(files) == 6
    assert set(files["status"]) == {"ok"}
    shares = files[[f"p_{label}" for label in LABELS]]
    assert shares.sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)
    assert list(files["emotion"]) == [name.removeprefix("p_") for name in shares.idxmax(axis=1)]


def store_again(paths: Iterable[Path], folder: Path) -> Path:
    """Store clips as other people's: FLAC of 24 bits, a little quieter, at another rate, under other names."""
    for number, path in enumerate(paths):
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        copy = folder / path.parent.name / f"p{number % 2}_{number}.flac"
        copy.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(copy, 0.7 * soxr.resample(samples[:, 0], rate_hz, 44_100), 44_100, subtype="PCM_24")
    return folder


def test_clips_of_the_training_stored_again_are_refused_and_others_are_scored(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = sorted(trained.data.rglob("s*.wav"))
    command = ["evaluate", str(trained.model), "--jobs", "1"]
    assert main([*command, str(store_again(paths, tmp_path / "again"))]) == ExitCode.DATA
    (message,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error")]
    found = re.search(
        r"(\d+) of the first 36 files hold audio that this model was trained on, in another form", message
    )
    # Two of three speakers were learnt; some synthetic voices of the third are hard to tell from them.
    assert found and 24 <= int(found[1]) <= 26
    assert str(tmp_path / "again") in message
    for label in ("anger", "fear"):
        path = tmp_path / "others" / label / "p1_1.wav"
        path.parent.mkdir(parents=True)
        soundfile.write(path, speak(label, 5, 7), 16_000)
    assert main([*command, str(tmp_path / "others")]) == ExitCode.OK
