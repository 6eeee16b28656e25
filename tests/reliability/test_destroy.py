"""R10: nothing is destroyed before it is checked that something takes its place; what is not ours is never deleted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from harness import LONG, ONE_JOB, PLUGIN, SHORTER, assert_same, assert_sound, results

from ser_batch import load_results
from ser_batch.cli.main import main


def snapshot(run: Path) -> dict[str, bytes]:
    """All that is the run's; workers may outlive a scan that was killed, and write, for a moment."""
    paths = (path for path in run.rglob("*") if path.is_file())
    kept = (path for path in paths if path.name != ".lock" and ".scratch-" not in str(path) and path.suffix != ".tmp")
    return {str(path): path.read_bytes() for path in kept}


@pytest.fixture
def run(reference, tmp_path) -> Path:
    return shutil.copytree(reference, tmp_path / "run")


def broken_in_workers(folder: Path) -> Path:
    plugin = folder / "not_in_workers.py"
    plugin.write_text(
        "import os\nif os.environ.get('OMP_NUM_THREADS') == '1':  # as workers have it\n    raise ImportError('gone')\n"
    )
    return plugin


@pytest.mark.parametrize("mode", ["restart", pytest.param("recompute", marks=LONG)])
@pytest.mark.parametrize("mistake", ["metadata", "model", "plugin", "worker"])
def test_a_mistake_in_the_command_costs_nothing_of_the_run(scanner, corpus, run, reference, tmp_path, mode, mistake):
    before = snapshot(run)
    order = {
        "metadata": {"metadata": str(tmp_path / "gone.csv")},
        "model": {"config": SHORTER | {"predict": {"model": "nosuch", "device": "cpu"}}},
        "plugin": {"plugins": [str(PLUGIN), str(tmp_path / "gone.py")]},
        "worker": {"plugins": [str(PLUGIN), str(broken_in_workers(tmp_path))]},
    }[mistake]
    answer = scanner.scan(corpus, run, **{"mode": mode, "config": SHORTER, **order})
    assert answer["code"] in (3, 5, 6), answer
    assert snapshot(run) == before
    assert scanner.scan(corpus, run)["n_processed"] == 0, "the run goes on as if nothing had happened"
    assert_same(run, reference)


BEFORE_THE_FIRST_COMMIT = ("planned", "shard-extracted", "windows-staged")


@pytest.mark.parametrize(
    "step", ["recovered", "files-staged", *(pytest.param(step, marks=LONG) for step in BEFORE_THE_FIRST_COMMIT)]
)
def test_a_restart_that_is_killed_before_its_first_commit_has_done_nothing(scanner, corpus, run, reference, step):
    before = snapshot(run)
    answer = scanner.scan(corpus, run, mode="restart", config=SHORTER, kill_at=[step, 1])
    assert answer["code"] == -9, answer
    assert snapshot(run) == before
    assert scanner.scan(corpus, run)["n_processed"] == 0
    assert_same(run, reference)
    assert_sound(run)


@pytest.mark.parametrize("operation", ["write", *(pytest.param(name, marks=LONG) for name in ("rename", "flush"))])
def test_a_restart_on_a_full_disk_has_done_nothing(scanner, corpus, run, reference, operation):
    fault = {"operation": operation, "number": 1, "code": "ENOSPC", "after": False}
    answer = scanner.scan(corpus, run, mode="restart", config=SHORTER, break_disk=fault)
    assert answer["code"] == 7 and "Free some space" in answer["error"]
    assert scanner.scan(corpus, run)["n_processed"] == 0
    assert_same(run, reference)
    assert_sound(run)


@pytest.mark.parametrize("config", [pytest.param(ONE_JOB, marks=LONG), SHORTER], ids=["same", "other"])
@pytest.mark.parametrize(
    ("step", "n_left"),
    [
        ("manifest-written", 27),
        ("journal-appended", 23),
        pytest.param("windows-renamed", 23, marks=LONG),
        pytest.param("files-renamed", 23, marks=LONG),
        pytest.param("shard-committed", 23, marks=LONG),
    ],
)
def test_a_restart_that_is_killed_at_its_first_commit_goes_on(
    scanner, corpus, run, reference, shorter, step, n_left, config
):
    """Given once, --restart need not be given again: the plain command goes on from wherever it was killed."""
    answer = scanner.scan(corpus, run, mode="restart", config=config, kill_at=[step, 1])
    assert answer["code"] == -9, answer
    assert main(["verify", str(run)]) == 7
    assert main(["status", str(run)]) == 7
    answer = scanner.scan(corpus, run, config=config)
    assert (answer["code"], answer["n_processed"]) == (1, n_left)
    assert_same(run, shorter if config is SHORTER else reference)
    assert_sound(run)


