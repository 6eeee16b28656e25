"""What does not fit is refused in one line: nodes with other ingredients, plans and manifests that are none."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from machines import CONFIG, PLUGIN, RECIPE, Machines, assert_same, make_archive, plan_here

from ser_batch.cli.main import main
from ser_batch.engine import scan
from ser_batch.errors import ConfigError, ExitCode, InputError, PluginError, RunError, SerBatchError
from ser_batch.nodes.complete import complete
from ser_batch.nodes.node import Node
from ser_batch.nodes.work import work
from ser_batch.run.attempts import DEAD_S
from ser_batch.run.planned import plan_of
from ser_batch.stages.progress import Progress


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values) + "\n")


def refused(run: Path, kind: type[SerBatchError], words: str, **options: Any) -> None:
    with pytest.raises(kind, match=words) as caught, Node(run, **{"trust_plugins": True, **options}):
        pass
    assert "\n" not in str(caught.value)
    assert not list((run / ".attempts").glob("*/nodes/*")), "nothing is begun"


def test_a_node_with_other_versions_is_refused(run: Path) -> None:
    edit(run / "plan.json", lambda values: values["versions"].update(numpy="1.0.0"))
    refused(run, RunError, r"has other versions than the plan .*numpy: 1\.0\.0 -> ")
    edit(run / "plan.json", lambda values: values.update(tool_version="0.0.1", versions={}))
    refused(run, RunError, r"ser-batch: 0\.0\.1 -> ")


def test_a_node_with_other_weights_or_columns_is_refused(run: Path) -> None:
    def change(values: dict[str, Any]) -> None:
        promise = json.loads(values["promise"])
        promise["model weights"] = "1" * 64
        promise["columns of tiny"] = [["tiny__other"], None]
        values["promise"] = json.dumps(promise)

    edit(run / "plan.json", change)
    refused(run, PluginError, r"has other ingredients than the plan .*columns of tiny: .*model weights: 1{12}")


def test_a_node_without_an_installed_plugin_is_refused(run: Path) -> None:
    edit(run / "plan.json", lambda values: values["plugins"].update(installed=["praat-of-elsewhere"]))
    refused(run, PluginError, "Plugin 'praat-of-elsewhere' is not installed")


def test_plugin_files_are_not_executed_unless_they_are_given_or_trusted(run: Path, tmp_path: Path) -> None:
    refused(run, ConfigError, r"--trust-plugins", trust_plugins=False)
    other = tmp_path / PLUGIN.name
    other.write_text(PLUGIN.read_text() + "# changed\n")
    refused(run, PluginError, "is not the one that the plan was made with", plugin_files=[str(other)])
    refused(run, ConfigError, "without the plugin file stranger.py", plugin_files=[str(PLUGIN), "stranger.py"])
    with Node(run, plugin_files=[str(PLUGIN)]):
        pass


def test_a_plugin_file_that_a_node_does_not_see_travels_in_the_plan(run: Path, tmp_path: Path) -> None:
    edit(run / "plan.json", lambda values: values["plugins"]["files"][0].update(path="/nowhere/tiny_plugin.py"))
    with Node(run, trust_plugins=True, scratch=tmp_path) as node:
        assert list(tmp_path.rglob("tiny_plugin.py"))
        assert node.process([1]).n_published == 1
    edit(run / "plan.json", lambda values: values["plugins"]["files"][0].update(text="edited = True"))
    refused(run, PluginError, "cannot be had from the plan")


def test_a_node_that_does_not_see_the_archive_is_refused(tmp_path: Path) -> None:
    archive, run = make_archive(tmp_path / "archive", n_files=3), tmp_path / "run"
    plan_here(archive, run)
    archive.rename(tmp_path / "unmounted")
    refused(run, InputError, r"does not see the archive: none of \d files below .* Is it mounted here\?")
    for path in (tmp_path / "unmounted").rglob("*.wav"):
        place = archive / path.relative_to(tmp_path / "unmounted")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"of another archive")
    refused(run, InputError, "is another one than was planned, or has changed")


def test_scratch_does_not_lie_in_the_run(run: Path) -> None:
    refused(run, ConfigError, "Give a folder on a disk of this node", scratch=run / "files")


@pytest.mark.parametrize("value", ["0/3", "4/3", "3", "1/0", "a/b", "-1/3", "1/3/5", ""])
def test_a_slice_that_is_none_is_named(run: Path, capsys: pytest.CaptureFixture[str], value: str) -> None:
    assert main(["work", str(run), "--slice", value]) == ExitCode.USAGE
    assert "is no slice. Give its number, from 1" in capsys.readouterr().err


def test_a_run_without_a_plan_says_how_to_get_one(
    local: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["work"], ["complete"], ["slurm", "--nodes", "2"]):
        for run in (local, tmp_path):
            assert main([command[0], str(run), *command[1:]]) == ExitCode.RUN
            assert "has no plan.json. Make one: `ser-batch scan INPUT -o " in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff\x00",
        b'{"version": 1}',
        {"version": 2},
        {"plan_id": "../../../etc"},
        {"parts": [[0, 4, "", False], [1, -4, "", False]]},
        {"bundles": [0, 99]},
        {"bundles": []},
        {"census": {}},
        {"run": {"run_id": "x"}},
        {"plugins": {"installed": [], "built_in": ["os"], "files": []}},
    ],
    ids=str,
)
def test_a_plan_that_is_none_is_named_and_a_scan_goes_on(planned: Path, run: Path, archive: Path, content: Any) -> None:
    if isinstance(content, bytes):
        (run / "plan.json").write_bytes(content)
    else:
        edit(run / "plan.json", lambda values: values.update(content))
    for what in (lambda: work(run), lambda: complete(run, report=False)):
        with pytest.raises(RunError, match=r"plan\.json cannot be read \(.*Plan again"):
            what()
    assert plan_here(archive, run) == 7, "it can be planned again"


def test_the_plan_of_another_run_is_refused(planned: Path, local: Path, run: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(local, tmp_path / "other"))
    shutil.copy(run / "plan.json", other)
    with pytest.raises(RunError, match=r"is of another run than run\.json"):
        complete(other, report=False)


def test_damaged_rows_of_a_plan_are_named(run: Path) -> None:
    (rows,) = run.glob(".attempts/*/plan.parquet")
    data = bytearray(rows.read_bytes())
    data[-100] ^= 1
    rows.write_bytes(data)
    refused(run, RunError, r"plan\.parquet cannot be read .*Plan again")
    rows.unlink()
    refused(run, RunError, r"plan\.parquet cannot be read .*Plan again")


def spoil_manifest(**changes: Any) -> Callable[[Path], object]:
    return lambda path: edit(path, lambda values: values.update(changes))


def spoil_entry(**changes: Any) -> Callable[[Path], object]:
    return lambda path: edit(path, lambda values: values["entry"].update(changes))


def spoil_bytes(data: bytes) -> Callable[[Path], object]:
    def spoil(path: Path) -> None:
        path.write_bytes(data)
        long_ago = path.stat().st_mtime - 2 * DEAD_S
        os.utime(path, (long_ago, long_ago))

    return spoil


def spoil_staged(change: Callable[[Path], object]) -> Callable[[Path], object]:
    def spoil(path: Path) -> None:
        name = json.loads(path.read_text())["entry"]["attempt"].partition("/")[2]
        change(path.parent.parent / "staged" / f"{name}.files.parquet")

    return spoil


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


SPOILT = {
    "another plan": spoil_manifest(plan="0" * 12),
    "another part": spoil_manifest(part=5),
    "a part that is none": spoil_entry(part=999),
    "another state": spoil_manifest(base="f" * 64),
    "another run": spoil_entry(run_id="stranger"),
    "other settings": spoil_entry(fingerprint="stranger"),
    "files of elsewhere": spoil_entry(attempt="../../../../etc/passwd"),
    "files of another node": spoil_entry(attempt="0123456789ab/0123456789ab-0"),
    "no entry": spoil_manifest(entry=None),
    "other sums": spoil_entry(n_files=1, files_bytes=1),
    "rubbish": spoil_bytes(b"\x00\xff{"),
    "cut off": spoil_bytes(b'{"plan": "'),
    "a link": link,
    "staged files gone": spoil_staged(Path.unlink),
    "staged files cut off": spoil_staged(lambda path: path.write_bytes(path.read_bytes()[:-10])),
    "staged files linked": spoil_staged(link),
}


def test_manifests_that_are_none_are_set_aside_and_their_parts_done_again(
    worked: Path, local: Path, machines: Machines, tmp_path: Path
) -> None:
    """Some in each of several copies of a run."""
    spoilt = list(SPOILT.items())
    for first in range(0, len(spoilt), 6):
        run = Path(shutil.copytree(worked, tmp_path / f"run{first}"))
        some = dict(spoilt[first : first + 6])
        (folder,) = run.glob(".attempts/*/manifests")
        for part, spoil in enumerate(some.values()):
            spoil(folder / f"part-{part:05d}.json")
        said: list[str] = []

        class Heard(Progress):
            def say(self, text: str) -> None:
                said.append(text)  # noqa: B023 - called before the next round

        done = complete(run, report=False, progress=Heard())
        assert (done.n_left, len(said)) == (len(some), len(some)), said
        assert all("processed again" in text for text in said)
    assert machines.run("work", run) == 0
    assert machines.run("complete", run) == 1
    assert_same(run, local)


def test_a_manifest_in_the_making_is_waited_for(worked: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(worked, tmp_path / "run"))
    (path,) = run.glob(".attempts/*/manifests/part-00003.json")
    whole = path.read_bytes()
    path.write_bytes(whole[:50])
    assert complete(run, report=False).n_left == 1
    path.write_bytes(whole)
    assert complete(run, report=False).n_left == 0


def test_status_says_what_nodes_have_done(worked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Path(shutil.copytree(worked, tmp_path / "run"))
    assert main(["status", str(run)]) == ExitCode.RUN
    assert "7 of 7 parts that nodes have done wait for `ser-batch complete " in capsys.readouterr().out
    assert not plan_of(run).parts[0].base


def test_a_damaged_plan_does_not_keep_a_scan_from_its_work(archive: Path, run: Path, local: Path) -> None:
    (run / "plan.json").write_text("{")
    scan(archive, run, config=CONFIG, plugins=RECIPE, report=False)
    assert_same(run, local)
