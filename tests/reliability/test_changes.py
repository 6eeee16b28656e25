"""R6 and R8: what changed is processed again, and nothing else; what is finished costs nothing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import soundfile
from harness import ONE_JOB, PLUGIN, SHORTER, assert_same, assert_sound, results

from ser_batch import load_results
from ser_batch.dsp.voice import synthetic_voice
from ser_batch.errors import RunError
from ser_batch.run.manifest import config_of_run


@pytest.fixture
def archive(corpus, tmp_path) -> Path:
    """A copy that may be changed, with its times."""
    return shutil.copytree(corpus, tmp_path / "archive")


@pytest.fixture
def run(reference, archive, tmp_path) -> Path:
    """A finished run over it: a copy of one over the corpus, made to say so."""
    run = shutil.copytree(reference, tmp_path / "run")
    manifest = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(manifest | {"root": str(archive), "inputs": [str(archive)]}))
    return run


def snapshot(run: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file() and path.name != ".lock"}


def test_a_finished_scan_again_changes_nothing_and_starts_no_worker(scanner, archive, run):
    before = snapshot(run)
    answer = scanner.scan(archive, run)
    assert (answer["code"], answer["n_processed"]) == (1, 0)
    assert not answer["n_workers_started"]
    assert snapshot(run) == before


def test_new_changed_and_vanished_files_and_nothing_else(scanner, archive, run):
    before = results(run).set_index("clip_id")
    soundfile.write(archive / "speaker0" / "take000.wav", synthetic_voice(0.5, 8000), 8000)
    os.utime(archive / "speaker1" / "take001.flac", ns=(1, 1))
    shutil.copy(archive / "speaker2" / "take005.ogg", archive / "new.ogg")
    (archive / "speaker0" / "take003.wav").unlink()
    (archive / "speaker1" / "notes.wav").unlink()
    answer = scanner.scan(archive, run)
    assert answer["n_processed"] == 3
    assert answer["counts"]["vanished"] == 2 and answer["counts"]["found"] == 26
    after = results(run).set_index("clip_id")
    assert set(after.index) == {*before.index, "new.ogg"}
    assert list(after.index[after["vanished"]]) == ["speaker0/take003.wav", "speaker1/notes.wav"]
    assert after.loc["speaker0/take000.wav", "emotion"] == "angry"
    touched = ["speaker0/take000.wav", "speaker1/take001.flac"]
    untouched = [clip_id for clip_id in before.index if clip_id not in touched]
    pd.testing.assert_frame_equal(
        after.loc[untouched].drop(columns="vanished"), before.loc[untouched].drop(columns="vanished")
    )
    assert_sound(run)


def test_files_that_come_back_are_unmarked_without_work(scanner, archive, run, tmp_path):
    (archive / "speaker0").rename(tmp_path / "elsewhere")
    assert scanner.scan(archive, run)["counts"]["vanished"] == 9
    (tmp_path / "elsewhere").rename(archive / "speaker0")
    answer = scanner.scan(archive, run)
    assert answer["n_processed"] == 0 and answer["counts"]["vanished"] == 0
    assert_sound(run)


def test_an_archive_that_is_not_mounted_leaves_the_run_as_it_is(scanner, archive, run, tmp_path):
    before = snapshot(run)
    archive.rename(tmp_path / "unmounted")
    archive.mkdir()
    answer = scanner.scan(archive, run)
    assert answer["code"] == 4 and "No audio files found" in answer["error"]
    assert snapshot(run) == before


def test_other_settings_are_refused_with_what_changed_and_leave_the_run(scanner, archive, run):
    before = snapshot(run)
    answer = scanner.scan(archive, run, config=SHORTER)
    assert answer["code"] == 7
    assert "audio.window_s: 3.0 -> 0.1" in answer["error"]
    for cure in ("--new-run", "--recompute changed", "--restart"):
        assert cure in answer["error"]
    assert snapshot(run) == before


def test_settings_that_change_no_result_are_not_refused(scanner, archive, run):
    config = ONE_JOB | {"extract": ONE_JOB["extract"] | {"jobs": 2, "timeout_s": 5.0}, "run": {"shard_size": 100}}
    assert scanner.scan(archive, run, config=config)["n_processed"] == 0


@pytest.mark.parametrize("mode", ["recompute", "restart"])
def test_recompute_and_restart_end_as_a_new_run_would(scanner, archive, run, shorter, mode):
    answer = scanner.scan(archive, run, config=SHORTER, mode=mode)
    assert answer["n_processed"] == 27, answer
    assert_same(run, shorter)
    assert_sound(run)


def test_a_recompute_that_was_killed_goes_on(scanner, archive, run, shorter):
    for step in ("journal-appended", "windows-renamed", "files-staged"):
        answer = scanner.scan(archive, run, config=SHORTER, mode="recompute", kill_at=[step, 2])
        assert answer["code"] == -9
    assert scanner.scan(archive, run, config=SHORTER)["code"] == 1, "the settings are the run's own by now"
    assert_same(run, shorter)
    assert_sound(run)


def test_a_file_that_is_gone_when_its_results_are_due_keeps_its_row(scanner, archive, run):
    path = archive / "speaker0" / "take000.wav"
    data, times = path.read_bytes(), path.stat()
    path.unlink()
    assert scanner.scan(archive, run, config=SHORTER, mode="recompute")["code"] == 1
    row = results(run).set_index("clip_id").loc["speaker0/take000.wav"]
    assert row["vanished"] and row["status"] == "skipped" and pd.isna(row["emotion"])
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert scanner.scan(archive, run, config=SHORTER)["n_processed"] == 1
    row = results(run).set_index("clip_id").loc["speaker0/take000.wav"]
    assert row["status"] == "ok", row["error_message"]
    assert_sound(run)


def test_another_version_of_an_extractor_is_other_settings(scanner, archive, run, tmp_path):
    plugin = tmp_path / PLUGIN.name
    text = PLUGIN.read_text().replace('"loudness", 1', '"loudness", 2').replace('("loudness", 1)', '("loudness", 2)')
    plugin.write_text(text)
    answer = scanner.scan(archive, run, plugins=[str(plugin)])
    assert answer["code"] == 7 and "extractor loudness: 1 -> 2" in answer["error"]


def test_retry_processes_failed_files_and_nothing_else(scanner, archive, run):
    soundfile.write(archive / "speaker1" / "notes.wav", synthetic_voice(0.2, 8000), 8000)
    soundfile.write(archive / "unknown.wav", synthetic_voice(0.2, 8000), 8000)
    answer = scanner.scan(archive, run, mode="retry")
    assert answer["n_processed"] == 3
    files = results(run).set_index("clip_id")
    assert files.loc["speaker1/notes.wav", "status"] == "ok"
    assert "unknown.wav" not in files.index
    assert set(files.index[files["status"] == "failed"]) == {"speaker0/empty.wav", "speaker2/broken.flac"}


def test_another_root_is_refused(scanner, archive, run, tmp_path):
    answer = scanner.scan(archive / "speaker0", run)
    assert answer["code"] == 7 and "was made from" in answer["error"]


def test_a_moved_archive_is_taken_over_without_work(scanner, archive, run, tmp_path):
    archive.rename(tmp_path / "moved")
    answer = scanner.scan(tmp_path / "moved", run, mode="recompute")
    assert answer["n_processed"] == 0
    assert json.loads((run / "run.json").read_text())["root"] == str(tmp_path / "moved")


def test_lost_or_damaged_parts_are_said_and_processed_again(scanner, archive, run, reference):
    (run / "files" / "part-00001.parquet").unlink()
    damaged = run / "windows" / "part-00003.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-10])
    answer = scanner.scan(archive, run)
    assert answer["n_processed"] == 8
    assert_same(run, reference)
    assert_sound(run)


def test_a_part_with_a_flipped_bit_is_an_error_with_the_cure(scanner, archive, run, reference):
    """Of the same length as it was written, so that only reading it tells."""
    part = run / "files" / "part-00002.parquet"
    data = bytearray(part.read_bytes())
    column = pq.read_metadata(part).row_group(0).column(0)
    data[column.data_page_offset + column.total_compressed_size - 2] ^= 4
    part.write_bytes(data)
    answer = scanner.scan(archive, run)
    assert answer["code"] == 7 and "files/part-00002.parquet is damaged" in answer["error"]
    part.unlink()
    assert scanner.scan(archive, run)["n_processed"] == 4
    assert_same(run, reference)
    assert_sound(run)


def test_a_part_with_a_flipped_bit_in_its_footer_is_processed_again(scanner, archive, run, reference):
    part = run / "windows" / "part-00002.parquet"
    data = bytearray(part.read_bytes())
    data[-40] ^= 4
    part.write_bytes(data)
    answer = scanner.scan(archive, run)
    assert answer["n_processed"] == 4
    assert any("Part 2 of the run has a damaged windows/part-00002.parquet (footer)" in said for said in answer["said"])
    assert_same(run, reference)
    assert_sound(run)


def test_a_lost_journal_is_rebuilt_from_the_parts(scanner, archive, run, reference):
    (run / "journal.jsonl").unlink()
    answer = scanner.scan(archive, run)
    assert answer["n_processed"] == 0
    assert_same(run, reference)
    assert_sound(run)


def test_a_folder_that_is_no_run_is_refused_and_left_alone(scanner, archive, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    answer = scanner.scan(archive, tmp_path / "thesis")
    assert answer["code"] == 7 and "is not a run" in answer["error"]
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.txt"]


def test_embeddings_that_are_no_longer_wanted_go_with_the_rest(scanner, archive, run):
    config = ONE_JOB | {"predict": ONE_JOB["predict"] | {"embeddings": False}}
    refused = scanner.scan(archive, run, config=config)
    assert refused["code"] == 7 and "embeddings: 3 -> absent" in refused["error"]
    answer = scanner.scan(archive, run, mode="recompute", config=config, kill_at=["journal-appended", 2])
    assert answer["code"] < 0
    answer = scanner.scan(archive, run, mode="recompute", config=config)
    assert answer["code"] == 1, answer
    assert not list((run / "embeddings").iterdir())
    assert_sound(run)
    back = scanner.scan(archive, run, mode="recompute")
    assert back["code"] == 1, back
    assert_sound(run)
    assert len(results(run, "embeddings")) == len(results(run, "windows"))


def test_a_run_of_a_version_without_embeddings_and_segments_goes_on_without_them(scanner, archive, run):
    config = ONE_JOB | {"predict": ONE_JOB["predict"] | {"embeddings": False}, "segments": {"source": "none"}}
    shutil.rmtree(run)
    assert scanner.scan(archive, run, config=config)["code"] == 1
    manifest = json.loads((run / "run.json").read_text())
    del manifest["tables"], manifest["embeddings"], manifest["config"]["predict"]["embeddings"]
    del manifest["segments"], manifest["config"]["segments"]
    (run / "run.json").write_text(json.dumps(manifest))
    assert_sound(run)
    assert config_of_run(manifest).predict.embeddings is False
    assert config_of_run(manifest).segments.source == "none"
    with pytest.raises(RunError, match="a version of ser-batch made it that wrote none"):
        load_results(run, "embeddings")
    soundfile.write(archive / "new.wav", synthetic_voice(0.5, 8000), 8000)
    assert scanner.scan(archive, run, config=config)["n_processed"] == 1
    assert_sound(run)
