"""R13: the report costs nothing but itself. Whatever a plugin does in it, the scan is whole and says one line."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import soundfile
from synthetic_run import make_run

from ser_batch.cli.main import main
from ser_batch.config import Config
from ser_batch.dsp.voice import synthetic_voice
from ser_batch.engine import scan
from ser_batch.errors import ExitCode, RunError
from ser_batch.plugins import PluginRecipe
from ser_batch.report.apart import Limits, ReportProcess
from ser_batch.run.summary import RunSummary
from ser_batch.stages.progress import Progress

#: Measures only, which starts faster.
CONFIG = Config()
CONFIG = replace(
    CONFIG,
    predict=replace(CONFIG.predict, model=""),
    extract=replace(CONFIG.extract, extractors=("quality",), jobs=1),
)


class Told(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audio")
    for name in ("one.wav", "two.wav"):
        soundfile.write(folder / name, synthetic_voice(1.0), 22_050)
    return folder


@pytest.fixture(scope="module")
def scanned(audio: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished scan without its report."""
    run = tmp_path_factory.mktemp("scanned") / "run"
    scan(audio, run, config=CONFIG, report=False)
    return run


@pytest.fixture
def run(scanned: Path, tmp_path: Path) -> Path:
    return shutil.copytree(scanned, tmp_path / "run")


