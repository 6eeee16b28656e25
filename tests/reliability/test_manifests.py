"""Whatever stands in `run.json`, each command answers with one line or does its work; never with a traceback."""

from __future__ import annotations

import json
import random
import shutil
import warnings
from pathlib import Path

import pytest
from harness import PLUGIN
from nasty import mutated

from ser_batch import load_results
from ser_batch.cli.main import main
from ser_batch.errors import ExitCode, SerBatchError


def ask(run: Path, other: Path, audio: Path, command: str) -> int:
    """Do one thing with a run; return the exit code."""
    if command == "load":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                load_results(run)
                load_results(run, "windows")
            except SerBatchError as error:
                return int(error.exit_code)
        return 0
    options = {
        "diff": [str(other)],
        "export": ["--to", "audacity", "-o", str(run.parent / "tracks")],
        "report": ["-o", str(run.parent / "report.html")],
        "retry": ["--plugin", str(PLUGIN), "--jobs", "1", "--quiet"],
        "scan": [
            "--plugin",
            str(PLUGIN),
            "--model",
            "guess",
            "--device",
            "cpu",
            "--jobs",
            "1",
            "--quiet",
            "--no-report",
        ],
    }
    places = [str(audio), "-o", str(run)] if command == "scan" else [str(run)]
    return main([command, *places, *options.get(command, [])])


QUICK = ("load", "status", "verify", "show", "diff", "export")


def attack(reference: Path, audio: Path, folder: Path, rng: random.Random, commands: tuple[str, ...], capsys) -> None:
    run = folder / "run"
    shutil.copytree(reference, run)
    data = mutated(json.loads((run / "run.json").read_text()), rng)
    (run / "run.json").write_bytes(data)
    for command in commands:
        code = ask(run, reference, audio, command)
        shown = capsys.readouterr()
        assert code in {*ExitCode} - {ExitCode.UNFORESEEN}, (command, data, shown.err)
        assert "Traceback" not in shown.err, (command, data, shown.err)
    shutil.rmtree(folder)


@pytest.mark.parametrize("seed", range(3))
def test_edited_manifests_give_one_line_and_no_traceback(reference, corpus, tmp_path, capsys, seed):
    rng = random.Random(seed)
    for number in range(25):
        attack(reference, corpus, tmp_path / str(number), rng, QUICK, capsys)


@pytest.mark.reliability
@pytest.mark.parametrize("seed", range(100, 110))
def test_long_thousands_of_edited_manifests(reference, corpus, tmp_path, capsys, seed):
    rng = random.Random(seed)
    for number in range(250):
        commands = (rng.choice(QUICK), rng.choice(["report"] + 9 * ["status"]), rng.choice(["scan"] + 9 * ["verify"]))
        attack(reference, corpus, tmp_path / str(number), rng, commands, capsys)
