"""`ser-batch show`: the essence of a run in the terminal."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import soundfile
from synthetic_run import LABELS, RunPlan, make_run

from ser_batch import load_results
from ser_batch.cli.main import main
from ser_batch.dsp.voice import synthetic_voice
from ser_batch.errors import ExitCode


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"), 1_500, RunPlan(seed=6))


def test_counts_bars_groups_and_failures_are_shown(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(run)]) == ExitCode.OK
    out = capsys.readouterr().out
    files = load_results(run)
    assert "1,500 files" in out
    for label, n in files.emotion.value_counts().items():
        (line,) = (line for line in out.splitlines() if line.strip().startswith(str(label)))
        assert f"{n:,}" in line
        assert f"{100 * n / files.emotion.notna().sum():.1f}" in line
    assert "By folder" in out
    assert "theatre" in out
    for error_type, n in files.error_type.value_counts().items():
        if error_type:
            assert f"{n:>9,}  failed" in out
            assert str(error_type) in out


def test_json_holds_the_same_for_programs(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(run), "--json"]) == ExitCode.OK
    shown = json.loads(capsys.readouterr().out)
    files = load_results(run)
    assert shown["status"] == files.status.value_counts().to_dict()
    assert {
        label: item["n_files"] for label, item in shown["emotions"].items()
    } == files.emotion.value_counts().to_dict()
    assert list(shown["emotions"]) == list(LABELS)
    assert sum(reason["n_files"] for reason in shown["reasons"]) == (files.status != "ok").sum()
    assert shown["notices"] == []


def test_names_and_messages_cannot_command_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["\x1b[2J\x1b[31m.wav", "\x1b]0;title\x07/x.wav", "\u202egpj.wav"]
    run = make_run(tmp_path, 0, RunPlan(clip_ids=names, failed_share=0.7, seed=3, info={"model": {"name": "\x1b[7m"}}))
    assert main(["show", str(run)]) == ExitCode.OK
    out = capsys.readouterr().out
    assert not set(out) & {"\x1b", "\x07", "\u202e"}
    assert "\\x1b" in out


def test_what_cannot_be_shown_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(tmp_path)]) == ExitCode.RUN
    assert "is not a run" in capsys.readouterr().err
    (tmp_path / "run.json").write_text(json.dumps({"schema_version": 1, "labels": [], "state": "running"}))
    assert main(["show", str(tmp_path)]) == ExitCode.OK
    out = capsys.readouterr().out
    assert "0 files (none yet)" in out
    assert "Note: " in out


def test_folders_that_could_not_be_listed_are_said_wherever_one_looks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("open", "closed"):
        (tmp_path / "audio" / name).mkdir(parents=True)
        soundfile.write(tmp_path / "audio" / name / "a.wav", synthetic_voice(1.0), 22_050)
    scandir = os.scandir

    def guarded(folder: str | int) -> Any:
        # As for whoever may not list it; the tests may run as root, who may.
        if str(folder).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", guarded)
    run = tmp_path / "run"
    arguments = ["features", str(tmp_path / "audio"), "-o", str(run), "--extractor", "quality", "--jobs", "1"]
    assert main(arguments) == ExitCode.SOME_FILES_FAILED
    told = f"1 folder could not be listed, so what they hold is missing here; the first is {tmp_path}/audio/closed"
    assert told in capsys.readouterr().out
    for command, code in (("status", ExitCode.SOME_FILES_FAILED), ("show", ExitCode.OK)):
        assert main([command, str(run)]) == code
        assert told in capsys.readouterr().out
    assert main(["show", "--json", str(run)]) == ExitCode.OK
    assert told in json.loads(capsys.readouterr().out)["notices"][0]
    assert told in (run / "report.html").read_text()
