"""The script for SLURM does what it says, in the hands of an sbatch that does as SLURM does."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from machines import assert_same, in_environment

from ser_batch.cli.main import main
from ser_batch.errors import ExitCode

#: Keeps what it is given, a script from standard input, and gives a number.
SBATCH = """\
#!/bin/sh
number=$(ls "$FOLDER" | wc -l)
printf '%s\\n' "$@" > "$FOLDER/$number.options"
cat > "$FOLDER/$number.script"
echo "4$number;cluster"
"""
SCONTROL = """\
#!/bin/sh
echo 'MaxArraySize            = 5'
"""


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """An environment with a cluster in it."""
    programs, folder = tmp_path / "bin", tmp_path / "jobs"
    programs.mkdir()
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("scontrol", SCONTROL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    environment = in_environment(FOLDER=str(folder), NUMBA_CACHE_DIR="")
    return environment | {"PATH": f"{programs}:{environment['PATH']}"}


def script_of(run: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["slurm", str(run), "--trust-plugins", *options]) == ExitCode.OK
    return capsys.readouterr().out


def submit(script: str, cluster: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh"], input=script, env=cluster, capture_output=True, text=True, check=True, timeout=60)


def test_an_array_with_gaps_and_what_follows_it_make_the_table(
    run: Path, local: Path, cluster: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--nodes", "3", "--cpus", "1", "--sbatch", "--partition=a b", "--time", "1:00:00"
    told = submit(script_of(run, capsys, *options), cluster)
    assert told.stdout.splitlines()[0] == "Submitted array 40."
    jobs = Path(cluster["FOLDER"])
    given = (jobs / "0.options").read_text().splitlines()
    assert {"--array=1-3", "--cpus-per-task=1", "--time=1:00:00", "--partition=a b", "--requeue"} <= set(given)
    assert "--dependency=afterany:40" in (jobs / "2.options").read_text().splitlines()
    array = {"SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_MAX": "7", "SLURM_ARRAY_TASK_COUNT": "2"}
    for task in ("3", "7"):
        environment = cluster | array | {"SLURM_ARRAY_TASK_ID": task, "SLURM_CPUS_PER_TASK": "1"}
        worked = subprocess.run(
            ["sh", str(jobs / "0.script")], env=environment, capture_output=True, text=True, check=False, timeout=100
        )
        assert worked.returncode == 0, worked.stderr
    assert "Nothing is left to do" in worked.stdout
    completed = subprocess.run(
        ["sh", str(jobs / "2.script")], env=cluster, capture_output=True, text=True, check=False, timeout=100
    )
    assert completed.returncode == ExitCode.SOME_FILES_FAILED, completed.stderr
    assert "7 of 7 parts are done" in completed.stdout
    assert_same(run, local)
    assert (run / "report.html").exists()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"ID": "1", "MIN": "1", "MAX": "3", "STEP": "1"}, "1/3"),
        ({"ID": "3", "MIN": "1", "MAX": "3", "STEP": "1"}, "3/3"),
        ({"ID": "7", "MIN": "3", "MAX": "7", "COUNT": "2"}, "5/5"),
        ({"ID": "8", "MIN": "0", "MAX": "8", "STEP": "4"}, "3/3"),
        ({"ID": "5"}, "1/1"),
    ],
    ids=str,
)
def test_a_task_takes_the_slice_that_is_its_own(
    run: Path, cluster: dict[str, str], capsys: pytest.CaptureFixture[str], variables: dict[str, str], expected: str
) -> None:
    submit(script_of(run, capsys, "--nodes", "3"), cluster)
    task = (Path(cluster["FOLDER"]) / "0.script").read_text().replace("exec ", "echo ")
    environment = cluster | {f"SLURM_ARRAY_TASK_{name}": value for name, value in variables.items()}
    told = subprocess.run(["sh"], input=task, env=environment, capture_output=True, text=True, check=True, timeout=60)
    words = told.stdout.split()
    assert words[words.index("--slice") + 1] == expected
    assert words[words.index("--jobs") + 1] == "0"


def test_an_array_is_no_longer_than_the_cluster_allows(
    run: Path, cluster: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    told = submit(script_of(run, capsys, "--nodes", "20"), cluster)
    assert "--array=1-4" in (Path(cluster["FOLDER"]) / "0.options").read_text().splitlines()
    assert "takes arrays of 4 tasks" in told.stderr


def test_a_plan_with_plugin_files_needs_trust(
    run: Path, cluster: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["slurm", str(run), "--nodes", "2"]) == ExitCode.USAGE
    assert "give --trust-plugins" in capsys.readouterr().err
    values = json.loads((run / "plan.json").read_text())
    values["plugins"]["files"] = []
    (run / "plan.json").write_text(json.dumps(values))
    assert main(["slurm", str(run), "--nodes", "2"]) == ExitCode.OK
    assert "--trust-plugins" not in capsys.readouterr().out
