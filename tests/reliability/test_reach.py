"""R11: an archive that cannot be reached changes nothing; what could not be looked at is neither bad nor gone."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
from pathlib import Path

import pandas as pd
import pytest
import soundfile
from harness import LONG, ONE_JOB, PLUGIN, SHORTER, assert_same, assert_sound, results

from ser_batch.cli.main import main
from ser_batch.dsp.voice import synthetic_voice
from ser_batch.records import ClipOutcome, ClipRef, Status
from ser_batch.stages.reach import is_out_of_reach


def snapshot(run: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file() and path.name != ".lock"}


def linked(archive: Path, folder: Path) -> Path:
    """A folder of links to every file of an archive."""
    for path in archive.rglob("*.*"):
        link = folder / path.relative_to(archive)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    return folder


def listed(archive: Path, path: Path) -> Path:
    path.write_text("".join(f"{file}\n" for file in sorted(archive.rglob("*.*")) if file.suffix != ".rttm"))
    return path


@pytest.fixture
def archive(corpus, tmp_path) -> Path:
    """Where something is mounted, in a manner of speaking."""
    return shutil.copytree(corpus, tmp_path / "mnt" / "archive")


@pytest.fixture
def away(archive) -> Path:
    """Where it goes."""
    return archive.parent.parent / "away"


@pytest.fixture(params=["links", pytest.param("list", marks=LONG)])
def order(request, archive, tmp_path) -> dict[str, str]:
    """How the scan is told of the files."""
    if request.param == "links":
        return {"inputs": str(linked(archive, tmp_path / "links"))}
    return {"inputs": "", "files_from": str(listed(archive, tmp_path / "list.txt"))}


def ask(scanner, order: dict[str, str], run: Path, **more):
    return scanner.scan(order["inputs"], run, **{**{k: v for k, v in order.items() if k != "inputs"}, **more})


def statuses(run: Path) -> dict[str, str]:
    return dict(results(run).set_index("clip_id")["status"])


@pytest.mark.parametrize(
    "mode", ["resume", "recompute", *(pytest.param(mode, marks=LONG) for mode in ("retry", "restart"))]
)
def test_nothing_is_changed_while_the_archive_is_not_mounted(scanner, archive, away, order, tmp_path, mode):
    run = tmp_path / "run"
    assert ask(scanner, order, run)["code"] == 1
    before = snapshot(run)
    archive.rename(away)
    answer = ask(scanner, order, run, mode=mode, config=SHORTER if mode in ("restart", "recompute") else ONE_JOB)
    assert answer["code"] == 3 and "Is the archive mounted? Nothing was changed." in answer["error"]
    assert snapshot(run) == before
    away.rename(archive)
    assert ask(scanner, order, run)["n_processed"] == 0
    assert_sound(run)


def test_a_part_of_the_archive_that_is_not_mounted_keeps_its_rows(scanner, archive, away, order, tmp_path):
    run = tmp_path / "run"
    ask(scanner, order, run)
    before = snapshot(run)
    rows = results(run)
    (archive / "speaker0").rename(away)
    answer = ask(scanner, order, run)
    assert (answer["code"], answer["n_processed"]) == (1, 0)
    assert snapshot(run) == before
    away.rename(archive / "speaker0")
    assert ask(scanner, order, run)["n_processed"] == 0
    pd.testing.assert_frame_equal(results(run), rows)


def test_what_was_never_there_is_a_failed_row_until_it_is(scanner, archive, away, order, tmp_path):
    run = tmp_path / "run"
    (archive / "speaker0").rename(away)
    answer = ask(scanner, order, run)
    assert answer["code"] == 1 and answer["counts"]["failed"] == 9 + 2
    failed = results(run).query("status == 'failed'")
    assert (failed["error_type"] == "FileNotFoundError").sum() == 9
    assert ask(scanner, order, run)["n_processed"] == 0, "nothing has changed, so nothing is tried"
    away.rename(archive / "speaker0")
    answer = ask(scanner, order, run)
    assert answer["n_processed"] == 9 and answer["counts"]["failed"] == 3
    assert_sound(run)


@pytest.mark.parametrize("left", [pytest.param("nothing", marks=LONG), "an empty folder"])
def test_an_archive_that_goes_away_in_the_middle_stops_the_scan(scanner, archive, away, reference, tmp_path, left):
    run = tmp_path / "run"
    move = ["shard-committed", 2, str(archive), str(away), str(archive) if left != "nothing" else ""]
    answer = scanner.scan(archive, run, move_at=move, config=ONE_JOB | {"run": {"shard_size": 2}})
    assert answer["code"] == 3, answer
    assert "can no longer be read: its folder is gone, or is another one now" in answer["error"]
    assert "FileNotFoundError" not in set(results(run)["error_type"])
    if left != "nothing":
        archive.rmdir()
    away.rename(archive)
    assert scanner.scan(archive, run)["code"] == 1
    assert_same(run, reference)
    assert_sound(run)


def test_an_archive_that_goes_away_behind_links_stops_the_scan(scanner, archive, away, order, reference, tmp_path):
    run = tmp_path / "run"
    # The folder of the links, or the one above the files of the list, stays where it is.
    for folder in ("speaker0", "speaker2"):
        shutil.rmtree(archive / folder)
    move = ["shard-committed", 6, str(archive / "speaker1"), str(away), ""]
    answer = ask(scanner, order, run, move_at=move, config=ONE_JOB | {"run": {"shard_size": 2}})
    assert answer["code"] == 3 and "none of its files can be looked at" in answer["error"], answer
    away.rename(archive / "speaker1")
    answer = ask(scanner, order, run)
    assert answer["counts"]["ok"] == 8 and answer["counts"]["failed"] == 18 + 1
    assert_sound(run)


@pytest.mark.parametrize("name", ["ENOENT", "ESTALE", "EIO", "EACCES", "ENOTCONN", "EMFILE", "ENOMEM", "ELOOP"])
def test_what_the_system_says_of_a_file_is_nothing_about_its_audio(name):
    error = type(OSError(getattr(errno, name), "why")).__name__
    ref = ClipRef("a.wav", "/a.wav", 1, 1)
    assert is_out_of_reach(ClipOutcome(ref, Status.FAILED, "decode", error, "why"))
    assert not is_out_of_reach(ClipOutcome(ref, Status.FAILED, "extract", error, "a plugin's own file"))
    assert not is_out_of_reach(ClipOutcome(ref, Status.FAILED, "decode", "DecodeError", "no audio"))


@pytest.fixture
def sick(tmp_path) -> tuple[Path, list[str]]:
    """A disk that gives errors on files that are named so, while it is sick; and the plugins that make it one."""
    marker = tmp_path / "sick"
    plugin = tmp_path / "sick_disk.py"
    plugin.write_text(
        f"""
