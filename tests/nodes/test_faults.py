"""Nodes that begin, sleep or wake at the worst moment; clocks that are set; disks that are full."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
from machines import Machines, assert_same, plan_here

from ser_batch.births import born_s
from ser_batch.nodes import errand
from ser_batch.nodes.complete import complete
from ser_batch.nodes.node import Node
from ser_batch.run import steps
from ser_batch.run.attempts import DEAD_S, Attempts
from ser_batch.run.planned import plan_of


def attempts_of(run: Path) -> Attempts:
    return Attempts(run, plan_of(run).plan_id)


def wait_until(is_so: object, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so() and time.monotonic() < deadline:  # type: ignore[operator]
        time.sleep(0.05)


def test_what_a_node_stages_that_begins_while_complete_is_at_work_is_not_swept(
    worked: Path, local: Path, machines: Machines, tmp_path: Path
) -> None:
    """It was in nobody's list of nodes that live, as the sweep began."""
    run = Path(shutil.copytree(worked, tmp_path / "run"))
    attempts = attempts_of(run)
    # One part is still to be done.
    manifest = attempts.manifest(3)
    attempts.refuse(3)
    assert manifest.entry is not None
    attempts.drop_staged(manifest.entry.attempt)
    with ExitStack() as stack:
        nodes: list[Node] = []

        def begin(step: str) -> None:
            if step == "shard-committed" and not nodes:
                nodes.append(stack.enter_context(Node(run, trust_plugins=True)))
                with pytest.MonkeyPatch.context() as patch:
                    # It has staged its part, and is about to say so.
                    patch.setattr(Attempts, "publish", lambda *_: True)
                    assert nodes[0].process([3]).n_published == 1

        steps.observe(begin)
        stack.callback(steps.observe, None)
        assert complete(run, report=False).n_left == 1
        steps.observe(None)
        (node,) = nodes
        assert node.node_id in attempts.living()
        assert {path.name[:12] for path in attempts.staged.iterdir()} == {node.node_id}
    assert machines.run("work", run) == 0
    assert machines.run("complete", run) == 1
    assert_same(run, local)


def test_a_node_that_slept_while_others_did_its_work_ends_in_peace(run: Path, local: Path, machines: Machines) -> None:
    """It was taken for dead, all was done and taken in, and its folder is gone."""
    node = machines.start("work", run, environment={"SER_BATCH_TEST_SLEEP_S": "0.1"})
    attempts = attempts_of(run)
    wait_until(attempts.published)
    (name,) = attempts.living()
    psutil.Process(node).suspend()
    held = len(attempts.tries())
    assert held
    beat = attempts.folder / "nodes" / f"{name}.json"
    long_ago = beat.stat().st_mtime - 2 * DEAD_S
    os.utime(beat, (long_ago, long_ago))
    assert not attempts.living()
    assert machines.run("work", run) == 0
    assert machines.run("complete", run) == 1
    assert_same(run, local)
    psutil.Process(node).resume()
    assert machines.end(node) == 0
    assert_same(run, local)


@pytest.mark.cluster
def test_of_a_node_that_slept_and_one_that_did_its_part_the_first_counts(
    run: Path, local: Path, machines: Machines
) -> None:
    """What came second is counted, and not committed."""
    node = machines.start("work", run, environment={"SER_BATCH_TEST_SLEEP_S": "0.3"}, part_of=[1, 7])
    attempts = attempts_of(run)
    wait_until(attempts.tries)
    (name,) = attempts.living()
    beat = attempts.folder / "nodes" / f"{name}.json"
    psutil.Process(node).suspend()
    long_ago = beat.stat().st_mtime - 2 * DEAD_S
    os.utime(beat, (long_ago, long_ago))
    # One that is slow enough to be there yet when the first wakes up.
    other = machines.start("work", run, environment={"SER_BATCH_TEST_SLEEP_S": "0.2"}, part_of=[1, 7])
    wait_until(lambda: attempts.is_published(0))
    assert complete(run, report=False).n_left and not beat.exists()
    psutil.Process(node).resume()
    assert [machines.end(pid) for pid in (node, other)] == [0, 0]
    done = complete(run, report=False)
    assert (done.n_left, done.n_second >= 1) == (0, True)
    assert_same(run, local)


