"""Nodes and `complete` are killed at any moment: the table is that of one machine; a file that kills nodes is a row."""

from __future__ import annotations

import math
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
from machines import CONFIG, RECIPE, Machines, assert_same, make_archive, plan_here, scan_here

from ser_batch.engine import scan
from ser_batch.run.attempts import Attempts
from ser_batch.run.planned import plan_of
from ser_batch.run.steps import COMPLETE_STEPS, NODE_STEPS
from ser_batch.run.verify import check_run

STEPS = [step for step in NODE_STEPS if step != "embeddings-staged"]
ENDS = [step for step in COMPLETE_STEPS if step not in ("embeddings-renamed", "manifest-written")]
LONG = pytest.mark.reliability


def finish(machines: Machines, run: Path, local: Path) -> None:
    assert machines.run("work", run) == 0
    assert machines.run("complete", run) == 1
    assert_same(run, local)


@pytest.mark.parametrize("steps", [pytest.param(STEPS[::3], id="some"), pytest.param(STEPS, id="all", marks=LONG)])
def test_a_node_killed_at_a_step_loses_nothing(run: Path, local: Path, machines: Machines, steps: list[str]) -> None:
    """One plan, and another part each time; `complete` looks in between."""
    for number, step in enumerate(steps, start=1):
        code = machines.run("work", run, kill_at=[step, 1], part_of=[number, len(steps)])
        assert code == -signal.SIGKILL, f"step {step} was not reached"
        assert machines.run("complete", run) == 7
    finish(machines, run, local)


def killed_at(machines: Machines, run: Path, local: Path, step: str) -> None:
    assert machines.run("complete", run, kill_at=[step, 1]) == -signal.SIGKILL, f"step {step} was not reached"
    if step.endswith(("appended", "renamed")):
        assert len(pd.read_parquet(run / "files")) % 4 == 0 if any((run / "files").glob("part-*")) else True
    assert machines.run("complete", run) == 1
    assert_same(run, local)


@pytest.mark.parametrize(
    "step", [pytest.param(step, marks=() if step in ENDS[1:3] or step == "swept" else LONG) for step in ENDS]
)
def test_complete_killed_at_a_step_goes_on(
    worked: Path, local: Path, machines: Machines, tmp_path: Path, step: str
) -> None:
    killed_at(machines, Path(shutil.copytree(worked, tmp_path / "run")), local, step)


def test_a_node_that_is_asked_to_end_gives_back_what_it_has(
    run: Path, local: Path, machines: Machines, tmp_path: Path
) -> None:
    slow = {"SER_BATCH_TEST_SLEEP_S": "0.2"}
    node = machines.start("work", run, environment=slow, scratch=str(tmp_path))
    attempts = Attempts(run, plan_of(run).plan_id)
    deadline = time.monotonic() + 60
    while not attempts.published() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert attempts.tries() and attempts.living()
    os.kill(node, signal.SIGTERM)
    assert machines.end(node) == 130
    assert not attempts.tries() and not attempts.living(), "it was not lost"
    assert not list(tmp_path.glob("ser-batch-node-*"))
    assert 1 <= len(attempts.published()) < 7
    finish(machines, run, local)


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An archive with a file that kills nodes, and what one machine makes of it where it does not."""
    archive = make_archive(tmp_path_factory.mktemp("poisoned"), n_files=2, n_poison=1)
    return archive, scan_here(archive, tmp_path_factory.mktemp("healthy") / "run")


def lose(machines: Machines, run: Path) -> int:
    """Let nodes work, one after the other, until one lives; return how many were lost."""
    for n_lost in range(20):
        code = machines.run("work", run, environment={"SER_BATCH_TEST_POISON": "1"})
        if code != -signal.SIGKILL:
            assert code == 0
            return n_lost
    raise AssertionError("nodes are lost for ever")


def test_a_file_that_kills_its_nodes_is_one_row(
    poisoned: tuple[Path, Path], machines: Machines, tmp_path: Path
) -> None:
    archive, healthy = poisoned
    run = tmp_path / "run"
    n_parts = plan_here(archive, run)
    n_lost = lose(machines, run)
    assert 0 < n_lost <= math.log2(4) + 3
    assert machines.run("complete", run) == 1
    assert check_run(run) == [] and n_parts == 2
    rows, others = (pd.read_parquet(folder / "files").set_index("clip_id") for folder in (run, healthy))
    lost = rows.loc["s0/poison0.wav"]
    assert (lost["status"], lost["error_type"]) == ("failed", "NodeLost")
    assert "two nodes were lost" in lost["error_message"]
    rest = rows.index.drop("s0/poison0.wav")
    assert (rows.loc[rest, "status"].astype(str) == others.loc[rest, "status"].astype(str)).all()


def test_a_part_in_the_hands_of_a_node_that_lives_is_not_taken(run: Path, machines: Machines) -> None:
    """Another one does the rest meanwhile, and does not touch what is staged."""
    node = machines.start("work", run, part_of=[1, 7], environment={"SER_BATCH_TEST_SLEEP_S": "1.5"})
    attempts = Attempts(run, plan_of(run).plan_id)
    deadline = time.monotonic() + 60
    while not attempts.tries() and time.monotonic() < deadline:
        time.sleep(0.05)
    held = set(attempts.tries())
    other = machines.start("work", run)
    while len(attempts.published()) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert set(attempts.tries()) >= held
    assert all(len(nodes) == 1 for nodes in attempts.tries().values()), "two have the same in hand"
    os.kill(node, signal.SIGKILL)
    assert machines.end(node) == -signal.SIGKILL
    assert machines.end(other) == 0, "it takes what the dead one had"
    assert machines.run("complete", run) == 1


@LONG
@pytest.mark.parametrize("seed", range(5))
def test_long_eighty_kills_of_nodes_and_of_complete(
    run: Path, archive: Path, local: Path, machines: Machines, seed: int
) -> None:
    rng = random.Random(seed)
    for _ in range(8):
        nodes = [machines.start("work", run, environment={"SER_BATCH_TEST_SLEEP_S": "0.05"}) for _ in range(2)]
        taker = machines.start("complete", run, kill_at=[rng.choice(ENDS), 1])
        for pid in nodes:
            time.sleep(rng.uniform(0, 1.5))
            os.kill(pid, signal.SIGKILL)
        for pid in (*nodes, taker):
            machines.end(pid)
    assert machines.run("work", run) == 0
    assert machines.run("complete", run) == 1
    # So many kills on so few files: now and then one was in hand alone twice, which nobody can tell from its fault.
    n_blamed = int((pd.read_parquet(run / "files")["error_type"] == "NodeLost").sum())
    assert n_blamed <= 2
    if n_blamed:
        scan(archive, run, config=CONFIG, plugins=RECIPE, mode="retry", report=False)
    assert_same(run, local)
