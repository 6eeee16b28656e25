"""What is installed is what is in the checkout: wheel and sdist hold every module, model, setting and template."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest
from repository import REPOSITORY

#: Folders and files of the checkout that make up the sdist.
SOURCES = (
    *("ser_batch", "configs", "models", "tests", "docs", "plugins", "benchmarks", "scripts"),
    *("setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "constraints.txt", "data"),
)


def names_below(folder: Path) -> set[str]:
    """Return the files below `folder`, without caches and what a build leaves."""
    return {
        path.relative_to(REPOSITORY).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not {"__pycache__", "build"} & set(path.parts) and ".egg-info" not in str(path)
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build wheel and sdist from a copy of the checkout, without the network; return the folder with both."""
    folder = tmp_path_factory.mktemp("built")
    copy = folder / "source"
    copy.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "raw", "cache", ".*")
    for name in SOURCES:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=ignore)
        else:
            shutil.copy(source, copy / name)
    code = (
        "import sys; from setuptools import build_meta; folder = sys.argv[1];"
        "build_meta.build_sdist(folder); build_meta.build_wheel(folder)"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(folder)]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel_names(built: Path) -> set[str]:
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def sdist_names(built: Path) -> set[str]:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        return {member.name.split("/", 1)[1] for member in archive.getmembers() if member.isfile()}


def test_the_wheel_holds_every_file_of_the_package(wheel_names: set[str]) -> None:
    expected = names_below(REPOSITORY / "ser_batch")
    for folder in ("configs", "models"):
        expected |= {f"ser_batch/{name}" for name in names_below(REPOSITORY / folder)}
    assert {name for name in wheel_names if ".dist-info/" not in name} == expected


def test_the_wheel_has_the_command_and_the_licence(built: Path, wheel_names: set[str]) -> None:
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel_names)
    (points,) = (name for name in wheel_names if name.endswith("entry_points.txt"))
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        assert "ser-batch = ser_batch.__main__:main" in archive.read(points).decode()


def lend_compiled_kernels(site: Path) -> None:
    """Give an unpacked wheel the kernels that the checkout has compiled; numba knows them by name, time and size."""
    for compiled in (REPOSITORY / "ser_batch").rglob("*.nb[ic]"):
        target = site / compiled.relative_to(REPOSITORY)
        target.parent.mkdir(exist_ok=True)
        shutil.copy2(compiled, target)
    for source in (REPOSITORY / "ser_batch").rglob("*.py"):
        shutil.copystat(source, site / source.relative_to(REPOSITORY))


def test_an_installed_wheel_scans_from_anywhere(built: Path, tmp_path: Path) -> None:
    (path,) = built.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(path) as archive:
        archive.extractall(site)
    lend_compiled_kernels(site)
    sample = REPOSITORY / "data/samples/voices/low_slow.flac"
    code = (
        "import sys, ser_batch; from ser_batch.cli.main import main; print(ser_batch.__file__);"
        f"sys.exit(main(['scan', {str(sample)!r}, '-o', {str(tmp_path / 'run')!r}, '--device', 'cpu', '--jobs', '1']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(site), "SER_BATCH_PLUGINS": ""},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(str(site))
    assert (tmp_path / "run/report.html").is_file()


@pytest.mark.parametrize("folder", ["ser_batch", "configs", "models", "tests", "docs", "plugins", "benchmarks"])
def test_the_sdist_holds_every_file_of_the_checkout(sdist_names: set[str], folder: str) -> None:
    assert {name for name in sdist_names if name.startswith(f"{folder}/")} == names_below(REPOSITORY / folder)


def test_the_list_of_packages_is_that_of_the_folders() -> None:
    config = ConfigParser()
    config.read(REPOSITORY / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    found = {
        ".".join(path.parent.relative_to(REPOSITORY).parts) for path in (REPOSITORY / "ser_batch").rglob("__init__.py")
    }
    assert listed == found | {"ser_batch.configs", "ser_batch.models"}


def test_constraints_hold_every_dependency() -> None:
    config = ConfigParser()
    config.read(REPOSITORY / "setup.cfg")
    wanted = config["options"]["install_requires"].splitlines()
    for lines in config["options.extras_require"].values():
        wanted += lines.splitlines()
    names = {
        line.split()[0].partition("[")[0].lower()
        for line in wanted
        if line.strip() and not line.startswith("ser-batch[")
    }
    pinned = {
        line.split("==")[0]
        for line in (REPOSITORY / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    }
    assert names <= pinned
