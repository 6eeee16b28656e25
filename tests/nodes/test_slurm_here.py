"""The recipe for SLURM of docs/clusters.md on a real SLURM, begun on this machine for as long as the tests last.

Debian has it: ``apt-get install slurmctld slurmd slurm-client munge``.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from killing import free_port
from machines import CONFIG, RECIPE, assert_same, in_environment

from ser_batch.cli.main import main
from ser_batch.engine import plan
from ser_batch.errors import ExitCode
from ser_batch.run.attempts import Attempts
from ser_batch.run.planned import plan_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_MISSING = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name, path=_PATH)]

_CONF = """\
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={port}
SlurmdPort={other_port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MailProg=/bin/true
MpiDefault=none
ReturnToService=2
KillWait=10
MaxArraySize=4
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES State=UP
"""


def wait_until(is_so: Callable[[], object], timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.2)


class Slurm:
    """A cluster of one node, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._services: list[subprocess.Popen[bytes]] = []
        host = platform.node().partition(".")[0]
        for name in ("state", "spool", "jobs"):
            (folder / name).mkdir()
        conf = folder / "slurm.conf"
        conf.write_text(_CONF.format(folder=folder, host=host, port=free_port(), other_port=free_port()))
        self.environment = in_environment(SLURM_CONF=str(conf), NUMBA_CACHE_DIR="", PATH=_PATH)

    def begin(self) -> None:
        key, here = self.folder / "munge.key", self.folder
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        files = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munge.pid", "seed-file": "munge.seed"}
        options = [f"--{name}={here / file}" for name, file in files.items()]
        self._serve("munged", "--foreground", "--force", f"--log-file={here / 'munge.log'}", *options)
        wait_until((here / "munge.socket").exists, 20)
        self._serve("slurmctld", "-D")
        self._serve("slurmd", "-D")
        wait_until(lambda: "idle" in self.said("sinfo", "-h", "-o", "%T"), 60)

    def _serve(self, *command: str) -> None:
        with (self.folder / "services.log").open("ab") as log:
            self._services.append(subprocess.Popen(command, env=self.environment, stdout=log, stderr=log))

    def end(self) -> None:
        for service in reversed(self._services):
            service.terminate()
            try:
                service.wait(20)
            except subprocess.TimeoutExpired:
                service.kill()
                service.wait()

    def said(self, *command: str, **options: object) -> str:
        done = subprocess.run(
            command,
            env=self.environment,
            cwd=self.folder / "jobs",
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            **options,  # type: ignore[call-overload]
        )
        return done.stdout + done.stderr

    def submit(self, script: str) -> str:
        """Run the script that ``ser-batch slurm`` prints; return the number of the array."""
        told = self.said("sh", input=script)
        assert told.startswith(("Submitted array ", "This cluster takes arrays")), told
        return next(line for line in told.splitlines() if line.startswith("Submitted array ")).split()[-1].rstrip(".")

    def states(self, job: str) -> dict[str, str]:
        """Return the tasks of an array that are not over: number -> state."""
        lines = self.said("squeue", "-h", "-r", "-j", job, "-o", "%K %T").splitlines()
        return dict(line.split() for line in lines if len(line.split()) == 2 and line[0].isdigit())

    def is_empty(self) -> bool:
        return not self.said("squeue", "-h").strip()

    def outputs(self) -> str:
        return "\n".join(path.read_text() for path in sorted((self.folder / "jobs").glob("slurm-*.out")))


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    if _MISSING:
        pytest.skip(f"no SLURM is installed here ({', '.join(_MISSING)} missing)")
    if os.getuid() or sys.platform != "linux":
        pytest.skip("SLURM's services want to be root, on Linux")
    # munge wants a socket that all can reach.
    folder = Path(tempfile.mkdtemp(prefix="ser-batch-slurm-"))
    folder.chmod(0o755)
    cluster = Slurm(folder)
    try:
        cluster.begin()
        yield cluster
    finally:
        cluster.end()
        shutil.rmtree(folder, ignore_errors=True)


def test_an_array_is_requeued_cancelled_and_submitted_again(
    slurm: Slurm, archive: Path, local: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    config = CONFIG.with_values({"run": {"shard_size": 1}})
    n_parts = plan(archive, run, config=config, plugins=RECIPE).n_parts
    assert n_parts == 28
    attempts = Attempts(run, plan_of(run).plan_id)
    slurm.environment["SER_BATCH_TEST_SLEEP_S"] = "1"
    options = "--nodes", "9", "--cpus", "1", "--time", "10:00", "--trust-plugins"
    assert main(["slurm", str(run), *options]) == ExitCode.OK
    script = capsys.readouterr().out

    job = slurm.submit(script)
    assert slurm.states(job).keys() == {"1", "2", "3"}, "as many as MaxArraySize allows"
    wait_until(lambda: len(attempts.published()) >= 2)
    assert slurm.states(job)["1"] == slurm.states(job)["2"] == "RUNNING"
    slurm.said("scontrol", "requeue", f"{job}_1")
    slurm.said("scancel", f"{job}_2")
    wait_until(lambda: slurm.states(job).get("1") == "PENDING" and "2" not in slurm.states(job))
    slurm.said("scontrol", "update", f"JobId={job}_1", "StartTime=now")
    wait_until(lambda: slurm.states(job).get("1") == "RUNNING")
    n_published = len(attempts.published())
    wait_until(lambda: len(attempts.published()) > n_published)
    assert not all(len(nodes) > 1 for nodes in attempts.tries().values())
    slurm.said("scancel", job)
    wait_until(slurm.is_empty)
    assert f"of {n_parts} parts are done" in slurm.outputs() and "parts are left" in slurm.outputs()
    assert not attempts.tries(), "what was cancelled and requeued used up no tries"

    slurm.environment["SER_BATCH_TEST_SLEEP_S"] = "0"
    slurm.submit(script)
    wait_until(slurm.is_empty)
    assert f"{n_parts} of {n_parts} parts are done" in slurm.outputs(), slurm.outputs()
    assert_same(run, local)
    assert (run / "report.html").exists()
    assert "Traceback" not in slurm.outputs()