import os, errno
import ser_batch

@ser_batch.hookimpl(tryfirst=True)
def read_clip(ref):
    if os.path.exists({str(marker)!r}) and open({str(marker)!r}).read() in ref.clip_id:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
"""
    )
    return marker, [str(PLUGIN), str(plugin)]


def test_an_error_of_the_disk_takes_no_results_away_and_is_tried_again(scanner, archive, sick, tmp_path):
    marker, plugins = sick
    run = tmp_path / "run"
    assert scanner.scan(archive, run, plugins=plugins)["code"] == 1
    rows = results(run).set_index("clip_id")
    os.utime(archive / "speaker0" / "take000.wav", ns=(1, 1))
    shutil.copy(archive / "speaker0" / "take000.wav", archive / "speaker0" / "new.wav")
    marker.write_text("speaker0/")
    for _ in range(2):
        answer = scanner.scan(archive, run, plugins=plugins)
        assert answer["counts"]["failed"] == 4
        assert any("1 files could not be looked at, such as speaker0/take000.wav" in said for said in answer["said"])
        now = results(run).set_index("clip_id")
        pd.testing.assert_frame_equal(now.drop("speaker0/new.wav"), rows)
        assert now.loc["speaker0/new.wav", "error_type"] == "OSError"
        assert main(["status", str(run)]) == 7, "a file that changed has no row that is made of it"
        assert answer["n_processed"] == 2, "both are tried each time"
    marker.unlink()
    answer = scanner.scan(archive, run, plugins=plugins)
    assert answer["n_processed"] == 2 and answer["counts"]["failed"] == 3
    assert_sound(run)


def test_other_settings_wait_for_files_that_cannot_be_looked_at(scanner, archive, sick, shorter, tmp_path):
    marker, plugins = sick
    run = tmp_path / "run"
    scanner.scan(archive, run, plugins=plugins)
    marker.write_text("speaker0/take000.wav")
    answer = scanner.scan(archive, run, plugins=plugins, config=SHORTER, mode="recompute")
    assert "stays as it was" in answer["said"][-1]
    assert statuses(run)["speaker0/take000.wav"] == "ok"
    assert main(["status", str(run)]) == 7
    marker.unlink()
    answer = scanner.scan(archive, run, plugins=plugins, config=SHORTER)
    assert answer["n_processed"] == 4, "the part of that file, and nothing else"
    assert_same(run, shorter)
    assert_sound(run)


def test_other_settings_wait_for_links_that_lead_nowhere(scanner, archive, away, order, shorter, tmp_path):
    run = tmp_path / "run"
    ask(scanner, order, run)
    (archive / "speaker0").rename(away)
    answer = ask(scanner, order, run, config=SHORTER, mode="recompute")
    assert any("parts that were made with other settings stay as they are" in said for said in answer["said"])
    assert statuses(run)["speaker0/take000.wav"] == "ok"
    away.rename(archive / "speaker0")
    assert ask(scanner, order, run, config=SHORTER)["code"] == 1
    assert_same(run, shorter)
    assert_sound(run)


def test_a_disk_that_gives_nothing_but_errors_stops_the_scan(scanner, sick, tmp_path):
    marker, plugins = sick
    folder = tmp_path / "many"
    folder.mkdir()
    for index in range(130):
        soundfile.write(folder / f"{index:03d}.wav", synthetic_voice(0.2, 8000), 8000)
    marker.write_text("wav")
    run = tmp_path / "run"
    answer = scanner.scan(folder, run, plugins=plugins, config=ONE_JOB | {"run": {"shard_size": 50}})
    assert answer["code"] == 3 and "100 files in a row failed so" in answer["error"], answer
    assert len(results(run)) == 50
    marker.unlink()
    answer = scanner.scan(folder, run, plugins=plugins)
    assert answer["code"] == 0 and set(statuses(run).values()) == {"ok"}
    assert_sound(run)


def test_a_worker_that_has_no_memory_left_is_not_held_against_its_files(scanner, archive, tmp_path):
    plugin = tmp_path / "hoarder.py"
    plugin.write_text(
        """
