"""R1 and R2: killed at any moment, a run goes on and ends as if nothing had happened."""

from __future__ import annotations

import random
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from harness import CONFIG, LONG, ONE_JOB, Scanner, assert_readable, assert_same, assert_sound

from ser_batch.run.steps import STEPS
from ser_batch.stages.watch import beats, end_orphans

#: Once per scan; all other steps come once per shard.
ONCE = ("locked", "recovered", "planned", "manifest-written", "run-completed")

#: The tables between the first and the last are staged and renamed as others are; the long form has all steps.
SOME_STEPS = [step for step in STEPS if not step.startswith(("segments-staged", "windows-"))]

#: Small shards, so that every scan of many has something left to do.
SMALL: dict[str, Any] = ONE_JOB | {"run": {"shard_size": 1}}


def finish(scanner: Scanner, corpus: Path, run: Path, reference: Path) -> None:
    answer = scanner.scan(corpus, run)
    assert answer["code"] == 1, answer
    assert_same(run, reference)
    assert_sound(run)


def test_a_run_killed_at_one_step_after_the_other_ends_as_if_undisturbed(scanner, corpus, reference, tmp_path):
    """Each time a little further on."""
    run = tmp_path / "run"
    for step in SOME_STEPS:
        answer = scanner.scan(corpus, run, kill_at=[step, 1], config=SMALL)
        assert answer["code"] == -signal.SIGKILL, f"step {step} was not reached"
        assert_readable(run)
    finish(scanner, corpus, run, reference)


def test_a_run_killed_at_random_moments_ends_as_if_undisturbed(scanner, corpus, reference, tmp_path):
    run = tmp_path / "run"
    rng = random.Random(1)
    for _ in range(3):
        blow = {"after_s": rng.uniform(0.5, 1.5), "signal": signal.SIGKILL}
        scanner.scan(corpus, run, blows=[blow], config=SMALL)
        assert_readable(run)
    finish(scanner, corpus, run, reference)


def test_killed_workers_cost_nothing(scanner, corpus, reference, tmp_path):
    run = tmp_path / "run"
    blows = [{"parts": n_parts, "signal": signal.SIGKILL, "who": "worker"} for n_parts in (0, 2)]
    answer = scanner.scan(corpus, run, blows=blows, config=SMALL | {"extract": CONFIG["extract"]})
    assert answer["code"] == 1, answer
    assert_same(run, reference)
    assert_sound(run)


#: Ctrl-C, an operating system that shuts down, a terminal that is closed, and somebody in a hurry.
ENDS = {
    "int": [signal.SIGINT],
    "term": [signal.SIGTERM],
    "hangup": [signal.SIGHUP],
    "all": [signal.SIGHUP, signal.SIGTERM, signal.SIGINT],
}


@pytest.mark.parametrize(
    "numbers",
    [pytest.param(value, marks=LONG if name in ("int", "hangup") else (), id=name) for name, value in ENDS.items()],
)
def test_an_interrupted_run_says_so_and_goes_on(scanner, corpus, reference, tmp_path, numbers):
    run = tmp_path / "run"
    # To the whole group, as a terminal does it; the helpers that remove semaphores are in it.
    blow = {"parts": 2, "signals": numbers, "who": "group"}
    answer = scanner.scan(corpus, run, blows=[blow], config=SMALL)
    assert answer["code"] == 130, answer
    assert not list(run.glob(".scratch-*")), "a run that was asked to end tidies up"
    assert not semaphores(answer["pid"])
    assert not re.search("Traceback|died unexpectedly", scanner.errors())
    finish(scanner, corpus, run, reference)


def semaphores(pid: int) -> list[Path]:
    """What is left of a scan's semaphores, soon after its end."""
    deadline = time.monotonic() + 20
    while (left := list(Path("/dev/shm").glob(f"sem.loky-{pid}-*"))) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere orphans are always given to the first process")
def test_a_worker_that_is_stuck_in_native_code_ends_with_the_next_scan(scanner, corpus, reference, tmp_path):
    """Whoever inherits it: the scanner is a subreaper, as the manager of a user's services is."""
    audio, run, notes = tmp_path / "audio", tmp_path / "run", tmp_path / "notes"
    shutil.copytree(corpus, audio)
    shutil.copy(corpus / "speaker0" / "take000.wav", audio / "stuck.wav")
    notes.mkdir()
    order = {"config": ONE_JOB, "environment": {"SER_BATCH_TEST_FOLDER": str(notes)}}
    blow = {"exists": str(notes / "stuck.wav"), "signal": signal.SIGKILL}
    answer = scanner.scan(audio, run, blows=[blow], **order)
    assert answer["code"] == -signal.SIGKILL, answer
    time.sleep(1.0)  # one that is not stuck notices within half of it
    stuck = psutil.Process(int((notes / "stuck.wav").read_text()))
    assert stuck.status() != psutil.STATUS_ZOMBIE and stuck.ppid() == scanner.pid
    (audio / "stuck.wav").unlink()
    answer = scanner.scan(audio, run, **order)
    assert answer["code"] == 1, answer
    assert not stuck.is_running() or stuck.status() == psutil.STATUS_ZOMBIE


def test_orphans_that_nobody_asks_after_are_not_waited_for(scanner, corpus, tmp_path):
    """In a container, the first process may leave the dead as they are; here the scanner does."""
    run = tmp_path / "run"
    for _ in range(3):
        assert scanner.scan(corpus, run, kill_at=["shard-extracted", 1], config=SMALL)["code"] == -signal.SIGKILL
        orphans = list(beats(run))
        begin = time.monotonic()
        end_orphans(run)
        if orphans and any(psutil.pid_exists(orphan.pid) for orphan in orphans):
            assert time.monotonic() - begin < 4.0
            return
    pytest.fail("no worker outlived its scan")


def test_a_scratch_folder_that_somebody_removes_is_made_again(scanner, corpus, reference, tmp_path):
    run = tmp_path / "run"
    blow = {"parts": 1, "remove": ".scratch-*"}
    answer = scanner.scan(corpus, run, blows=[blow], config=SMALL | {"extract": CONFIG["extract"]})
    assert answer["code"] == 1, answer
    assert_same(run, reference)
    assert_sound(run)


@pytest.mark.reliability
@pytest.mark.parametrize("step", STEPS)
def test_long_every_step_of_the_first_a_middle_and_the_last_shard(scanner, corpus, reference, tmp_path, step):
    for number in (1,) if step in ONCE else (1, 4, 7):
        run = tmp_path / f"run{number}"
        answer = scanner.scan(corpus, run, kill_at=[step, number])
        assert answer["code"] == -signal.SIGKILL, f"step {step} was not reached for the {number}. time"
        assert_readable(run)
        finish(scanner, corpus, run, reference)


@pytest.mark.reliability
@pytest.mark.parametrize("who", ["scan", "worker"])
def test_long_a_hundred_kills_at_random_moments(scanner, corpus, reference, tmp_path, who):
    rng = random.Random(who)
    n_kills = n_runs = 0
    whole_s = scanner.scan(corpus, tmp_path / "timed", config=SMALL)["seconds"]
    while n_kills < 100:
        n_runs += 1
        run = tmp_path / f"run{n_runs}"
        for _ in range(8):
            blow = {"after_s": rng.uniform(0.0, whole_s), "signal": signal.SIGKILL, "who": who}
            answer = scanner.scan(corpus, run, blows=[blow], config=SMALL)
            assert answer["code"] in (1, -signal.SIGKILL), answer
            n_kills += 1
            if run.exists():
                assert_readable(run)
        finish(scanner, corpus, run, reference)
