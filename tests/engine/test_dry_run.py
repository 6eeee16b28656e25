"""``scan --dry-run`` plans what the scan would do and refuses what it would refuse; it writes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from random_model import store_random_model

from ser_batch.cli.main import main
from ser_batch.dsp.voice import synthetic_voice
from ser_batch.run.lock import lock_for_writing


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audio")
    for number in range(3):
        soundfile.write(folder / f"{number}.wav", synthetic_voice(0.5 + number), 22_050)
    (folder / "text.flac").write_text("no audio")
    (folder / "notes.txt").write_text("no audio")
    return folder


@pytest.fixture(scope="module")
def run(audio: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("scan") / "run"
    assert main(["features", str(audio), "-o", str(run), "--jobs", "1", "--quiet", "--no-report"]) == 1
    return run


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return time of modification and content of every file, but for what Python keeps of a plugin's source."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.parent.name != "__pycache__")
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_a_new_scan_is_shown_with_files_hours_and_an_estimate(
    audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = store_random_model(tmp_path / "random.safetensors")
    before = state(tmp_path)
    arguments = ["scan", str(audio), "-o", str(tmp_path / "new/run"), "--model", str(model), "--jobs", "1"]
    assert main([*arguments, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert f"4 files below {audio}, 4 of them to do." in shown
    assert "1 of other kinds" in shown
    assert "To do: about 4 s of audio" in shown or "To do: about 5 s of audio" in shown
    assert ".flac" in shown
    assert "no header could be read" in shown
    assert "with 1 workers on the CPU" in shown
    assert "1 of 4 files of the sample failed: decode: DecodeError" in shown
    assert state(tmp_path) == before
    assert not (tmp_path / "new").exists()


def test_only_what_is_left_is_counted_and_measured(audio: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["features", str(audio), "-o", str(run), "--jobs", "1", "--dry-run"]
    before = state(run)
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "4 files" in shown
    assert ", 0 of them to do." in shown
    assert "workers" not in shown
    assert main([*arguments, "--restart"]) == 0
    assert ", 4 of them to do." in capsys.readouterr().out
    soundfile.write(audio / "new.ogg", synthetic_voice(2.0), 22_050)
    (audio / "1.wav").touch()
    try:
        assert main(arguments) == 0
    finally:
        (audio / "new.ogg").unlink()
    shown = capsys.readouterr().out
    assert state(run) == before
    assert "5 files" in shown
    assert ", 2 of them to do." in shown
    assert "measured on 2 of the files" in shown
    assert ".flac" not in shown


REFUSED = {
    "other settings": ["{audio}", "-o", "{run}", "--config", "{tmp}/half.toml"],
    "other root": ["{audio}/0.wav", "{tmp}/elsewhere.wav", "-o", "{run}"],
    "table that is no table": ["{audio}", "-o", "{run}", "--metadata", "{tmp}/half.toml"],
    "table that is not there": ["{audio}", "-o", "{run}", "--metadata", "{tmp}/gone.csv"],
    "what a plugin refuses": ["{audio}", "-o", "{tmp}/new", "--plugin", "{tmp}/strict.py"],
    "no audio": ["{tmp}/folder", "-o", "{tmp}/new"],
    "a file": ["{audio}", "-o", "{tmp}/half.toml"],
    "a folder below a file": ["{audio}", "-o", "{tmp}/half.toml/run"],
    "somebody's folder": ["{audio}", "-o", "{tmp}/folder"],
    "a damaged run.json": ["{audio}", "-o", "{tmp}/damaged"],
    "a damaged journal": ["{audio}", "-o", "{tmp}/torn"],
    "an unknown model": ["{audio}", "-o", "{tmp}/new", "--config", "{tmp}/model.toml"],
}


@pytest.mark.parametrize("arguments", REFUSED.values(), ids=REFUSED)
def test_what_the_scan_would_refuse_is_refused_alike(
    arguments: list[str], audio: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "half.toml").write_text("[audio]\nwindow_hop_s = 1.5\n")
    (tmp_path / "model.toml").write_text("[predict]\nmodel = 'nosuch'\n")
    (tmp_path / "strict.py").write_text(
        "import ser_batch\n@ser_batch.hookimpl\ndef validate_config(config):\n    raise ValueError('not on a Monday')\n"
    )
    (tmp_path / "elsewhere.wav").write_bytes((audio / "0.wav").read_bytes())
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/thesis.tex").write_text("years of work")
    for name in ("damaged", "torn"):
        (tmp_path / name).mkdir()
    (tmp_path / "damaged/run.json").write_text("{")
    (tmp_path / "torn/journal.jsonl").write_text("{\n{}\n")
    places = {"audio": audio, "run": run, "tmp": tmp_path}
    command = "scan" if "{tmp}/model.toml" in arguments else "features"
    words = [command, *(word.format(**places) for word in arguments), "--jobs", "1", "--no-report"]
    capsys.readouterr()
    before = state(tmp_path) | state(run)
    code = main([*words, "--dry-run"])
    message = capsys.readouterr().err
    assert state(tmp_path) | state(run) == before
    assert code not in (0, 1, 70)
    assert (main(words), capsys.readouterr().err) == (code, message)


def test_a_run_that_is_being_written_is_refused(audio: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with lock_for_writing(run):
        assert main(["features", str(audio), "-o", str(run), "--dry-run"]) == 7
    assert f"is being written by process {os.getpid()}" in capsys.readouterr().err


def test_a_pipe_among_the_inputs_keeps_nobody_waiting(audio: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.wav"
    os.mkfifo(pipe)
    words = ["features", str(audio / "0.wav"), str(pipe), "-o", str(tmp_path / "run"), "--jobs", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "ser_batch", *words, "--dry-run"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "2 of them to do." in done.stdout
    assert "not a regular file" in done.stdout
