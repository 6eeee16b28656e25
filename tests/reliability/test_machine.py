"""A machine that lacks something is worked around or named, in one line with the cure; no file is blamed for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from measuring import COMPILING, NEEDS_MOUNTS, features


def assert_one_line(done: subprocess.CompletedProcess, *parts: str) -> None:
    """What went wrong and the cure, and nothing else."""
    assert done.returncode == 7, done
    lines = [line for line in done.stderr.splitlines() if line and not line.startswith(COMPILING)]
    assert len(lines) == 1 and lines[0].startswith("Error: "), done.stderr
    for part in parts:
        assert part in lines[0]


@NEEDS_MOUNTS
def test_a_machine_without_semaphores_is_named(voices):
    mount = 'mount -t tmpfs -o ro none /dev/shm && exec "$@"'
    done = features(voices, "unshare", "-rm", "sh", "-c", mount, "sh")
    assert_one_line(done, "/dev/shm", "Read-only file system")


def test_too_few_open_files_are_named(voices):
    done = features(voices, "sh", "-c", 'ulimit -n 40 && exec "$@"', "sh")
    assert_one_line(done, "ulimit -n", "--jobs")


@pytest.mark.parametrize("n_processes", [3, 6, pytest.param(9, marks=pytest.mark.reliability)])
def test_processes_and_threads_that_are_refused_are_named(voices, n_processes):
    """Refused to a helper, to a worker, or to a thread of the pool."""
    wrapper = ["bash", "-c", f'ulimit -u {n_processes} && exec "$@"', "bash"]
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        if os.geteuid() == 0:
            if not shutil.which("setpriv"):
                pytest.skip("the limit does not hold for root")
            # Python may be installed where others cannot read.
            capabilities = ["--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override"]
            wrapper = ["setpriv", "--reuid", "54321", "--clear-groups", *capabilities, *wrapper]
            Path(folder).chmod(0o777)
        audio = shutil.copytree(voices, Path(folder, "audio"))
        done = features(audio, *wrapper, OPENBLAS_NUM_THREADS="1")
    assert_one_line(done, "ulimit -u", "--jobs")
