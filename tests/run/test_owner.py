"""Disks without flock: of two drivers exactly one goes on, and one that was succeeded writes nothing that counts."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from ser_batch.cli.main import main
from ser_batch.errors import RunError
from ser_batch.run import lock, owner
from ser_batch.run.journal import Entry, Filesystem, Journal, Written, reign
from ser_batch.run.lock import holder_of, lock_for_reading, lock_for_writing
from ser_batch.run.owner import owned

#: What a child process runs first: its disk has no flock.
WITHOUT_FLOCK = """
import errno, fcntl, os, pathlib, signal, sys, time
def refuse(descriptor, kind):
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
fcntl.flock = refuse
from ser_batch.errors import RunError
from ser_batch.run.lock import lock_for_writing
run = pathlib.Path(sys.argv[1])
"""
#: Takes the run for a moment, and writes down that it has; two at once would both find the folder empty.
TAKES_TURNS = """
deadline = time.monotonic() + 60
while time.monotonic() < deadline:
    try:
        with lock_for_writing(run):
            (run / "inside").mkdir()
            time.sleep(0.05)
            (run / "inside").rmdir()
            sys.exit(0)
    except RunError as error:
        assert "is being written by process" in str(error) or "by another process" in str(error), error
        time.sleep(0.01)
sys.exit(9)
"""


def entry(part: int, n_processed: int = 1) -> Entry:
    return Entry(part, "f", "", n_processed, {name: Written(1, 1, "0") for name in ("windows", "files")})


@pytest.fixture
def no_flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    number = getattr(errno, getattr(request, "param", "ENOSYS"))

    def refuse(descriptor: int, kind: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Owners are of another machine, for whoever looks at them; it is listened to for two beats."""
    monkeypatch.setattr(owner, "_BEAT_S", 0.1)
    monkeypatch.setattr(owner, "_SILENCE_S", 0.6)
    machines = iter(range(1_000_000))
    monkeypatch.setattr(owner, "_machine", lambda: f"machine {next(machines)}")


@pytest.mark.parametrize("no_flock", ["ENOLCK", "ENOSYS", "EOPNOTSUPP"], indirect=True)
def test_a_disk_without_flock_is_held_by_one_all_the_same(tmp_path: Path, no_flock: None) -> None:
    me = f"process {os.getpid()} on {platform.node()}"
    assert holder_of(tmp_path) == ""
    with lock_for_writing(tmp_path):
        assert holder_of(tmp_path) == me
        for lock in (lock_for_writing, lock_for_reading):
            with pytest.raises(RunError, match=f"is being written by {me}"), lock(tmp_path):
                pass
    before = sorted(path.name for path in tmp_path.iterdir())
    with lock_for_reading(tmp_path), lock_for_reading(tmp_path):
        assert holder_of(tmp_path) == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == before, "whoever looks writes nothing"
    with lock_for_writing(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", ".owner-00000002"]


def test_who_comes_while_another_looks_is_not_overtaken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with owned(tmp_path):
        pass
    look = owner.living_owner
    first = owned(tmp_path)

    def slow_look(run_dir: Path) -> str:
        """Sees nobody, and says so when somebody has come."""
        monkeypatch.setattr(owner, "living_owner", look)
        seen = look(run_dir)
        first.__enter__()
        return seen

    monkeypatch.setattr(owner, "living_owner", slow_look)
    with pytest.raises(RunError, match=f"is being written by process {os.getpid()}"), owned(tmp_path):
        pass
    first.__exit__(None, None, None)


def test_a_reader_notices_who_comes_while_it_looks(
    tmp_path: Path, no_flock: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = lock.living_owner
    with ExitStack() as writer:

        def slow_look(run_dir: Path) -> str:
            seen = look(run_dir)
            writer.enter_context(lock_for_writing(run_dir))
            return seen

        monkeypatch.setattr(lock, "living_owner", slow_look)
        with pytest.raises(RunError, match="written meanwhile"), lock_for_reading(tmp_path):
            pass


def test_of_many_drivers_at_once_one_goes_on_at_a_time(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_FLOCK + TAKES_TURNS, str(tmp_path)]
    drivers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(5)]
    for driver in drivers:
        _, said = driver.communicate(timeout=100)
        assert driver.returncode == 0, said
    assert (tmp_path / ".owner-00000005").exists()


def test_a_killed_driver_is_succeeded_at_once_on_its_machine(tmp_path: Path) -> None:
    dies = WITHOUT_FLOCK + "with lock_for_writing(run): os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", dies, str(tmp_path)], check=False, timeout=60)
    assert (tmp_path / ".owner-00000001").exists() and holder_of(tmp_path) == ""
    begin = time.monotonic()
    # Here with flock: whoever sees the disk without must see this one, too.
    with lock_for_writing(tmp_path):
        assert time.monotonic() - begin < 2
        assert (tmp_path / ".owner-00000002").exists()