import ser_batch

seen = []

@ser_batch.hookimpl(tryfirst=True)
def read_clip(ref):
    seen.append(ref.clip_id)
    if len(seen) > 9 and len(seen) % 2:
        raise MemoryError
"""
    )
    answer = scanner.scan(archive, tmp_path / "run", plugins=[str(PLUGIN), str(plugin)])
    assert answer["counts"]["failed"] == 3, "the broken ones"
    assert "MemoryError" not in set(results(tmp_path / "run")["error_type"])


def test_a_failed_file_that_is_deleted_is_no_failure_any_more(scanner, archive, tmp_path, capsys):
    run = tmp_path / "run"
    assert scanner.scan(archive, run)["code"] == 1
    for name, row in results(run).set_index("clip_id").iterrows():
        if row.status == "failed":
            (archive / name).unlink()
    answer = scanner.scan(archive, run)
    assert answer["code"] == 0 and answer["counts"]["vanished"] == 3
    assert main(["status", str(run)]) == 0
    assert "Failed, by stage" not in capsys.readouterr().out
    assert_sound(run)


def test_retry_of_an_interrupted_run_does_not_call_it_complete(scanner, archive, tmp_path, capsys):
    run = tmp_path / "run"
    blow = {"parts": 3, "signal": signal.SIGINT}
    assert scanner.scan(archive, run, blows=[blow])["code"] == 130
    n_rows = len(results(run))
    assert n_rows < 27
    scanner.scan(archive, run, mode="retry")
    assert main(["status", str(run)]) == 7
    assert "is incomplete" in capsys.readouterr().out
    assert len(results(run)) == n_rows
    assert scanner.scan(archive, run)["code"] == 1
    assert_sound(run)


def test_files_of_impossible_years_are_analysed(scanner, archive, tmp_path):
    """2300 and 1589."""
    for name, year_s in (("take000.wav", 10_413_792_000), ("take003.wav", -12_000_000_000)):
        os.utime(archive / "speaker0" / name, (year_s, year_s))
    run = tmp_path / "run"
    answer = scanner.scan(archive, run)
    assert answer["code"] == 1, answer
    assert {statuses(run)[f"speaker0/take{number}.wav"] for number in ("000", "003")} == {"ok"}
    assert scanner.scan(archive, run)["n_processed"] == 0
    assert_sound(run)


def come_and_go(scanner, archive: Path, away: Path, folder: Path, n_scans: int, seed: int, n_runs: int = 3) -> None:
    """Scan links, the folder itself and a list while parts of the archive come and go, with kills."""
    rng = random.Random(seed)
    runs = {
        "links": {"inputs": str(linked(archive, folder / "links"))},
        "folder": {"inputs": str(archive)},
        "list": {"inputs": "", "files_from": str(listed(archive, folder / "list.txt"))},
    }
    runs = dict(list(runs.items())[:n_runs])
    best: dict[str, pd.DataFrame] = {}
    away.mkdir()
    places = [archive / "speaker0", archive / "speaker1", archive / "speaker2"]
    for _ in range(n_scans):
        for place in places:
            hidden = away / place.name
            if rng.random() < 0.4:
                (place.rename(hidden) if place.exists() else hidden.rename(place))
        for name, order in runs.items():
            run = folder / "runs" / name
            more = {}
            if rng.random() < 0.4:
                more["blows"] = [{"after_s": rng.uniform(0.3, 1.5), "signal": signal.SIGKILL}]
            elif rng.random() < 0.4 and places[2].exists():
                more["move_at"] = ["shard-committed", 1, str(places[2]), str(away / "speaker2"), ""]
            ask(scanner, order, run, config=ONE_JOB | {"run": {"shard_size": 3}}, **more)
            if not (run / "run.json").exists():
                continue
            assert main(["verify", str(run)]) in (0, 7)
            rows = (
                results(run).set_index("clip_id").drop(columns="vanished") if any((run / "files").glob("p*")) else None
            )
            if rows is None:
                continue
            good = rows[rows["status"] == "ok"]
            before = best.get(name, good)
            assert set(before.index) <= set(good.index), f"{name}: an ok row was lost"
            pd.testing.assert_frame_equal(good.loc[before.index], before)
            best[name] = good
    for place in places:
        if not place.exists():
            (away / place.name).rename(place)
    for name, order in runs.items():
        answer = ask(scanner, order, folder / "runs" / name)
        assert answer["code"] == 1, answer
        assert_sound(folder / "runs" / name)
        assert sum(status == "ok" for status in statuses(folder / "runs" / name).values()) == 24


def test_an_archive_that_comes_and_goes_loses_no_result(scanner, archive, away, tmp_path):
    come_and_go(scanner, archive, away, tmp_path, 2, seed=1, n_runs=2)


@pytest.mark.reliability
@pytest.mark.parametrize("seed", range(5))
def test_long_an_archive_that_comes_and_goes_over_twenty_scans(scanner, archive, away, tmp_path, seed):
    come_and_go(scanner, archive, away, tmp_path, 20, seed)


def test_a_restart_loses_no_result_of_what_cannot_be_looked_at(scanner, archive, away, order, tmp_path):
    """What it would put in its place are failed rows."""
    run = tmp_path / "run"
    ask(scanner, order, run)
    (archive / "speaker0").rename(away)
    before = snapshot(run)
    answer = ask(scanner, order, run, mode="restart")
    assert answer["code"] == 7 and "8 files of which" in answer["error"], answer
    assert "`scan --restart` would lose them. Is all of the archive mounted?" in answer["error"]
    assert snapshot(run) == before
    away.rename(archive / "speaker0")
    assert ask(scanner, order, run, mode="restart")["n_processed"] == 27
