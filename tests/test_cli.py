"""The command line: every command explains itself, and every mistake costs one line, not a traceback."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from repository import REPOSITORY

from ser_batch._version import __version__
from ser_batch.cli.main import COMMANDS, main
from ser_batch.errors import ExitCode


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == ExitCode.OK
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: ser-batch {name} ")
    assert len(text.splitlines()) > 5


#: Names that mean another thing on some commands.
HOMONYMS = {"--dry-run", "--files-from", "--json", "--labels", "--output", "--resume"}


def declared(path: Path) -> list[str]:
    """Return the long names of the options that a module declares."""
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    options = (call for call in calls if ast.unparse(call.func) == "click.option")
    names = (item.value for call in options for item in call.args if isinstance(item, ast.Constant))
    return [name.split("/")[0] for name in names if name.startswith("--")]


def test_an_option_that_commands_share_is_declared_once() -> None:
    names = [name for path in (REPOSITORY / "ser_batch/cli").glob("*.py") for name in declared(path)]
    shared = declared(REPOSITORY / "ser_batch/cli/options.py")
    assert {"--plugin", "--device", "--jobs"} <= set(shared)
    assert not [name for name in shared if names.count(name) > 1 and name not in HOMONYMS]


def test_help_lists_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == ExitCode.OK
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == ExitCode.OK
    assert capsys.readouterr().out == f"ser-batch, version {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["scna"], ExitCode.USAGE, "No such command 'scna'. Did you mean 'scan'?"),
        (["qqqqqq"], ExitCode.USAGE, "No such command 'qqqqqq'"),
        (["--colour"], ExitCode.USAGE, "No such option"),
        (["plugins", "--chekc", "mel"], ExitCode.USAGE, "--chekc"),
        (["plugins", "--check", "melon"], ExitCode.PLUGIN, "Nothing that can be tried is called 'melon'"),
        (["plugins", "--plugin", "nowhere.py"], ExitCode.PLUGIN, "Plugin file nowhere.py does not exist."),
        (["scan", "nowhere", "-o", "run"], ExitCode.INPUT, "nowhere"),
        (["scan", ".", "-o", "run"], ExitCode.NOTHING_TO_DO, "No audio files found in ."),
        (["scan", ".", "-o", "run", "--device", "cdua"], ExitCode.USAGE, "Did you mean 'cuda'?"),
        (["scan", ".", "-o", "run", "--config", "nowhere"], ExitCode.USAGE, "No configuration 'nowhere'"),
        (["scan", ".", "-o", "run", "--config", "wrong.toml"], ExitCode.USAGE, "Did you mean 'window_s'?"),
        (["scan", ".", "-o", "run", "--config", "defualt"], ExitCode.USAGE, "'defualt'. Did you mean 'default'?"),
        (["scan", ".", "-o", "run", "--config", "quick"], ExitCode.USAGE, "'quick' is for other commands"),
        (["scan", ".", "-o", "run", "--config", "device.toml"], ExitCode.USAGE, "not 'cdua'. Did you mean 'cuda'?"),
        (
            ["train", "--data", ".", "--config", "default"],
            ExitCode.USAGE,
            "Shipped: deep, quick, taught7, train7; or",
        ),
        (["features", "voice.wav", "-o", "full"], ExitCode.RUN, "full"),
        (["scan", "voice.wav", "-o", "run", "--model", "ser99"], ExitCode.MODEL, "No model 'ser99'. Did you mean 'ser"),
        (["features", "voice.wav", "-o", "run", "--extractor", "melon"], ExitCode.PLUGIN, "Did you mean 'mel'?"),
        (["predict", "nowhere.wav"], ExitCode.SOME_FILES_FAILED, "nowhere.wav"),
        (["show", "nowhere"], ExitCode.RUN, "nowhere"),
        (["report", "full"], ExitCode.RUN, "full is not a run"),
        (["export", "full", "--to", "csv", "-o", "table.csv"], ExitCode.RUN, "full is not a run"),
        (["status", "nowhere"], ExitCode.RUN, "nowhere"),
        (["verify", "full"], ExitCode.RUN, "full"),
        (["retry", "full"], ExitCode.RUN, "full"),
        (["diff", "full", "nowhere"], ExitCode.RUN, "full"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_costs_one_line(
    arguments: list[str],
    code: ExitCode,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if "voice.wav" in arguments:
        (tmp_path / "voice.wav").write_bytes((REPOSITORY / "data/samples/formats/SHOUTED_SUFFIX.WAV").read_bytes())
    (tmp_path / "wrong.toml").write_text("[audio]\nwindows_s = 3\n")
    (tmp_path / "device.toml").write_text("[predict]\ndevice = 'cdua'\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").touch()
    assert main(arguments) == code
    output = capsys.readouterr()
    assert message in output.err
    assert "Traceback" not in output.err + output.out
    last = output.err.strip().splitlines()[-1]
    assert last.startswith("Error: "), output.err
    assert (tmp_path / "full/notes.txt").exists()


def install(folder: Path, name: str, code: str) -> None:
    """Install a plugin of one module, as pip would."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[ser_batch]\n{name} = {name}_plugin\n")
    (folder / f"{name}_plugin.py").write_text(code)


