"""R1 to R3 on a disk that is full or broken: the scan says so and stops, and the next one goes on from there."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from harness import CONFIG, ONE_JOB, assert_readable, assert_same, assert_sound

from ser_batch.errors import ExitCode

#: The first, one in the middle and the last.
THREE_SHARDS = ONE_JOB | {"run": {"shard_size": 9}}
OPERATIONS = ("write", "append", "rename", "flush", "flush_folder")


def break_and_finish(scanner, corpus: Path, run: Path, reference: Path, **fault) -> bool:
    """Scan on a disk that fails once, then on a sound one; return whether the fault came."""
    answer = scanner.scan(corpus, run, break_disk=fault, config=THREE_SHARDS)
    came = answer["code"] == ExitCode.RUN
    if came:
        assert "Cannot write" in answer["error"] and "same command again" in answer["error"]
    else:
        # A fault after the last file was committed is no loss either.
        assert answer["code"] == 1, answer
    assert_readable(run)
    if came:
        answer = scanner.scan(corpus, run)
        assert answer["code"] == 1, answer
    assert_same(run, reference)
    assert_sound(run)
    return came


@pytest.mark.parametrize(
    "fault",
    [
        {"operation": "write", "number": 3, "code": "ENOSPC", "after": False},
        {"operation": "append", "number": 2, "code": "ENOSPC", "after": False},
        {"operation": "rename", "number": 3, "code": "EIO", "after": True},
    ],
    ids=lambda fault: f"{fault['operation']}-{fault['code']}-{'after' if fault['after'] else 'before'}",
)
def test_one_failure_of_the_disk_stops_the_scan_and_loses_nothing(scanner, corpus, reference, tmp_path, fault):
    assert break_and_finish(scanner, corpus, tmp_path / "run", reference, **fault)


@pytest.mark.reliability
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_long_every_operation_may_fail_every_time(scanner, corpus, reference, tmp_path, operation, after):
    number = 0
    came = True
    while came:
        number += 1
        code = ("ENOSPC", "EIO")[number % 2]
        run = tmp_path / f"run{number}"
        came = break_and_finish(
            scanner, corpus, run, reference, operation=operation, number=number, code=code, after=after
        )
    assert number > 3, "the fault came once for each shard at least"


@pytest.mark.reliability
def test_long_a_small_file_system_that_is_full_from_some_point_on(scanner, corpus, reference, tmp_path):
    """A real full disk: 256 KiB of memory, in which other data leaves less and less room."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)], check=False)
    if mounted.returncode:
        pytest.skip("this system does not let root mount a small file system")
    try:
        n_full = 0
        for n_bytes in range(0, 256 * 1024, 16 * 1024):
            run, ballast = small / "run", small / "ballast"
            ballast.write_bytes(b"x" * n_bytes)
            answer = scanner.scan(corpus, run)
            assert answer["code"] in (1, ExitCode.RUN), answer
            if answer["code"] == ExitCode.RUN:
                n_full += 1
                assert "No space left" in answer["error"]
            if run.exists():
                assert_readable(run)
            ballast.unlink()
            assert scanner.scan(corpus, run)["code"] == 1
            assert_same(run, reference)
            assert_sound(run)
            subprocess.run(["rm", "-rf", str(run)], check=True)
        assert n_full > 2
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_second_scan_of_one_run_is_refused_and_the_lock_dies_with_its_process(scanner, corpus, tmp_path):
    import fcntl  # noqa: PLC0415

    run = tmp_path / "run"
    blow = {"parts": 1, "signal": signal.SIGKILL}
    assert scanner.scan(corpus, run, blows=[blow])["code"] == -signal.SIGKILL
    with (run / ".lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        answer = scanner.scan(corpus, run)
        assert answer["code"] == ExitCode.RUN
        assert "is being written by process" in answer["error"]
    assert scanner.scan(corpus, run, config=CONFIG)["code"] == 1
