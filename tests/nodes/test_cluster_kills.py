"""Workers, nodes, drivers and the scheduler of a cluster are killed again and again: the table is that of one machine,
every part that is to be seen can be read, and nothing is left at work or on a disk."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from killing import Losses, Reader, Ring, killed_and_same
from machines import CONFIG, Machines, assert_same, make_archive, plan_here, scan_here

from ser_batch.run.steps import COMPLETE_STEPS

pytest.importorskip("distributed", reason="the extra dask is not installed")

#: Tasks of an array.
N_TASKS = 3
SHORT = Counter(worker=12, node=4, dask=1, driver=2, scheduler=1)
LONG = Counter(worker=85, node=45, dask=20, driver=25, scheduler=25)


def test_twenty_kills_on_a_cluster_cost_no_row(archive: Path, local: Path, machines: Machines, tmp_path: Path) -> None:
    ring = Ring(machines, tmp_path, seed=1, sleep_s=0.1)
    try:
        killed_and_same(ring, archive, local, tmp_path, SHORT, shard_size=2)
    finally:
        ring.down()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """2,400 files, damaged ones among them, and what one machine makes of them."""
    archive = make_archive(tmp_path_factory.mktemp("large"), 2398)
    for number, path in enumerate(sorted(archive.rglob("take*.wav"))):
        if number % 100 == 0:
            path.write_bytes(path.read_bytes()[: 50 + number])
    return archive, scan_here(archive, tmp_path_factory.mktemp("one-machine") / "run")


@pytest.mark.cluster
@pytest.mark.timeout(3600)
def test_two_hundred_kills_on_a_cluster_cost_no_row(
    large: tuple[Path, Path], machines: Machines, tmp_path: Path
) -> None:
    ring = Ring(machines, tmp_path, seed=2, sleep_s=0.03)
    assert LONG.total() == 200 and min(LONG.values()) >= 20
    try:
        n_scans = killed_and_same(ring, *large, tmp_path, LONG, shard_size=16)
    finally:
        ring.down()
    sys.stdout.write(f"{ring.killed.total()} kills, {dict(ring.killed)}, in {n_scans} scans of 2,400 files\n")


@pytest.mark.cluster
@pytest.mark.timeout(1800)
def test_an_array_whose_tasks_are_killed_costs_no_row(
    large: tuple[Path, Path], machines: Machines, tmp_path: Path
) -> None:
    """Tasks are submitted again until all is done; `complete` takes in what is there, and is killed, too."""
    archive, local = large
    run, scratch, rng = tmp_path / "run", tmp_path / "scratch", random.Random(3)
    scratch.mkdir()
    plan_here(archive, run, config=CONFIG.with_values({"run": {"shard_size": 16}}))
    left, losses = Counter(worker=30, node=30, complete=5), Losses(run)
    ends = [step for step in COMPLETE_STEPS if step not in ("embeddings-renamed", "manifest-written")]
    slow = {"SER_BATCH_TEST_SLEEP_S": "0.06"}
    tasks: dict[int, int] = {}
    done: set[int] = set()
    with Reader(run) as reader:
        while len(done) < N_TASKS:
            for number in set(range(1, N_TASKS + 1)) - done - tasks.keys():
                options = {"part_of": [number, N_TASKS], "scratch": str(scratch), "environment": slow}
                tasks[number] = machines.start("work", run, **options)
            time.sleep(rng.uniform(0.2, 0.6))
            kind, victim = rng.choice(sorted(left.elements()) or [""]), rng.choice([*tasks.values()])
            worker = losses.worker_of(victim, n_ahead=1) if kind == "worker" else None
            if kind == "complete":
                code = machines.run("complete", run, kill_at=[rng.choice(ends), 1])
                left -= Counter(complete=code == -signal.SIGKILL)
            elif kind == "node" and losses.node_of(victim):
                os.kill(victim, signal.SIGKILL)
            elif worker is not None:
                with suppress(psutil.NoSuchProcess):
                    worker.kill()
                    left -= Counter(worker=1)
            for number, pid in list(tasks.items()):
                if (code := machines.code_of(pid)) is not None:
                    assert code in (0, -signal.SIGKILL), code
                    left -= Counter(node=code == -signal.SIGKILL)
                    done |= {number} if code == 0 else set()
                    del tasks[number]
        assert machines.run("complete", run) == 1
    assert not left.total(), f"the array was done before all were killed: {left}"
    assert not reader.faults and reader.n_read
    assert_same(run, local)
    assert not list(scratch.glob("ser-batch-*"))
