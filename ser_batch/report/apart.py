"""The report built in a process of its own: no plugin, name or chart in it harms whoever asks for it.

The process dies with the one that asked, keeps its limits, and imports nothing from the current folder.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ser_batch import errors
from ser_batch.errors import RunError, SerBatchError
from ser_batch.interrupt import Interruptions
from ser_batch.plugins import PluginRecipe
from ser_batch.text import message_of

__all__ = ["Limits", "ReportProcess", "main", "refresh_report"]

_PERIOD_S = 0.1


@dataclass(frozen=True)
class Limits:
    """What the process and its children may take."""

    time_s: float
    memory_mb: int

    @classmethod
    def of_scan(cls, n_files: int) -> Limits:
        """Return limits that a report of a scan stays far below: it takes some 20 µs a file, in flat memory."""
        return cls(120 + n_files / 500, 4_096)


@dataclass(frozen=True)
class _Job:
    """What the process is told."""

    #: Arguments of `build_report`.
    options: dict[str, Any]
    insist: bool
    #: Processor time that it may take.
    cpu_s: int | None


class ReportProcess:
    """A process that builds one report; started early, it is ready when it is asked.

    Parameters
    ----------
    insist : bool
        A plugin that cannot be loaded is an error, instead of a note in the report; what plugins print is shown.
    """

    def __init__(self, insist: bool = False) -> None:
        self._insist = insist
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ReportProcess:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process and all its children."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            with suppress(OSError):
                self._process.communicate()

    def start(self) -> None:
        """Let it load what it needs; it waits for its job.

        Raises
        ------
        RunError
            It cannot be started.
        """
        if self._process is not None:
            return
        # Last on its path, in case that this package is not installed where Python looks.
        home = str(Path(__file__).resolve().parents[2])
        code = f"import sys; sys.path.append({home!r}); from ser_batch.report.apart import main; main()"
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=None if self._insist else subprocess.DEVNULL,
                start_new_session=True,
                env=os.environ | {"PYTHONSAFEPATH": "1"},
            )
        except OSError as error:
            raise RunError(f"The report could not be built: no process can be started ({error.strerror}).") from None

    def build(
        self, run_dir: str | os.PathLike[str], recipe: PluginRecipe, limits: Limits | None = None, **options: Any
    ) -> Path:
        """Build a report as `ser_batch.report.build.build_report` does, and return its path.

        Parameters
        ----------
        run_dir : path
        recipe : PluginRecipe
            Plugins that may add sections.
        limits : Limits, optional
            None, unless given: for somebody who waits for the report and can stop it.
        **options
            ``other``, ``output``, ``audio`` and ``table`` of `build_report`.

        Raises
        ------
        RunError
            It cannot be built: what the process said, how it ended, or which limit it broke, and in which step.
        PluginError
            A plugin cannot be loaded, and the caller insists.
        """
        self.start()
        process = self._process
        assert process is not None
        cpu_s = round(limits.time_s * (os.cpu_count() or 1)) if limits else None
        job = _Job({"run_dir": run_dir, "recipe": recipe} | options, self._insist, cpu_s)
        answers: list[dict[str, Any]] = []
        reader = threading.Thread(target=_talk, args=(process, job, answers), daemon=True)
        reader.start()
        begin_s = time.monotonic()
        failure = ""
        while not failure:
            # It closes its output as the last thing that it does, or when it ends by another's hand.
            reader.join(_PERIOD_S)
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(0 if reader.is_alive() else _PERIOD_S)
                reader.join()
                break
            failure = _broken_limit(process.pid, limits, time.monotonic() - begin_s) if limits else ""
        last = answers[-1] if answers else {}
        if "path" in last and not failure:
            return Path(last["path"])
        if "error" in last and not failure:
            raise getattr(errors, last["kind"], RunError)(last["error"])
        step = last.get("step", "when it began")
        raise RunError(f"The report could not be built: {failure or _ending(code)} {step}.")


def refresh_report(
    reporter: ReportProcess, run_dir: Path, recipe: PluginRecipe, n_files: int, say: Callable[[str], None]
) -> None:
    """Build the report of a run, unless there is one of the run as it is.

    One that cannot be built costs the report, never the run: that is said, and is no error.
    """
    with suppress(FileNotFoundError):
        # One of a visit before, whose successor was killed, is older.
        if (run_dir / "report.html").stat().st_mtime_ns >= (run_dir / "run.json").stat().st_mtime_ns:
            return
    try:
        reporter.build(run_dir, recipe, Limits.of_scan(n_files))
    except SerBatchError as error:
        say(f"{error} The results are whole; `ser-batch report {run_dir}` tries again.")


def _talk(process: subprocess.Popen[bytes], job: _Job, answers: list[dict[str, Any]]) -> None:
    """Hand over the job and take down what is answered, until the process closes its output."""
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(OSError, ValueError):
        pickle.dump(job, process.stdin)
        process.stdin.flush()
        # Kept open: its end tells the process that nobody waits any more.
        answers.extend(json.loads(line) for line in process.stdout)


def _broken_limit(pid: int, limits: Limits, spent_s: float) -> str:
    import psutil  # noqa: PLC0415

    if spent_s > limits.time_s:
        return f"it took longer than {limits.time_s:.0f} s"
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        rss = sum(item.memory_info().rss for item in [process, *process.children(recursive=True)])
        if rss > limits.memory_mb * 2**20:
            return f"it took more than {limits.memory_mb} MB"
    return ""


def _ending(code: int) -> str:
    if code >= 0:
        return f"its process ended with code {code}"
    with suppress(ValueError):
        return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process was ended by signal {-code}"


def main() -> None:
    """Take a job from standard input, build the report, answer on standard output."""
    # What plugins print goes elsewhere.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(**answer: str) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        with Interruptions():
            tell(path=os.fspath(_build(lambda step: tell(step=step))))
    except SerBatchError as error:
        tell(error=str(error), kind=type(error).__name__)
    except BaseException as error:
        tell(error=f"The report could not be built: {type(error).__name__}: {message_of(error)}.", kind="RunError")
    # Threads of plugins and what they have registered for the end may hang.
    os._exit(0)


def _build(step: Callable[[str], None]) -> Path:
    from ser_batch.report.drawing import Drawing  # noqa: PLC0415

    # Its engine starts while what the page needs is imported.
    with Drawing() as drawing:
        from ser_batch.report.build import build_report  # noqa: PLC0415

        job: _Job = pickle.load(sys.stdin.buffer)
        threading.Thread(target=_end_with_parent, daemon=True).start()
        if job.cpu_s is not None:
            # Holds also where nobody is left to look, and native code never returns.
            resource.setrlimit(resource.RLIMIT_CPU, (job.cpu_s, job.cpu_s))
        if job.insist:
            step("while its plugins were loaded")
            job.options["recipe"].build()
        return build_report(**job.options, drawing=drawing, step=step)


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGKILL)