def test_readers_see_the_old_results_until_the_first_new_ones(scanner, corpus, run, reference):
    scanner.scan(corpus, run, mode="restart", config=SHORTER, kill_at=["shard-predicted", 1])
    pd.testing.assert_frame_equal(load_results(run), load_results(reference))


def test_what_others_keep_in_a_run_stays_where_it_is(scanner, corpus, run):
    kept = [
        ".scratch-notes/chapter.txt",
        ".scratch-abcdefgh/chapter.txt",
        "files/.draft.tmp",
        "files/.part-1.parquet.tmp",
        "windows/.notes.parquet.tmp",
        ".run.json.bak.tmp",
    ]
    for name in kept:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("years of work")
    for mode in ("resume", "restart"):
        assert scanner.scan(corpus, run, mode=mode)["code"] == 1
        assert [name for name in kept if (run / name).read_text() != "years of work"] == []


def test_a_scratch_folder_of_a_killed_scan_is_tidied_up(scanner, corpus, tmp_path):
    run = tmp_path / "run"
    assert scanner.scan(corpus, run, kill_at=["shard-extracted", 1])["code"] == -9
    assert len(list(run.glob(".scratch-*"))) == 1
    (run / ".scratch-12345678").mkdir()
    (run / ".scratch-linked00").symlink_to(corpus)
    assert scanner.scan(corpus, run)["code"] == 1
    assert [path.name for path in run.glob(".scratch-*")] == [".scratch-linked00"]
    assert any(corpus.rglob("*.wav"))


@pytest.mark.parametrize("beside", ["files/thesis.parquet", "windows/thesis.txt", "journal.jsonl", "metadata.csv"])
def test_a_folder_that_only_looks_like_a_run_is_refused_and_left_alone(scanner, corpus, tmp_path, beside):
    folder = tmp_path / "thesis"
    for name in (beside, ".scratch-notes/chapter.txt", "files/.draft.tmp"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("years of work")
    before = snapshot(folder)
    for mode in ("resume", "restart", "recompute"):
        answer = scanner.scan(corpus, folder, mode=mode)
        assert answer["code"] == 7 and "is not a run of ser-batch" in answer["error"]
    assert snapshot(folder) == before
    assert (folder / "files" / ".draft.tmp").exists() and (folder / ".scratch-notes" / "chapter.txt").exists()


def test_a_run_without_its_run_json_is_taken_over_with_its_parts(scanner, corpus, run, reference, capsys):
    """As the message about a damaged run.json advises; also with a report beside it."""
    (run / "report.html").write_text("<p>")
    (run / "run.json").unlink()
    assert scanner.scan(corpus, run, mode="recompute")["n_processed"] == 0
    assert_same(run, reference)
    assert main(["verify", str(run)]) == 0
    assert results(run).equals(results(reference))


@pytest.mark.parametrize("mistake", ["worker", pytest.param("disk", marks=LONG)])
def test_what_is_left_of_a_lost_part_stays_until_something_takes_its_place(
    scanner, corpus, run, reference, tmp_path, mistake
):
    """As where one table was moved to another disk, and comes back."""
    away = (run / "windows").rename(tmp_path / "windows")
    order = {
        "worker": {"plugins": [str(PLUGIN), str(broken_in_workers(tmp_path))]},
        "disk": {"break_disk": {"operation": "write", "number": 4, "code": "ENOSPC", "after": False}},
    }[mistake]
    answer = scanner.scan(corpus, run, **order)
    assert answer["code"] in (5, 7), answer
    assert results(run).equals(results(reference)), "rows of files are there"
    shutil.rmtree(run / "windows")  # holds nothing, or what a full disk leaves behind
    away.rename(run / "windows")
    assert scanner.scan(corpus, run)["n_processed"] == 0
    assert_same(run, reference)
    assert_sound(run)


@pytest.mark.parametrize(
    "step", ["journal-appended", *(pytest.param(step, marks=LONG) for step in ("recovered", "files-renamed"))]
)
def test_a_scan_that_makes_lost_parts_again_may_be_killed(scanner, corpus, run, reference, step):
    for part in (1, 6):
        (run / "windows" / f"part-{part:05d}.parquet").unlink()
    assert scanner.scan(corpus, run, kill_at=[step, 1])["code"] == -9
    assert scanner.scan(corpus, run)["code"] == 1
    assert_same(run, reference)
    assert_sound(run)


def test_a_lost_part_of_files_that_are_gone_is_given_up(scanner, corpus, run, tmp_path):
    archive = shutil.copytree(corpus, tmp_path / "archive")
    run = tmp_path / "own"
    assert scanner.scan(archive, run)["code"] == 1
    for name in results(run)["clip_id"][:4]:
        (archive / name).unlink()
    (run / "windows" / "part-00000.parquet").unlink()
    answer = scanner.scan(archive, run)
    assert answer["n_processed"] == 0 and len(results(run)) == 23
    assert_sound(run)
    assert scanner.scan(archive, run)["said"] == []
