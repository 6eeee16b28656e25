"""R9: hostile file names are analysed, reported, and never reach a terminal or a page as they are."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import soundfile
from harness import PLUGIN, assert_sound, results

from ser_batch.cli.main import main
from ser_batch.dsp.voice import synthetic_voice
from ser_batch.errors import ExitCode

HOSTILE = [
    b"plain.wav",
    b"it's.wav",
    b'say "hi".wav',
    b"two\nlines.wav",
    b"tab\tand\rreturn.wav",
    b"<script>alert(1)<img src=x onerror=alert(2)>.wav",
    b"\x1b[31mred\x1b[0m\x1b]0;title\x07.wav",
    b"-rf.wav",
    b"--help.wav",
    b"$(touch pwned).wav",
    b"`touch pwned`; echo.wav",
    b"%s%n{0}{clip_id}.wav",
    b"..\\up.wav".lstrip(b"."),
    b"latin1-\xe9t\xe9.wav",
    b"cut-utf8-\xf0\x9f\x98.wav",
    rb"latin1-\xe9t\xe9.wav",
    "right-to-left-\u202egpj.wav".encode(),
    "emoji-😀-中文-ñ.WAV".encode(),
    b"' OR 1=1; DROP TABLE files; --.wav",
    b" leading and trailing .wav",
    b"a" * 251 + b".wav",
]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    clip = folder / "clip.wav"
    soundfile.write(clip, synthetic_voice(0.5, 8000), 8000)
    data = clip.read_bytes()
    clip.unlink()
    for name in HOSTILE:
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:  # noqa: PTH118, PTH123 - names are bytes
            file.write(data)
    return folder


def test_hostile_names_are_all_analysed(scanner, hostile, tmp_path):
    run = tmp_path / "run"
    answer = scanner.scan(hostile, run)
    assert answer["code"] == 0, answer
    files = results(run)
    assert len(files) == len(HOSTILE)
    assert set(files["status"]) == {"ok"}
    assert files["clip_id"].is_unique
    assert r"latin1-\xe9t\xe9.wav" in set(files["clip_id"])
    assert_sound(run)
    answer = scanner.scan(hostile, run)
    assert answer["n_processed"] == 0, "names that are not UTF-8 are recognised the next time"


def test_a_root_that_is_not_utf_8_and_a_run_that_looks_like_an_address(hostile, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("r\udce9").mkdir()
    for name in ("plain.wav", "it's.wav"):
        shutil.copy(hostile / name, "r\udce9")
    options = ["--plugin", str(PLUGIN), "--extractor", "loudness", "--jobs", "1", "--quiet", "--no-report"]
    assert main(["features", "r\udce9", "-o", "s3:run", *options]) == 0, capsys.readouterr().err
    for command in (["status"], ["show"], ["verify"], ["retry", *options[:2]], ["export", "--to", "csv", "-o", "s3:t"]):
        assert main([command[0], "s3:run", *command[1:]]) == 0, capsys.readouterr().err
    assert len(results(Path("./s3:run").absolute())) == 2
    assert main(["features", "r\udce9", "-o", "n\udce9", *options]) == ExitCode.RUN
    assert r"n\xe9 cannot be used for a run: its name holds bytes that are not UTF-8" in capsys.readouterr().err
    assert not Path("n\udce9").exists()


def test_hostile_names_are_escaped_on_the_terminal_and_in_the_report(hostile, tmp_path, capfdbinary):
    """With files that fail, so that names and reasons are shown."""
    (tmp_path / "audio").mkdir()
    for name in HOSTILE:
        with open(os.path.join(os.fsencode(tmp_path / "audio"), name), "wb") as file:  # noqa: PTH118, PTH123
            file.write(b"this is no audio\x1b[31m")
    run = tmp_path / "run"

    def ser_batch(*arguments: str) -> str:
        main([*arguments])
        shown, said = capfdbinary.readouterr()
        assert b"Traceback" not in said, said.decode(errors="replace")
        return (shown + said).decode("utf-8")

    options = ["--plugin", str(PLUGIN), "--jobs", "1"]
    shown = ser_batch("features", str(tmp_path / "audio"), "-o", str(run), *options)
    shown += ser_batch("status", str(run)) + ser_batch("verify", str(run)) + ser_batch("diff", str(run), str(run))
    other = tmp_path / "other"
    ser_batch("features", str(hostile), "-o", str(other), *options, "--no-report")
    shown += ser_batch("diff", str(run), str(other), "--limit", "0")
    assert "\x1b" not in shown and "\x07" not in shown and "\u202e" not in shown
    assert r"\x1b[31mred" in shown
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in page and "<img src=x" not in page
    assert not list(Path.cwd().glob("pwned")) and not list((tmp_path / "audio").glob("pwned"))