@pytest.mark.parametrize("fault", ["1 / 0", "raise SystemExit(0)", "raise MemoryError", "open('/nowhere/x')"])
def test_what_nobody_foresaw_is_one_line_that_says_where_the_traceback_is(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "stumbling.py").write_text(f"import click\n@click.command()\ndef command():\n    {fault}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(COMMANDS, "stumble", ("stumbling", "Stumble."))
    monkeypatch.delitem(sys.modules, "stumbling", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert main(["stumble"]) == ExitCode.UNFORESEEN
    output = capsys.readouterr()
    [line] = output.err.splitlines()
    assert "stumbling.py, line 4" in line
    log = re.search(r"The traceback is in (.+\.log)\.$", line)
    assert log
    assert "Traceback (most recent call last)" in Path(log[1]).read_text()


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("return 3", 3, ""),
        ("raise click.UsageError('say which')", ExitCode.USAGE, "say which"),
        ("1 / 0", ExitCode.PLUGIN, "Plugin 'stumbling' failed in its command 'stumble': ZeroDivisionError: division"),
        ("raise SystemExit(0)", ExitCode.PLUGIN, "Plugin 'stumbling' failed in its command 'stumble': SystemExit: 0"),
    ],
)
def test_a_command_of_a_plugin_that_fails_names_the_plugin(
    body: str, code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"    @cli.command('stumble')\n    def stumble():\n        {body}\n"
    code_of_plugin = f"import click, ser_batch\n@ser_batch.hookimpl\ndef register_commands(cli):\n{command}"
    install(tmp_path, "stumbling", code_of_plugin)
    monkeypatch.delitem(sys.modules, "stumbling_plugin", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SER_BATCH_PLUGINS", "stumbling")
    assert main(["stumble"]) == code
    assert said in capsys.readouterr().err


def test_a_plugin_whose_command_is_none_does_not_take_help_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "import ser_batch\n@ser_batch.hookimpl\ndef register_commands(cli):\n    cli.commands['stumble'] = None\n"
    install(tmp_path, "odd", code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SER_BATCH_PLUGINS", "odd")
    assert main(["--help"]) == ExitCode.OK
    output = capsys.readouterr()
    assert "Plugin 'odd': register_commands must add commands of click, not None" in output.err
    assert "scan" in output.out


def test_a_broken_installed_plugin_does_not_take_help_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(tmp_path, "broken", "import no_such_module")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SER_BATCH_PLUGINS", "broken")
    assert main(["--help"]) == ExitCode.OK
    output = capsys.readouterr()
    assert "Warning: commands of plugins are missing. Plugin 'broken' could not be loaded" in output.err
    assert "scan" in output.out
    assert main(["plugins"]) == ExitCode.PLUGIN
    assert "Plugin 'broken' could not be loaded: ModuleNotFoundError" in capsys.readouterr().err


def test_plugins_lists_what_a_scan_would_load(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "--json"]) == ExitCode.OK
    listed = {plugin["name"]: plugin for plugin in json.loads(capsys.readouterr().out)}
    assert listed["ser_batch.audio"]["hooks"] == ["read_clip"]
    assert listed["ser_batch.prosodic"]["package"] == "ser-batch"
    assert listed["ser_batch.prosodic"]["version"] == __version__
    (mel,) = listed["ser_batch.mel"]["extractors"]
    assert (mel["name"], mel["columns"], mel["tensor_shape"]) == ("mel", [], [128, 130])
    assert main(["plugins"]) == ExitCode.OK
    text = capsys.readouterr().out
    assert all(column in text for column in listed["ser_batch.prosodic"]["extractors"][0]["columns"])


def test_check_says_what_an_extractor_breaks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "zero.py").write_text(
        "import numpy as np\n"
        "from ser_batch import FeatureBlock, FeatureSpec, hookimpl\n"
        "class Zero:\n"
        "    spec = FeatureSpec('zero', 1, (('pitch', 'hz'),))\n"
        "    def extract(self, clip, windows_s):\n"
        "        return FeatureBlock('zero', np.zeros((len(windows_s), 1), np.float32), np.zeros(1, np.float32))\n"
        "@hookimpl\n"
        "def register_extractors():\n"
        "    return [Zero()]\n"
    )
    arguments = ["plugins", "--plugin", str(tmp_path / "zero.py"), "--check", "zero"]
    assert main(arguments) == ExitCode.PLUGIN
    assert "column 'zero__pitch_hz' is 0 hz on digital silence" in capsys.readouterr().out
    assert main([*arguments, "--json"]) == ExitCode.PLUGIN
    (report,) = json.loads(capsys.readouterr().out)
    assert not report["ok"]
    assert [finding["check"] for finding in report["findings"]] == ["silence"]


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ser_batch", "plugins", "--check", "melon"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == ExitCode.PLUGIN
    assert done.stderr.startswith("Error: Nothing that can be tried is called 'melon'")