def test_a_node_that_was_swept_by_mistake_says_again_that_it_lives(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ser_batch.run.attempts._BEAT_S", 0.05)
    attempts = attempts_of(run)
    attempts.create()
    with attempts.alive("0123456789ab", {}):
        before = attempts.living()
        attempts.sweep(attempts.left(), {}, keep_staged=False)
        wait_until(attempts.living, 5.0)
        assert attempts.living().keys() == before.keys() == {"0123456789ab"}
    assert not attempts.living()


def test_a_clock_that_is_set_makes_no_node_dead(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Node(run, trust_plugins=True) as node:
        began_s = psutil.boot_time()
        monkeypatch.setattr("psutil._pslinux.boot_time", lambda: began_s + 3600.0)
        assert node.node_id in node.attempts.living()
    with pytest.raises(psutil.NoSuchProcess):
        born_s(2**22 - 3)


def test_a_node_that_a_driver_asks_to_end_ends_in_order(run: Path) -> None:
    """While it waits to be asked for more."""
    options = {"run_dir": str(run), "plan_id": plan_of(run).plan_id, "trust_plugins": True}
    command = [sys.executable, "-m", "ser_batch.nodes.serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as node:
        assert node.stdin and node.stdout and node.stderr
        node.stdin.write(json.dumps(options).encode() + b"\n")
        node.stdin.flush()
        assert b"node" in node.stdout.readline()
        node.terminate()
        assert (node.wait(60), node.stderr.read()) == (0, b"")


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "ser-batch-test", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.cluster
def test_a_full_disk_is_one_line_and_costs_nothing(
    archive: Path, run: Path, local: Path, machines: Machines, tmp_path: Path
) -> None:
    """Scratch of one node first, then the disk of the run."""
    log = tmp_path / "log"
    with small_disk(tmp_path / "scratch", "16k") as scratch:
        (scratch / "full").write_bytes(b"0" * 8_000)
        assert machines.run("work", run, scratch=str(scratch), log=str(log)) == 7
        said = [line for line in log.read_text().splitlines() if not line.startswith(("Device", "Workers are"))]
        assert len(said) == 1 and "No space left on device" in said[0], said
    assert not attempts_of(run).tries(), "it gives back what it had"
    with small_disk(tmp_path / "disk", "200k") as disk:
        other = disk / "run"
        assert plan_here(archive, other) == 7
        left = os.statvfs(disk)
        (disk / "full").write_bytes(b"0" * (left.f_bavail * left.f_frsize - 16_384))
        log.unlink()
        assert machines.run("work", other, log=str(log)) == 7
        said = [line for line in log.read_text().splitlines() if not line.startswith(("Device", "Workers are"))]
        assert len(said) == 1 and "No space left on device" in said[0], said
        (disk / "full").unlink()
        subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
        assert machines.run("work", other) == 0
        assert machines.run("complete", other) == 1
        assert_same(other, local)
    assert machines.run("work", run) == 0
    assert machines.run("complete", run) == 1
    assert_same(run, local)


def test_a_node_that_is_killed_leaves_its_scratch_to_the_last_one_that_ends(
    run: Path, machines: Machines, tmp_path: Path
) -> None:
    slow = {"SER_BATCH_TEST_SLEEP_S": "0.1"}
    nodes = [machines.start("work", run, environment=slow, scratch=str(tmp_path)) for _ in range(2)]
    attempts = attempts_of(run)
    wait_until(lambda: len(attempts.living()) == 2)
    os.kill(nodes[0], signal.SIGKILL)
    machines.end(nodes[0])
    assert machines.end(nodes[1]) == 0
    assert not list(tmp_path.glob("ser-batch-node-*"))


@pytest.mark.cluster
def test_a_machine_on_which_nodes_never_begin_is_not_asked_any_more(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is killed as it begins is tried again; such as for want of memory."""
    options = {"run_dir": str(run), "plan_id": plan_of(run).plan_id, "trust_plugins": True}
    with monkeypatch.context() as patch:
        patch.setenv("SER_BATCH_TEST_STILLBORN", "1")
        answers = [errand.run_bundle(options, 0, 0) for _ in range(3)]
    assert [answer.get("is_lost") for answer in answers] == [True, True, None]
    assert "was ended by signal 9 before it began" in answers[2]["refused"]
    assert errand.run_bundle(options, 0, 0)["n_left"] == 0
    errand.close_nodes([options["plan_id"]])
    wait_until(lambda: not attempts_of(run).living(), 20.0)
    assert errand.run_bundle(options, 1, 1)["is_over"], "the driver wants no more of it"
    assert complete(run, report=False).n_left == 6
