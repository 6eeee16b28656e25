"""Segments from the outside: what lies beside recordings becomes a table, and is looked at again when it changes."""

from __future__ import annotations

import json
import re
import shutil
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from random_model import store_random_model

from ser_batch import load_results
from ser_batch.cli.main import main
from ser_batch.dsp.voice import synthetic_voice
from ser_batch.errors import RunError
from ser_batch.export.track_formats import TRACK_FORMATS
from ser_batch.run.verify import check_run
from ser_batch.segments.files import read_segments

RATE_HZ = 22_050
RTTM = "SPEAKER {} 1 {:.2f} {:.2f} <NA> <NA> {} <NA> <NA>\n"
NAMES = ("broken", "grid", "plain", "rttm", "srt", "whisperx")


def write_sidecars(folder: Path) -> None:
    (folder / "broken.rttm").write_text(RTTM.format("broken", 0, 2, "a") + RTTM.format("broken", 1, 1, "a"))
    grid = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "0", "2.5", "<exists>", "1"]
    grid += ['"IntervalTier"', '"carla"', "0", "2.5", "2", "0", "1.25", '"good morning"', "1.25", "2.5", '""', ""]
    (folder / "grid.TextGrid").write_text("\n".join(grid))
    (folder / "rttm.rttm").write_text(RTTM.format("rttm", 0, 1.5, "ann") + RTTM.format("rttm", 1.0, 1.2, "bob"))
    (folder / "srt.srt").write_text("1\n00:00:00,100 --> 00:00:01,600\n=1+1 is <b>two</b> & more\n")
    said = [
        {"start": 0.2, "end": 1.4, "text": " Hello.", "speaker": "SPEAKER_00"},
        {"start": 1.5, "end": 1.9, "text": " Yes?", "speaker": "SPEAKER_01"},
    ]
    (folder / "whisperx.json").write_text(json.dumps({"segments": said, "word_segments": []}))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_random_model(tmp_path_factory.mktemp("model") / "random.safetensors")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    for number, name in enumerate(NAMES):
        soundfile.write(folder / f"{name}.wav", synthetic_voice(2.5, RATE_HZ, 120 + 20 * number), RATE_HZ)
    write_sidecars(folder)
    return folder


def scan(archive: Path, run: Path, model: Path, *more: str) -> int:
    return main(
        [
            "scan",
            str(archive),
            "-o",
            str(run),
            "--model",
            str(model),
            "--device",
            "cpu",
            "--jobs",
            "1",
            "--quiet",
            *more,
        ]
    )


