"""Workers, nodes, drivers and the scheduler of a cluster are killed again and again: the table is that of one machine,
every part that is to be seen can be read, and nothing is left at work or on a disk."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest
from killing import Ring, killed_and_same
from machines import Machines, make_archive, scan_here

pytest.importorskip("distributed", reason="the extra dask is not installed")

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
