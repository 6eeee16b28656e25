"""A scan on a Dask cluster makes the table of one machine, whoever dies; addresses and workers that cannot do it are
named in one line. Scheduler and workers are processes of their own, as on a cluster."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from killing import Ring
from machines import CONFIG, PLUGIN, RECIPE, Machines, assert_same, make_archive

from ser_batch import engine
from ser_batch.cli.main import main
from ser_batch.cluster import scan_on
from ser_batch.engine import plan, scan
from ser_batch.errors import ConfigError, RunError
from ser_batch.nodes.complete import complete
from ser_batch.nodes.dask import Cluster, check_address, do_bundle
from ser_batch.stages.progress import Progress

distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")

OPTIONS = ["--extractor", "tiny", "--model", "tiny", "--plugin", str(PLUGIN), "--jobs", "1", "--no-report", "--quiet"]
#: 9 parts.
SMALL = CONFIG.with_values({"run": {"shard_size": 2}})


class Heard(Progress):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def dask(*arguments: str, **environment: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-W", "ignore", "-m", "dask", *arguments, "--no-dashboard"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | environment)


def worker(address: str, folder: Path, **environment: str) -> subprocess.Popen[bytes]:
    options = ("--no-nanny", "--nthreads", "2", "--memory-limit", "0", "--local-directory", str(folder))
    return dask("worker", address, "--host", "127.0.0.1", *options, **environment)


def wait_for_workers(address: str, n_workers: int) -> None:
    deadline = time.monotonic() + 60
    with distributed.Client(address, set_as_default=False) as client:
        while len(client.scheduler_info(n_workers=-1)["workers"]) != n_workers and time.monotonic() < deadline:
            time.sleep(0.1)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("archive"), 18)


@pytest.fixture(scope="module")
def local(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("local") / "run"
    scan(archive, run, config=CONFIG, plugins=RECIPE, report=False)
    return run


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A scheduler."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    scheduler = dask("scheduler", "--host", "127.0.0.1", "--port", str(port))
    try:
        yield f"tcp://127.0.0.1:{port}"
    finally:
        scheduler.kill()
        scheduler.wait()


@pytest.fixture(scope="module")
def ring(machines: Machines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    """A scheduler with two workers, to which files take long."""
    ring = Ring(machines, tmp_path_factory.mktemp("ring"), seed=0, sleep_s=0.1)
    ring.up()
    yield ring
    ring.down()


def test_of_two_drivers_one_goes_on_and_a_finished_run_submits_nothing(
    ring: Ring, machines: Machines, archive: Path, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    driver = ring.drive(archive, run, shard_size=2)
    deadline = time.monotonic() + 60
    while not list(run.glob(".attempts/*/manifests/part-*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    with pytest.raises(RunError, match=r"is being written by process \d+ on "):
        scan_on(ring.address, archive, run, config=SMALL, plugins=RECIPE, report=False)
    with pytest.raises(RunError, match=r"is being written by process \d+ on "):
        complete(run, report=False)
    assert machines.end(driver) == 1
    assert "lost" not in ring.log.read_text(), "the other driver has ended none of its nodes"
    ring.assert_nothing_is_left()
    assert_same(run, local)
    done = json.loads((run / "run.json").read_text())
    parts = {path: path.stat().st_mtime_ns for path in run.rglob("part-*.parquet")}
    walks: list[object] = []
    find = engine.find_audio
    monkeypatch.setattr(engine, "find_audio", lambda *what: walks.append(what) or find(*what))
    heard = Heard()
    summary = scan_on(ring.address, archive, run, config=SMALL, plugins=RECIPE, progress=heard, report=False)
    assert summary.counts["failed"] == done["counts"]["failed"] == 2
    assert parts == {path: path.stat().st_mtime_ns for path in run.rglob("part-*.parquet")}
    assert len(walks) == 1 and not heard.said
    ring.assert_nothing_is_left()


def test_nodes_that_a_killed_driver_had_just_begun_have_ended_before_the_next_one_goes_on(
    ring: Ring, machines: Machines, archive: Path, tmp_path: Path
) -> None:
    """They have not even said yet that they are at work."""
    run = tmp_path / "run"
    driver = ring.drive(archive, run, shard_size=2)
    deadline = time.monotonic() + 60
    while not ring.nodes() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(driver, signal.SIGKILL)
    machines.end(driver)
    assert ring.nodes() and not list(run.glob(".attempts/*/nodes/*.json"))
    with Cluster(ring.address, Progress()) as cluster:
        cluster.let_go(run)
    assert not ring.nodes()


@pytest.mark.cluster
def test_a_worker_that_cannot_do_it_is_named_and_nothing_is_half_done(
    address: str, archive: Path, local: Path, tmp_path: Path
) -> None:
    """One with another version of the tool, as nodes have that were not updated."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "sitecustomize.py").write_text("import ser_batch._version as here\nhere.__version__ = '0.0.1'\n")
    path = os.pathsep.join([str(other), *filter(None, [os.environ.get("PYTHONPATH")])])
    with ExitStack() as stack:
        new, old = worker(address, tmp_path / "new"), worker(address, tmp_path / "old", PYTHONPATH=path)
        for process in (new, old):
            stack.callback(process.wait)
            stack.callback(process.kill)
        wait_for_workers(address, 2)
        heard, run = Heard(), tmp_path / "run"
        scan_on(address, archive, run, config=CONFIG, plugins=RECIPE, progress=heard, report=False)
        assert_same(run, local)
        assert sum("0.0.1" in text for text in heard.said) == 1, heard.said
        new.kill()
        wait_for_workers(address, 1)
        run = tmp_path / "other-run"
        with pytest.raises(RunError, match=r"No worker of the cluster can do it\. .*0\.0\.1") as told:
            scan_on(address, archive, run, config=CONFIG, plugins=RECIPE, report=False)
        assert "\n" not in str(told.value)
        assert not list((run / "files").glob("*"))


