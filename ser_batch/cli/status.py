"""``ser-batch status``: what a run has done, what failed and what is left."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import click

from ser_batch.cli.options import readable_run_argument
from ser_batch.cli.progress import hours_text
from ser_batch.cli.streams import as_far_as_read
from ser_batch.cli.summary import counts_text, failure_lines, gap_lines
from ser_batch.errors import ExitCode
from ser_batch.text import printable

__all__ = ["command"]

#: Estimates beyond ten years say nothing.
_LONGEST_S = 3e8


@click.command("status")
@readable_run_argument
def command(run_dir: str) -> int:
    """Say what RUN has done, what failed and why, and what is left; also while it is being written, or in a bucket.

    Exit codes: 0 complete, 1 complete with failed files or folders that
    could not be listed, 7 not complete or no run.
    """
    from ser_batch.run.copy import readable  # noqa: PLC0415 - imports for a call, not for --help
    from ser_batch.run.place import holder_at  # noqa: PLC0415

    with readable(run_dir, []) as run:
        code, lines = _looked(run.folder, holder_at(run_dir))
        lines = [run.told(line) for line in lines]
    with as_far_as_read():
        click.echo("\n".join(lines))
    return code


def _looked(folder: Path, holder: str) -> tuple[ExitCode, list[str]]:
    """Return the exit code, and what there is to say."""
    from ser_batch.run.copy import is_copy  # noqa: PLC0415
    from ser_batch.run.manifest import read_manifest  # noqa: PLC0415
    from ser_batch.run.store import RunStore  # noqa: PLC0415
    from ser_batch.run.summary import gaps_of, summarise  # noqa: PLC0415

    lines: list[str] = []
    manifest = read_manifest(folder)
    store = RunStore(folder)
    store.look(manifest.get("replaces", ""))
    visit = manifest.get("visit", {})
    commits = store.commits[visit.get("n_commits_before", 0) :]
    n_done = sum(commit.n_processed for commit in commits)
    n_left = visit.get("n_files", 0) - n_done
    if not is_copy(folder):
        for part in store.entries:
            store.require("files", part)
    totals = summarise(store, tuple(manifest.get("labels") or ()))
    state = manifest.get("state", "of unknown state")
    if state == "running":
        state = f"being written by {printable(holder)}" if holder else "interrupted (its process is gone)"
    lines.append(
        f"{printable(folder)} is {state}. Last change: {commits[-1].at if commits else manifest.get('updated')}."
    )
    lines.append(
        f"{counts_text({'found': visit.get('n_found', 0), **totals['counts']})} {n_left:,} left. "
        f"{hours_text(totals['audio_s'])} of audio done."
    )
    if n_done and commits[-1].at and "begun" in visit:
        elapsed = datetime.fromisoformat(commits[-1].at) - datetime.fromisoformat(visit["begun"])
        rate = n_done / max(elapsed.total_seconds(), 1.0)
        left_s = n_left / rate
        left = f", {timedelta(seconds=round(left_s))} left" if 0 < left_s < _LONGEST_S else ""
        lines.append(f"The last scan did {n_done:,} files, {rate:.1f} per s{left}.")
    gaps = gaps_of(manifest | {"needs_media": totals["needs_media"]})
    lines += [*failure_lines(totals["failures"]), *gap_lines(gaps)]
    if manifest.get("state") == "complete":
        is_short = totals["failures"] or manifest.get("counts", {}).get("unlisted")
        return (ExitCode.SOME_FILES_FAILED if is_short else ExitCode.OK), lines
    if told := _nodes_line(folder, set(store.entries)):
        lines.append(printable(told))
    elif not holder:
        lines.append("The same scan command finishes it.")
    return ExitCode.RUN, lines


def _nodes_line(folder: Path, parts: set[int]) -> str:
    """Say what nodes have done of a plan, "" where there is none, or where the run has it all."""
    from ser_batch.errors import RunError  # noqa: PLC0415 - imports for a call, not for --help
    from ser_batch.run.attempts import Attempts  # noqa: PLC0415
    from ser_batch.run.planned import read_plan  # noqa: PLC0415

    try:
        plan = read_plan(folder)
        if plan is None or not plan.folder.is_dir():
            return ""
        attempts = Attempts(folder, plan.plan_id)
        living = attempts.living()
    except RunError as error:
        return str(error)
    at_work = f"{len(living):,} nodes are at work. " if living else ""
    waiting = f"{len(attempts.published() - parts):,} of {len(plan.parts):,} parts that nodes have done wait for"
    return f"{at_work}{waiting} `ser-batch complete {printable(folder)}`."