def test_an_owner_on_another_machine_is_believed_while_it_beats(
    tmp_path: Path, no_flock: None, elsewhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lock_for_writing(tmp_path):
        with pytest.raises(RunError, match="is being written by process"), lock_for_writing(tmp_path):
            pass
        # Its process is frozen: it beats no more.
        monkeypatch.setattr(owner, "_write", lambda path, owner: None)
        time.sleep(0.3)
        with lock_for_reading(tmp_path):
            assert holder_of(tmp_path) == ""


def test_who_was_succeeded_writes_nothing_that_counts(
    tmp_path: Path, no_flock: None, elsewhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.jsonl"
    monkeypatch.setattr(owner, "_BEAT_S", 30.0)
    with lock_for_writing(tmp_path) as frozen:
        Journal(path, frozen).append([entry(0)])
        with lock_for_writing(tmp_path) as other:
            journal = Journal(path, other)
            assert set(journal.read()) == {0}
            journal.append([entry(1)])
            for attempt in (
                lambda: Journal(path, frozen).append([entry(1, 7)]),
                lambda: frozen.replace(tmp_path / "run.json", b"{}"),
                lambda: frozen.rename(path, tmp_path / "elsewhere"),
            ):
                with pytest.raises(RunError, match="was taken over by process"):
                    attempt()
            # In the moment between the look and the line it could not know; so others do.
            monkeypatch.setattr(owner.FencedFilesystem, "check", lambda self: None)
            Journal(path, frozen).append([entry(1, 7)])
            Journal(path, frozen).append([entry(2)])
            found = Journal(path, Filesystem()).read()
            assert set(found) == {0, 1} and found[1].n_processed == 1
            journal.append([entry(3)])
            journal.rewrite([*journal.entries.values()])
            Journal(path, frozen).append([entry(4)])
            assert set(Journal(path, Filesystem()).read()) == {0, 1, 3}
    assert not (tmp_path / "run.json").exists()


def test_a_line_that_a_killed_owner_left_half_done_does_no_harm(tmp_path: Path, no_flock: None) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(reign(41) + entry(0).line() + entry(1).line()[:30])
    with lock_for_writing(tmp_path) as filesystem:
        assert (tmp_path / ".owner-00000042").exists(), "a copy may have lost the files of its owners"
        journal = Journal(path, filesystem)
        journal.read()
        journal.append([entry(1)])
    assert set(Journal(path, Filesystem()).read()) == {0, 1}


def test_a_disk_that_goes_away_is_no_successor(tmp_path: Path, no_flock: None) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with lock_for_writing(run) as filesystem:
        shutil.rmtree(run)
        with pytest.raises(FileNotFoundError):
            filesystem.append(run / "journal.jsonl", b"")


def test_a_scan_without_flock_ends_with_the_same_table_and_its_run_is_sound(tmp_path: Path) -> None:
    """Two drivers in processes of their own: the second is refused and told why; then it finds nothing to do."""
    audio, run = tmp_path / "audio", tmp_path / "run"
    audio.mkdir()
    for number in range(4):
        (audio / f"{number}.wav").write_text("no audio")
    scan = WITHOUT_FLOCK + (
        "from ser_batch.cli.main import main\n"
        "sys.exit(main(['features', sys.argv[2], '-o', sys.argv[1], '--jobs', '1', '--quiet', '--no-report',"
        " '--extractor', 'quality']))"
    )
    command = [sys.executable, "-c", scan, str(run), str(audio)]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline, owned_by = time.monotonic() + 60, run / ".owner-00000001"
    while not (owned_by.exists() and owned_by.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(RunError, match=f"is being written by process {first.pid}"), lock_for_reading(run):
        pass
    assert first.wait(100) == 1
    again = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert again.returncode == 1, again.stderr
    assert main(["verify", str(run)]) == 0 and main(["status", str(run)]) == 1
    generations = [json.loads(line).get("generation") for line in (run / "journal.jsonl").read_bytes().splitlines()]
    assert generations == [1, None, 2], "a commit lies between the marks of its owner and of the next one"


@pytest.mark.parametrize("told", [b"[]", b"\xff", {"process": "x"}, {"process": -1}, {"process": 2**62}, {"beat": []}])
def test_a_file_that_no_owner_has_written_is_succeeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: bytes | dict[str, object]
) -> None:
    monkeypatch.setattr(owner, "_SILENCE_S", 0.1)
    content = told if isinstance(told, bytes) else json.dumps({"machine": owner._machine(), **told}).encode()
    (tmp_path / ".owner-00000001").write_bytes(content)
    assert holder_of(tmp_path) == ""
    with lock_for_writing(tmp_path):
        assert holder_of(tmp_path).startswith("process ")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["link", "last"])
def test_names_of_owners_that_no_owner_can_have_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(owner, "_SILENCE_S", 0.1)
    if name == "link":
        (tmp_path / ".owner-00000001").symlink_to("nowhere")
    else:
        (tmp_path / ".owner-99999999").touch()
    with (
        pytest.raises(RunError, match=r"is being written by another process|files \.owner-"),
        lock_for_writing(tmp_path),
    ):
        pass
