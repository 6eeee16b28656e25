"""The shipped quick configuration: from a few dozen clips to a model that scans, and a report of how good it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from labelled_clips import LABELS
from repository import REPOSITORY
from training_case import N_CLIPS, Trained

from ser_batch import load_results
from ser_batch.classifier import checkpoint
from ser_batch.cli.main import main
from ser_batch.errors import ExitCode
from ser_batch.resources import config_path
from ser_batch.training.audio_keys import KEY_BYTES
from ser_batch.training.dataset import speaker_key
from ser_batch.training.train_config import load_train_config


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


def test_scan_takes_the_model(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SER_BATCH_PLUGINS", "")
    options = ["--model", str(trained.model), "--device", "cpu", "--jobs", "1", "--output", str(tmp_path / "run")]
    assert main(["scan", str(trained.data / "anger"), *options, "--no-report", "--quiet"]) == ExitCode.OK
    files = load_results(tmp_path / "run")
    assert len(files) == 6
    assert set(files["status"]) == {"ok"}
    shares = files[[f"p_{label}" for label in LABELS]]
    assert shares.sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)
    assert list(files["emotion"]) == [name.removeprefix("p_") for name in shares.idxmax(axis=1)]
