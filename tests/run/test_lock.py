"""One process writes a run, any number look at it; and what cannot be locked is told from what is held."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ser_batch.errors import RunError
from ser_batch.run.lock import holder_of, lock_for_reading, lock_for_writing


def test_a_run_that_is_written_is_refused_to_writers_and_careful_readers(tmp_path: Path) -> None:
    me = f"process {os.getpid()}"
    assert holder_of(tmp_path) == ""
    with lock_for_writing(tmp_path):
        assert me in holder_of(tmp_path)
        with pytest.raises(RunError, match=f"is being written by {me}"), lock_for_writing(tmp_path):
            pass
        with pytest.raises(RunError, match=f"is being written by {me}"), lock_for_reading(tmp_path):
            pass
    assert holder_of(tmp_path) == ""


def test_readers_share_a_run_and_a_scan_says_that_it_is_being_read(tmp_path: Path) -> None:
    with lock_for_writing(tmp_path):
        pass
    with lock_for_reading(tmp_path), lock_for_reading(tmp_path):
        assert holder_of(tmp_path) == ""
        with pytest.raises(RunError, match="is being read by `ser-batch verify`"), lock_for_writing(tmp_path):
            pass
    with lock_for_writing(tmp_path):
        pass


def test_a_look_at_who_holds_a_run_never_makes_a_starting_scan_fail(tmp_path: Path) -> None:
    """A look holds the lock for a moment; here for longer than it ever does."""
    with lock_for_writing(tmp_path):
        pass
    file = os.open(tmp_path / ".lock", os.O_RDONLY)
    fcntl.flock(file, fcntl.LOCK_SH)
    threading.Timer(0.3, os.close, [file]).start()
    begin = time.monotonic()
    with lock_for_writing(tmp_path):
        assert time.monotonic() - begin > 0.2


@pytest.mark.parametrize("code", ["EACCES", "EIO"])
def test_a_disk_that_cannot_be_asked_is_told_from_a_run_that_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    number = getattr(errno, code)
    (tmp_path / ".lock").touch()

    def refuse(descriptor: int, kind: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(RunError, match="cannot be locked") as told, lock_for_writing(tmp_path):
        pass
    assert os.strerror(number) in str(told.value) and "being written" not in str(told.value)
    # Whoever only looks does so: no scan can hold it either.
    with lock_for_reading(tmp_path):
        assert holder_of(tmp_path) == ""


def test_a_lock_is_not_taken_through_a_link(tmp_path: Path) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic link"), lock_for_writing(tmp_path / "run"):
        pass
    assert precious.read_text() == "precious"


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, pathlib; from ser_batch.run.lock import lock_for_writing\n"
        "with lock_for_writing(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, timeout=60)
    assert (tmp_path / ".lock").read_text().startswith("process ")
    assert holder_of(tmp_path) == ""
