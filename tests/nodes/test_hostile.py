"""A folder with a plan that somebody has edited, or prepared: one line or the work, and nothing outside is touched."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from machines import CONFIG, PLUGIN, RECIPE, Machines, assert_same
from nasty import damaged, mutated

from ser_batch.cli.main import main
from ser_batch.engine import scan
from ser_batch.errors import ExitCode, PluginError, RunError
from ser_batch.nodes.complete import complete
from ser_batch.nodes.node import Node
from ser_batch.plugins import PluginRecipe
from ser_batch.reviews.answers import Answer, AnswerJournal
from ser_batch.reviews.sample import draw_sample, save_sample
from ser_batch.reviews.unlearnt import store_unlearnt
from ser_batch.run.attempts import DEAD_S, Attempts, this_process
from ser_batch.run.parquet import footer_crc32
from ser_batch.run.planned import plan_of
from ser_batch.run.published import refuse_if_worked_on
from ser_batch.run.read import open_run


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["run\ntouch pwned\n", "run'\nTASK\ntouch pwned\n", "run\r", "run\x1b[2J"])
def test_no_name_of_a_run_becomes_a_line_of_a_script(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    odd = run.rename(tmp_path / name)
    assert main(["slurm", str(odd), "--nodes", "2", "--trust-plugins"]) == ExitCode.RUN
    said = capsys.readouterr()
    assert not said.out and "A script cannot name" in said.err and said.err.count("\n") == 1


def test_odd_names_of_a_run_stay_one_word_of_a_script(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = run.rename(tmp_path / 'it\'s $(touch pwned) `touch pwned` \\ "x" ü')
    assert main(["slurm", str(odd), "--nodes", "2", "--trust-plugins"]) == ExitCode.OK
    script = capsys.readouterr().out.replace("exec ", "printf '%s\\n' ")
    # Whoever submits it, and then each of the two scripts in it.
    sbatch = tmp_path / "sbatch"
    sbatch.write_text("#!/bin/sh\nsh >> said\necho 4\n")
    sbatch.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "1"}
    subprocess.run(["sh"], input=script, cwd=tmp_path, env=environment, text=True, check=True, timeout=60)
    assert (tmp_path / "said").read_text().splitlines().count(str(odd)) == 2
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "name", ["", "PLAN", "PLAN/staged", "PLAN/manifests", "PLAN/nodes", "PLAN/tries", "PLAN/second"]
)
def test_nodes_write_through_no_link(
    worked: Path, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    run = Path(shutil.copytree(worked, tmp_path / "run"))
    place = run / ".attempts" / name.replace("PLAN", plan_of(run).plan_id)
    elsewhere = place.rename(tmp_path / "elsewhere")
    place.symlink_to(elsewhere)
    before = everything_in(elsewhere)
    for command in (["work", "--plugin", str(PLUGIN)], ["complete"]):
        assert main([command[0], str(run), *command[1:]]) == ExitCode.RUN
        said = capsys.readouterr().err
        assert f"{place} is no folder, but a link" in said and said.count("\n") == 1
    assert main(["status", str(run)]) == ExitCode.RUN
    with pytest.raises(RunError, match="is no folder, but a link"):
        scan(archive, run, config=CONFIG, plugins=RECIPE, report=False)
    assert everything_in(elsewhere) == before


def test_what_lies_beside_a_plan_is_not_taken_through_a_link(run: Path, tmp_path: Path) -> None:
    """It would be copied into the run, where whoever prepared it may read it."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    plan = json.loads((run / "plan.json").read_text())
    (run / "plan.json").write_text(json.dumps(plan | {"beside": ["metadata.parquet"]}))
    (plan_of(run).folder / "metadata.parquet").symlink_to(secret)
    (run / "run.json").unlink()
    with pytest.raises(RunError, match=r"metadata\.parquet cannot be read"):
        complete(run, report=False)
    assert not (run / "metadata.parquet").exists()