def with_section(folder: Path, body: str, name: str = "bad.py") -> PluginRecipe:
    """A plugin whose section does something."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    code = (
        f"import os, signal, sys, time\nimport ser_batch\n@ser_batch.hookimpl\ndef report_sections(run_dir):\n{lines}\n"
    )
    (folder / name).write_text(code)
    return PluginRecipe(files=(str(folder / name),))


def visit(audio: Path, run: Path, recipe: PluginRecipe) -> tuple[RunSummary, list[str]]:
    told = Told()
    return scan(audio, run, config=CONFIG, plugins=recipe, progress=told), told.lines


def build_apart(run: Path, recipe: PluginRecipe, insist: bool = False, **options: Any) -> Path:
    with ReportProcess(insist) as process:
        return process.build(run, recipe, **options)


def wait_for(what: Callable[[], bool], limit_s: float = 60) -> None:
    end_s = time.monotonic() + limit_s
    while not what():
        assert time.monotonic() < end_s
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        pytest.param(
            "os.kill(os.getpid(), signal.SIGSEGV)",
            "its process was ended by SIGSEGV in the section of plugin 'bad.py'",
            marks=pytest.mark.reliability,
        ),
        ("os._exit(3)", "its process ended with code 3 in the section of plugin 'bad.py'"),
        (
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nos.closerange(3, 99)\nwhile True: pass",
            "it took longer than 5 s in the section",
        ),
        ("hoard = b'x' * 2**30\ntime.sleep(600)", "it took more than 1000 MB in the section"),
        ("os.closerange(0, 99)\nos.abort()", "its process was ended by SIGABRT in the section of plugin"),
    ],
)
def test_a_plugin_that_does_harm_costs_the_report_and_one_line(
    audio: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, told: str
) -> None:
    monkeypatch.setattr(Limits, "of_scan", classmethod(lambda cls, _: cls(60 if "hoard" in body else 5, 1_000)))
    summary, lines = visit(audio, run, with_section(tmp_path, body))
    assert (summary.counts["ok"], summary.exit_code) == (2, ExitCode.OK)
    (line,) = lines
    assert line.startswith(f"The report could not be built: {told}")
    assert line.endswith(f"The results are whole; `ser-batch report {run}` tries again.")
    assert not (run / "report.html").exists()
    if "_exit" in body:  # as said
        assert main(["report", str(run)]) == ExitCode.OK
        assert (run / "report.html").exists()


#: What a section may do -> what stands in its place; "" for nothing.
ODD_ENDS = {
    "sys.exit(0)": "SystemExit: 0",
    "raise KeyboardInterrupt": "KeyboardInterrupt",
    "print('x' * 10**6)\nreturn []": "",
    "import atexit, threading\natexit.register(time.sleep, 600)\n"
    "threading.Thread(target=time.sleep, args=(600,)).start()\nreturn []": "",
}


def test_plugins_that_end_oddly_cost_their_sections_at_most_and_others_may_use_the_run_meanwhile(
    audio: Path, run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files = tuple(with_section(tmp_path, body, f"odd{n}.py").files[0] for n, body in enumerate(ODD_ENDS))
    # Others may use the run while its report is built.
    body = "from ser_batch.run import lock\nwith lock.lock_for_writing(run_dir):\n    return [('Free', '<p>free</p>')]"
    last = with_section(tmp_path, body, "sound.py").files
    summary, lines = visit(audio, run, PluginRecipe(files=(*files, *last)))
    assert (summary.exit_code, lines) == (ExitCode.OK, [])
    page = (run / "report.html").read_text()
    assert "<p>free</p>" in page
    for number, words in enumerate(ODD_ENDS.values()):
        assert (f"odd{number}.py" in page) == bool(words)
        assert words in page
    assert capfd.readouterr().out == ""


def test_a_report_that_a_killed_visit_did_not_build_is_built_by_the_next(audio: Path, run: Path) -> None:
    build_apart(run, PluginRecipe())
    written = (run / "report.html").stat().st_mtime_ns
    scan(audio, run, config=CONFIG)
    assert (run / "report.html").stat().st_mtime_ns == written
    # A later visit wrote down what it found, and was killed while it built its report.
    (run / "run.json").touch()
    scan(audio, run, config=CONFIG)
    assert (run / "report.html").stat().st_mtime_ns > written


def test_nothing_is_imported_from_the_current_folder(
    audio: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("jinja2", "pickle", "json", "vl_convert", "itables", "psutil", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'taken')!r}, 'w')\nraise SystemExit(0)\n")
    monkeypatch.chdir(tmp_path)
    assert visit(audio, run, PluginRecipe())[1] == []
    assert "There is no picture here" not in (run / "report.html").read_text()
    assert not (tmp_path / "taken").exists()


SCAN = """
import sys
from pathlib import Path
from test_apart import CONFIG
from ser_batch.engine import scan
from ser_batch.plugins import PluginRecipe
scan(sys.argv[1], sys.argv[2], config=CONFIG, plugins=PluginRecipe(files=(sys.argv[3],)))
"""


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.reliability), signal.SIGKILL]
)
def test_who_ends_a_scan_in_its_report_ends_the_report_too(
    audio: Path, run: Path, tmp_path: Path, number: signal.Signals
) -> None:
    mark = tmp_path / "pid"
    body = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    body += f"open({str(mark)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)"
    (plugin,) = with_section(tmp_path, body).files
    path = os.pathsep.join([*(item for item in sys.path if item), str(Path(__file__).parent)])
    command = [sys.executable, "-c", SCAN, str(audio), str(run), plugin]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, stderr=subprocess.DEVNULL)
    wait_for(lambda: mark.exists() and mark.read_text() != "")
    report = psutil.Process(int(mark.read_text()))
    process.send_signal(number)
    assert process.wait(20) != 0
    wait_for(lambda: not report.is_running() or report.status() == psutil.STATUS_ZOMBIE, 20)


def test_a_process_that_waits_for_its_job_ends_with_who_started_it() -> None:
    code = "import os\nfrom ser_batch.report.apart import ReportProcess\nprocess = ReportProcess()\nprocess.start()\n"
    code += "print(process._process.pid, flush=True)\nos.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    wait_for(lambda: not psutil.pid_exists(int(done.stdout)), 20)


# The command


def test_the_command_insists_on_the_plugins_that_it_was_given_and_a_scan_does_not(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", 3)
    assert main(["report", str(run), "--plugin", "missing.py"]) == ExitCode.PLUGIN
    assert "missing.py does not exist" in capfd.readouterr().err
    assert build_apart(run, PluginRecipe(files=("missing.py",), built_in=())) == run / "report.html"


def test_the_command_says_in_one_line_what_a_plugin_did(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (plugin,) = with_section(tmp_path, "print('looking', flush=True)\nos.abort()").files
    assert main(["report", str(run), "--plugin", plugin]) == ExitCode.RUN
    told = capfd.readouterr().err.splitlines()
    assert told == ["looking", "Error: The report could not be built: its process was ended by SIGABRT in the section "
                    "of plugin 'bad.py'."]  # fmt: skip


def test_what_is_wrong_with_a_run_is_said_as_ever(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot be written to /nowhere/report\.html"):
        build_apart(make_run(tmp_path / "run", 3), PluginRecipe(), output=Path("/nowhere/report.html"))
