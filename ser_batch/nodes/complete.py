"""Take in what nodes have published: commit it, and say what is left."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from ser_batch.errors import ExitCode
from ser_batch.interrupt import Interruptions
from ser_batch.plugins import PluginRecipe
from ser_batch.report.apart import ReportProcess, refresh_report
from ser_batch.run.folder import writing
from ser_batch.run.lock import lock_for_writing
from ser_batch.run.planned import plan_of
from ser_batch.run.published import Collector
from ser_batch.run.summary import RunSummary
from ser_batch.stages.progress import Progress

__all__ = ["Completed", "complete"]


@dataclass(frozen=True)
class Completed:
    """What a plan has come to.

    Attributes
    ----------
    summary : RunSummary
    n_parts, n_left : int
        Of the plan; and those of them that nobody has published yet.
    n_committed : int
        Parts that this call has committed.
    n_second : int
        Parts that two nodes have done; the first counted.
    hosts : list of str
        Where nodes are at work.
    processors : list of str
        Classes of the processors that computed the parts of the run; between two of them numbers differ by rounding.
    """

    summary: RunSummary
    n_parts: int
    n_left: int
    n_committed: int
    n_second: int
    is_whole: bool
    hosts: list[str] = field(default_factory=list)
    processors: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> ExitCode:
        return self.summary.exit_code if self.is_whole else ExitCode.RUN


def complete(
    run_dir: str | Path, *, plugins: PluginRecipe | None = None, report: bool = True, progress: Progress | None = None
) -> Completed:
    """Commit all that nodes have published of the plan of a run; once nothing is left, build its report.

    It may be called at any time, also while nodes work, and as often as one likes.

    Parameters
    ----------
    run_dir : path
    plugins : PluginRecipe, optional
        Plugins that may add sections to the report; the installed ones, unless given.
    report : bool
        Build ``report.html`` once nothing is left.
    progress : Progress, optional

    Raises
    ------
    RunError
        There is no plan, another process holds the run, or the run is damaged or cannot be written.
    KeyboardInterrupt
        Ctrl-C or SIGTERM; the same call goes on.
    """
    run_dir, progress = Path(run_dir), progress or Progress()
    with Interruptions() as interruptions, ReportProcess() as reporter:
        plan_of(run_dir)
        with ExitStack() as held:
            with writing("the lock"):
                filesystem = held.enter_context(lock_for_writing(run_dir))
            plan = plan_of(run_dir)
            collector = Collector(run_dir, plan, filesystem, interruptions)
            done = collector.take()
            for notice in done.notices:
                progress.say(notice)
            writer, n_left = done.writer, done.n_parts - done.n_done
            if writer.is_written and (done.n_committed or writer.state != "complete"):
                writer.finish(plan.census, done.wall_s)
            summary = writer.summary(n_processed=done.n_files)
        is_whole = not n_left and writer.state == "complete"
        if report and is_whole:
            refresh_report(reporter, run_dir, plugins or PluginRecipe(), plan.census.found, progress.say)
        hosts = sorted(str(told.get("host", "?")) for told in done.living.values())
        return Completed(
            summary, done.n_parts, n_left, done.n_committed, done.n_second, is_whole, hosts, collector.processors
        )