def changed(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda plan: plan.update(values)


def census(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda plan: plan["census"].update(values)


@pytest.mark.parametrize(
    "change",
    [
        changed(promise="no JSON"),
        changed(promise="[]"),
        census(found="many"),
        census(first_unlisted=[7]),
        changed(census={"found": 1}),
        lambda plan: plan["plugins"].update(built_in=[[]]),
        lambda plan: plan["plugins"]["files"][0].update(path="/"),
        lambda plan: plan["plugins"]["files"][0].update(path="/x/.."),
        lambda plan: plan["parts"].append(plan["parts"][0]),
        lambda plan: plan["parts"].reverse(),
        lambda plan: plan["run"]["config"]["predict"].update(model=7),
    ],
)
def test_an_edited_plan_is_refused_in_a_line(
    run: Path, capsys: pytest.CaptureFixture[str], change: Callable[[dict[str, Any]], object]
) -> None:
    plan = json.loads((run / "plan.json").read_text())
    change(plan)
    (run / "plan.json").write_text(json.dumps(plan))
    for command in (["work"], ["complete"], ["slurm", "--nodes", "2"]):
        assert main([command[0], str(run), *command[1:]]) == ExitCode.RUN
        said = capsys.readouterr().err
        assert "plan.json cannot be read (" in said and said.count("\n") == 1


@pytest.mark.parametrize("name", ["fingerprint", "labels", "tables"])
def test_a_plan_whose_run_is_made_of_something_else_is_refused(run: Path, name: str) -> None:
    """What the nodes would publish by it, no scan could go on with."""
    plan = json.loads((run / "plan.json").read_text())
    plan["run"][name] = {"fingerprint": "f" * 16, "labels": ["other"], "tables": ["files", "windows"]}[name]
    (run / "plan.json").write_text(json.dumps(plan))
    with (
        pytest.raises(PluginError, match=f"has other ingredients than the plan .*{name}"),
        Node(run, trust_plugins=True),
    ):
        pass


def replaced(name: str, values: Callable[[list[Any]], list[Any]]) -> Callable[[pa.Table], pa.Table]:
    """Change a column of a plan, of whatever type it is then."""

    def change(rows: pa.Table) -> pa.Table:
        place = rows.column_names.index(name)
        given = values(rows.column(name).to_pylist())
        try:
            column = pa.array(given, rows.schema.field(name).type)
        except (TypeError, ValueError, pa.ArrowException):
            column = pa.array(given)
        field = rows.schema.field(name)
        is_same = column.type == field.type and (field.nullable or not column.null_count)
        return rows.set_column(place, field if is_same else pa.field(name, column.type), column)

    return change


@pytest.mark.parametrize(
    "change",
    [
        replaced("kind", lambda values: [9, *values[1:]]),
        replaced("clip_id", lambda values: [values[1], *values[1:]]),
        replaced("clip_id", lambda values: ["a\0b", *values[1:]]),
        replaced("clip_id", lambda values: ["", *values[1:]]),
        replaced("clip_id", lambda values: [None, *values[1:]]),
        replaced("clip_id", lambda values: list(range(len(values)))),
        replaced("path", lambda values: [b"\0", *values[1:]]),
        replaced("size_bytes", lambda values: [-1, *values[1:]]),
        replaced("size_bytes", lambda values: ["big"] * len(values)),
        replaced("segments", lambda values: ["[" * 100_000, *values[1:]]),
        replaced("segments", lambda values: ['[1, [], [[0, 1, 1e999, "", "", ""]], ""]', *values[1:]]),
        lambda rows: rows.drop_columns(["etag"]),
        lambda rows: rows.slice(0, 1),
    ],
)
def test_edited_rows_of_a_plan_are_refused_in_a_line(run: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Whoever edits them knows how to set the checksum."""
    path = plan_of(run).folder / "plan.parquet"
    with pq.ParquetFile(path) as file:
        groups = [file.read_row_group(number) for number in range(file.num_row_groups)]
    groups = [change(rows) for rows in groups]
    with pq.ParquetWriter(path, groups[0].schema) as writer:
        for rows in groups:
            writer.write_table(rows)
    with path.open("rb") as file:
        crc32 = footer_crc32(file)
    plan = json.loads((run / "plan.json").read_text())
    (run / "plan.json").write_text(json.dumps(plan | {"rows_footer_crc32": crc32}))
    with pytest.raises(RunError, match=r"plan\.parquet cannot be read \(.*Plan again"), Node(run, trust_plugins=True):
        pass


def test_a_plan_that_cannot_be_read_costs_nothing_that_nodes_have_published(
    worked: Path, archive: Path, local: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(worked, tmp_path / "run"))
    whole = (run / "plan.json").read_bytes()
    (run / "plan.json").write_bytes(whole[:-100])
    before = everything_in(run / ".attempts")
    with pytest.raises(RunError, match="Nodes have published 7 parts by it that the run does not have"):
        scan(archive, run, config=CONFIG, plugins=RECIPE, report=False)
    assert everything_in(run / ".attempts") == before
    (run / "plan.json").write_bytes(whole)
    assert complete(run, report=False).n_committed == 7
    assert_same(run, local)


@pytest.mark.parametrize("mode", ["restart", "recompute"])
def test_a_mistake_in_the_command_costs_nothing_that_nodes_have_published(
    worked: Path, archive: Path, local: Path, tmp_path: Path, mode: str
) -> None:
    """A plugin that workers cannot load is found out late."""
    run = Path(shutil.copytree(worked, tmp_path / "run"))
    plugin = tmp_path / "not_in_workers.py"
    plugin.write_text("import os\nif os.environ.get('OMP_NUM_THREADS') == '1':\n    raise ImportError('gone')\n")
    recipe = PluginRecipe((*RECIPE.files, str(plugin)), (), RECIPE.built_in)
    other = CONFIG.with_values({"audio": {"window_s": 0.5, "window_hop_s": 0.5}})
    with pytest.raises(PluginError, match="gone"):
        scan(archive, run, config=other, plugins=recipe, mode=mode, report=False)
    scan(archive, run, config=CONFIG, plugins=RECIPE, report=False)
    assert_same(run, local)


def test_files_that_no_node_has_written_keep_none_from_work(
    worked: Path, archive: Path, tmp_path: Path, machines: Machines
) -> None:
    """Of a clock that was set back, of an editor, of somebody who wants to see what happens."""
    run = Path(shutil.copytree(worked, tmp_path / "run"))
    folder = plan_of(run).folder
    shutil.rmtree(folder / "manifests")
    shutil.rmtree(folder / "staged")
    tomorrow = time.time() + 86_400
    for node, told in (("0" * 12, {"machine": "elsewhere"}), ("1" * 12, []), ("2" * 12, this_process() | {"pid": -1})):
        (folder / "nodes" / f"{node}.json").write_text(json.dumps(told))
    os.utime(folder / "nodes" / f"{'0' * 12}.json", (tomorrow, tomorrow))
    (folder / "nodes" / f"{'3' * 12}.json").mkdir()
    os.mkfifo(folder / "nodes" / f"{'4' * 12}.json")
    assert not Attempts(run, folder.name).living()
    refuse_if_worked_on(run)
    for name in ("0-4.x", "0-4.0~", "0-4.", "9-1.0"):
        (folder / "tries" / name).write_text("no node")
    (folder / "tries" / "4-8.0").mkdir()
    assert machines.run("work", run) == 0
    assert machines.run("complete", run) == 1


def test_a_node_that_was_silent_is_dead_whichever_way_the_clock_was_set(run: Path) -> None:
    attempts = Attempts(run, plan_of(run).plan_id)
    attempts.create()
    path = attempts.folder / "nodes" / f"{'0' * 12}.json"
    path.write_text('{"machine": "elsewhere"}')
    for age_s, lives in ((0.0, True), (2 * DEAD_S, False), (-2 * DEAD_S, False)):
        then_s = time.time() - age_s
        os.utime(path, (then_s, then_s))
        assert bool(attempts.living()) is lives


# Folders of which a file was damaged or replaced.


@pytest.fixture(scope="module")
def everything(worked: Path, machines: Machines, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has whatever a run may have; its plan is not taken away."""
    run = Path(shutil.copytree(worked, tmp_path_factory.mktemp("everything") / "run"))
    assert machines.run("complete", run) == 1
    shutil.copy(worked / "plan.json", run)
    shutil.copytree(worked / ".attempts", run / ".attempts", dirs_exist_ok=True)
    attempts = Attempts(run, plan_of(run).plan_id)
    attempts.begin_try((0, 4), "0" * 12, is_alone=False)
    (attempts.folder / "nodes" / f"{'0' * 12}.json").write_text(json.dumps(this_process() | {"born_s": 0.0}))
    opened = open_run(run)
    sample = draw_sample(opened, 0.2, "files")
    save_sample(run, sample)
    with AnswerJournal.open(run, "anna", opened.info["run_id"]) as journal:
        for item in sample.items:
            told = item.model_label, item.model_confidence
            journal.append(Answer(item.clip_id, item.start_s, item.end_s, "calm", "audit", 1.0, *told, 5.0, ""))
    labels, stretches = opened.labels, [answer.stretch for answer in journal.standing]
    store_unlearnt(run, "0" * 64, labels, stretches, [[0.5, 0.5] for _ in stretches])
    return run


def spoil(path: Path, precious: Path, rng: random.Random) -> str:
    """Damage a file, or put something else in its place; say what was done."""
    kind = rng.choice(
        ["edit", "edit", "edit", "bytes", "bytes", "empty", "gone", "folder", "pipe", "zero", "loop", "link"]
    )
    data = path.read_bytes()
    if kind == "edit":
        lines = data.splitlines() or [b"{}"]
        try:
            number = rng.randrange(len(lines))
            lines[number] = mutated(json.loads(lines[number]), rng)
        except ValueError:
            kind = "bytes"
        data = b"\n".join([*lines, b""])
    if kind == "bytes":
        data = damaged(data, rng)
    path.unlink()
    if kind in ("edit", "bytes", "empty"):
        path.write_bytes(b"" if kind == "empty" else data)
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind != "gone":
        path.symlink_to({"zero": "/dev/zero", "loop": path.name, "link": precious}[kind])
    return f"{kind} {path.name}"


ASKED = {
    "status": [],
    "verify": [],
    "show": [],
    "audit": [],
    "slurm": ["--nodes", "2", "--trust-plugins"],
    "complete": ["--no-report"],
    "adapt": ["-o", "../model.safetensors"],
    "label": ["--labels", "calm", "-o", "../other", "--plugin", str(PLUGIN), "--no-report"],
    "export": ["--to", "jsonl", "-o", "../rows.jsonl"],
    "diff": ["../whole"],
    "review": ["--only", "nosuch", "--no-browser"],
    "retry": ["--plugin", str(PLUGIN), "--jobs", "1", "--quiet"],
    "report": ["-o", "../report.html"],
}


def files_of(run: Path) -> list[Path]:
    """All but ``run.json``, of which other tests know more."""
    return sorted(path for path in run.rglob("*") if path.is_file() and path.name not in ("run.json", "report.html"))


def attack(everything: Path, folder: Path, rng: random.Random, commands: list[str], capsys: Any) -> None:
    """Spoil one or two files of a run, then do something with it."""
    run = Path(shutil.copytree(everything, folder / "run", symlinks=True))
    (folder / "whole").symlink_to(everything)
    precious = folder / "precious"
    precious.write_text('{"precious": 1}\nno end of a line')
    done = [spoil(path, precious, rng) for path in rng.sample(files_of(run), rng.choice([1, 1, 2]))]
    for command in commands:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(run)
            code = main([command, str(run), *ASKED[command]])
        shown = capsys.readouterr()
        assert code in {*ExitCode} - {ExitCode.UNFORESEEN}, (done, command, shown.err)
        assert "Traceback" not in shown.err, (done, command, shown.err)
        assert precious.read_text() == '{"precious": 1}\nno end of a line', (done, command)
    for path in folder.iterdir():
        if path.is_symlink() or path.is_file():
            path.unlink()
        else:
            shutil.rmtree(path)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop"])
def test_what_is_no_file_is_neither_waited_for_nor_unforeseen(
    everything: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    names = ("run.json", "journal.jsonl", "plan.json", ".lock", "files/part-00000.parquet", "reviews/anna.jsonl")
    for number, name in enumerate((*names, "reviews/audit.json")):
        run = Path(shutil.copytree(everything, tmp_path / str(number)))
        path = run / name
        path.unlink(missing_ok=True)
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        else:
            path.symlink_to("/dev/zero" if kind == "device" else path.name)
        for command in ("status", "verify", "show", "audit", "complete"):
            code = main([command, str(run), *ASKED[command]])
            said = capsys.readouterr().err
            assert code in {*ExitCode} - {ExitCode.UNFORESEEN}, (name, command, said)
            assert "Traceback" not in said


#: Commands that take no second.
QUICK = [command for command in ASKED if command not in ("retry", "report")]


@pytest.mark.timeout(170)
def test_whatever_a_folder_holds_each_command_says_one_line_or_does_its_work(
    everything: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(1)
    for _ in range(25):
        attack(everything, tmp_path, rng, [rng.choice(QUICK)], capsys)


@pytest.mark.reliability
@pytest.mark.parametrize("seed", range(10))
def test_long_a_thousand_spoilt_folders(
    everything: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    rng = random.Random(seed)
    for number in range(100):
        slow = [rng.choice(["retry", "report"])] if number % 20 == 0 else []
        attack(everything, tmp_path, rng, rng.sample(QUICK, 2) + slow, capsys)


def attack_nodes(worked: Path, folder: Path, rng: random.Random, machines: Machines) -> None:
    """Spoil a folder in which two parts are left to do, and let a node work on it."""
    run, precious = Path(shutil.copytree(worked, folder / "run")), folder / "precious"
    precious.write_text("precious")
    for part in (2, 5):
        (plan_of(run).folder / "manifests" / f"part-{part:05d}.json").unlink()
    done = [spoil(path, precious, rng) for path in rng.sample(files_of(run), rng.choice([1, 2]))]
    for do in ("work", "complete"):
        code = machines.run(do, run)
        assert code in {*ExitCode} - {ExitCode.UNFORESEEN}, (done, do)
    assert precious.read_text() == "precious", done
    shutil.rmtree(run, ignore_errors=True)


def test_a_node_on_a_spoilt_folder_says_one_line_or_does_its_work(
    worked: Path, tmp_path: Path, machines: Machines
) -> None:
    rng = random.Random(2)
    for _ in range(3):
        attack_nodes(worked, tmp_path, rng, machines)


@pytest.mark.reliability
@pytest.mark.parametrize("seed", range(4))
def test_long_a_hundred_nodes_on_spoilt_folders(worked: Path, tmp_path: Path, machines: Machines, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(25):
        attack_nodes(worked, tmp_path, rng, machines)


FULL_DEVICE = pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is Linux's")


@pytest.mark.parametrize(
    ("command", "streams", "code"),
    [
        ("complete", "| true", 7),
        pytest.param("complete --no-report", ">/dev/full", 1, marks=FULL_DEVICE),
        ("status", "| true", 7),
        ("verify", "| true", 7),
    ],
)
def test_exit_codes_are_true_whether_anybody_listens(
    planned: Path, worked: Path, tmp_path: Path, command: str, streams: str, code: int
) -> None:
    """Scripts go by them."""
    run = Path(shutil.copytree(worked if code == 1 else planned, tmp_path / "run"))
    name, *options = command.split()
    line = f"set -o pipefail; {sys.executable} -m ser_batch {name} {run} {' '.join(options)} {streams}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
