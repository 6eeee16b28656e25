"""Made once for each file of tests; nobody may change any of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from machines import Machines, make_archive, plan_here, scan_here


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    process = Machines()
    yield process
    process.close()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def local(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one machine makes of it."""
    return scan_here(archive, tmp_path_factory.mktemp("local") / "run")


@pytest.fixture(scope="module")
def planned(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("planned") / "run"
    assert plan_here(archive, run) == 7
    return run


@pytest.fixture
def run(planned: Path, tmp_path: Path) -> Path:
    """A run with a plan."""
    return Path(shutil.copytree(planned, tmp_path / "run"))


@pytest.fixture(scope="module")
def worked(planned: Path, machines: Machines, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose plan was done by a node, and of which nothing is taken in."""
    run = Path(shutil.copytree(planned, tmp_path_factory.mktemp("worked") / "run"))
    assert machines.run("work", run) == 0
    return run
