"""Scheduler, workers and drivers as processes of their own, which are killed at random and begun again."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import threading
import time
import uuid
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
from machines import Machines, assert_same

#: Longest that something takes which is awaited.
_PATIENCE_S = 120.0


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class Reader(threading.Thread):
    """Reads every part that appears in a run, as soon as it does; use as a context manager."""

    def __init__(self, run: Path) -> None:
        super().__init__(daemon=True)
        self._run, self._ended, self._seen = run, threading.Event(), set[tuple[str, int]]()
        self.faults: list[str] = []
        self.n_read = 0

    def __enter__(self) -> Reader:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._ended.wait(0.1)
            for path in self._run.glob("*/part-*.parquet"):
                with suppress(FileNotFoundError):
                    self._read(path)

    def _read(self, path: Path) -> None:
        key = str(path), path.stat().st_ino
        if key in self._seen:
            return
        self._seen.add(key)
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                file.read(use_threads=False)
            self.n_read += 1
        except FileNotFoundError:
            raise
        except Exception as error:
            self.faults.append(f"{path}: {error}")


def processes_with(token: str) -> list[psutil.Process]:
    """Return the processes that were begun with a word in their environment."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get("SER_BATCH_TEST_TOKEN") == token and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


class Losses:
    """What is killed, and what may be just now, so that no file is killed for what tests do to it.

    A file whose worker dies twice, or with which nodes are lost again and again, is a failed row: as it should be.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        #: Node -> parts that it had published when a worker of it was killed.
        self._then: dict[str, int] = {}

    def _published(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for path in self._run.glob(".attempts/*/manifests/part-*.json"):
            with suppress(OSError, ValueError):
                found[json.loads(path.read_bytes())["node"]] += 1
        return found

    def node_of(self, pid: int) -> str:
        """Return the name of the node that a process is, "" where it has not begun."""
        for path in self._run.glob(".attempts/*/nodes/*.json"):
            with suppress(OSError, ValueError):
                if json.loads(path.read_bytes())["pid"] == pid:
                    return path.stem
        return ""

    def worker_of(self, pid: int, n_ahead: int) -> psutil.Process | None:
        """Return a worker of a node that may be killed: what the last one had in hand is published by now."""
        node = self.node_of(pid)
        n_published = self._published()[node]
        if not node or n_published < self._then.get(node, -n_ahead) + n_ahead:
            return None
        with suppress(psutil.Error):
            for child in psutil.Process(pid).children(recursive=True):
                if "popen_loky" in " ".join(child.cmdline()):
                    self._then[node] = n_published
                    return child
        return None


class Ring:
    """A scheduler and two workers of Dask; `scan` has them do a run, while they are killed.

    Parameters
    ----------
    machines : Machines
    folder : Path
        For scratch and logs.
    seed : int
    sleep_s : float
        How long each file takes.
    """

    def __init__(self, machines: Machines, folder: Path, seed: int, sleep_s: float) -> None:
        self._machines, self._folder, self._rng = machines, folder, random.Random(seed)
        self._token = uuid.uuid4().hex
        self._scratch = folder / "scratch"
        self._scratch.mkdir()
        self.log = folder / "log"
        self._environment = {
            "SER_BATCH_TEST_TOKEN": self._token,
            "SER_BATCH_TEST_SLEEP_S": str(sleep_s),
            "TMPDIR": str(self._scratch),
        }
        self._port = free_port()
        self.address = f"tcp://127.0.0.1:{self._port}"
        self._scheduler = 0
        self._workers: list[int] = []
        #: Workers of Dask whose last node was killed before it had begun.
        self._unborn: set[int] = set()
        self.killed: Counter[str] = Counter()

    def _start(self, **order: Any) -> int:
        return self._machines.ask(environment=self._environment, log=str(self.log), **order)

    def up(self) -> None:
        """Begin what is not there."""
        if not self._scheduler:
            options = "--host", "127.0.0.1", "--port", str(self._port)
            self._scheduler = self._start(do="dask", arguments=["scheduler", *options])
        while len(self._workers) < 2:
            options = "--host", "127.0.0.1", "--no-nanny", "--nthreads", "2", "--memory-limit", "0"
            place = self._folder / f"dask-{uuid.uuid4().hex[:6]}"
            arguments = ["worker", self.address, *options, "--local-directory", str(place)]
            self._workers.append(self._start(do="dask", arguments=arguments))

    def down(self) -> None:
        for pid in [*self._workers, self._scheduler]:
            if pid:
                self._kill(pid)
        self._workers, self._scheduler = [], 0

    def _kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        self._machines.end(pid)

    def drive(self, archive: Path, run: Path, shard_size: int) -> int:
        self.up()
        return self._start(do="drive", address=self.address, archive=str(archive), run=str(run), shard_size=shard_size)

    def scan(self, archive: Path, run: Path, shard_size: int, wanted: Counter[str]) -> None:
        """Scan to the end, by the same command again and again, while so many of each kind are killed, if it lasts."""
        losses, driver = Losses(run), self.drive(archive, run, shard_size)
        deadline = time.monotonic() + _PATIENCE_S + 10 * wanted.total()
        with Reader(run) as reader:
            while True:
                code = self._machines.code_of(driver)
                if code == 1:
                    break
                assert code is None, (code, self.log.read_text()[-3000:])
                assert time.monotonic() < deadline, self.log.read_text()[-3000:]
                time.sleep(self._rng.uniform(0.05, 0.5))
                kind = self._rng.choice(sorted(wanted.elements()) or [""])
                is_struck = self._strike(kind, driver, losses)
                if kind in ("driver", "scheduler"):
                    driver = self.drive(archive, run, shard_size)
                if is_struck:
                    wanted = wanted - Counter([kind])
                    self.killed[kind] += 1
                    self.up()
        assert not reader.faults and reader.n_read

    def _strike(self, kind: str, driver: int, losses: Losses) -> bool:
        """Kill something of a kind, if it is there and may be killed just now; the driver is gone afterwards, if it is
        that or the scheduler."""
        dask = self._rng.choice(self._workers)
        if kind == "driver":
            os.kill(driver, signal.SIGKILL)
            return self._machines.end(driver) == -signal.SIGKILL
        if kind == "scheduler":
            self._kill(self._scheduler)
            self._scheduler = 0
            assert self._machines.end(driver) in (7, 1), "one line, unless it had just come to its end"
            for pid in self._workers:
                self._end_of(pid)
            self._workers = []
            return True
        if kind == "dask":
            self._workers.remove(dask)
            self._kill(dask)
            return True
        node = self._node_below(dask)
        if node is None or not kind:
            return False
        victim: psutil.Process | None = node
        if kind == "worker":
            victim = losses.worker_of(node.pid, n_ahead=1)
        elif losses.node_of(node.pid):
            self._unborn.discard(dask)
        elif dask in self._unborn:
            return False  # a machine on which nodes never begin is not asked any more
        else:
            self._unborn.add(dask)
        if victim is None:
            return False
        with suppress(psutil.NoSuchProcess):
            victim.kill()
            return True
        return False

    def _end_of(self, pid: int) -> None:
        """Wait for the end of a worker of Dask whose scheduler is gone; one that had just begun would wait for ever."""
        deadline = time.monotonic() + 15
        while (code := self._machines.code_of(pid)) is None and time.monotonic() < deadline:
            time.sleep(0.1)
        if code is None:
            self._kill(pid)

    def nodes(self) -> list[psutil.Process]:
        """Return the nodes of all workers, also those that have not begun to work yet."""
        return [node for pid in self._workers if (node := self._node_below(pid))]

    def _node_below(self, dask: int) -> psutil.Process | None:
        with suppress(psutil.Error):
            for child in psutil.Process(dask).children():
                if "ser_batch.nodes.serve" in " ".join(child.cmdline()):
                    return child
        return None

    def assert_nothing_is_left(self) -> None:
        """After 2 s at most."""
        deadline = time.monotonic() + 2
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not left, left

    def _left(self) -> list[str]:
        found = []
        for item in processes_with(self._token):
            with suppress(psutil.Error):  # it ends in this moment
                found.append(f"{item.pid} {' '.join(item.cmdline())}")
        return [*found, *map(str, self._scratch.glob("ser-batch-*"))]


def killed_and_same(ring: Ring, archive: Path, local: Path, folder: Path, wanted: Counter[str], shard_size: int) -> int:
    """Scan as often as it takes to kill so many of each kind; each time the table is that of one machine.

    Returns
    -------
    n_scans : int
    """
    n_scans = 0
    left = wanted
    while left:
        run = folder / f"run-{n_scans}"
        before = Counter(ring.killed)
        ring.scan(archive, run, shard_size, Counter(left))
        left = left - (ring.killed - before)
        ring.assert_nothing_is_left()
        assert_same(run, local)
        n_scans += 1
    assert ring.killed == wanted
    return n_scans