@pytest.fixture(scope="module")
def run(archive: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    assert scan(archive, run, model) == 0
    return run


def test_each_segment_is_a_row_with_speaker_words_and_emotion(run: Path) -> None:
    segments = load_results(run, "segments")
    told = segments[["clip_id", "segment_index", "start_s", "end_s", "speaker", "text", "source"]]
    assert [tuple(None if pd.isna(cell) else cell for cell in row) for row in told.itertuples(index=False)] == [
        ("grid.wav", 0, 0.0, 1.25, "carla", "good morning", "textgrid"),
        ("rttm.wav", 0, 0.0, 1.5, "ann", None, "rttm"),
        ("rttm.wav", 1, 1.0, 2.2, "bob", None, "rttm"),
        ("srt.wav", 0, 0.1, 1.6, None, "=1+1 is two & more", "srt"),
        ("whisperx.wav", 0, 0.2, 1.4, "SPEAKER_00", "Hello.", "json"),
        ("whisperx.wav", 1, 1.5, 1.9, "SPEAKER_01", "Yes?", "json"),
    ]
    assert list(segments.context_s) == pytest.approx([0, 0, 0, 0, 0, 0.6])
    probabilities = segments.filter(regex="^p_")
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert list(probabilities.idxmax(axis=1).str.removeprefix("p_")) == list(segments.emotion)
    assert segments.prosodic__f0_median_hz.notna().all()
    files = load_results(run).set_index("clip_id")
    assert list(files.n_segments) == [0, 1, 0, 2, 1, 2]
    assert set(files.status) == {"ok"}
    assert "no segments: broken.rttm: segments of 'a' overlap" in files.error_message["broken.wav"]
    assert check_run(run) == []


def test_the_report_shows_the_words_beside_buttons_that_play_them(run: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    section = page.split('<section id="spoken">')[1].split("</section>")[0]
    assert "6 segments of 4 recordings, 5 speakers by name" in section
    assert "=1+1 is two &amp; more" in section
    (button,) = re.findall(r'<button[^>]+data-clip="whisperx.wav"[^>]+data-at="1.5"[^>]*>', section)
    assert 'data-to="1.9"' in button


def test_subtitles_and_tables_of_segments_are_exported(run: Path, tmp_path: Path, capsys) -> None:
    assert main(["export", str(run), "--to", "srt", "-o", str(tmp_path / "srt")]) == 0
    assert "4 tracks of segments; 2 files have none, because they have no segments" in capsys.readouterr().out
    emotion = load_results(run, "segments").set_index("clip_id").emotion["srt.wav"]
    assert f"({emotion}) =1+1 is two & more" in (tmp_path / "srt/srt.wav.srt").read_text()
    assert main(["export", str(run), "--to", "csv", "--table", "segments", "-o", str(tmp_path / "s.csv")]) == 0
    assert "'=1+1 is two & more" in (tmp_path / "s.csv").read_text()
    assert main(["export", str(run), "--to", "rttm", "--table", "windows", "-o", str(tmp_path / "rttm")]) == 0
    assert len(list((tmp_path / "rttm").iterdir())) == 6
    assert main(["export", str(run), "--to", "rttm", "--table", "files", "-o", str(tmp_path / "x")]) == 2


@pytest.mark.parametrize("file_format", TRACK_FORMATS)
def test_a_track_of_every_format_holds_each_segment_of_a_scan(run: Path, tmp_path: Path, file_format: str) -> None:
    assert main(["export", str(run), "--to", file_format, "-o", str(tmp_path)]) == 0
    suffix, _ = TRACK_FORMATS[file_format]
    tracks = {path.name.removesuffix(suffix): path for path in tmp_path.iterdir()}
    segments = load_results(run, "segments")
    assert sorted(tracks) == sorted(set(segments.clip_id))
    for clip_id, rows in segments.groupby("clip_id"):
        text = unescape(tracks[clip_id].read_text(encoding="utf-8"))
        for row in rows.itertuples():
            said = [] if file_format == "rttm" else [row.text]  # which has no place for words
            for told in filter(pd.notna, [row.emotion, row.speaker, *said]):
                assert told in text
        if file_format == "srt":  # which knows no speakers, so that two at once would overlap
            assert text.count(" --> ") == len(rows)
        elif file_format != "audacity":
            again = {(item.start_s, item.end_s) for item in read_segments([tracks[clip_id]]).segments}
            wanted = {(round(row.start_s, 3), round(row.end_s, 3)) for row in rows.itertuples()}
            assert {(round(start_s, 3), round(end_s, 3)) for start_s, end_s in again} == wanted


@pytest.mark.parametrize("file_format", ["csv", "jsonl"])
def test_a_table_of_segments_holds_what_the_run_holds(run: Path, tmp_path: Path, file_format: str) -> None:
    path = tmp_path / "segments"
    assert main(["export", str(run), "--to", file_format, "--table", "segments", "-o", str(path)]) == 0
    found = pd.read_csv(path) if file_format == "csv" else pd.read_json(path, lines=True)
    segments = load_results(run, "segments")
    assert list(found.columns) == list(segments.columns)
    for name in ("clip_id", "speaker", "emotion"):
        assert list(found[name].fillna("")) == list(segments[name].astype(object).fillna(""))
    np.testing.assert_allclose(found.confidence, segments.confidence, rtol=1e-5)


def test_retry_gives_a_failed_recording_its_segments_and_leaves_those_of_others(
    archive: Path, model: Path, tmp_path: Path
) -> None:
    copy, run = tmp_path / "archive", tmp_path / "run"
    copy.mkdir()
    for name in ("rttm.wav", "rttm.rttm", "whisperx.json"):
        shutil.copy(archive / name, copy)
    (copy / "whisperx.wav").write_bytes(b"not there yet")
    assert scan(copy, run, model, "--no-report") == 1
    before = load_results(run, "segments")
    assert list(before.clip_id) == ["rttm.wav"] * 2
    shutil.copy(archive / "whisperx.wav", copy)
    n_commits = len((run / "journal.jsonl").read_text().splitlines())
    assert main(["retry", str(run), "--jobs", "1", "--quiet"]) == 0
    commits = (run / "journal.jsonl").read_text().splitlines()[n_commits:]
    assert sum(json.loads(line)["n_processed"] for line in commits) == 1
    after = load_results(run, "segments")
    kept = after[after.clip_id == "rttm.wav"].astype({"speaker": str, "source": str, "emotion": str})
    pd.testing.assert_frame_equal(kept, before.astype({"speaker": str, "source": str, "emotion": str}))
    assert list(after.text[after.clip_id == "whisperx.wav"]) == ["Hello.", "Yes?"]
    assert list(load_results(run).n_segments) == [2, 2]
    assert check_run(run) == []


def test_a_recording_is_analysed_again_when_its_segments_come_change_or_go(
    archive: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "archive"
    copy.mkdir()
    for name in ("plain.wav", "rttm.wav", "srt.wav", "rttm.rttm", "srt.srt"):
        (copy / name).write_bytes((archive / name).read_bytes())
    run = tmp_path / "run"
    assert scan(copy, run, model, "--no-report") == 0
    shutil.copytree(run, tmp_path / "before")

    def again(expected: int) -> list[str]:
        before = (run / "journal.jsonl").read_text().splitlines()
        assert scan(copy, run, model, "--no-report") == 0
        commits = (run / "journal.jsonl").read_text().splitlines()[len(before) :]
        assert sum(json.loads(line)["n_processed"] for line in commits) == expected
        return list(load_results(run, "segments").clip_id)

    assert again(0) == ["rttm.wav", "rttm.wav", "srt.wav"]
    (copy / "plain.rttm").write_text(RTTM.format("plain", 0, 1.5, "ann"))
    (copy / "srt.srt").unlink()
    assert again(2) == ["plain.wav", "rttm.wav", "rttm.wav"]
    (copy / "rttm.rttm").write_text(RTTM.format("rttm", 0, 1.5, "ann"))
    assert again(1) == ["plain.wav", "rttm.wav"]
    # A file of segments that is broken is not tried again at every scan.
    (copy / "rttm.rttm").write_text("SPEAKER\n")
    assert again(1) == ["plain.wav"]
    assert again(0) == ["plain.wav"]
    assert check_run(run) == []
    capsys.readouterr()
    assert main(["diff", str(tmp_path / "before"), str(run)]) == 1
    told = capsys.readouterr().out
    assert "\n0 segments in both runs, 0 with another label.\n" in told
    assert "\nOnly in RUN_A: 3 segments\nOnly in RUN_B: 1 segments\n" in told
    assert scan(copy, run, model, "--segments", "none", "--no-report") == 7
    assert "segments: auto -> absent" in capsys.readouterr().err


def test_a_table_of_the_archive_and_none(archive: Path, model: Path, tmp_path: Path, capsys) -> None:
    table = tmp_path / "all.csv"
    table.write_text("file,start,end,speaker\nplain,0,1.5,ann\nplain,1.5,2,bob\nelsewhere.wav,0,1,carl\n")
    run = tmp_path / "run"
    assert scan(archive, run, model, "--no-report", "--segments", str(table), "--include", "plain.wav") == 0
    segments = load_results(run, "segments")
    assert list(segments.speaker) == ["ann", "bob"]
    assert set(segments.source) == {"table"}
    assert json.loads((run / "run.json").read_text())["config"]["segments"]["source"] == str(table)
    table.write_text(table.read_text().replace("bob", "dora"))
    assert scan(archive, run, model, "--no-report", "--segments", str(table), "--include", "plain.wav") == 0
    assert list(load_results(run, "segments").speaker) == ["ann", "dora"]

    capsys.readouterr()
    assert scan(archive, tmp_path / "x", model, "--segments", "atuo") == 2
    assert "Did you mean 'auto'?" in capsys.readouterr().err
    assert scan(archive, tmp_path / "x", model, "--segments", str(tmp_path / "no.csv"), "--no-report") == 3
    table.write_text("file,speaker\nplain,ann\n")
    assert scan(archive, tmp_path / "x", model, "--segments", str(table), "--no-report") == 8
    assert "needs the columns start and end" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()

    none = tmp_path / "none"
    assert scan(archive, none, model, "--no-report", "--segments", "none", "--include", "rttm.wav") == 0
    assert not (none / "segments").exists()
    assert check_run(none) == []
    with pytest.raises(RunError, match=r"has no segments: segments\.source is none"):
        load_results(none, "segments")


def test_columns_of_the_users_table_stay_apart_from_those_of_segments(
    archive: Path, model: Path, tmp_path: Path
) -> None:
    about = tmp_path / "about.csv"
    about.write_text("clip_id,speaker,tape\nrttm.wav,Anna Example,7\n")
    assert scan(archive, tmp_path / "run", model, "--no-report", "--include", "rttm.wav", "--metadata", str(about)) == 0
    segments = load_results(tmp_path / "run", "segments")
    assert list(segments.speaker) == ["ann", "bob"]
    assert list(segments.speaker_metadata) == ["Anna Example"] * 2
    assert list(segments.tape) == [7, 7]
    assert list(load_results(tmp_path / "run").speaker) == ["Anna Example"]


def test_a_call_with_a_speaker_per_channel(archive: Path, model: Path, tmp_path: Path, capsys) -> None:
    calls, run = tmp_path / "calls", tmp_path / "run"
    calls.mkdir()
    sides = [soundfile.read(archive / f"{name}.wav")[0] for name in ("plain", "srt")]
    soundfile.write(calls / "call.wav", np.column_stack(sides), RATE_HZ)
    for number, side in enumerate(sides, 1):
        soundfile.write(calls / f"side{number}.wav", side, RATE_HZ)
    assert scan(calls, run, model, "--channels", "split") == 0
    assert check_run(run) == []
    windows = load_results(run, "windows")
    of_call = windows[windows.clip_id == "call.wav"]
    assert list(of_call.channel) == sorted(of_call.channel)
    assert set(of_call.channel) == {1, 2}
    segments = load_results(run, "segments")
    assert list(segments.source) == ["channel"] * 4
    call = segments[segments.clip_id == "call.wav"].set_index("channel")
    files = load_results(run).set_index("clip_id")
    for number in (1, 2):
        assert call.emotion[number] == files.emotion[f"side{number}.wav"]
        assert call.confidence[number] == files.confidence[f"side{number}.wav"]
    assert main(["export", str(run), "--to", "rttm", "--table", "windows", "-o", str(tmp_path / "rttm")]) == 0
    lines = (tmp_path / "rttm/call.wav.rttm").read_text().splitlines()
    assert {line.split()[2] for line in lines} == {"1", "2"}
    # Whole channels lie at the same time, and each has a lane and a tier.
    section = (run / "report.html").read_text(encoding="utf-8").split('<section id="spoken">')[1].split("</section>")[0]
    assert re.findall(r'class="who">([^<]*)<', section) == ["channel 1", "channel 2", "no name", "no name"]
    assert main(["export", str(run), "--to", "textgrid", "-o", str(tmp_path / "grids")]) == 0
    grid = (tmp_path / "grids/call.wav.TextGrid").read_text()
    for number in (1, 2):
        tier = grid.split(f'name = "channel {number} - emotion"')[1]
        assert f'text = "{call.emotion[number]}"' in tier.split("item [")[0]
    capsys.readouterr()
    assert scan(calls, run, model, "--no-report") == 7
    assert "channels: split -> absent" in capsys.readouterr().err
