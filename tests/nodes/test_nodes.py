"""Nodes on one plan come to the table of one machine, whatever the run was before and whoever goes on with it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from machines import CONFIG, RECIPE, Machines, assert_same, plan_here, scan_here, write_take
from repository import REPOSITORY
from tiny_plugin import LABELS

from ser_batch.config import Config
from ser_batch.engine import plan, scan
from ser_batch.errors import RunError
from ser_batch.nodes.complete import complete
from ser_batch.nodes.node import Message, Node
from ser_batch.nodes.work import work
from ser_batch.run.compare import compare_runs
from ser_batch.run.journal import Filesystem
from ser_batch.run.manifest import read_manifest
from ser_batch.run.planned import plan_of, read_plan
from ser_batch.run.store import RunStore
from ser_batch.run.summary import summarise
from ser_batch.run.verify import check_run


def test_three_nodes_make_the_table_of_one_machine(run: Path, local: Path, tmp_path: Path) -> None:
    """Real processes, two of them with a slice of their own; `complete` is called while they work."""
    command = [sys.executable, "-m", "ser_batch", "work", str(run), "--trust-plugins", "--scratch", str(tmp_path)]
    with ExitStack() as stack:
        nodes = []
        for options in (["--slice", "1/2"], ["--slice", "2/2"], []):
            nodes.append(subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
            stack.callback(nodes[-1].kill)
        while nodes[0].poll() is None:
            complete(run, report=False)
            time.sleep(0.3)
        told = [process.communicate(timeout=120)[0].decode() for process in nodes]
        assert [process.returncode for process in nodes] == [0, 0, 0], told
    assert all("Nothing is left" in text or "in the hands of" in text for text in told), told
    done = complete(run, report=False)
    assert (done.n_left, done.exit_code) == (0, 1), "two files of the archive are broken"
    assert_same(run, local)
    assert not list(tmp_path.glob("ser-batch-node-*")), "scratch is gone"
    again = complete(run, report=False)
    assert (again.n_committed, again.is_whole) == (0, True)
    assert work(run).message.n_published == 0, "a node that comes late has nothing to do"


def test_changed_new_and_vanished_files_are_left_to_nodes_too(
    archive: Path, local: Path, machines: Machines, tmp_path: Path
) -> None:
    """Parts that exist are written anew by nodes; what was there is compared before it is replaced."""
    here, run = Path(shutil.copytree(archive, tmp_path / "archive")), tmp_path / "run"
    scan_here(here, run)
    write_take(here / "s0" / "take00.wav", 99, 0.5)
    write_take(here / "s9" / "new.wav", 98)
    (here / "s2" / "take02.wav").unlink()
    other = Path(shutil.copytree(run, tmp_path / "other"))
    scan_here(here, other)
    assert plan_here(here, run) == 3
    bases = {planned.part: planned.base for planned in plan_of(run).parts}
    assert sorted(map(bool, bases.values())) == [False, True, True]
    assert machines.run("work", run) == 0
    assert complete(run, report=False).n_committed == 3
    assert_same(run, other)


def test_what_could_not_be_looked_at_keeps_its_results_until_a_scan(
    archive: Path, machines: Machines, tmp_path: Path
) -> None:
    """A file that is gone when its node comes to it may be out of reach: only a scan says that it has vanished."""
    here, run = Path(shutil.copytree(archive, tmp_path / "archive")), tmp_path / "run"
    scan_here(here, run)
    for name in ("take00", "take03"):
        write_take(here / "s0" / f"{name}.wav", 99, 0.5)
    assert plan_here(here, run) == 1
    (here / "s0" / "take00.wav").unlink()
    assert machines.run("work", run) == 0
    for _ in range(2):
        done = complete(run, report=False)
        assert (done.n_left, done.is_whole, done.exit_code) == (0, False, 7)
    assert done.summary.counts["vanished"] == 0 and done.summary.counts["ok"] == 26
    scan_here(here, run)
    other = scan_here(here, tmp_path / "other")
    assert_same(run, other)
    assert read_manifest(run)["counts"]["vanished"] == 1


def test_a_run_that_begins_anew_stays_as_it_is_until_a_part_is_there(
    archive: Path, local: Path, machines: Machines, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(local, tmp_path / "run"))
    before = read_manifest(run)
    table = tmp_path / "about.csv"
    table.write_text("path,who\ns0/take00.wav,Ada\n")
    assert plan_here(archive, run, mode="restart", metadata=table) == 7
    assert not complete(run, report=False).is_whole
    assert read_manifest(run) == before
    assert machines.run("work", run) == 0
    assert complete(run, report=False).n_left == 0
    after = read_manifest(run)
    assert after["run_id"] != before["run_id"] and "replaces" not in after
    assert (run / "metadata.parquet").exists()
    assert_same(run, local)


def test_a_plain_scan_goes_on_where_nodes_ended(archive: Path, run: Path, local: Path, machines: Machines) -> None:
    machines.run("work", run, kill_at=["part-published", 3])
    summary = scan(archive, run, config=CONFIG, plugins=RECIPE, report=False)
    assert summary.n_processed == 28 - 3 * 4, "what was published is not done again"
    assert_same(run, local)
    assert not (run / "plan.json").exists()


def test_a_scan_does_not_begin_while_a_node_is_at_work(archive: Path, run: Path) -> None:
    with (
        Node(run, trust_plugins=True) as node,
        pytest.raises(RunError, match=rf"being worked on by 1 nodes \({node.host}\)"),
    ):
        scan(archive, run, config=CONFIG, plugins=RECIPE, report=False)
    assert complete(run, report=False).n_left == 7


def test_of_two_nodes_that_do_one_part_the_first_counts(run: Path, local: Path, machines: Machines) -> None:
    told = [Message("", ""), Message("", "")]
    with Node(run, trust_plugins=True) as first, Node(run, trust_plugins=True) as second:
        shard = first.plan.shard(2)
        outcomes = first.outcomes(shard.refs)
        for node, said in zip((first, second), told, strict=True):
            node.publish(2, shard, outcomes, 0.1, said)
        staged = {path.name[:12] for path in first.attempts.staged.iterdir()}
        assert staged == {first.node_id}, "the second has deleted its own"
    assert [(said.n_published, said.n_second) for said in told] == [(1, 0), (0, 1)]
    assert complete(run, report=False).n_second == 1
    assert machines.run("work", run) == 0
    assert machines.run("complete", run) == 1
    assert_same(run, local)


def test_a_summary_opens_no_part_whose_counts_the_journal_has(
    worked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes count their parts; what an earlier version has committed is read."""
    run = Path(shutil.copytree(worked, tmp_path / "run"))
    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "some", None)
        told = complete(run, report=False).summary
    assert (told.counts["ok"], told.counts["failed"], round(told.audio_s)) == (26, 2, 9)
    assert sum(told.emotions.values()) == 26 and sum(told.failures.values()) == 2
    store = RunStore(run)
    store.look()
    totals = summarise(store, LABELS)
    journal = run / "journal.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert all(line.pop("sums") for line in lines)
    journal.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    store.look()
    assert summarise(store, LABELS) == totals
    journal.write_text("".join(f"{json.dumps({**line, 'sums': {'totals': {'x': 'y'}}})}\n" for line in lines))
    with pytest.raises(RunError, match=r"line 1 is damaged .*sums"):
        store.look()


