"""Nothing that lies in a folder of somebody else is executed or written through, unless the user says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser_batch.cli.main import main
from ser_batch.dsp.voice import synthetic_voice
from ser_batch.errors import ExitCode, RunError
from ser_batch.reviews.answers import AnswerJournal
from ser_batch.reviews.sample import AuditSample, save_sample
from ser_batch.reviews.unlearnt import store_unlearnt

#: Says when it is executed, in the parent or a worker.
PLUGIN = """
import pathlib
import ser_batch

pathlib.Path(__file__).with_suffix(".ran").touch()
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with a failed file, made with a plugin file; the plugin has left no trace yet."""
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "a.wav").write_text("not yet")
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN)
    places = [str(tmp_path / "audio"), "-o", str(tmp_path / "run"), "--plugin", str(plugin)]
    options = ["--extractor", "quality", "--jobs", "1", "--quiet", "--no-report"]
    assert main(["features", *places, *options]) == ExitCode.SOME_FILES_FAILED
    soundfile.write(tmp_path / "audio" / "a.wav", synthetic_voice(4.0), 22_050)
    plugin.with_suffix(".ran").unlink()
    return tmp_path / "run"


def test_retry_executes_no_file_that_only_the_run_names(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["retry", str(run)]) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert f"--plugin {run.parent / 'mine.py'}" in said and "--trust-plugins" in said
    assert not (run.parent / "mine.ran").exists()


@pytest.mark.parametrize("moved", [False, True])
def test_retry_executes_the_file_that_is_given_again(run: Path, moved: bool) -> None:
    plugin = run.parent / "mine.py"
    if moved:
        (run.parent / "elsewhere").mkdir()
        plugin = plugin.rename(run.parent / "elsewhere" / "mine.py")
    assert main(["retry", str(run), "--plugin", str(plugin), "--quiet", "--jobs", "1"]) == ExitCode.OK
    assert plugin.with_suffix(".ran").exists()


def test_retry_executes_what_the_user_trusts(run: Path) -> None:
    assert main(["retry", str(run), "--trust-plugins", "--quiet", "--jobs", "1"]) == ExitCode.OK
    assert (run.parent / "mine.ran").exists()


@pytest.mark.parametrize("table", ["files", "windows"])
def test_parts_are_not_written_through_a_link(run: Path, table: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Which may lead to the same folder of another run."""
    elsewhere = (run / table).rename(run.parent / "elsewhere")
    (run / table).symlink_to(elsewhere)
    before = {path.name: path.read_bytes() for path in elsewhere.iterdir()}
    assert main(["retry", str(run), "--trust-plugins", "--quiet", "--jobs", "1"]) == ExitCode.RUN
    assert "A link stands in its place, and is not followed" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in elsewhere.iterdir()} == before


def test_a_journal_that_is_a_link_is_not_mended_through_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    precious = run.parent / "precious"
    precious.write_bytes((run / "journal.jsonl").read_bytes() + b"no end of a line")
    (run / "journal.jsonl").unlink()
    (run / "journal.jsonl").symlink_to(precious)
    assert main(["retry", str(run), "--trust-plugins", "--quiet", "--jobs", "1"]) == ExitCode.RUN
    assert "A link stands in its place" in capsys.readouterr().err
    assert precious.read_bytes().endswith(b"no end of a line")


def test_answers_are_not_written_through_a_link(tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    run.mkdir()
    elsewhere.mkdir()
    (run / "reviews").symlink_to(elsewhere)
    with pytest.raises(RunError, match="A link stands in its place"), AnswerJournal.open(run, "anna", ""):
        pass
    with pytest.raises(RunError, match="A link stands in its place"):
        save_sample(run, AuditSample("", "files", 0, 0.1, 1, 1, (), ()))
    with pytest.raises(RunError, match="A link stands in its place"):
        store_unlearnt(run, "0" * 64, ["calm"], [], np.zeros((0, 1)))
    assert not list(elsewhere.iterdir())
