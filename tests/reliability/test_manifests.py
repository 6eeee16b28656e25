"""Whatever stands in `run.json`, each command answers with one line or does its work; never with a traceback."""

from __future__ import annotations

import copy
import json
import random
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
from harness import PLUGIN, corpus, reference, scanner  # noqa: F401

from ser_batch import load_results
from ser_batch.cli.main import main
from ser_batch.errors import ExitCode, SerBatchError

NASTY: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**63, 10**400, -(10**400), 1.5, 1e308, float("nan"), float("inf"),
    "", "x", "\0", "\ud800", "\udce9", "../../etc/passwd", "/nowhere", "2026-03-01", "9" * 400, "\x1b[2J", "a" * 5000,
    [], [[]], [None], ["x", "x"], [1, 2, 3], [{}], {}, {"": None}, {"x": {}}, {"ok": "many"},
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON document, as keys from the top."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


def mutated(manifest: dict[str, Any], rng: random.Random) -> bytes:
    manifest = copy.deepcopy(manifest)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        known = places(manifest)
        # Each field as often as any other, however much lies in it.
        top = rng.choice(list(manifest) or [()])
        path = rng.choice([place for place in known if place[:1] == (top,)] or [()])
        if not path:
            break
        holder: Any = manifest
        for key in path[:-1]:
            holder = holder[key]
        if rng.random() < 0.2:
            del holder[path[-1]]
        else:
            holder[path[-1]] = copy.deepcopy(rng.choice(NASTY))
    data = bytearray(json.dumps(manifest).encode())
    kind = rng.random()
    if kind < 0.02:
        del data[rng.randrange(len(data)) :]
    elif kind < 0.04:
        data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind < 0.05:
        data = bytearray(b"[" * 100_000)
    return bytes(data)


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


def attack(reference: Path, audio: Path, folder: Path, rng: random.Random, commands: tuple[str, ...], capsys) -> None:  # noqa: F811
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


@pytest.mark.parametrize("seed", range(6))
def test_edited_manifests_give_one_line_and_no_traceback(reference, corpus, tmp_path, capsys, seed):  # noqa: F811
    rng = random.Random(seed)
    for number in range(25):
        attack(reference, corpus, tmp_path / str(number), rng, QUICK, capsys)


@pytest.mark.reliability
@pytest.mark.parametrize("seed", range(100, 120))
def test_long_ten_thousand_edited_manifests(reference, corpus, tmp_path, capsys, seed):  # noqa: F811
    rng = random.Random(seed)
    for number in range(500):
        commands = (rng.choice(QUICK), rng.choice(["report"] + 9 * ["status"]), rng.choice(["scan"] + 9 * ["verify"]))
        attack(reference, corpus, tmp_path / str(number), rng, commands, capsys)