def test_the_shipped_model_labels_on_a_node_what_it_labels_in_a_scan(machines: Machines, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    for path in sorted((REPOSITORY / "data" / "samples" / "voices").glob("*"))[:3]:
        shutil.copy(path, archive)
    config = Config().with_values({"extract": {"jobs": 1}})
    scan(archive, tmp_path / "local", config=config, report=False)
    run = tmp_path / "run"
    assert plan(archive, run, config=config).n_parts == 1
    assert machines.run("work", run) == 0
    done = complete(run, report=False)
    assert done.is_whole and done.summary.counts["ok"] == 3
    assert read_manifest(run)["config"]["predict"]["model"] == "ser6"
    assert_same(run, tmp_path / "local")


def test_a_node_processes_given_parts_and_says_little(run: Path) -> None:
    with Node(run, trust_plugins=True) as node:
        told = node.process([0, 3])
        assert (told.n_published, told.n_files, sum(told.statuses.values())) == (2, 8, 8)
        assert node.process([3]).n_published == 0
    assert complete(run, report=False).n_committed == 2
    with Node(run, trust_plugins=True) as node:
        assert node.process([0]).n_published == 0, "taken in already"


@pytest.mark.parametrize("has_links", [True, False], ids=["links", "no links"])
def test_one_of_many_creates_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool) -> None:
    """On disks without second names, too."""

    def refuse(*_: object) -> None:
        raise OSError(1, os.strerror(1))

    if not has_links:
        monkeypatch.setattr(Filesystem, "link", refuse)
    won = [Filesystem().create(tmp_path / "one", f"{number}\n".encode()) for number in range(3)]
    assert won == [True, False, False]
    assert (tmp_path / "one").read_bytes() == b"0\n"
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    if has_links:
        assert Filesystem().create(tmp_path / "one", b"0\n"), "our own, whose answer was lost"


def test_a_restart_that_is_planned_changes_nothing_before_its_first_part_is_taken_in(
    archive: Path, local: Path, machines: Machines, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(local, tmp_path / "run"))
    kept = [path for path in run.rglob("*") if path.is_file() and path.name != ".lock"]
    before = [path.read_bytes() for path in kept]
    other = CONFIG.with_values({"audio": {"window_s": 0.5, "window_hop_s": 0.5}})
    assert plan_here(archive, run, mode="restart", config=other) == 7
    assert machines.run("complete", run) == 7
    assert [path.read_bytes() for path in kept] == before
    # Whoever thinks better of it goes on with the run as it was, and no node that comes late begins it anew.
    assert scan(archive, run, config=CONFIG, plugins=RECIPE, report=False).n_processed == 0
    assert read_plan(run) is None and not list((run / ".attempts").iterdir())
    assert compare_runs(run, local, tolerance=0.0).is_equal and check_run(run) == []