def test_nobody_at_the_address_is_one_line(tmp_path: Path, archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        on = f"dask:tcp://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ser_batch.nodes.dask._CONNECT_S", 1.0)
            assert main(["scan", str(archive), "-o", str(tmp_path / "run"), "--on", on, *OPTIONS]) == 7
    shown = capsys.readouterr().err
    assert "No Dask scheduler answers at tcp://127.0.0.1" in shown and shown.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("on", "words"),
    [
        ("dask:tcp://head.example.org:8786", "without TLS, whoever reaches this scheduler runs what they like"),
        ("dask:tcp://10.0.0.1:8786", "say --trust-cluster"),
        ("dask:head:8786", "is no address of a scheduler. Give one such as dask:tls://HOST:8786"),
        ("dask:tcp://127.0.0.1", "is no address of a scheduler"),
        ("dask:tcp://127.0.0.1:99999999", "is no address of a scheduler"),
        ("ray:tcp://127.0.0.1:1", "is no address of a scheduler"),
    ],
)
def test_addresses_that_are_none_or_open_to_all_are_refused(on: str, words: str) -> None:
    with pytest.raises(ConfigError) as told:
        check_address(on, is_trusted=False)
    assert words in str(told.value)


def test_addresses_that_are_encrypted_of_this_machine_or_vouched_for_are_taken() -> None:
    for on in ("dask:tls://head:8786", "dask:tcp://localhost:8786", "dask:tcp://[::1]:8786", "dask:tcp://127.0.0.1:1"):
        assert check_address(on, is_trusted=False) == on.removeprefix("dask:")
    assert check_address("dask:tcp://head:8786", is_trusted=True) == "tcp://head:8786"


def test_without_the_extra_the_cure_is_named(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    arguments = ["scan", str(archive), "-o", str(tmp_path / "run"), "--on", "dask:tcp://127.0.0.1:1", *OPTIONS]
    assert main(arguments) == 2
    assert 'pip install "ser-batch[dask]"' in capsys.readouterr().err


def test_a_task_is_small_however_many_files_it_is_about(archive: Path, tmp_path: Path) -> None:
    run = tmp_path / ("long-name-of-a-run-" * 10)
    plan(archive, run, config=CONFIG, plugins=RECIPE)
    options = {"run_dir": str(run), "plan_id": "0" * 12, "trust_plugins": True}
    assert len(pickle.dumps((do_bundle, "0" * 48, options, 0, 99_999))) < 1_000
