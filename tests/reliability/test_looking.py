"""`status` and `verify` look at a run in any state, also while it is written, and change nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import soundfile
from harness import LONG, ONE_JOB, assert_same

from ser_batch.cli.main import main
from ser_batch.dsp.voice import synthetic_voice
from ser_batch.run.lock import lock_for_reading, lock_for_writing
from ser_batch.run.verify import check_run

BETWEEN = ("journal-appended", "windows-renamed", "files-renamed")


def snapshot(run: Path) -> dict[str, tuple[bytes, int]]:
    """Every file with its time, but for what workers write that outlive their scan for a moment."""
    files = (path for path in run.rglob("*") if path.is_file() and ".scratch-" not in str(path))
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.mark.parametrize("step", BETWEEN)
def test_between_the_journal_and_the_renames_a_run_is_whole(scanner, corpus, tmp_path, capsys, step):
    run = tmp_path / "run"
    assert scanner.scan(corpus, run, kill_at=[step, 2])["code"] == -9
    before = snapshot(run)
    assert main(["status", str(run)]) == 7
    shown = capsys.readouterr()
    assert not shown.err
    assert "27 files found: " in shown.out and " 19 left." in shown.out, shown.out
    assert check_run(run) == ["the run is running: the same scan command finishes it"]
    assert snapshot(run) == before


@pytest.mark.parametrize("step", [BETWEEN[0], *(pytest.param(step, marks=LONG) for step in BETWEEN[1:])])
def test_a_part_that_is_being_rewritten_is_looked_at_as_it_was_committed(
    scanner, corpus, reference, tmp_path, capsys, step
):
    archive = shutil.copytree(corpus, tmp_path / "archive")
    run = tmp_path / "run"
    assert scanner.scan(archive, run)["code"] == 1
    soundfile.write(archive / "speaker1" / "notes.wav", synthetic_voice(0.2, 8000), 8000)
    assert scanner.scan(archive, run, kill_at=[step, 1])["code"] == -9
    assert main(["status", str(run)]) == 7
    assert "25 ok, 2 failed. 0 left." in capsys.readouterr().out.replace(", 0 partial", "")
    assert check_run(run) == ["the run is running: the same scan command finishes it"]
    assert scanner.scan(archive, run)["code"] == 1
    assert check_run(run) == []


def test_verify_reads_a_journal_that_was_cut_off_without_mending_it(scanner, corpus, tmp_path):
    run = tmp_path / "run"
    scanner.scan(corpus, run, kill_at=["shard-committed", 2])
    with (run / "journal.jsonl").open("ab") as journal:
        journal.write(b'{"part": 2, "finger')
    (run / ".lock").unlink()
    before = snapshot(run)
    assert check_run(run) == ["the run is running: the same scan command finishes it"]
    assert snapshot(run) == before


def test_a_read_only_run_can_be_looked_at(reference, tmp_path, capsys):
    run = shutil.copytree(reference, tmp_path / "run")
    is_root = os.geteuid() == 0
    if is_root:
        for command in (["mount", "--bind", str(run), str(run)], ["mount", "-o", "remount,ro,bind", str(run)]):
            if subprocess.run(command, check=False, capture_output=True).returncode:
                pytest.skip("this system does not let root mount a folder read-only")
    else:
        for path in [*run.rglob("*"), run]:
            path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        with pytest.raises(OSError, match=r"Read-only|Permission"):
            (run / "new").touch()
        assert main(["verify", str(run)]) == 0
        assert main(["status", str(run)]) == 1
        assert main(["show", str(run)]) == 0
        assert not capsys.readouterr().err
        assert main(["report", str(run)]) == 7
        assert capsys.readouterr().err.count("\n") == 1
        assert main(["report", str(run), "-o", str(tmp_path / "report.html")]) == 0
    finally:
        if is_root:
            subprocess.run(["umount", str(run)], check=True)
        for path in [run, *run.rglob("*")]:
            path.chmod(0o755)
    assert not capsys.readouterr().err


def test_status_and_verify_work_side_by_side_and_a_writer_keeps_verify_away(reference, tmp_path, capsys):
    run = shutil.copytree(reference, tmp_path / "run")
    with lock_for_reading(run):
        assert main(["verify", str(run)]) == 0
        assert main(["status", str(run)]) == 1
    with lock_for_writing(run):
        assert main(["status", str(run)]) == 1
        assert main(["verify", str(run)]) == 7
    assert f"is being written by process {os.getpid()}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"[]", "a line holds an object"),
        (b'{"part": -1}', "part must be a whole number from 0, not -1"),
        (b'{"part": 1}', "does not say what windows/ holds"),
        (b'{"part": 1, "fingerprint": 7}', "fingerprint must be text"),
        (b'{"part": 1, "at": "yesterday"}', "at must be a time"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff\xfe", "Expecting value"),
    ],
    ids=lambda value: value[:24].decode("latin-1") if isinstance(value, bytes) else "",
)
def test_a_damaged_line_of_the_journal_is_named_with_the_cure(reference, tmp_path, capsys, line, words):
    run = shutil.copytree(reference, tmp_path / "run")
    lines = (run / "journal.jsonl").read_bytes().splitlines()
    (run / "journal.jsonl").write_bytes(b"\n".join([lines[0], line, *lines[1:], b""]))
    for command in ("status", "verify"):
        assert main([command, str(run)]) == 7
        shown = capsys.readouterr().err
        assert "journal.jsonl, line 2 is damaged" in shown and words in shown and "Delete the file" in shown
        assert shown.count("\n") == 1


def test_a_lock_that_two_scans_want_at_once_goes_to_one(scanner, corpus, reference, tmp_path):
    run = shutil.copytree(reference, tmp_path / "run")
    with lock_for_reading(run):
        answer = scanner.scan(corpus, run, config=ONE_JOB)
        assert answer["code"] == 7 and "is being read by `ser-batch verify`" in answer["error"]
    assert scanner.scan(corpus, run)["code"] == 1
    assert_same(run, reference)
