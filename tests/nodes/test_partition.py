"""A worker that is cut off from its scheduler for a minute, by network namespaces: the table is that of one machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from killing import Reader, free_port
from machines import Machines, assert_same, in_environment

from ser_batch.run.attempts import Attempts
from ser_batch.run.planned import read_plan

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
pytest.importorskip("distributed", reason="the extra dask is not installed")

_CUT_S = 60.0


class Link(NamedTuple):
    """A network of this machine and a namespace."""

    namespace: str
    here: str
    there: str

    def set(self, state: str) -> None:
        # On its side, since the address of this side goes with a link that is set down.
        subprocess.run(["ip", "-n", self.namespace, "link", "set", f"{self.namespace}n", state], check=True)


@pytest.fixture
def link() -> Iterator[Link]:
    if os.getuid() or not shutil.which("ip"):
        pytest.skip("network namespaces need root and iproute2")
    name, net = f"sb{os.getpid()}", f"10.213.{os.getpid() % 250}"
    link = Link(name, f"{net}.1", f"{net}.2")
    commands = (
        f"ip netns add {name}",
        f"ip link add {name}h type veth peer name {name}n netns {name}",
        f"ip addr add {link.here}/24 dev {name}h",
        f"ip link set {name}h up",
        f"ip -n {name} addr add {link.there}/24 dev {name}n",
        f"ip -n {name} link set {name}n up",
        f"ip -n {name} link set lo up",
    )
    try:
        for command in commands:
            done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"no network namespace can be made here: {command}: {done.stderr.strip()}")
        yield link
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", f"{name}h"], capture_output=True, check=False)


def test_a_worker_that_is_cut_off_for_a_minute_costs_no_row(
    link: Link, archive: Path, local: Path, machines: Machines, tmp_path: Path
) -> None:
    run, log, port = tmp_path / "run", tmp_path / "log", str(free_port())
    address = f"tcp://{link.here}:{port}"
    slow = {"SER_BATCH_TEST_SLEEP_S": "1", "TMPDIR": str(tmp_path)}
    scheduler = machines.ask(do="dask", arguments=["scheduler", "--host", link.here, "--port", port], log=str(log))
    options = ["--no-nanny", "--nthreads", "1", "--memory-limit", "0", "--local-directory"]
    here = machines.ask(
        do="dask",
        arguments=["worker", address, "--host", link.here, *options, str(tmp_path / "here")],
        environment=slow,
        log=str(log),
    )
    command = ["ip", "netns", "exec", link.namespace, sys.executable, "-W", "ignore", "-m", "dask", "worker", address]
    command += ["--host", link.there, *options, str(tmp_path / "there"), "--no-dashboard"]
    with log.open("ab") as errors:
        there = subprocess.Popen(command, env=in_environment(**slow), stdout=errors, stderr=errors)
    try:
        order = {"address": address, "archive": str(archive), "run": str(run), "shard_size": 1}
        driver = machines.ask(do="drive", log=str(log), **order)
        with Reader(run) as reader:
            deadline = time.monotonic() + 120
            while len(_nodes_that_published(run)) < 2:
                assert machines.code_of(driver) is None and time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.1)
            link.set("down")
            cut_s = time.monotonic()
            while (code := machines.code_of(driver)) is None and time.monotonic() - cut_s < _CUT_S:
                time.sleep(0.1)
            time.sleep(max(0.0, _CUT_S - (time.monotonic() - cut_s)))
            link.set("up")
            code = machines.end(driver) if code is None else code
        assert code == 1, log.read_text()[-3000:]
        assert "was lost with a bundle" in log.read_text(), "it was cut off with something in hand"
        assert not reader.faults
        assert_same(run, local)
    finally:
        there.kill()
        there.wait()
        for pid in (here, scheduler):
            os.kill(pid, 9)
            machines.end(pid)


def _nodes_that_published(run: Path) -> set[str]:
    plan = read_plan(run)
    if plan is None:
        return set()
    attempts = Attempts(run, plan.plan_id)
    nodes = set()
    for part in attempts.published():
        nodes.add(attempts.manifest(part).node)
    return nodes
