"""Standard output and error that are closed, full or given up by their reader: a scan goes on, and its code stands."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import soundfile
from synthetic_run import RunPlan, make_run

from ser_batch import load_results
from ser_batch.cli.main import main
from ser_batch.cli.streams import _guarded as guarded
from ser_batch.cli.summary import told
from ser_batch.dsp.voice import synthetic_voice
from ser_batch.errors import ExitCode
from ser_batch.run.summary import RunSummary

full_device = pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is Linux's")


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audio")
    soundfile.write(folder / "a.wav", synthetic_voice(1.0), 22_050)
    (folder / "b.wav").write_text("no audio")
    return folder


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which SER is ser-batch."""
    return subprocess.run(
        ["bash", "-c", line.replace("SER", f"{sys.executable} -m ser_batch")],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.parametrize(
    "streams",
    [
        "<&- >&- 2>&-",
        pytest.param(">/dev/full 2>/dev/full", marks=full_device),
        "2> >(exec true) > >(exec true)",
    ],
)
def test_a_scan_does_not_care_whether_anybody_listens(streams: str, audio: Path, tmp_path: Path) -> None:
    line = f"SER features {audio} -o run --jobs 1 --no-report {streams}; echo $? >code"
    done = shell(line, tmp_path)
    assert (tmp_path / "code").read_text().strip() == str(ExitCode.SOME_FILES_FAILED.value), done.stderr
    assert "Traceback" not in done.stderr
    assert set(load_results(tmp_path / "run")["status"]) == {"ok", "failed"}
    # Nothing that was meant for the terminal has found its way into a file of the run.
    assert main(["verify", str(tmp_path / "run")]) == ExitCode.OK


@full_device
@pytest.mark.parametrize("command", ["plugins --json", "--help"])
def test_what_a_full_disk_swallows_is_said(command: str, tmp_path: Path) -> None:
    done = shell(f"SER {command} >/dev/full", tmp_path)
    assert done.stderr == "Error: Standard output cannot be written: No space left on device.\n"
    assert done.returncode == ExitCode.INPUT


def test_a_reader_that_has_enough_is_no_error(tmp_path: Path) -> None:
    done = shell("set -o pipefail; SER plugins --json | head -c 1", tmp_path)
    assert (done.stdout, done.stderr, done.returncode) == ("[", "", ExitCode.OK)


@contextmanager
def nobody_reads() -> Iterator[None]:
    """Standard output is a pipe whose reader has left, as of ``| head``."""
    reading, writing = os.pipe()
    os.close(reading)
    # Not in a fixture: pytest puts its own in place as the test begins.
    with os.fdopen(writing, "w") as stream, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", guarded(stream, writing, tells=True))
        yield


def test_diff_tells_by_its_code_whether_anybody_reads(tmp_path: Path) -> None:
    runs = [str(make_run(tmp_path / name, 20, RunPlan(seed=seed))) for seed, name in enumerate("ab")]
    with nobody_reads():
        assert main(["diff", *runs]) == 1
    with nobody_reads():
        assert main(["diff", runs[0], runs[0]]) == ExitCode.OK


def test_a_check_of_a_plugin_tells_by_its_code_whether_anybody_reads(tmp_path: Path) -> None:
    (tmp_path / "mute.py").write_text("import ser_batch\n@ser_batch.hookimpl\ndef read_clip(ref): return []\n")
    with nobody_reads():
        assert main(["plugins", "--plugin", str(tmp_path / "mute.py"), "--check", "mute.py"]) == ExitCode.PLUGIN


def test_a_corpus_is_sorted_whether_anybody_reads(tmp_path: Path) -> None:
    (tmp_path / "from/anger").mkdir(parents=True)
    soundfile.write(tmp_path / "from/anger/a.wav", synthetic_voice(0.5), 22_050)
    with nobody_reads():
        assert main(["organize", "raw", str(tmp_path / "from"), str(tmp_path / "to")]) == ExitCode.OK
    assert len(list((tmp_path / "to/anger").glob("*.wav"))) == 1


def test_labels_of_a_model_do_nothing_to_a_terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    told(RunSummary(tmp_path, "r", {"found": 1, "ok": 1}, {"\x07red": 1}, {}, [], 1, 1.0, 1.0, ()), quiet=False)
    run = make_run(tmp_path / "run", 60, RunPlan(labels=("\x07red", "calm")))
    assert main(["show", str(run)]) == ExitCode.OK
    shown = capsys.readouterr().out
    assert "By folder" in shown and "\x07" not in shown and "\\x07red  " in shown


def test_names_of_plugins_do_nothing_to_a_terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plugin = tmp_path / "\x1b[31m.py"
    plugin.write_text("import ser_batch\n@ser_batch.hookimpl\ndef read_clip(ref): return []\n")
    assert main(["plugins", "--plugin", str(plugin)]) == ExitCode.OK
    assert main(["plugins", "--plugin", str(plugin), "--check", plugin.name]) == ExitCode.PLUGIN
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and shown.count("\\x1b[31m.py") > 1
